"""Reads are bounded in time and number, interrupted in the engine, and each sees one snapshot."""

import asyncio
import threading
import time

import duckdb
import pytest

from skillaudit.contract.errors import (
    DatabaseError,
    InvalidRecordError,
    LockedError,
    QueryTimeoutError,
    RejectedError,
    RetryableError,
)
from skillaudit.contract.records import SkillRun
from skillaudit.contract.testing.support import log
from skillaudit.query.execution import InterruptedReadError, QueryRunner, mapped

FOREVER_ROWS = 10_000_000_000_000


class Endless:
    """A unit of work whose statement never ends by itself; knows when it runs and how it ended."""

    def __init__(self):
        self.begun = threading.Event()
        self.ended_by = None

    def __call__(self, query):
        self.begun.set()
        try:
            query._cursor.execute(f"SELECT sum(a.range) FROM range({FOREVER_ROWS}) a").fetchall()
        except BaseException as exc:
            self.ended_by = type(exc)
            raise


@pytest.fixture
def connection():
    connection = duckdb.connect()
    yield connection
    connection.close()


async def test_a_read_that_takes_too_long_is_interrupted(connection):
    """The caller hears of it only when the engine has stopped, and the reader serves on."""
    runner = QueryRunner(connection.cursor, timeout_s=0.2)
    work = Endless()
    begun = time.monotonic()
    with pytest.raises(QueryTimeoutError, match="query_timeout_ms"):
        await runner.run(work)
    assert time.monotonic() - begun < 10
    assert work.ended_by is duckdb.InterruptException
    assert await runner.run(lambda _: 1) == 1
    await runner.aclose()


async def test_a_cancelled_task_interrupts_its_read(connection):
    """Nobody waits for it any more, so it must not run on."""
    runner = QueryRunner(connection.cursor, timeout_s=60)
    work = Endless()
    task = asyncio.create_task(runner.run(work))
    await asyncio.to_thread(work.begun.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.ended_by is duckdb.InterruptException
    await runner.aclose()


async def test_waiting_for_a_free_thread_counts_as_time(connection):
    """With all readers busy a further read times out as if it had run."""
    runner = QueryRunner(connection.cursor, timeout_s=0.3, readers_max=1)
    begun, release = threading.Event(), threading.Event()

    def stuck(_):
        begun.set()
        release.wait(30)

    first = asyncio.create_task(runner.run(stuck))
    await asyncio.to_thread(begun.wait, 10)
    with pytest.raises(QueryTimeoutError):
        await runner.run(lambda _: 1)
    release.set()
    with pytest.raises(QueryTimeoutError):
        await first
    await runner.aclose()


async def test_closing_interrupts_what_runs(connection):
    """Bounded: who closes isn't kept waiting by a reader. Afterwards nothing is read."""
    runner = QueryRunner(connection.cursor, timeout_s=60)
    work = Endless()
    task = asyncio.create_task(runner.run(work))
    await asyncio.to_thread(work.begun.wait, 10)
    await runner.aclose()
    with pytest.raises(RetryableError):
        await task
    with pytest.raises(RejectedError, match="closed"):
        await runner.run(lambda _: 1)
    await runner.aclose()


async def test_several_statements_see_one_snapshot(database):
    """However much is committed between them."""
    writer = database.cursor()
    runner = QueryRunner(database.cursor, timeout_s=60)

    def work(query):
        before = dict(query.rows("positions"))
        writer.execute(
            "INSERT INTO store.positions BY NAME SELECT 't/0' AS partition, '' AS cluster, 1 AS next_offset,"
            " 0 AS last_offset, '' AS last_digest, 1 AS records, 0 AS received_us, 0 AS read_to_us,"
            " 1 AS end_offset"
        )
        return before, dict(query.rows("positions"))

    assert await runner.run(work) == ({}, {})
    assert await runner.run(lambda query: dict(query.rows("positions"))) == {"t/0": 1}
    writer.close()
    await runner.aclose()


async def test_a_list_is_one_snapshot_while_a_writer_inserts(storage):
    """Counting and listing at any moment agree with some committed state: logs come without a hole."""
    await storage.start_run(SkillRun(skill_id="s", id="r"))

    async def write():
        for sequence in range(1, 101):
            await storage.append_log(log("r", sequence))
            await asyncio.sleep(0)

    writing = asyncio.create_task(write())
    seen = 0
    while not writing.done():
        sequences = [event.sequence for event in await storage.list_logs_by_run("r")]
        assert sequences == list(range(1, len(sequences) + 1))
        assert len(sequences) >= seen
        seen = len(sequences)
    await writing
    assert len(await storage.list_logs_by_run("r")) == 100


async def test_no_cursor_is_left_open(connection):
    """An open transaction would keep the file from shrinking."""
    cursors = []

    def factory():
        cursors.append(connection.cursor())
        return cursors[-1]

    runner = QueryRunner(factory, timeout_s=0.2)
    await runner.run(lambda query: query._cursor.execute("SELECT 1").fetchall())
    with pytest.raises(QueryTimeoutError):
        await runner.run(Endless())
    with pytest.raises(ZeroDivisionError):
        await runner.run(lambda _: 1 / 0)
    assert len(cursors) == 3
    for cursor in cursors:
        with pytest.raises(duckdb.ConnectionException):
            cursor.execute("SELECT 1")
    await runner.aclose()


@pytest.mark.parametrize(
    ("exc", "error"),
    [
        (duckdb.InterruptException("Interrupted!"), InterruptedReadError),
        (duckdb.IOException("Could not set lock on file"), LockedError),
        (duckdb.IOException("No space left on device"), DatabaseError),
        (duckdb.InvalidInputException("cannot encode str as UTF-8, surrogate"), InvalidRecordError),
        (duckdb.CatalogException("Table with name runs does not exist"), DatabaseError),
    ],
)
def test_the_engines_errors_become_ours(exc, error):
    """Sorted by what the caller should do."""
    assert type(mapped(exc)) is error
