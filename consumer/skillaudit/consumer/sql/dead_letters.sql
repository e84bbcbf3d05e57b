-- name: list
SELECT id, partition, record_offset, next_offset, key, record, received_us, epoch_us(stored_at), error, state
FROM store.dead_letters
WHERE id > $after AND ($state::VARCHAR IS NULL OR state = $state)
ORDER BY id
LIMIT $limit

-- name: by_ids
SELECT id, partition, record_offset, next_offset, key, record, received_us, epoch_us(stored_at), error, state
FROM store.dead_letters
WHERE id IN (SELECT unnest($ids::BIGINT[]))
ORDER BY id

-- name: settle
UPDATE store.dead_letters SET state = $state, changed_at = make_timestamptz($now_us::BIGINT)
WHERE state = 'waiting' AND id IN (SELECT unnest($ids::BIGINT[]))

-- name: waiting
SELECT count(*) FROM store.dead_letters WHERE state = 'waiting' AND id IN (SELECT unnest($ids::BIGINT[]))
