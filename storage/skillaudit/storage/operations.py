"""An operator's acts: by the service that runs here, on a file nobody owns, or asked of a live owner."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from skillaudit.consumer import dead_letters
from skillaudit.consumer.backup import back_up
from skillaudit.consumer.database import Database, open_database
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.purge import purge_older_than
from skillaudit.contract.admin import DeadLetter, Operations, ReplayReport
from skillaudit.contract.errors import UnreachableError
from skillaudit.contract.settings import Settings
from skillaudit.storage.locating import owner_url
from skillaudit.storage.opening import patiently

if TYPE_CHECKING:
    from skillaudit.consumer.service import ConsumerService

T = TypeVar("T")


class _LocalOperations:
    """`Operations` on a database of this process."""

    @property
    def _database(self) -> Database:
        raise NotImplementedError

    async def _write(self, act: Callable[[Materializer], T]) -> T:
        raise NotImplementedError

    async def purge_older_than(self, t: datetime) -> int:
        """As `StorageAdmin.purge_older_than`."""
        return await self._write(lambda materializer: purge_older_than(materializer, t))

    async def list_dead_letters(self, state: str | None, limit: int) -> list[DeadLetter]:
        """As `Operations.list_dead_letters`."""
        return await asyncio.to_thread(dead_letters.list_dead_letters, self._database, state, limit)

    async def get_dead_letter(self, dead_letter_id: int) -> DeadLetter:
        """As `Operations.get_dead_letter`."""
        return await asyncio.to_thread(dead_letters.get_dead_letter, self._database, dead_letter_id)

    async def replay_dead_letters(self, ids: Sequence[int]) -> ReplayReport:
        """As `Operations.replay_dead_letters`."""
        return await self._write(lambda materializer: dead_letters.replay_dead_letters(materializer, ids))

    async def discard_dead_letters(self, ids: Sequence[int]) -> int:
        """As `Operations.discard_dead_letters`."""
        return await self._write(lambda materializer: dead_letters.discard_dead_letters(materializer, ids))

    async def back_up(self, target: Path) -> int:
        """As `Operations.back_up`; batches go on meanwhile."""
        return await asyncio.to_thread(back_up, self._database, target)


class ServiceOperations(_LocalOperations):
    """By the running consumer of this process: acts go between two batches."""

    def __init__(self, service: ConsumerService) -> None:
        """`service` is started."""
        self._service = service

    @property
    def _database(self) -> Database:
        return self._service.database

    async def _write(self, act: Callable[[Materializer], T]) -> T:
        return await self._service.write(act)


class FileOperations(_LocalOperations):
    """On a file that this process owns and nobody consumes into."""

    def __init__(self, database: Database, materializer: Materializer) -> None:
        """Both stay the caller's."""
        self._opened = database
        self._materializer = materializer

    @property
    def _database(self) -> Database:
        return self._opened

    async def _write(self, act: Callable[[Materializer], T]) -> T:
        return await asyncio.to_thread(act, self._materializer)


@contextlib.asynccontextmanager
async def open_operations(settings: Settings) -> AsyncGenerator[Operations]:
    """Asks the consumer at `url`, else the live owner of the database, else takes the file while the block lasts.

    Raises `LockedError` where a process without an HTTP surface owns it, `UnreachableError` where there is no file.
    """
    async with contextlib.AsyncExitStack() as resources:
        yield await patiently(settings, lambda: _open(settings, resources))


async def _open(settings: Settings, resources: contextlib.AsyncExitStack) -> Operations:
    url = settings.url or await owner_url(settings)
    if url:
        from skillaudit.query.access import read_token
        from skillaudit.query.operations import HttpOperations

        remote = HttpOperations(url, token=read_token(settings.token_file))
        return await resources.enter_async_context(remote)
    if not settings.database.exists():
        raise UnreachableError(
            f"there is no database at {settings.database}; has anything been consumed yet?"
        )
    database = await asyncio.to_thread(open_database, settings.database)
    resources.push_async_callback(asyncio.to_thread, database.close)
    materializer = await asyncio.to_thread(Materializer, database)
    resources.push_async_callback(asyncio.to_thread, materializer.close)
    return FileOperations(database, materializer)
