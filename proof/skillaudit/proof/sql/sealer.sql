-- name: ends
SELECT partition, ledger_next FROM store.positions WHERE ledger_next > 0

-- name: last_seal
SELECT max(at_us) FROM store.journal WHERE kind = 'seal'

-- name: sealed
-- How far each partition is sealed, by what the seals among the leaves [first, end) say.
SELECT parts[2] AS partition, max(CAST(parts[3] AS BIGINT) + CAST(parts[4] AS BIGINT)) AS sealed
FROM (
    SELECT string_split(line, ' ') AS parts
    FROM (
        SELECT unnest(string_split(decode(leaf), chr(10))) AS line
        FROM store.journal
        WHERE kind = 'seal' AND idx >= $first AND idx < $end
    )
    WHERE starts_with(line, 'ledger ')
)
GROUP BY partition

-- name: roots
-- The root of each range of rows, level by level, without a row leaving the engine. A range is extended to the end of its
-- last record, which has at most $record_rows_max rows. Row ids below $from_rowid are not looked at. Rows go by their
-- index: offsets may begin anew, where the loss of a topic's history was accepted. `nodes`: the hashes at height
-- $block_height, where the tree is higher.
WITH RECURSIVE ranges AS (
    SELECT unnest($partitions) AS partition, unnest($firsts) AS first_idx, unnest($ends) AS end_idx
),
lasts AS (
    SELECT l.partition, l.record_offset AS last_offset
    FROM store.ledger AS l JOIN ranges AS r ON l.partition = r.partition AND l.idx = r.end_idx - 1
    WHERE l.rowid >= $from_rowid
),
whole AS (
    SELECT r.partition, any_value(r.first_idx) AS first_idx,
        coalesce(min(l.idx) FILTER (l.record_offset <> e.last_offset), max(l.idx) + 1) AS end_idx
    FROM ranges AS r
    JOIN lasts AS e ON r.partition = e.partition
    JOIN store.ledger AS l
        ON l.partition = r.partition AND l.idx >= r.end_idx - 1 AND l.idx < r.end_idx + $record_rows_max
    WHERE l.rowid >= $from_rowid
    GROUP BY r.partition
),
hashed AS (
    SELECT l.partition, l.idx, l.record_offset, l.rowid AS row_id, unhex(sha256(
        '\x00'::BLOB || encode(
            'skillaudit ' || l.kind || ' 1' || chr(10) || strlen(l.run_id) || ':' || l.run_id || ' ' || l.source_id
            || ' ' || l.source_seq || ' ' || l.events || ' ' || coalesce(lower(hex(l.head)), '-') || ' '
            || l.record_offset || ' ' || l.received_us || chr(10)
        )
    )) AS leaf_hash
    FROM store.ledger AS l
    JOIN whole AS w ON l.partition = w.partition AND l.idx >= w.first_idx AND l.idx < w.end_idx
    WHERE l.rowid >= $from_rowid
),
tree (partition, first_idx, last_idx, rows, last_offset, last_row_id, height, nodes, hashes) AS (
    SELECT partition, min(idx), max(idx), count(*), max_by(record_offset, idx), max(row_id), 0, NULL::BLOB[],
        list(leaf_hash ORDER BY idx)
    FROM hashed
    GROUP BY partition
    UNION ALL
    SELECT partition, first_idx, last_idx, rows, last_offset, last_row_id, height + 1,
        CASE WHEN height = $block_height THEN hashes ELSE nodes END, list_transform(
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
SELECT partition, first_idx, last_idx, rows, last_offset, last_row_id, hashes[1], nodes
FROM tree
WHERE len(hashes) = 1
ORDER BY partition

-- name: add_nodes
INSERT INTO store.ledger_nodes (partition, first_row, hashes) VALUES ($partition, $first_row, $hashes)

-- name: newest_checkpoint
SELECT note FROM store.checkpoints ORDER BY size DESC LIMIT 1

-- name: checkpoint_at
SELECT count(*) FROM store.checkpoints WHERE size = $size

-- name: add_checkpoint
INSERT INTO store.checkpoints (size, note, signed_us, published) VALUES ($size, $note, $signed_us, '{}')

-- name: grown
-- The largest size up to which the leaves from $first on have at most $bytes_max bytes together, and one leaf at least.
SELECT max(idx) + 1
FROM (
    SELECT idx, sum(octet_length(leaf)) OVER (ORDER BY idx) AS bytes
    FROM store.journal
    WHERE idx >= $first AND idx < $first + $leaves_max
)
WHERE bytes <= $bytes_max OR idx = $first
