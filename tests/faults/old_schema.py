"""Databases as earlier releases left them, and what must be in one whatever a migration of it was cut off at."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb
from tests.consumer.test_migration import OLD_ROWS, OLD_VIEWS
from tests.faults.fuse import Fuse, FusedCursor, open_fused
from tests.faults.oracle import must

from skillaudit.consumer.statements import migrations, sql_text

OLD_RUNS = 2_000
NEWEST = migrations()[-1][0]
OLDER = range(1, NEWEST)
MAKES: dict[int, frozenset[str]] = {
    1: frozenset({"store.runs", "store.events_sealed", "store.positions", "main.runs"}),
    2: frozenset(
        {
            *(
                f"store.{name}"
                for name in ("ledger", "ledger_from", "journal", "journal_nodes", "checkpoints")
            ),
            *(f"store.{name}" for name in ("acts", "redactions", "run_salts", "holds")),
            *("store.positions.ledger_next", "store.sources.claimed", "store.sources.due"),
            *("store.purges.act_id", "store.tombstones.started_at", "store.tombstones.received_at"),
        }
    ),
    3: frozenset(
        {
            *("store.runs.partition", "store.runs.record_offset", "store.tombstones.violates"),
            *("store.pending_acts", "store.redacted_runs"),
        }
    ),
    4: frozenset({"store.ledger_cuts"}),
    5: frozenset(),
    6: frozenset({"store.ledger.run_hash", "store.ledger_nodes"}),
    7: frozenset(
        {
            *("store.orphans.partition", "store.orphans.record_offset", "store.orphans.first_us"),
            *("store.runs.first_offset", "store.runs.first_us", "store.tombstones.orphan"),
            *("main.ledger_nodes", "main.source_arrivals"),
        }
    ),
}
"""Step -> what only it makes: tables, columns of tables that were there; views are made with the last step, and step 5 asked
for some alone."""
_BACKFILLED = {
    2: "SELECT count(*) FROM store.sources WHERE claimed IS DISTINCT FROM runs_started",
    3: "SELECT count(*) FROM store.runs WHERE partition <> 'old/0' OR record_offset <> -1",
    6: "SELECT count(*) FROM store.ledger WHERE run_hash IS DISTINCT FROM ('0x' || left(sha256(run_id), 16))::UBIGINT",
    7: "SELECT count(*) FROM store.orphans WHERE (partition, record_offset, first_us) IS DISTINCT FROM ('old/0', -1, 3_000)",
}
"""Step -> rows that it should have filled in another way."""
_NAMES = """
SELECT schema_name || '.' || table_name FROM duckdb_columns() WHERE NOT internal AND database_name = current_database()
UNION
SELECT schema_name || '.' || table_name || '.' || column_name FROM duckdb_columns()
WHERE NOT internal AND database_name = current_database()
"""
_SHAPE = """
SELECT schema_name, table_name, column_name, data_type, column_default, is_nullable FROM duckdb_columns()
WHERE NOT internal AND database_name = current_database()
UNION ALL
SELECT schema_name, view_name, '', sql, '', TRUE FROM duckdb_views()
WHERE NOT internal AND database_name = current_database()
ORDER BY ALL
"""
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
INSERT INTO store.orphans BY NAME SELECT
    50 AS run_key, 13::UBIGINT AS run_hash, 'waits' AS id, 'old' AS topic, false AS plain, false AS bare, '' AS source_id,
    0 AS events_stored, 'incomplete' AS completeness, 'open' AS liveness, '0' AS missing, '' AS lost, 0 AS conflicts,
    '1' AS received, '{{}}' AS known, make_timestamptz(3_000) AS first_received_at;
INSERT INTO store.kept VALUES (1, 50, ''::BLOB, 'old/0', 7, 3_000);
INSERT INTO store.events_sealed
SELECT 100 + i, 1, 'step', now(), i::UBIGINT, '{{"n":' || i || '}}' FROM range({OLD_RUNS - 1}) t(i);
"""
_LEDGER = f"""
INSERT INTO store.ledger BY NAME SELECT
    'old/0' AS partition, i AS idx, 'start' AS kind, 'old-' || i AS run_id, 'aa' AS source_id, i + 2 AS source_seq,
    1 AS events, unhex(sha256('old-' || i)) AS head, 1_000 AS received_us, 42 + i AS record_offset
FROM range({OLD_RUNS - 1}) t(i)
"""
"""Of a file that came to step 2 before it held these."""


def make_old_file(path: Path, version: int = 1) -> None:
    """A file with rows of every kind that a migration touches: schema 1, and the steps up to that version made whole.
    Its views are those of the first release.
    """
    rows = (
        OLD_ROWS.replace("'t/0'", "'old/0'")
        .replace("'t/1'", "'old/1'")
        .replace("'t' AS topic", "'old' AS topic")
    )
    config = {"storage_compatibility_version": "v1.5.0"}
    with contextlib.closing(duckdb.connect(str(path), config=config)) as old:
        old.execute("CREATE SCHEMA store")
        old.execute("CREATE TABLE store.meta (name VARCHAR PRIMARY KEY, value VARCHAR NOT NULL)")
        old.execute(
            "INSERT INTO store.meta VALUES ('schema_version', ?), ('database_id', 'ab')", [str(version)]
        )
        old.execute(sql_text("schema/0001_initial.sql"))
        old.execute(OLD_VIEWS.read_text(encoding="utf-8"))
        old.execute(rows)
        old.execute(_MORE_RUNS)
        for number, _, text in migrations():
            if 1 < number <= version:
                old.execute(text)
            if number == 2 <= version:
                old.execute(_LEDGER)


class OldFiles:
    """A file of every older version, and what a file of every version is."""

    def __init__(self, directory: Path) -> None:
        """Makes them all in there."""
        self._paths = {version: directory / f"schema-{version}.duckdb" for version in OLDER}
        for version, path in self._paths.items():
            make_old_file(path, version)
        newest = directory / f"schema-{NEWEST}.duckdb"
        newest.write_bytes(self._paths[1].read_bytes())
        open_fused(newest).close()
        self._shapes = {version: _shape(path) for version, path in (self._paths | {NEWEST: newest}).items()}

    def path(self, version: int) -> Path:
        """The file of an older version; to be copied."""
        return self._paths[version]

    def assert_kept(self, path: Path, since: int, *, newest: bool = False) -> int:
        """`path` was a copy of the file of version `since`, and a migration of it was cut off. It has a schema between
        that one and the newest, exactly as a whole migration leaves it, and all rows. Answers its version.
        """
        with contextlib.closing(duckdb.connect(str(path), read_only=True)) as cursor:
            found = cursor.execute("SELECT value FROM store.meta ORDER BY name").fetchall()
            must(found[0] == ("ab",), found)
            version = int(found[-1][0])
            must(version == NEWEST if newest else since <= version <= NEWEST, version)
            _assert_made(cursor, version)
            shape = cursor.execute(_SHAPE).fetchall()
            other = _differing(shape, self._shapes[version])
            must(not other, f"schema {version}, and otherwise than one: {other[:3]}")
            _assert_rows(cursor, self._paths[since])
        return version


def _shape(path: Path) -> list[Any]:
    with contextlib.closing(duckdb.connect(str(path), read_only=True)) as cursor:
        return cursor.execute(_SHAPE).fetchall()


def _differing(found: Iterable[Any], expected: Iterable[Any]) -> list[Any]:
    return sorted({*map(str, found)} ^ {*map(str, expected)})


def _assert_made(cursor: duckdb.DuckDBPyConnection, version: int) -> None:
    """All of every step up to the version, and nothing of those behind it."""
    names = {row[0] for row in cursor.execute(_NAMES).fetchall()}
    for step, made in MAKES.items():
        lacking, early = made - names, made & names
        must(step > version or not lacking, f"schema {version} lacks of step {step}: {sorted(lacking)}")
        must(step <= version or not early, f"schema {version} has of step {step}: {sorted(early)}")
        if step <= version and step in _BACKFILLED:
            must(
                cursor.execute(_BACKFILLED[step]).fetchone() == (0,), f"step {step} did not fill in its rows"
            )
    if version >= 2:
        rows = cursor.execute("SELECT partition, record_offset FROM store.ledger_from").fetchall()
        must(rows == [("old/0", 42)], rows)


def _assert_rows(cursor: duckdb.DuckDBPyConnection, old: Path) -> None:
    """Every row of every table is what it was, in all columns that it had."""
    cursor.execute(f"ATTACH '{old}' AS old (READ_ONLY)")
    query = """
        SELECT table_name, string_agg('"' || column_name || '"', ', ' ORDER BY column_index) FROM duckdb_columns()
        WHERE database_name = 'old' AND schema_name = 'store' AND table_name <> 'meta' GROUP BY ALL
    """
    for table, columns in cursor.execute(query).fetchall():
        ours, theirs = f"SELECT {columns} FROM store.{table}", f"SELECT {columns} FROM old.store.{table}"
        for one, other, how in ((ours, theirs, "new"), (theirs, ours, "lost")):
            query = f"SELECT COLUMNS(*)::VARCHAR FROM (({one}) EXCEPT ALL ({other})) LIMIT 3"
            rows = cursor.execute(query).fetchall()
            must(not rows, f"rows of {table} that are {how}: {rows}")
    must(
        cursor.execute("SELECT count(*) FROM main.runs").fetchone() == (OLD_RUNS,),
        "the view of runs has other rows",
    )
    must(
        cursor.execute("SELECT count(*) FROM main.events").fetchone() == (OLD_RUNS - 1,),
        "the view of events has other rows",
    )


def statements_by_step(path: Path) -> dict[int, list[int]]:
    """Step -> which statements of the whole migration of that file, counted from 1, are part of it. Migrates the file."""
    steps: dict[int, list[int]] = {}
    counted, step = 0, 0

    class Watching(FusedCursor):
        def _execute(self, query: str, *parameters: Any) -> Any:
            nonlocal counted, step
            counted += 1
            step += query == "BEGIN"
            if step:
                steps.setdefault(step, []).append(counted)
            return super()._execute(query, *parameters)

    with contextlib.closing(duckdb.connect(str(path), read_only=True)) as cursor:
        found = cursor.execute("SELECT value FROM store.meta WHERE name = 'schema_version'").fetchone()
        assert found is not None
        step = int(found[0])
    first = step
    with contextlib.closing(open_fused(path, Fuse(), Watching)):
        steps.pop(first, None)  # the look at the version, before the first step begins
        return steps
