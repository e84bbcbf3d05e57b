-- name: unmet_from
SELECT CAST(value AS BIGINT) FROM store.meta WHERE name = 'seals_unmet_from'

-- name: set_unmet_from
INSERT INTO store.meta VALUES ('seals_unmet_from', CAST($index AS VARCHAR)) ON CONFLICT DO NOTHING

-- name: set_restored
-- For one who remembers a check of this database: what was stored behind the journal's old end may be stored anew.
INSERT INTO store.meta VALUES ('journal_restored', $token) ON CONFLICT DO UPDATE SET value = excluded.value

-- name: all_met
DELETE FROM store.meta WHERE name = 'seals_unmet_from'

-- name: range_roots
-- The root of each range of rows that the ledger holds, level by level.
WITH RECURSIVE ranges AS (
    SELECT unnest($partitions) AS partition, unnest($firsts) AS first_idx, unnest($ends) AS end_idx
),
hashed AS (
    SELECT l.partition, r.first_idx, l.idx, l.record_offset, unhex(sha256(
        '\x00'::BLOB || encode(
            'skillaudit ' || l.kind || ' 1' || chr(10) || strlen(l.run_id) || ':' || l.run_id || ' ' || l.source_id
            || ' ' || l.source_seq || ' ' || l.events || ' ' || coalesce(lower(hex(l.head)), '-') || ' '
            || l.record_offset || ' ' || l.received_us || chr(10)
        )
    )) AS leaf_hash
    FROM {schema}.ledger AS l ASOF JOIN ranges AS r ON l.partition = r.partition AND l.idx >= r.first_idx
    WHERE l.idx < r.end_idx
),
tree (partition, first_idx, rows, last_offset, hashes) AS (
    SELECT partition, first_idx, count(*), max_by(record_offset, idx), list(leaf_hash ORDER BY idx)
    FROM hashed
    GROUP BY partition, first_idx
    UNION ALL
    SELECT partition, first_idx, rows, last_offset, list_transform(
        range((len(hashes) + 1) // 2),
        lambda pair: CASE
            WHEN 2 * pair + 2 <= len(hashes)
            THEN unhex(sha256('\x01'::BLOB || hashes[2 * pair + 1] || hashes[2 * pair + 2]))
            ELSE hashes[2 * pair + 1]
        END
    )
    FROM tree
    WHERE len(hashes) > 1
)
SELECT partition, first_idx, rows, last_offset, hashes[1]
FROM tree
WHERE len(hashes) = 1
