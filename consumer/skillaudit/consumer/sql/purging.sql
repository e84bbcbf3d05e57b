-- Deleting runs, and remembering that they were there. All statements run in one transaction, with nothing being moved.
-- `reach` is registered: partition -> position up to which the act reaches. `chosen` holds the runs in question, and what
-- stands against deleting them; `orphan`: of which no start has come, as far as the act reaches; `unseen`: a hold that a forced
-- purge did not know of when it was ordered.

-- fragment: nothing_against
FALSE AS held, FALSE AS unseen, FALSE AS young

-- fragment: chosen_places
-- Of the chosen runs what says where they stand: of an orphan its first record's place.
SELECT r.id, r.topic, r.partition, CASE WHEN c.orphan THEN r.first_offset ELSE r.record_offset END AS record_offset,
    r.events_stored, c.*
FROM store.runs AS r JOIN chosen AS c ON r.run_key = c.run_key
UNION ALL
SELECT o.id, o.topic, o.partition, o.record_offset, o.events_stored, c.*
FROM store.orphans AS o JOIN chosen AS c ON o.run_key = c.run_key

-- name: choose_older
CREATE OR REPLACE TEMP TABLE chosen AS
SELECT r.run_key, FALSE AS orphan, {nothing_against}
FROM store.runs AS r JOIN reach AS a ON r.partition = a.partition AND r.record_offset < a.position
WHERE epoch_us(r.started_at) < $before_us

-- name: choose_old_orphans
-- Of one topic. `received_us`: that arrived before, too.
CREATE OR REPLACE TEMP TABLE chosen AS
SELECT o.run_key, TRUE AS orphan, {nothing_against}
FROM store.orphans AS o
WHERE o.topic = $topic AND o.first_us < $before_us
    AND ($received_us::BIGINT IS NULL OR epoch_us(o.first_received_at) < $received_us::BIGINT)

-- name: topics_of_orphans
SELECT DISTINCT topic FROM store.orphans ORDER BY topic

-- name: orphans_of_ids
SELECT id FROM store.orphans
WHERE run_hash IN (SELECT unnest($hashes::UBIGINT[])) AND id IN (SELECT unnest($ids::VARCHAR[]))

-- name: choose_named
-- Also those whose first record lies below the position and whose start does not: where the events have come further than the
-- act, it was an orphan when the act came elsewhere, and counts as one here.
CREATE OR REPLACE TEMP TABLE chosen AS
SELECT r.run_key, r.record_offset >= a.position AS orphan, {nothing_against}
FROM store.runs AS r JOIN reach AS a ON r.partition = a.partition AND coalesce(r.first_offset, r.record_offset) < a.position
WHERE r.rowid IN (SELECT rowid FROM store.runs WHERE run_hash IN (SELECT unnest($hashes::UBIGINT[])))
  AND r.id IN (SELECT unnest($ids::VARCHAR[]))
UNION ALL
SELECT o.run_key, TRUE AS orphan, {nothing_against}
FROM store.orphans AS o JOIN reach AS a ON o.partition = a.partition AND o.record_offset < a.position
WHERE o.run_hash IN (SELECT unnest($hashes::UBIGINT[])) AND o.id IN (SELECT unnest($ids::VARCHAR[]))

-- name: chosen_ids
SELECT DISTINCT id FROM ({chosen_places})

-- name: hold_named
UPDATE chosen SET held = held OR NOT $unseen, unseen = unseen OR $unseen WHERE run_key IN (
    SELECT run_key FROM store.runs
    WHERE rowid IN (SELECT rowid FROM store.runs WHERE run_hash IN (SELECT unnest($hashes::UBIGINT[])))
      AND id IN (SELECT unnest($ids::VARCHAR[]))
    UNION ALL
    SELECT run_key FROM store.orphans
    WHERE run_hash IN (SELECT unnest($hashes::UBIGINT[])) AND id IN (SELECT unnest($ids::VARCHAR[]))
)

-- name: hold_skill
-- An orphan's skill is not known, so it may be this one.
UPDATE chosen SET held = held OR NOT $unseen, unseen = unseen OR $unseen
WHERE orphan OR run_key IN (SELECT run_key FROM store.runs WHERE skill_id = $skill_id)

-- name: hold_all
UPDATE chosen SET held = held OR NOT $unseen, unseen = unseen OR $unseen

-- name: young
-- Where records carry no broker's time (embedded) the position alone says what arrived before.
UPDATE chosen SET young = TRUE WHERE NOT orphan AND run_key IN (
    SELECT run_key FROM store.runs
    WHERE epoch_us(started_at) >= $limit_us
       OR (epoch_us(received_at) >= $limit_us AND topic NOT IN ('outbox', 'direct'))
) OR orphan AND run_key IN (
    SELECT run_key FROM store.orphans WHERE first_us >= $limit_us
    UNION ALL
    SELECT run_key FROM store.runs WHERE first_us >= $limit_us
)

-- name: counts
SELECT count(*) FILTER (NOT (held OR young)), count(*) FILTER (held), count(*) FILTER (young AND NOT held) FROM chosen

-- name: free_partitions
-- Partitions of which something may go.
SELECT DISTINCT r.partition FROM store.runs AS r JOIN chosen AS c ON r.run_key = c.run_key
WHERE $force OR NOT (c.held OR c.young)
ORDER BY r.partition

-- name: free_runs
SELECT id, partition, CASE WHEN orphan AND partition = '' THEN topic END
FROM ({chosen_places})
WHERE $force OR NOT (held OR young)
ORDER BY run_key

-- name: violations
-- What stands against the chosen runs (of these ids, where any are given), as ranges of their places: per partition
-- from one run to another, with none of the chosen between them that it does not stand against. Apart, with places below
-- 0, what an earlier release stored without them.
WITH placed AS (
    SELECT p.partition, p.record_offset AS place, k.kind, CASE k.kind WHEN 'hold' THEN p.held ELSE p.young END AS broken
    FROM ({chosen_places}) AS p, (VALUES ('hold'), ('minimum')) AS k(kind)
    WHERE $ids::VARCHAR[] IS NULL OR p.id IN (SELECT unnest($ids::VARCHAR[]))
),
islands AS (
    SELECT
        *, row_number() OVER (PARTITION BY kind, partition, place < 0 ORDER BY place)
            - row_number() OVER (PARTITION BY kind, partition, place < 0, broken ORDER BY place) AS island
    FROM placed
)
SELECT kind, partition, min(place), max(place), count(*)
FROM islands
WHERE broken
GROUP BY kind, partition, place < 0, island
ORDER BY kind, partition, min(place)

-- name: keep_back
DELETE FROM chosen WHERE held OR young

-- name: keep_unseen
-- A forced purge goes over what it says, and nothing else: a hold that it did not know of keeps what no other one covers.
DELETE FROM chosen WHERE unseen AND NOT held

-- name: events
SELECT count(*), coalesce(sum(events_stored), 0)::BIGINT FROM ({chosen_places})

-- name: tombstones
-- Of an orphan: its start is what says of which source it is, as which number.
INSERT INTO store.tombstones BY NAME
SELECT r.run_key, run_hash, id, topic, CASE WHEN c.orphan THEN '' ELSE source_id END AS source_id,
       CASE WHEN c.orphan THEN 0 ELSE source_seq END AS source_seq, liveness, events_stored, missing, lost, conflicts,
       last_event_at, CASE WHEN c.orphan THEN make_timestamptz(first_us) ELSE started_at END AS started_at, received_at,
       {said_of_it}
FROM store.runs AS r JOIN chosen AS c ON r.run_key = c.run_key
UNION ALL BY NAME
SELECT o.run_key, run_hash, id, topic, '' AS source_id, 0::BIGINT AS source_seq, liveness, events_stored, missing, lost, conflicts,
       last_event_at, make_timestamptz(first_us) AS started_at, first_received_at AS received_at, {said_of_it}
FROM store.orphans AS o JOIN chosen AS c ON o.run_key = c.run_key

-- fragment: said_of_it
$purge_id::BIGINT AS purge_id, 0::BIGINT AS records_dropped,
CASE WHEN c.held THEN 'hold' WHEN c.young THEN 'minimum' ELSE '' END AS violates, c.orphan AS orphan

-- name: purge_of
SELECT id FROM store.purges WHERE act_id = $act_id

-- name: new_purge
INSERT INTO store.purges BY NAME
SELECT $purge_id::BIGINT AS id, make_timestamptz($at_us::BIGINT) AS purged_at, make_timestamptz($cutoff_us::BIGINT) AS cutoff,
       $policy AS policy, $runs::BIGINT AS runs, $events::BIGINT AS events, $act_id AS act_id

-- name: more_purged
UPDATE store.purges SET runs = runs + $runs, events = events + $events WHERE id = $purge_id

-- name: dead_letters
-- What was no event and came under the id of a purged run, as far as the act reaches.
UPDATE store.dead_letters SET record = NULL, state = 'erased', changed_at = make_timestamptz($now_us::BIGINT)
WHERE record IS NOT NULL AND id IN (
    SELECT d.id FROM store.dead_letters AS d JOIN reach AS a ON d.partition = a.partition AND d.record_offset < a.position
) AND coalesce(
    TRY(decode(key)), CASE WHEN json_valid(TRY(decode(record))) THEN TRY(decode(record)) ->> 'run_id' END
) IN (SELECT id FROM ({chosen_places}))

-- name: delete_events_hot_a
DELETE FROM store.events_hot_a WHERE run_key IN (SELECT run_key FROM chosen)

-- name: delete_events_hot_b
DELETE FROM store.events_hot_b WHERE run_key IN (SELECT run_key FROM chosen)

-- name: delete_events_sealed
DELETE FROM store.events_sealed WHERE run_key IN (SELECT run_key FROM chosen)

-- name: delete_kept
DELETE FROM store.kept WHERE run_key IN (SELECT run_key FROM chosen)

-- name: delete_conflicts
DELETE FROM store.conflicts WHERE run_key IN (SELECT run_key FROM chosen)

-- name: delete_calls
DELETE FROM store.calls WHERE run_key IN (SELECT run_key FROM chosen)

-- name: delete_redactions
DELETE FROM store.redactions WHERE run_key IN (SELECT run_key FROM chosen)

-- name: delete_run_salts
DELETE FROM store.run_salts WHERE run_key IN (SELECT run_key FROM chosen)

-- name: delete_redacted_runs
DELETE FROM store.redacted_runs WHERE run_key IN (SELECT run_key FROM chosen)

-- name: delete_orphans
DELETE FROM store.orphans WHERE run_key IN (SELECT run_key FROM chosen)

-- name: delete_runs
DELETE FROM store.runs WHERE run_key IN (SELECT run_key FROM chosen)

-- name: received_since
-- Per partition, the first run that arrived at that time or later: what lies below it arrived before.
SELECT partition, min(record_offset) FROM store.runs WHERE epoch_us(received_at) >= $since_us GROUP BY partition

-- name: count_before
SELECT count(*) FROM store.runs WHERE epoch_us(started_at) < $before_us
