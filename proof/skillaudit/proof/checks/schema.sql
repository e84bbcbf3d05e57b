-- What the database is.

-- name: probe
SELECT 1 FROM ledger_cuts LIMIT 0

-- name: views
SELECT view_name FROM duckdb_views() WHERE schema_name = 'main' AND NOT internal AND database_name = current_database()

-- name: ledger_rows
SELECT count(*) FROM ledger
