-- The journal as far as the check of one run needs it: its size, its newest checkpoint, and what a root is computed from.

-- name: newest
-- The journal's size, twice, and the newest checkpoint; of one size all, so that two different ones are seen.
SELECT max(idx) + 1 AS size, count(*) AS leaves, NULL AS note FROM journal
UNION ALL
SELECT size, NULL, note FROM checkpoints WHERE size = (SELECT max(size) FROM checkpoints)

-- name: leaves
SELECT idx, leaf FROM journal WHERE idx >= $first AND idx < $end

-- name: tiles
SELECT idx, hashes FROM journal_nodes WHERE level = $level AND idx >= $first AND idx < $end
