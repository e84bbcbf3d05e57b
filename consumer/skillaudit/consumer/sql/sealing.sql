-- name: count
SELECT count(*), coalesce(sum(strlen(payload)), 0) FROM {table}

-- name: copy
INSERT INTO store.events_sealed BY NAME SELECT * FROM {table} ORDER BY run_key, sequence

-- name: empty
DELETE FROM {table}
