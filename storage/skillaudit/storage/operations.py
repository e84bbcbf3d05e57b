"""An operator's acts: by the service that runs here, on a file nobody owns, or asked of a live owner."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from skillaudit.consumer import dead_letters, planning, recording
from skillaudit.consumer.backup import back_up
from skillaudit.consumer.control import make_control
from skillaudit.consumer.database import Database, open_database
from skillaudit.consumer.following import ControlFollower
from skillaudit.consumer.materializer import Materializer, MaterializerPolicy
from skillaudit.consumer.notary import Notary, WriterAccess
from skillaudit.consumer.service import STORAGE_ORDER, ConsumerService
from skillaudit.contract.admin import (
    ActOrder,
    ActReport,
    DeadLetter,
    HoldScope,
    Operations,
    ReplayReport,
    StoredAct,
    StoredHold,
)
from skillaudit.contract.clock import SystemClock, to_us
from skillaudit.contract.errors import RejectedError
from skillaudit.contract.settings import Settings
from skillaudit.proof.acts import ActKind
from skillaudit.storage.locating import owner_url
from skillaudit.storage.opening import patiently

T = TypeVar("T")


class _LocalOperations:
    """`Operations` on a database of this process."""

    @property
    def _database(self) -> Database:
        raise NotImplementedError

    async def _write(self, act: Callable[[Materializer], T]) -> T:
        raise NotImplementedError

    async def perform(self, plan: planning.Planner) -> ActReport:
        """Make acts of a plan: written to the control log, and applied here, when this returns."""
        raise NotImplementedError

    @property
    def _min_days(self) -> int:
        raise NotImplementedError

    async def purge_older_than(self, t: datetime) -> int:
        """As `StorageAdmin.purge_older_than`."""
        return (
            await self.perform(planning.plan_purge(STORAGE_ORDER, to_us(t), min_days=self._min_days))
        ).runs

    async def purge(
        self, order: ActOrder, *, before: datetime | None = None, runs: Sequence[str] = ()
    ) -> ActReport:
        """As `Operations.purge`."""
        if runs:
            return await self.perform(planning.plan_purge_of(order, runs, min_days=self._min_days))
        if before is None:
            raise RejectedError("a purge names runs, or a time before which they started")
        plan = planning.plan_purge(order, to_us(before), min_days=self._min_days, orphans=True)
        return await self.perform(plan)

    async def redact(self, order: ActOrder, run_id: str, seq: int, field: str | None = None) -> ActReport:
        """As `Operations.redact`."""
        return await self.perform(planning.plan_redact(order, run_id, seq, field))

    async def erase(self, order: ActOrder, runs: Sequence[str]) -> ActReport:
        """As `Operations.erase`."""
        return await self.perform(planning.plan_erase(order, runs))

    async def hold(self, order: ActOrder, scope: HoldScope) -> ActReport:
        """As `Operations.hold`."""
        return await self.perform(planning.plan_hold(order, scope))

    async def release(self, order: ActOrder, hold_id: str) -> ActReport:
        """As `Operations.release`."""
        return await self.perform(planning.plan_release(order, hold_id))

    async def record_key(self, order: ActOrder, origin: str, key: str) -> ActReport:
        """As `Operations.record_key`."""
        return await self.perform(planning.plan_note(order, ActKind.KEY, {"origin": origin, "key": key}))

    async def list_acts(self, limit: int, kind: str | None = None) -> list[StoredAct]:
        """As `Operations.list_acts`."""
        return await asyncio.to_thread(recording.list_acts, self._database, limit, kind)

    async def list_holds(self, *, released: bool = False) -> list[StoredHold]:
        """As `Operations.list_holds`."""
        return await asyncio.to_thread(recording.list_holds, self._database, released=released)

    async def list_dead_letters(self, state: str | None, limit: int, after: int = 0) -> list[DeadLetter]:
        """As `Operations.list_dead_letters`."""
        return await asyncio.to_thread(dead_letters.list_dead_letters, self._database, state, limit, after)

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

    @property
    def _min_days(self) -> int:
        return self._service.settings.min_retention_days

    async def _write(self, act: Callable[[Materializer], T]) -> T:
        return await self._service.write(act)

    async def perform(self, plan: planning.Planner) -> ActReport:
        """As `ConsumerService.order`."""
        return await self._service.order(plan)


class FileOperations(_LocalOperations):
    """On a file that this process owns and nobody consumes into."""

    def __init__(self, database: Database, materializer: Materializer, settings: Settings) -> None:
        """Both stay the caller's. Close it: the first act opens the control log that `settings` name."""
        self._opened = database
        self._materializer = materializer
        self._settings = settings
        self._control: ControlFollower | None = None

    @property
    def _database(self) -> Database:
        return self._opened

    @property
    def _min_days(self) -> int:
        return self._settings.min_retention_days

    async def _write(self, act: Callable[[Materializer], T]) -> T:
        return await asyncio.to_thread(act, self._materializer)

    async def perform(self, plan: planning.Planner) -> ActReport:
        """As `ControlFollower.order`; what others ordered before is applied first."""
        if self._control is None:
            if self._settings.anchors:
                await asyncio.to_thread(take_forward, self._settings, self._materializer)
            control = ControlFollower(make_control(self._settings), self._write)
            try:
                await control.open()  # what others ordered comes first
            except BaseException:
                await control.close()
                raise
            self._control = control
        return await self._control.order(plan)

    async def aclose(self) -> None:
        """Close the control log; safe to call again."""
        control, self._control = self._control, None
        if control is not None:
            await control.close()


@contextlib.asynccontextmanager
async def open_operations(settings: Settings) -> AsyncGenerator[Operations]:
    """Asks the consumer at `url`, else the live owner of the database, else takes the file while the block lasts.

    Raises `LockedError` where a process without an HTTP surface owns it, `UnreachableError` where there is no file,
    `UnopenedError` where it is no database of ours.
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
    await asyncio.to_thread(_look, settings.database)
    database = await asyncio.to_thread(open_database, settings.database)
    resources.push_async_callback(asyncio.to_thread, database.close)
    # A journal that is anchored is first taken forward, by whoever puts something into it.
    policy = MaterializerPolicy(journal_acts=not settings.anchors)
    materializer = await asyncio.to_thread(Materializer, database, policy=policy)
    resources.push_async_callback(asyncio.to_thread, materializer.close)
    operations = FileOperations(database, materializer, settings)
    resources.push_async_callback(operations.aclose)
    return operations


def _look(path: Path) -> None:
    """Read-only first: to open it for writing would make a database of whatever file was named."""
    from skillaudit.query.standalone import open_file

    open_file(path).close()


def take_forward(settings: Settings, materializer: Materializer) -> None:
    """Put back what the journal lacks of what is anchored; acts go behind it from here on. Blocking. Raises as
    `Notary.prepare`.
    """
    notary = Notary(settings, WriterAccess(lambda: materializer), SystemClock())
    try:
        notary.prepare()
    finally:
        notary.close()
    materializer.acting.journal = True
