-- Stored events against the records that Kafka still holds, partition by partition: runs never span them. `copied` is a
-- temporary table of the checking cursor, 49 bytes a record; everything else is asked in one snapshot.

-- name: positions
SELECT partition, cluster, next_offset, last_offset, last_digest FROM positions ORDER BY partition

-- name: history_begins
-- The first row of the ledger that is of the partition's present history: offsets go back where a topic that was made anew
-- was read on purpose, and what lies before is not in Kafka.
SELECT coalesce(max(idx), 0)
FROM (SELECT idx, record_offset < lag(record_offset) OVER (ORDER BY idx) AS back FROM ledger WHERE partition = $partition)
WHERE back

-- name: first_of_scope
SELECT min(record_offset) FROM runs AS r WHERE r.partition = $partition AND r.record_offset >= 0 AND {in_time}

-- name: runs_in_scope
-- How many there are to compare, how many of these lie in partitions that were not, and how many are of topics that nobody
-- reads here.
SELECT
    count(*) FILTER (list_contains($topics::VARCHAR[], topic)),
    count(*) FILTER (list_contains($topics::VARCHAR[], topic) AND NOT list_contains($partitions::VARCHAR[], partition)),
    count(*) FILTER (NOT list_contains($topics::VARCHAR[], topic) AND topic <> 'outbox'),
    (list(DISTINCT topic) FILTER (NOT list_contains($topics::VARCHAR[], topic) AND topic <> 'outbox'))[:3]
FROM runs AS r
WHERE ($run_id::VARCHAR IS NULL OR r.id = $run_id::VARCHAR) AND {in_time}

-- name: salts
SELECT id, lower(hex(salt)) FROM runs
WHERE topic = $topic AND salt IS NOT NULL AND list_contains($run_hashes::UBIGINT[], run_hash)

-- name: make_copied
CREATE OR REPLACE TEMP TABLE copied (
    run_hash UBIGINT, what TINYINT, seq BIGINT, tag UBIGINT, digest UBIGINT, source UBIGINT, record_offset BIGINT
);
CREATE OR REPLACE TEMP TABLE copied_runs (run_hash UBIGINT, run_id VARCHAR, started_us BIGINT)

-- name: drop_copied
DROP TABLE IF EXISTS copied;
DROP TABLE IF EXISTS copied_runs;
DROP TABLE IF EXISTS compared;
DROP TABLE IF EXISTS differing

-- name: keep_records
-- Each column as one text, its values parted by spaces: the engine takes lists of numbers ten times slower.
INSERT INTO copied
SELECT
    unnest(string_split($run_hashes, ' ')::UBIGINT[]), unnest(string_split($whats, ' ')::TINYINT[]),
    unnest(string_split($seqs, ' ')::BIGINT[]), unnest(string_split($tags, ' ')::UBIGINT[]),
    unnest(string_split($digests, ' ')::UBIGINT[]), unnest(string_split($sources, ' ')::UBIGINT[]),
    unnest(string_split($offsets, ' ')::BIGINT[])

-- name: keep_runs
INSERT INTO copied_runs
SELECT unnest($run_hashes::UBIGINT[]), unnest($run_ids::VARCHAR[]), unnest($started_us::BIGINT[])

-- name: forget_dead
-- Records that are dead letters: they are kept aside, and told elsewhere.
DELETE FROM copied
WHERE record_offset IN (SELECT record_offset FROM dead_letters WHERE partition = $partition AND state <> 'replayed')

-- fragment: in_time
($since_us::BIGINT IS NULL OR r.started_at >= make_timestamptz($since_us::BIGINT))
AND ($until_us::BIGINT IS NULL OR r.started_at < make_timestamptz($until_us::BIGINT))

-- fragment: in_time_of_record
($since_us::BIGINT IS NULL OR n.started_us >= $since_us::BIGINT)
AND ($until_us::BIGINT IS NULL OR n.started_us < $until_us::BIGINT)

-- fragment: copied_names
SELECT run_hash, run_id, max(started_us) AS started_us FROM copied_runs GROUP BY ALL

-- name: make_compared
-- The runs of the partition, as the database or Kafka says. `held`: Kafka has the start, from $first on, and so all that came
-- of the run.
-- What is joined is not the row's own hash: that one may have been altered. `own`: it is not another partition's, of which some
-- records were delivered here, too; all of it is there, then.
CREATE OR REPLACE TEMP TABLE compared AS
WITH names AS ({copied_names}),
kept AS (
    SELECT run_hash, bool_or(what IN (0, 10) AND record_offset >= $first) AS held, count(*) AS records FROM copied GROUP BY run_hash
),
said AS (
    SELECT run_id, max(idx) AS idx FROM ledger WHERE partition = $partition AND kind = 'start' GROUP BY run_id
),
others AS (
    SELECT DISTINCT run_id, partition FROM ledger
    WHERE partition <> $partition AND kind = 'start' AND run_id IN (SELECT run_id FROM names)
)
SELECT
    r.run_key, r.id AS run_id, ('0x' || left(sha256(r.id), 16))::UBIGINT AS run_hash, r.by_storage, r.start_tag, r.finish_seq,
    r.finish_tag, epoch_us(r.started_at) AS started_us, epoch_us(r.finished_at) AS finished_us,
    ('0x' || left(sha256(r.source_id), 16))::UBIGINT AS source,
    o.run_id IS NULL AS own, o.run_id IS NULL AND coalesce(k.held, false) AS held, coalesce(k.records, 0) AS records,
    r.partition = $partition AND r.record_offset >= $first AND r.record_offset < $position
        AND coalesce(s.idx >= $history, true) AS within
FROM runs AS r
LEFT JOIN names AS n ON n.run_id = r.id
LEFT JOIN kept AS k ON k.run_hash = n.run_hash
LEFT JOIN said AS s ON s.run_id = r.id
LEFT JOIN others AS o ON o.run_id = r.id AND o.partition = r.partition
WHERE r.topic = $topic AND (r.partition = $partition OR n.run_id IS NOT NULL)
    AND ($run_id::VARCHAR IS NULL OR r.id = $run_id::VARCHAR)
    AND (({in_time}) OR coalesce({in_time_of_record}, false))

-- name: make_differing
-- Numbers of which what is stored is not just what the records say: what decides is the look at each of them.
CREATE OR REPLACE TEMP TABLE differing AS
WITH stored AS (
    SELECT c.run_hash, 1::TINYINT AS what, e.sequence AS seq, e.tag
    FROM events AS e JOIN compared AS c ON e.run_key = c.run_key
    UNION ALL
    SELECT run_hash, 0, 0, start_tag FROM compared WHERE NOT by_storage
    UNION ALL
    SELECT run_hash, 2, finish_seq, finish_tag FROM compared WHERE finish_seq IS NOT NULL AND NOT by_storage
),
wrong AS (
    SELECT k.run_hash, k.seq
    FROM copied AS k ANTI JOIN stored AS s
        ON k.run_hash = s.run_hash AND k.what = s.what AND k.seq = s.seq AND k.tag = s.tag
    WHERE k.what < 3
    UNION
    SELECT k.run_hash, k.seq
    FROM copied AS k ANTI JOIN stored AS s ON k.run_hash = s.run_hash AND s.what = 1 AND k.seq = s.seq
    WHERE k.what = 11 AND k.run_hash IN (SELECT run_hash FROM compared WHERE by_storage)
    UNION
    SELECT s.run_hash, s.seq
    FROM stored AS s ANTI JOIN copied AS k
        ON k.run_hash = s.run_hash AND k.what % 10 = s.what AND k.seq = s.seq AND k.tag IS NOT DISTINCT FROM s.tag
    WHERE s.run_hash IN (SELECT run_hash FROM compared WHERE held)
    UNION
    SELECT run_hash, seq FROM copied WHERE what < 3 AND tag <> digest
)
SELECT c.run_key, c.run_hash, w.seq, row_number() OVER (ORDER BY c.run_key, w.seq) - 1 AS place
FROM wrong AS w JOIN compared AS c ON w.run_hash = c.run_hash

-- name: count_differing
SELECT count(*) FROM differing

-- name: totals
SELECT count(*), count(*) FILTER (held), count(*) FILTER (NOT held AND records > 0) FROM compared WHERE own

-- name: unlisted
-- Runs that are said to have begun in what Kafka holds, and of which it has no start.
SELECT run_id FROM compared WHERE within AND NOT held ORDER BY run_key

-- name: missing
-- Runs of which records were read, and nothing is stored: neither purged, nor kept as events without a start.
WITH names AS ({copied_names}),
gone AS (
    SELECT n.run_id, n.run_hash, n.started_us
    FROM names AS n
    ANTI JOIN runs AS r ON r.id = n.run_id AND r.topic = $topic
    ANTI JOIN tombstones AS t ON t.id = n.run_id AND t.topic = $topic
    WHERE {in_time_of_record}
)
SELECT g.run_id, count(*), min(k.record_offset), bool_or(k.what IN (0, 10))
FROM gone AS g JOIN copied AS k ON k.run_hash = g.run_hash
GROUP BY g.run_id
HAVING bool_or(k.what IN (0, 10)) OR g.run_id NOT IN (SELECT id FROM orphans WHERE topic = $topic)
ORDER BY min(k.record_offset)

-- name: purged_run
SELECT count(*) FROM tombstones WHERE id = $run_id AND id NOT IN (SELECT id FROM runs)

-- fragment: chunk
SELECT run_key, run_hash, seq FROM differing WHERE place >= $first AND place < $first + $numbers

-- name: numbers_of_chunk
SELECT d.run_key, d.seq, c.run_id, c.by_storage, c.held, c.source
FROM ({chunk}) AS d JOIN compared AS c ON c.run_key = d.run_key
ORDER BY d.run_key, d.seq

-- name: copied_of_chunk
WITH d AS ({chunk})
SELECT c.run_key, coalesce(x.replayed, false), k.what, k.seq, k.tag, k.digest, k.source, k.record_offset
FROM (SELECT DISTINCT run_key, run_hash FROM d) AS c JOIN copied AS k ON k.run_hash = c.run_hash
LEFT JOIN (
    SELECT record_offset, true AS replayed FROM dead_letters WHERE partition = $partition GROUP BY record_offset
) AS x ON x.record_offset = k.record_offset
WHERE k.what IN (0, 2, 10, 12) OR (k.run_hash, k.seq) IN (SELECT (run_hash, seq) FROM d)
ORDER BY c.run_key, k.record_offset

-- name: stored_of_chunk
WITH d AS ({chunk})
SELECT d.run_key, d.seq, 1, e.tag, e.event_type, epoch_us(e.created_at)
FROM events AS e JOIN d ON e.run_key = d.run_key AND e.sequence = d.seq
UNION ALL
SELECT d.run_key, d.seq, 0, c.start_tag, 'start', c.started_us
FROM compared AS c JOIN d ON c.run_key = d.run_key AND d.seq = 0
WHERE NOT c.by_storage
UNION ALL
SELECT d.run_key, d.seq, 2, c.finish_tag, 'finish', c.finished_us
FROM compared AS c JOIN d ON c.run_key = d.run_key AND d.seq = c.finish_seq
WHERE NOT c.by_storage

-- name: conflicts_of_chunk
SELECT run_key, sequence, tag FROM conflicts WHERE run_key IN (SELECT run_key FROM ({chunk})) AND sequence IS NOT NULL

-- name: refused_of_chunk
SELECT run_key, seq FROM refusals WHERE run_key IN (SELECT run_key FROM ({chunk}))

-- name: places_of_run
-- Where a run begins, as its row says, or else the ledger.
SELECT topic, partition, record_offset FROM runs WHERE id = $run_id
UNION
SELECT regexp_replace(partition, '/[^/]*$', ''), partition, min(record_offset)
FROM ledger
WHERE run_id = $run_id AND kind = 'start' AND run_id NOT IN (SELECT id FROM runs)
GROUP BY partition

-- name: content_of_numbers
-- Of one run: what is stored under these numbers, and what was taken out of it.
SELECT e.sequence, e.tag, e.event_type, epoch_us(e.created_at), e.payload,
    EXISTS (SELECT 1 FROM redactions AS x WHERE x.run_key = e.run_key AND x.seq = e.sequence)
FROM events AS e
WHERE e.run_key = $run_key AND list_contains($seqs::BIGINT[], e.sequence)

-- name: keys_of_run
SELECT run_key FROM runs WHERE id = $run_id AND topic = $topic

-- name: redacted_of_run
SELECT seq, field FROM redactions WHERE run_key = $run_key AND field IS NOT NULL
