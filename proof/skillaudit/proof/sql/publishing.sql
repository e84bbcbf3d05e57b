-- name: waiting
-- Checkpoints beyond a size, with the bytes of the leaves from there up to each; NULL where these are too many.
SELECT c.size, c.note, j.bytes
FROM store.checkpoints AS c
LEFT JOIN (
    SELECT idx + 1 AS size, sum(octet_length(leaf)) OVER (ORDER BY idx) AS bytes
    FROM store.journal
    WHERE idx >= $after AND idx < $after + $leaves_max
) AS j ON c.size = j.size
WHERE c.size > $after
ORDER BY c.size
LIMIT $rows_max

-- name: published
SELECT published FROM store.checkpoints WHERE size = $size

-- name: note_published
UPDATE store.checkpoints SET published = $published WHERE size = $size

-- name: newest_size
SELECT coalesce(max(size), 0) FROM store.checkpoints
