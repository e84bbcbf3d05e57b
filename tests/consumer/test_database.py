"""The database file: one owner, a schema that is brought up to date or refused, never guessed about."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import duckdb
import pytest
from tests.consumer.support import rows, value

from skillaudit.consumer.database import open_database
from skillaudit.consumer.statements import migrations, statements
from skillaudit.contract.engine import engine_errors
from skillaudit.contract.errors import (
    DatabaseError,
    DiskFullError,
    FencedError,
    LockedError,
    SchemaVersionError,
)
from skillaudit.contract.owner import Owner, write_owner
from skillaudit.contract.views import SCHEMA, views_text

VIEWS = {
    "conflicts",
    "dead_letters",
    "events",
    "incidents",
    "orphans",
    "positions",
    "purges",
    "runs",
    "sources",
    "tombstones",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "audit.duckdb"


def test_a_new_file_has_schema_views_and_an_identity(path: Path) -> None:
    """The file and its directory are made; the id stays what it is, and the format is one that compresses payloads."""
    with open_database(path) as database:
        first = database.database_id
        assert len(first) == 32
        assert {
            name for (name,) in rows(database, "SELECT view_name FROM duckdb_views() WHERE NOT internal")
        } >= VIEWS
        assert value(database, "SELECT current_setting('TimeZone')") == "UTC"
    with open_database(path) as database:
        assert database.database_id == first


def test_a_second_owner_in_this_process_is_refused(path: Path) -> None:
    """Two owners of one process would share the engine's instance and its transactions."""
    with open_database(path), pytest.raises(LockedError, match=f"this process \\({os.getpid()}\\)"):
        open_database(path)
    open_database(path).close()


def test_closing_lets_go_of_the_file_whoever_still_reads(path: Path) -> None:
    """A forgotten cursor must not keep the next owner out."""
    database = open_database(path)
    forgotten = database.cursor()
    forgotten.execute("BEGIN")
    forgotten.execute("SELECT * FROM runs")
    database.close()
    database.close()
    program = "import sys, duckdb\nduckdb.connect(sys.argv[1]).close()\n"
    assert subprocess.run([sys.executable, "-c", program, str(path)], timeout=60, check=False).returncode == 0
    with pytest.raises(DatabaseError, match="is closed"):
        database.cursor()


def test_another_process_is_named(path: Path) -> None:
    """Who finds the file locked is told who holds it, and where that one answers."""
    program = "import sys\nfrom pathlib import Path\nfrom skillaudit.consumer.database import open_database\nopen_database(Path(sys.argv[1]))\n"
    with open_database(path):
        write_owner(path, Owner(pid=os.getpid(), host="here", url="http://127.0.0.1:1"))
        ended = subprocess.run(
            [sys.executable, "-c", program, str(path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode != 0
    assert (
        f"LockedError: {path} is held by process {os.getpid()}, which answers at http://127.0.0.1:1"
        in ended.stderr
    )


def test_a_newer_schema_is_refused_and_nothing_is_changed(path: Path) -> None:
    """An older release must not write what it does not understand."""
    open_database(path).close()
    with duckdb.connect(str(path)) as foreign:
        foreign.execute("UPDATE store.meta SET value = '9999' WHERE name = 'schema_version'")
        foreign.execute("DROP VIEW main.runs")
    for _ in range(2):  # it lets go of the file, too
        with pytest.raises(SchemaVersionError, match="has schema 9999"):
            open_database(path)
    with duckdb.connect(str(path)) as foreign:
        assert foreign.execute("SELECT value FROM store.meta WHERE name = 'schema_version'").fetchall() == [
            ("9999",)
        ]
        assert foreign.execute("SELECT count(*) FROM duckdb_views() WHERE view_name = 'runs'").fetchall() == [
            (0,)
        ]


def test_a_half_made_schema_is_made_again(path: Path) -> None:
    """Each step is one transaction: a process that died in the first one has left nothing."""
    path.parent.mkdir(parents=True)
    with duckdb.connect(str(path)) as foreign:
        foreign.execute("BEGIN")
        foreign.execute("CREATE SCHEMA store")
        foreign.execute("ROLLBACK")
    with open_database(path) as database:
        assert value(database, "SELECT count(*) FROM runs") == 0


def test_what_is_no_database_is_said(path: Path) -> None:
    """A file of something else is left as it is."""
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a database, by any means" * 500)
    with pytest.raises(DatabaseError, match="can't open"):
        open_database(path)
    assert path.read_bytes().startswith(b"not a database")


def test_migrations_count_up_from_one() -> None:
    """A step left out would be skipped in silence on some databases."""
    assert [number for number, _, _ in migrations()] == list(range(1, len(migrations()) + 1))


def test_a_change_of_a_view_asks_for_a_step_of_the_schema() -> None:
    """Views are made again with a step, and with nothing else: after a change of `views.sql` add one, `SCHEMA`, and this line."""
    assert (SCHEMA, sha256(views_text().encode()).hexdigest()[:16]) == (
        migrations()[-1][0],
        "dc19a354193ffe42",
    )


def test_a_database_of_the_schema_before_gets_the_views(path: Path) -> None:
    """Those that were added since."""
    last, _, _ = migrations()[-1]
    path.parent.mkdir(parents=True)
    with contextlib.closing(duckdb.connect(str(path))) as before:
        before.execute(
            "CREATE SCHEMA store; CREATE TABLE store.meta (name VARCHAR PRIMARY KEY, value VARCHAR)"
        )
        before.execute(
            f"INSERT INTO store.meta VALUES ('schema_version', '{last - 1}'), ('database_id', 'ab')"
        )
        for number, _, step in migrations():
            if number < last:
                before.execute(step)
    with open_database(path) as database, contextlib.closing(database.cursor()) as cursor:
        assert cursor.execute("SELECT count(*) FROM source_arrivals").fetchall() == [(0,)]
        assert cursor.execute("SELECT count(*) FROM kept").fetchall() == [(0,)]


@pytest.mark.parametrize("file", ["lookup.sql", "sealing.sql", "staging.sql", "state.sql", "writes.sql"])
def test_statements_are_named_and_single(file: str) -> None:
    """A statement that held two would run as two, one of them unseen."""
    for name, text in statements(file).items():
        with contextlib.suppress(
            duckdb.ParserException
        ):  # texts with open places don't parse before they are filled
            assert len(duckdb.extract_statements(text)) == 1, name


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (
            duckdb.TransactionException("Failed to commit: Could not write file: No space left on device"),
            DiskFullError,
        ),
        (duckdb.IOException("Could not write file: Disk quota exceeded"), DiskFullError),
        (
            duckdb.FatalException("database has been invalidated\nOriginal error: No space left on device"),
            DiskFullError,
        ),
        (duckdb.TransactionException("Conflict on update"), FencedError),
        (duckdb.ConstraintException('Constraint Error: Duplicate key "source_id: a"'), FencedError),
        (duckdb.ConstraintException("Constraint Error: NOT NULL constraint failed"), DatabaseError),
        (duckdb.IOException("Could not read from file: Input/output error"), DatabaseError),
    ],
)
def test_a_full_disk_is_told_apart_from_a_rival_and_from_damage(
    error: duckdb.Error, meaning: type[Exception]
) -> None:
    """The engine says it in whatever exception it is in: a commit that finds no room looks like a conflict."""
    with pytest.raises(meaning, match="can't apply"), engine_errors("apply"):
        raise error
