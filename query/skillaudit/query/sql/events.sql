-- Reading the view `events`, always by run_key: that is the order the sealed table is sorted in.

-- name: events_of_run
SELECT sequence, event_type, payload, epoch_us(created_at)
FROM events
WHERE run_key = $run_key
ORDER BY sequence

-- name: events_page
SELECT sequence, event_type, payload, epoch_us(created_at)
FROM events
WHERE run_key = $run_key AND sequence >= $first
ORDER BY sequence
LIMIT $limit

-- name: events_before
SELECT count(*)
FROM events
WHERE run_key = $run_key AND sequence < $first
