-- The journal: its leaves against its tiles, its checkpoints and the anchors.

-- name: missing
SELECT idx::HUGEINT + 1, following - 1
FROM (SELECT idx, lead(idx) OVER (ORDER BY idx) AS following FROM (SELECT -1 AS idx UNION ALL SELECT idx FROM journal))
WHERE following > idx::HUGEINT + 1
ORDER BY 1
LIMIT $limit

-- name: leaf_hashes
SELECT idx, unhex(sha256('\x00'::BLOB || leaf)) FROM journal ORDER BY idx

-- name: tiles
SELECT level, idx, hashes FROM journal_nodes ORDER BY level, idx

-- name: checkpoints
SELECT size, note FROM checkpoints ORDER BY size
