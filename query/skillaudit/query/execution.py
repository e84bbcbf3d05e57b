"""Running reads: each on a cursor of its own, in a bounded number of threads, bounded in time, interruptible.

A read that runs out of time, or whose task is cancelled, is interrupted in the engine before the caller hears of it: a
transaction left open would keep the database file from shrinking, and a thread left running would be missed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Generic, TypeVar

import duckdb

from skillaudit.contract.errors import (
    DatabaseError,
    InvalidRecordError,
    LockedError,
    QueryTimeoutError,
    RejectedError,
    RetryableError,
    SkillauditError,
)
from skillaudit.query.rows import Parameters, Row
from skillaudit.query.statements import sql

T = TypeVar("T")
CursorFactory = Callable[[], duckdb.DuckDBPyConnection]

READERS_MAX: Final = 4
"""Reads that run at the same time; DuckDB spreads each over the cores by itself."""
CHUNK_ROWS: Final = 10_000
_INTERRUPT_AGAIN_S: Final = 0.02


class InterruptedReadError(RetryableError):
    """The read was told to stop: its time was over, its task cancelled, or its reader closed."""


class Query:
    """What a unit of work asks the database through; lives for one call, in one thread."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, stopped: threading.Event) -> None:
        self._cursor = cursor
        self._stopped = stopped

    def rows(self, name: str, parameters: Parameters | None = None) -> list[Row]:
        """All rows of the named statement."""
        return [row for chunk in self.chunks(name, parameters) for row in chunk]

    def chunks(self, name: str, parameters: Parameters | None = None) -> Iterator[list[Row]]:
        """The rows of the named statement in lists of at most `CHUNK_ROWS`."""
        self._check()
        self._cursor.execute(sql(name), dict(parameters or {}))
        while chunk := self._cursor.fetchmany(CHUNK_ROWS):
            self._check()
            yield chunk

    def _check(self) -> None:
        if self._stopped.is_set():
            raise InterruptedReadError("the read was stopped")


class _Call(Generic[T]):
    """One unit of work on its cursor, and the means to stop it from another thread."""

    def __init__(self, factory: CursorFactory, work: Callable[[Query], T]) -> None:
        self._factory = factory
        self._work = work
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._cursor: duckdb.DuckDBPyConnection | None = None

    def run(self) -> T:
        if self._stopped.is_set():
            raise InterruptedReadError("the read was stopped")
        try:
            cursor = self._factory()
            with self._lock:
                self._cursor = cursor
            return self._in_snapshot(cursor)
        except duckdb.Error as exc:
            raise mapped(exc) from exc
        finally:
            self._close()

    def _in_snapshot(self, cursor: duckdb.DuckDBPyConnection) -> T:
        # One transaction: however many statements the work takes, they see one state of the database.
        cursor.execute("BEGIN TRANSACTION READ ONLY")
        return self._work(Query(cursor, self._stopped))

    def stop(self) -> None:
        """Interrupt; has to be repeated until the call is over, since an idle cursor takes no notice."""
        self._stopped.set()
        with self._lock:
            if self._cursor is not None:
                self._cursor.interrupt()

    def _close(self) -> None:
        # Closing ends the transaction. Under the lock: a closed cursor must not be interrupted.
        with self._lock:
            if self._cursor is not None:
                self._cursor.close()
            self._cursor = None


class QueryRunner:
    """Runs units of work for the tasks of one event loop."""

    def __init__(self, factory: CursorFactory, *, timeout_s: float, readers_max: int = READERS_MAX) -> None:
        self._factory = factory
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(readers_max)
        self._pool = ThreadPoolExecutor(max_workers=readers_max, thread_name_prefix="skillaudit-read")
        self._calls: dict[_Call[Any], asyncio.Future[Any]] = {}
        self._closed = False

    async def run(self, work: Callable[[Query], T]) -> T:
        """The work's result, as of one snapshot; `QueryTimeoutError` when it takes too long, waiting included."""
        try:
            async with asyncio.timeout(self._timeout_s), self._slots:
                return await self._run(work)
        except TimeoutError as exc:
            raise QueryTimeoutError(
                f"the read took more than {self._timeout_s:g} s (query_timeout_ms) and was interrupted; "
                "ask for less, or allow more time"
            ) from exc

    async def _run(self, work: Callable[[Query], T]) -> T:
        if self._closed:
            raise RejectedError("this reader is closed; open another one")
        call: _Call[T] = _Call(self._factory, work)
        future = asyncio.get_running_loop().run_in_executor(self._pool, call.run)
        self._calls[call] = future
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await _stop(call, future)
            raise
        finally:
            self._calls.pop(call, None)

    async def aclose(self) -> None:
        """Interrupt what runs and end the threads; safe to call again."""
        self._closed = True
        await asyncio.gather(*(_stop(call, future) for call, future in self._calls.items()))
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)


async def _stop(call: _Call[T], future: asyncio.Future[T]) -> None:
    while not future.done():
        call.stop()
        await asyncio.wait([future], timeout=_INTERRUPT_AGAIN_S)


def mapped(exc: duckdb.Error) -> SkillauditError:
    """The engine's error as one of ours. Its text names tables and limits, never values of rows."""
    if isinstance(exc, duckdb.InterruptException):
        return InterruptedReadError("the read was interrupted")
    if isinstance(exc, duckdb.InvalidInputException) and "surrogate" in str(exc):
        return InvalidRecordError("an argument holds a lone surrogate, which no stored text can; remove it")
    if isinstance(exc, duckdb.IOException) and "lock" in str(exc).lower():
        return LockedError(f"another process has the database open: {exc}")
    return DatabaseError(f"the database refuses to answer: {exc}")
