-- The journal as far as the check of one run needs it: its size, its newest checkpoint, and what a root is computed from.

-- name: size
-- The journal's size, twice.
SELECT max(idx) + 1, count(*) FROM store.journal

-- name: checkpoints_from
SELECT size, note FROM checkpoints WHERE size >= $size

-- name: newest_checkpoints
-- Of one size all, so that two different ones are seen.
SELECT size, note FROM checkpoints WHERE size = (SELECT max(size) FROM checkpoints)

-- name: leaves
SELECT idx, leaf FROM journal WHERE idx >= $first AND idx < $end

-- name: tiles
SELECT idx, hashes FROM journal_nodes WHERE level = $level AND idx >= $first AND idx < $end
