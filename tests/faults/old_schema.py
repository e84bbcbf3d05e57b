"""A database as the first release left it, and what must be in it whatever a migration was cut off at."""

from __future__ import annotations

import contextlib
from pathlib import Path

import duckdb
from tests.consumer.test_migration import OLD_ROWS, OLD_VIEWS

from skillaudit.consumer.statements import migrations, sql_text

OLD_RUNS = 2_000
_MORE_RUNS = f"""
INSERT INTO store.runs BY NAME SELECT
    (100 + i)::BIGINT AS run_key, (1000 + i)::UBIGINT AS run_hash, 'old-' || i AS id, 'old' AS topic, 's' AS skill_id,
    'c' AS caller_id, 'ch' AS channel_id, '{{}}' AS inputs, now() AS started_at, 'running' AS status, '' AS output,
    '' AS error, 0 AS tool_calls_count, 0 AS runtime_us, '' AS parent_run_id, 0 AS total_input_tokens,
    0 AS total_output_tokens, 0 AS total_thinking_tokens, '{{}}' AS attributes, 'aa' AS source_id, i + 2 AS source_seq,
    1 AS events_stored, 'pending' AS completeness, 'open' AS liveness, '' AS missing, '' AS lost, 0 AS conflicts,
    now() AS received_at, false AS by_storage, 'manual' AS clock, 5::UBIGINT AS start_tag, 0 AS known,
    false AS refused, '0-1' AS received
FROM range({OLD_RUNS - 1}) t(i);
INSERT INTO store.events_sealed
SELECT 100 + i, 1, 'step', now(), i::UBIGINT, '{{"n":' || i || '}}' FROM range({OLD_RUNS - 1}) t(i);
"""


def make_old_file(path: Path) -> None:
    """Schema 1, with rows of every kind that a migration touches."""
    rows = (
        OLD_ROWS.replace("'t/0'", "'old/0'")
        .replace("'t/1'", "'old/1'")
        .replace("'t' AS topic", "'old' AS topic")
    )
    config = {"storage_compatibility_version": "v1.5.0"}
    with contextlib.closing(duckdb.connect(str(path), config=config)) as old:
        old.execute("CREATE SCHEMA store")
        old.execute("CREATE TABLE store.meta (name VARCHAR PRIMARY KEY, value VARCHAR NOT NULL)")
        old.execute("INSERT INTO store.meta VALUES ('schema_version', '1'), ('database_id', 'ab')")
        old.execute(sql_text("schema/0001_initial.sql"))
        old.execute(OLD_VIEWS.read_text(encoding="utf-8"))
        old.execute(rows)
        old.execute(_MORE_RUNS)


def assert_old(path: Path, *, newest: bool = False) -> None:
    """What it held is there; its schema is one of those that were released, and what belongs to it is there, too."""
    steps = [number for number, _, _ in migrations()]
    with contextlib.closing(duckdb.connect(str(path), read_only=True)) as cursor:
        found = cursor.execute("SELECT value FROM store.meta ORDER BY name").fetchall()
        assert found[0] == ("ab",), found
        version = int(found[-1][0])
        assert version == steps[-1] if newest else version in steps, version
        assert cursor.execute("SELECT count(*) FROM main.runs").fetchone() == (OLD_RUNS,)
        assert cursor.execute("SELECT count(*) FROM main.events").fetchone() == (OLD_RUNS - 1,)
        tables = {row[0] for row in cursor.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
        assert ("ledger" in tables) == (version >= 2), f"schema {version} with tables {sorted(tables)}"
        if version >= 2:
            rows = "SELECT partition, record_offset FROM store.ledger_from"
            assert cursor.execute(rows).fetchall() == [("old/0", 42)]
