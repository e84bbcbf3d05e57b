"""A database of an earlier release: what it stored stays, and what was stored without a proof never passes for proven."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import duckdb
import pytest
from tests.consumer.support import SOURCE_A, finish, log, records, rows, start, value

from skillaudit.consumer.database import Database, migrate, open_database
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.statements import migrations, sql_text
from skillaudit.contract.digests import run_hash
from skillaudit.contract.errors import DiskFullError

OLD_VIEWS = Path(__file__).parent / "data" / "views_of_schema_1.sql"
COLUMNS = "SELECT table_name, column_name FROM duckdb_columns() WHERE schema_name = 'main' AND NOT internal"
OLD_ROWS = """
INSERT INTO store.runs BY NAME SELECT
    7::BIGINT AS run_key, 11::UBIGINT AS run_hash, 'old' AS id, 't' AS topic, 's' AS skill_id, 'c' AS caller_id,
    'ch' AS channel_id, '{}' AS inputs, now() AS started_at, 'running' AS status, '' AS output, '' AS error,
    0 AS tool_calls_count, 0 AS runtime_us, '' AS parent_run_id, 0 AS total_input_tokens, 0 AS total_output_tokens,
    0 AS total_thinking_tokens, '{}' AS attributes, 'aa' AS source_id, 1 AS source_seq, 0 AS events_stored,
    'pending' AS completeness, 'open' AS liveness, '' AS missing, '' AS lost, 0 AS conflicts, now() AS received_at,
    false AS by_storage, 'manual' AS clock, 5::UBIGINT AS start_tag, 0 AS known, false AS refused, '0' AS received;
INSERT INTO store.tombstones BY NAME SELECT
    3 AS run_key, 9::UBIGINT AS run_hash, 'gone' AS id, 't' AS topic, 'aa' AS source_id, 2 AS source_seq,
    'finished' AS liveness, 4 AS events_stored, '' AS missing, '' AS lost, 0 AS conflicts, 1 AS purge_id,
    0 AS records_dropped;
INSERT INTO store.purges VALUES (1, now(), now(), 'requested', 1, 4);
INSERT INTO store.positions VALUES ('t/0', 'kafka:x', 42, 41, 'd', 42, 1000, 2000, 42), ('t/1', 'kafka:x', 0, -1, '', 0, 0, 0, 9);
INSERT INTO store.sources BY NAME SELECT
    'aa' AS source_id, 't' AS topic, 't/0' AS partition, 'h' AS host, 1 AS pid, 'b' AS boot_id, '1' AS version,
    'manual' AS clock, 1 AS heard_us, 1 AS beat, 3 AS runs_started, 0 AS runs_finished, 0 AS backlog_records,
    0 AS backlog_bytes, 0 AS oldest_us, 0 AS refused, 0 AS lost, '' AS closed_by, 'live' AS state;
"""


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    """A file as the first release left it: its schema, its views, rows of every kind that the migration touches."""
    path = tmp_path / "old.duckdb"
    with contextlib.closing(
        duckdb.connect(str(path), config={"storage_compatibility_version": "v1.5.0"})
    ) as old:
        old.execute("CREATE SCHEMA store")
        old.execute("CREATE TABLE store.meta (name VARCHAR PRIMARY KEY, value VARCHAR NOT NULL)")
        old.execute("INSERT INTO store.meta VALUES ('schema_version', '1'), ('database_id', 'ab')")
        old.execute(sql_text("schema/0001_initial.sql"))
        old.execute(OLD_VIEWS.read_text(encoding="utf-8"))
        old.execute(OLD_ROWS)
    return path


def test_a_file_of_the_first_release_keeps_what_it_holds(old_file: Path) -> None:
    """Its identity, its runs and its views' columns are what they were."""
    with contextlib.closing(duckdb.connect(str(old_file))) as old:
        before = old.execute("SELECT id, run_key FROM main.runs").fetchall()
        columns = old.execute(COLUMNS).fetchall()
    with open_database(old_file) as database:
        assert database.database_id == "ab"
        assert rows(database, "SELECT id, run_key FROM main.runs") == before
        assert set(columns) <= set(rows(database, COLUMNS))
        assert rows(database, "SELECT purge_id, started_at FROM main.tombstones") == [(1, None)]


def test_what_was_stored_without_a_ledger_is_said_so(old_file: Path) -> None:
    """The records and runs of before have no rows, and the file says from where on there are some; a partition of which
    nothing was consumed is proven from its beginning.
    """
    with open_database(old_file) as database:
        assert value(database, "SELECT count(*) FROM main.ledger") == 0
        assert rows(database, "SELECT * FROM main.ledger_from") == [("t/0", 42, 8)]


def test_a_new_file_is_proven_from_the_beginning(tmp_path: Path) -> None:
    """Nothing was stored before the ledger."""
    with open_database(tmp_path / "new.duckdb") as database:
        assert rows(database, "SELECT * FROM main.ledger_from") == []


def make_file(path: Path, version: int, *statements: str) -> None:
    """A file of that schema, with what these statements put into it."""
    with contextlib.closing(duckdb.connect(str(path))) as old:
        old.execute("CREATE SCHEMA store")
        old.execute("CREATE TABLE store.meta (name VARCHAR PRIMARY KEY, value VARCHAR NOT NULL)")
        old.execute(f"INSERT INTO store.meta VALUES ('schema_version', '{version}'), ('database_id', 'ab')")
        steps = [text for number, _, text in migrations() if number <= version]
        for text in (*steps, *statements):
            old.execute(text)


def test_rows_of_a_ledger_are_found_by_their_run(tmp_path: Path) -> None:
    """What the schema before filed by nothing is filed as what comes now."""
    row = "INSERT INTO store.ledger VALUES ('t/0', 0, 'start', 'old-é', 'aa', 1, 1, NULL, 0, 0)"
    make_file(tmp_path / "old.duckdb", 5, row)
    with open_database(tmp_path / "old.duckdb") as database:
        assert rows(database, "SELECT run_id, run_hash FROM main.ledger") == [("old-é", run_hash("old-é"))]


ORPHANS_BEFORE = """
INSERT INTO store.orphans BY NAME SELECT
    k AS run_key, k::UBIGINT AS run_hash, id, 't' AS topic, k = 1 AS plain, false AS bare, '' AS source_id,
    0 AS events_stored, 'incomplete' AS completeness, 'open' AS liveness, '0' AS missing, '' AS lost, 0 AS conflicts,
    '1' AS received, '{}' AS known, make_timestamptz(3_000) AS first_received_at
FROM (VALUES (1, 'of logs'), (2, 'of more')) AS o(k, id);
INSERT INTO store.kept VALUES (1, 2, ''::BLOB, 't/1', 7, 9_000), (2, 2, ''::BLOB, 't/1', 5, 9_000);
INSERT INTO store.tombstones BY NAME SELECT
    3 AS run_key, 9::UBIGINT AS run_hash, 'gone' AS id, 't' AS topic, '' AS source_id, 2 AS source_seq, '' AS liveness,
    0 AS events_stored, '' AS missing, '' AS lost, 0 AS conflicts, 1 AS purge_id, 0 AS records_dropped
"""


def test_orphans_of_before_are_where_their_records_say(tmp_path: Path) -> None:
    """Of what was kept as it came the partition is known, of plain logs nothing is; and both are as old as their arrival."""
    make_file(tmp_path / "old.duckdb", 6, ORPHANS_BEFORE)
    with open_database(tmp_path / "old.duckdb") as database:
        query = "SELECT id, partition, record_offset, first_us FROM main.orphans ORDER BY run_key"
        assert rows(database, query) == [("of logs", "", -1, 3_000), ("of more", "t/1", -1, 3_000)]
        assert rows(database, "SELECT orphan FROM main.tombstones") == [(False,)]


def test_a_migrated_file_goes_on(old_file: Path) -> None:
    """The next batch begins behind the stored position."""
    with open_database(old_file) as database:
        materializer = Materializer(database, identity="kafka:x")
        materializer.apply(records([start(), log(1), finish(2)], first=42, partition="t/0"))
        assert value(database, "SELECT next_offset FROM main.positions WHERE partition = 't/0'") == 45
        assert value(database, f"SELECT run_key FROM main.runs WHERE source_id = '{SOURCE_A}'") == 8
        materializer.close()


class _FullCursor:
    """As the engine's on a full disk: a commit fails, and takes the transaction with it."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self._cursor = cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, query: str, *parameters: Any) -> Any:
        if query == "COMMIT":
            self._cursor.execute("ROLLBACK")
            raise duckdb.IOException("Could not write file: No space left on device")
        return self._cursor.execute(query, *parameters)


class _FullDatabase(Database):
    def cursor(self) -> Any:
        return _FullCursor(super().cursor())


def test_a_migration_that_meets_a_full_disk_says_so(old_file: Path) -> None:
    """The engine has ended the transaction by then: that there is none to roll back is not what went wrong."""
    with contextlib.closing(duckdb.connect(str(old_file))) as connection:
        database = _FullDatabase(old_file, connection)
        with pytest.raises(DiskFullError):
            migrate(database)
