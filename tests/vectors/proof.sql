-- Hash of every row of the ledger, and the root of every sealed range, in DuckDB alone.
-- ledger(partition, idx, kind, run_id, source_id, source_seq, events, head [hex or NULL], received_us, record_offset)
-- ranges(partition, first_idx, row_count)
WITH RECURSIVE hashed AS (
    SELECT l.partition, r.first_idx, l.idx, unhex(sha256('\x00'::BLOB || encode(
        'skillaudit ' || l.kind || ' 1' || chr(10) || strlen(l.run_id) || ':' || l.run_id || ' ' || l.source_id
        || ' ' || l.source_seq || ' ' || l.events || ' ' || coalesce(l.head, '-') || ' ' || l.record_offset
        || ' ' || l.received_us || chr(10)
    ))) AS hash
    FROM ledger AS l
    JOIN ranges AS r ON l.partition = r.partition AND l.idx >= r.first_idx AND l.idx < r.first_idx + r.row_count
),
tree (partition, first_idx, level, node, hash, width) AS (
    SELECT partition, first_idx, 0, idx - first_idx, hash, count(*) OVER (PARTITION BY partition, first_idx)
    FROM hashed
    UNION ALL
    SELECT partition, first_idx, any_value(level) + 1, node // 2,
        CASE
            WHEN count(*) = 2 THEN unhex(sha256('\x01'::BLOB || min_by(hash, node) || max_by(hash, node)))
            ELSE any_value(hash)
        END,
        any_value((width + 1) // 2)
    FROM tree
    WHERE width > 1
    GROUP BY partition, first_idx, node // 2
)
SELECT partition, first_idx, level, node, lower(hex(hash)) AS hash, width = 1 AS is_root
FROM tree
WHERE level = 0 OR width = 1
ORDER BY ALL
