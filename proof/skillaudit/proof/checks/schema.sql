-- What the database is.

-- name: views
SELECT view_name FROM system.main.duckdb_views() WHERE schema_name = 'main' AND NOT internal

-- name: version
SELECT CAST(value AS BIGINT) FROM store.meta WHERE name = 'schema_version'

-- name: functions
-- Nothing here may be called by a name that the database itself can give to a function of its own: of what it defines, and of
-- what it looks like, only what the engine's own catalog says.
SELECT function_name FROM system.main.duckdb_functions() WHERE NOT internal AND database_name = system.main.current_database()

-- name: own_functions
SELECT DISTINCT function_name FROM system.main.duckdb_functions() WHERE internal

-- name: definitions
SELECT schema_name, view_name, sql FROM system.main.duckdb_views() WHERE NOT internal AND database_name = system.main.current_database()

-- name: tables
SELECT schema_name, table_name, sql FROM system.main.duckdb_tables() WHERE NOT internal AND database_name = system.main.current_database()

-- name: ledger_rows
SELECT count(*) FROM ledger
