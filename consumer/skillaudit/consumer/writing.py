"""The open database file: its one writer, the thread in which that works, and the note of who owns it.

DuckDB must never block the event loop, so the writer is called in a thread of its own, one call after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import duckdb

from skillaudit.consumer.database import Database, open_database
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.patience import RETRY_PAUSE_S, EndedError, Patience
from skillaudit.consumer.status import ServiceStatus
from skillaudit.contract.clock import Clock
from skillaudit.contract.errors import DatabaseError, DiskFullError, RetryableError
from skillaudit.contract.outbox.files import FULL_ERRNOS
from skillaudit.contract.owner import Owner, owner_file, remove_owner, write_owner
from skillaudit.contract.settings import Settings

T = TypeVar("T")

MaterializerFactory = Callable[[Database], Materializer]

_log = logging.getLogger("skillaudit.consumer")


async def run_to_end(thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """Run `work` in a thread, to its end also when cancelled: a half-known transaction helps nobody, and the file must not be
    closed under it.
    """
    running = asyncio.get_running_loop().run_in_executor(thread, work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait((running,))
        raise


async def _nobody() -> None:
    pass


class WriterThread:
    """Owns the database file from `open` to `close`. Belongs to one event loop."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        status: ServiceStatus,
        patience: Patience,
        make: MaterializerFactory,
    ) -> None:
        self._path = settings.database
        self._clock = clock
        self._status = status
        self._patience = patience
        self._make = make
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="skillaudit-writer")
        self._database: Database | None = None
        self._materializer: Materializer | None = None
        self._identity = ""
        self._suspect = False
        """A disk was full since the database was last known to work."""
        self._owner: Owner | None = None
        self.others_let_go: Callable[[], Awaitable[None]] = _nobody
        """Waited for before the file is opened again: who else works in it."""

    @property
    def is_open(self) -> bool:
        """Whether the file is."""
        return self._materializer is not None

    @property
    def database(self) -> Database:
        """The open database; after a full disk it may be another one."""
        if self._database is None:
            raise self._status.not_open()
        return self._database

    @property
    def materializer(self) -> Materializer:
        """The writer; likewise."""
        if self._materializer is None:
            raise self._status.not_open()
        return self._materializer

    def set_identity(self, identity: str) -> None:
        """What the writer consumes, as `RecordSource.identity`."""
        self._identity = self.materializer.identity = identity

    def suspect(self) -> None:
        """A disk was full: look at the engine before the next work."""
        self._suspect = True

    async def open(self) -> None:
        """Raises `LockedError`, `SchemaVersionError`."""
        await run_to_end(self._thread, self._open)

    async def close(self) -> None:
        """Release the file and the thread."""
        try:
            await run_to_end(self._thread, self._disown)
        finally:
            self._thread.shutdown(wait=False)

    async def write(self, act: Callable[[Materializer], T]) -> T:
        """Run `act` between two batches. Cancelled, it goes on."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, act, self.materializer)

    async def run(self, work: Callable[[Materializer], T]) -> T:
        """Run `work` to its end, with the writer as it is then."""
        return await run_to_end(self._thread, lambda: self._on_sound_database(work))

    async def retry(self, work: Callable[[Materializer], T]) -> T:
        """`run`, again and again for as long as it takes; `EndedError` where the service is told to stop meanwhile."""
        pause_s = RETRY_PAUSE_S
        while True:
            try:
                done = await self.run(work)
            except RetryableError as exc:
                if isinstance(exc, DiskFullError):
                    self._suspect = True
                    await self.others_let_go()
                pause_s = await self._patience.wait_out(exc, pause_s)
                if self._patience.stopping.is_set():
                    raise EndedError from exc
            else:
                self._patience.works()
                return done

    def announce(self, url: str) -> None:
        """Write beside the database whose it is, and where that process answers."""
        self._owner = Owner(
            pid=os.getpid(),
            host=socket.gethostname(),
            url=url,
            started_us=self._clock.wall_us(),
            database_id=self.database.database_id,
        )
        try:
            write_owner(self._path, self._owner)
        except OSError as exc:
            where = f"can't write {owner_file(self._path)}: {exc.strerror}"
            if exc.errno in FULL_ERRNOS:
                raise DiskFullError(f"{where}; free some space") from exc
            raise DatabaseError(f"{where}; check the disk and the permissions") from exc

    # in the thread

    def _open(self) -> None:
        self._database = open_database(self._path)
        self._materializer = self._make(self._database)

    def _on_sound_database(self, work: Callable[[Materializer], T]) -> T:
        """Do `work`; before that, after a full disk, open the file again where the engine has given up over it (a
        checkpoint that fails does that). What was committed is in its log.
        """
        if self._suspect and not self._is_sound():
            _log.warning("opening %s again: the engine gave up when its disk was full", self._path)
            self._close()
            self._open()
            self.set_identity(self._identity)
        self._suspect = False
        return work(self.materializer)

    def _is_sound(self) -> bool:
        try:
            with contextlib.closing(self.materializer.database.cursor()) as cursor:
                cursor.execute("SELECT 1")
        except (duckdb.Error, DatabaseError):
            return False
        return True

    def _disown(self) -> None:
        if self._owner is not None:
            remove_owner(self._path, self._owner)
            self._owner = None
        self._close()

    def _close(self) -> None:
        if self._materializer is not None:
            self._materializer.close()
            self._materializer = None
        if self._database is not None:
            self._database.close()
            self._database = None
