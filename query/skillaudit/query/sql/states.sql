-- What the record itself says about runs, and how far the database has consumed.

-- fragment: state_columns
id, liveness, completeness, events_stored, missing, lost, conflicts, source_id, epoch_us(last_event_at)

-- name: states_of_hashes
-- The first to arrive last: it is the one that stays where several topics share an id.
SELECT {state_columns}
FROM runs
WHERE run_hash IN (SELECT unnest($run_hashes::UBIGINT[]))
ORDER BY run_key DESC

-- name: orphans_of_hashes
SELECT {state_columns}
FROM orphans
WHERE run_hash IN (SELECT unnest($run_hashes::UBIGINT[]))
ORDER BY run_key DESC

-- name: purged_of_hashes
SELECT id, liveness, 'purged', 0, missing, lost, conflicts, source_id, epoch_us(last_event_at)
FROM tombstones
WHERE run_hash IN (SELECT unnest($run_hashes::UBIGINT[]))
ORDER BY run_key DESC

-- name: orphans
-- run_key is given in order of arrival.
SELECT {state_columns}
FROM orphans
ORDER BY run_key
LIMIT $limit

-- name: positions
SELECT partition, next_offset
FROM positions
