-- The journal as far as the check of one run needs it: its size, its newest checkpoint, and what a root is computed from.

-- name: size
SELECT max(idx) + 1, count(*) FROM journal

-- name: checkpoint
-- The newest one; of one size all, so that two different ones are seen.
SELECT size, note, signed_us FROM checkpoints WHERE size = (SELECT max(size) FROM checkpoints)

-- name: leaves
SELECT idx, leaf FROM journal WHERE idx >= $first AND idx < $end

-- name: tiles
SELECT idx, hashes FROM journal_nodes WHERE level = $level AND idx >= $first AND idx < $end
