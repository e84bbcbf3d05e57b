"""Reading a file nobody writes, and finding the process that writes it."""

import asyncio
import subprocess
import sys

import duckdb
import pytest
from tests.query.test_reading import insert_run

from skillaudit.consumer.database import open_database
from skillaudit.contract.errors import DatabaseError, LockedError, UnreachableError
from skillaudit.contract.memory import MemoryStorage
from skillaudit.contract.owner import Owner, owner_file, read_owner, remove_owner, write_owner
from skillaudit.contract.records import RunFilter
from skillaudit.contract.settings import Settings
from skillaudit.query.locate import find_owner
from skillaudit.query.server import HttpServer, create_app
from skillaudit.query.standalone import open_file_reader

HOLD = """
import duckdb, sys
connection = duckdb.connect(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "audit.duckdb"
    with open_database(path) as database:
        insert_run(database, 1, "r", status="ok")
    return path


async def test_a_file_nobody_writes_is_read(file):
    """Read-only: several readers at once, and the file is free again when they are closed."""
    async with open_file_reader(file) as one, open_file_reader(file) as other:
        assert await one.count_runs_filtered(RunFilter()) == 1
        assert await other.count_runs_filtered(RunFilter()) == 1
    with open_database(file):
        pass


async def test_what_only_the_write_ahead_log_holds_is_read(file, tmp_path):
    """A consumer that died leaves one."""
    copy = tmp_path / "copy.duckdb"
    with open_database(file) as database:
        insert_run(database, 2, "r2", status="ok")
        for suffix in ("", ".wal"):
            copy.with_name(copy.name + suffix).write_bytes(file.with_name(file.name + suffix).read_bytes())
    async with open_file_reader(copy) as reader:
        assert await reader.count_runs_filtered(RunFilter()) == 2


def test_a_file_in_use_names_its_holder(file):
    """The process, and where it answers if it said so."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(LockedError, match=f"process {holder.pid};"):
            open_file_reader(file)
        write_owner(file, Owner(pid=holder.pid, host="here", url="http://127.0.0.1:1"))
        with pytest.raises(LockedError, match=r"answers at http://127\.0\.0\.1:1"):
            open_file_reader(file)
    finally:
        holder.communicate()


def test_a_file_open_for_writing_in_this_process_is_locked_too(file):
    """The engine's own words for that are no help."""
    with open_database(file), pytest.raises(LockedError, match="this very process"):
        open_file_reader(file)


def test_what_is_no_database_is_named(tmp_path):
    """Missing, damaged, somebody else's."""
    with pytest.raises(UnreachableError, match="no database"):
        open_file_reader(tmp_path / "none.duckdb")
    (tmp_path / "bad.duckdb").write_bytes(b"not a database" * 100)
    with pytest.raises(DatabaseError):
        open_file_reader(tmp_path / "bad.duckdb")
    duckdb.connect(str(tmp_path / "foreign.duckdb")).close()
    with pytest.raises(DatabaseError, match="no database of skillaudit"):
        open_file_reader(tmp_path / "foreign.duckdb")


def test_the_owners_file(tmp_path):
    """Written whole, read leniently, removed only by whom it names."""
    database = tmp_path / "audit.duckdb"
    assert read_owner(database) is None
    owner = Owner(pid=7, host="h", url="http://127.0.0.1:1", started_us=5, database_id="d")
    write_owner(database, owner)
    assert read_owner(database) == owner
    remove_owner(database, Owner(pid=8, host="h", url=""))
    assert read_owner(database) == owner
    remove_owner(database, owner)
    assert list(tmp_path.iterdir()) == []
    for text in ("", "[]", "{}", '{"pid": "x"}', "\x00"):
        owner_file(database).write_text(text)
        assert read_owner(database) is None


@pytest.mark.parametrize(
    ("said", "found"), [("mine", True), ("", True), ("another", False)], ids=["same", "none", "other"]
)
async def test_the_live_owner_is_found_by_its_database(tmp_path, said, found):
    """A note that somebody else's server happens to answer for is stale."""
    settings = Settings(data=tmp_path, http_listen="127.0.0.1:0")
    async with HttpServer(create_app(MemoryStorage(), database_id="mine"), settings) as server:
        owner = Owner(pid=1, host="h", url=server.url, database_id=said)
        write_owner(settings.database, owner)
        assert await asyncio.to_thread(find_owner, settings) == (server.url if found else None)
    assert await asyncio.to_thread(find_owner, settings) is None


def test_no_note_or_no_address_is_no_owner(tmp_path):
    """Nothing is asked then."""
    settings = Settings(data=tmp_path)
    assert find_owner(settings) is None
    write_owner(settings.database, Owner(pid=1, host="h", url=""))
    assert find_owner(settings) is None
    write_owner(settings.database, Owner(pid=1, host="h", url="no address"))
    assert find_owner(settings) is None
