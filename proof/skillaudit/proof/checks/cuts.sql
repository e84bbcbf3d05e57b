-- What is not in a database that was made again from less than there was.

-- name: cuts
SELECT
    c.partition, c.first_row, c.record_offset, c.journal_idx, j.leaf,
    (SELECT count(*) FROM ledger AS l WHERE l.partition = c.partition AND l.idx < c.first_row) AS here
FROM ledger_cuts AS c LEFT JOIN journal AS j ON j.idx = c.journal_idx AND j.kind = 'act'
ORDER BY 1

-- name: ends_of_cuts
-- Where seals end, of the partitions that are cut. Where offsets began anew, a ledger may begin again at their first.
SELECT s.partition, (s.first::HUGEINT + s.rows)::BIGINT, s.next_offset
FROM seals AS s JOIN ledger_cuts AS c ON s.partition = c.partition AND s.first::HUGEINT + s.rows = c.first_row
WHERE NOT s.bad
UNION
SELECT s.partition, s.first, 0
FROM seals AS s JOIN ledger_cuts AS c ON s.partition = c.partition AND s.first = c.first_row
WHERE NOT s.bad AND c.record_offset = 0

-- name: numbers_before
-- Of sources that may have begun before what is here: below which number their runs may have started before. A source counts
-- up, so what it numbered after one that was received behind the cut came behind it, too. The time of the cut is what the
-- seal's own bytes say: the journal's column is covered by nothing. Embedded, its partition is its own.
WITH topics AS (
    SELECT regexp_replace(c.partition, '/[^/]*$', '') AS topic, max(s.at_us) AS cut_us
    FROM ledger_cuts AS c
    JOIN seals AS s ON s.partition = c.partition AND s.first::HUGEINT + s.rows = c.first_row
    GROUP BY ALL
)
SELECT s.source_id, coalesce(min(l.source_seq), 9223372036854775807)
FROM sources AS s
JOIN topics AS t ON s.topic = t.topic
LEFT JOIN ledger AS l
    ON l.source_id = s.source_id AND l.kind = 'start' AND (s.topic = 'outbox' OR l.received_us > t.cut_us)
WHERE CASE WHEN s.topic = 'outbox'
    THEN s.partition IN (SELECT partition FROM ledger_cuts)
    ELSE s.opened_at IS NULL OR epoch_us(s.opened_at) <= t.cut_us
END
GROUP BY s.source_id

-- name: cut_orphans
-- Runs whose start may lie before what is here: their source had begun by then, and gave them no number that came later.
SELECT o.id, o.source_id, max(l.source_seq)
FROM orphans AS o LEFT JOIN ledger AS l ON l.run_id = o.id AND l.source_id = o.source_id
WHERE list_contains($sources, o.source_id) AND o.completeness <> 'unproven'
GROUP BY o.id, o.source_id
ORDER BY 1
