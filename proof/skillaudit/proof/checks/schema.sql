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

-- name: identity
-- Which database it is: its id, and when its journal was last put back from an anchor, since what was stored then may be stored
-- anew. Who writes the file can write this, too: it tells one who remembers a check that there is more to look at, and no less.
SELECT concat_ws('/', (SELECT any_value(value) FROM store.meta WHERE name = 'database_id'), (SELECT any_value(value) FROM store.meta WHERE name = 'journal_restored'))

-- name: ledger_rows
SELECT count(*) FROM ledger
