-- What the journal reads and writes; {schema} is `store` for its writer, `main` (the views) for anybody else.

-- name: size
SELECT coalesce(max(idx) + 1, 0), count(*) FROM {schema}.journal

-- name: leaves
SELECT idx, leaf FROM {schema}.journal WHERE idx >= $first AND idx < $end ORDER BY idx

-- name: tile
SELECT hashes FROM {schema}.journal_nodes WHERE level = $level AND idx = $index

-- name: tiles
SELECT idx, hashes FROM {schema}.journal_nodes WHERE level = $level AND idx >= $first AND idx < $end ORDER BY idx

-- name: append
INSERT INTO store.journal (idx, at_us, kind, leaf) VALUES ($idx, $at_us, $kind, $leaf)

-- name: append_tile
INSERT INTO store.journal_nodes (level, idx, hashes) VALUES ($level, $index, $hashes)
