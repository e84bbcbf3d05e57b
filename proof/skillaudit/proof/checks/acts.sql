-- Acts: what was done on purpose, against the journal, and against what is gone.

-- name: acts
-- Every act with the journal's leaf of it, in the journal's order; those that wait for theirs last.
SELECT a.act_id, a.kind, a.act, a.journal_idx, j.leaf
FROM acts AS a LEFT JOIN journal AS j ON a.journal_idx = j.idx
ORDER BY a.journal_idx NULLS LAST, a.control_partition, a.control_offset, a.act_id

-- name: lines
SELECT act_id, kind, act, journal_idx FROM acts ORDER BY journal_idx NULLS LAST, act_id

-- name: control_reached
-- How far the database has read the control log.
SELECT coalesce(max(next_offset), 0) FROM positions WHERE partition = $partition

-- name: unapplied
-- Acts that the journal holds and that were never recorded here.
SELECT j.idx, j.kind_said, j.act_id
FROM (
    SELECT idx, line ->> 'kind' AS kind_said, line ->> 'act_id' AS act_id
    FROM (SELECT idx, TRY_CAST(string_split(TRY(decode(leaf)), chr(10))[2] AS JSON) AS line FROM journal WHERE kind = 'act')
) AS j
ANTI JOIN acts AS a ON a.journal_idx = j.idx
WHERE j.kind_said IN ('purge', 'redact', 'erase', 'hold', 'release')
ORDER BY 1

-- name: unproven
-- Acts behind the leaves that are proven.
SELECT a.act_id, a.kind, j.idx
FROM journal AS j LEFT JOIN acts AS a ON a.journal_idx = j.idx
WHERE j.kind = 'act' AND j.idx >= $size
ORDER BY j.idx

-- name: incidents
SELECT idx, line ->> 'reason' AS reason
FROM (SELECT idx, TRY_CAST(string_split(TRY(decode(leaf)), chr(10))[2] AS JSON) AS line FROM journal WHERE kind = 'act')
WHERE line ->> 'kind' = 'incident'
ORDER BY 1

-- name: tombstones
-- Purged runs, with the act that is named for each, and where their start stands in the ledger: the first, for it may be
-- delivered again after the purge, or, of an orphan, for the first time.
SELECT
    t.id, coalesce(p.act_id, '') AS act_id, epoch_us(t.started_at) AS started_us, t.violates,
    l.partition, l.record_offset, l.received_us, t.run_key < coalesce(f.run_key, 0) AS before_ledger,
    t.run_hash = TRY_CAST('0x' || left(sha256(t.id), 16) AS UBIGINT) AND CASE
        WHEN t.orphan THEN t.source_id = '' AND t.source_seq = 0
        ELSE t.orphan IS NOT NULL AND (l.run_id IS NULL OR (t.source_id = l.source_id AND t.source_seq = l.source_seq))
    END AS sound, t.orphan
FROM tombstones AS t
LEFT JOIN (SELECT id, any_value(act_id) AS act_id FROM purges GROUP BY id) AS p ON t.purge_id = p.id
LEFT JOIN (
    SELECT run_id, regexp_replace(partition, '/[^/]*$', '') AS topic, arg_min(partition, idx) AS partition,
        arg_min(record_offset, idx) AS record_offset, arg_min(received_us, idx) AS received_us,
        arg_min(source_id, idx) AS source_id, arg_min(source_seq, idx) AS source_seq
    FROM ledger
    WHERE kind = 'start'
    GROUP BY ALL
) AS l ON l.run_id = t.id AND l.topic = t.topic
LEFT JOIN (
    SELECT regexp_replace(partition, '/[^/]*$', '') AS topic, max(run_key) AS run_key FROM ledger_from GROUP BY ALL
) AS f ON f.topic = t.topic
ORDER BY t.run_key

-- name: kept_young
-- Runs that a forced purge reached, that were younger than their minimum age, and that are stored: a hold that it did not know
-- of covers them, and none that it did. As the consumer says who is young, and whom a hold of a skill covers. Orphans go by
-- their ids alone.
SELECT count(*)
FROM (
    SELECT id, skill_id, topic, partition, record_offset, epoch_us(started_at) AS started_us, epoch_us(received_at) AS received_us,
        FALSE AS orphan
    FROM runs
    UNION ALL
    SELECT id, NULL, topic, partition, record_offset, first_us, first_us, TRUE FROM orphans WHERE $before_us::BIGINT IS NULL
) AS r
JOIN (SELECT unnest($partitions::VARCHAR[]) AS partition, unnest($positions::BIGINT[]) AS position) AS a
    ON r.partition = a.partition AND r.record_offset < a.position
WHERE (r.started_us >= $limit_us OR (r.received_us >= $limit_us AND r.topic NOT IN ('outbox', 'direct')))
    AND ($before_us::BIGINT IS NULL OR r.started_us < $before_us::BIGINT)
    AND ($ids::VARCHAR[] IS NULL OR list_contains($ids::VARCHAR[], r.id))
    AND ($unseen_all OR list_contains($unseen_runs::VARCHAR[], r.id) OR CASE
        WHEN r.orphan THEN len($unseen_skills::VARCHAR[]) > 0 ELSE list_contains($unseen_skills::VARCHAR[], r.skill_id)
    END)
    AND NOT ($seen_all OR list_contains($seen_runs::VARCHAR[], r.id) OR CASE
        WHEN r.orphan THEN len($seen_skills::VARCHAR[]) > 0 ELSE list_contains($seen_skills::VARCHAR[], r.skill_id)
    END)

-- name: redactions
-- What was taken out, by run and act: which places, and what the act may say of them.
SELECT
    x.run_key, r.id, r.skill_id, x.act_id, r.finish_seq, count(*) AS places,
    list({'seq': x.seq, 'field': x.field} ORDER BY x.seq, x.field)[:$limit] AS some
FROM redactions AS x LEFT JOIN runs AS r ON x.run_key = r.run_key
GROUP BY x.run_key, r.id, r.skill_id, x.act_id, r.finish_seq
ORDER BY x.run_key

-- name: redactions_twice
SELECT run_key, seq, field FROM redactions GROUP BY ALL HAVING count(*) > 1 ORDER BY 1, 2 LIMIT $limit

-- name: stray_salts
-- Salts that are kept one by one and should not be: of a run that has its own, from which they follow; of a place whose content
-- was taken out, for it could be guessed; and of no run.
SELECT
    s.run_key, any_value(r.id), min(s.seq), arg_min(s.field, s.seq), count(*),
    CASE WHEN any_value(r.id) IS NULL THEN 'no run' WHEN any_value(r.salt) IS NOT NULL THEN 'own' ELSE 'taken' END
FROM run_salts AS s
LEFT JOIN runs AS r ON s.run_key = r.run_key
LEFT JOIN (SELECT DISTINCT run_key, seq, field FROM redactions) AS x
    ON s.run_key = x.run_key AND s.seq = x.seq AND s.field IS NOT DISTINCT FROM x.field
WHERE r.run_key IS NULL OR r.salt IS NOT NULL OR x.run_key IS NOT NULL
GROUP BY s.run_key
ORDER BY s.run_key
LIMIT $limit

-- name: holds
SELECT act_id, scope, released_by, placed_us FROM holds ORDER BY act_id

-- name: signers
-- Keys in whose names checkpoints are signed, `<name>+<key id in hex>`, and the first size of each.
SELECT key, min(size)
FROM (
    SELECT size, split_part(line, ' ', 2) || '+' || lower(left(hex(TRY(from_base64(split_part(line, ' ', 3)))), 8)) AS key
    FROM (
        SELECT size, unnest(string_split(split_part(note, chr(10) || chr(10), 2), chr(10))) AS line FROM checkpoints
    )
    WHERE starts_with(line, '— ')
)
WHERE key IS NOT NULL
GROUP BY key
