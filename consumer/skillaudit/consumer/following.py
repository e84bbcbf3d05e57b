"""Following the control log: its acts are applied as they appear, and an order becomes acts in it first.

    an order -> planned in the writer's thread -> appended to the log, durably -> read back as any other act -> applied

Whoever dies in between: an act that is in the log is applied by the next one that reads it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

from skillaudit.consumer.control import OPEN_WAIT_S, POLL_TIMEOUT_MS, ControlLog, read_whole
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.patience import RETRY_PAUSE_S, longer
from skillaudit.consumer.planning import Plan, Planner
from skillaudit.consumer.recording import deferred_acts, journal_acts, report_of, take_acts
from skillaudit.contract.admin import ActReport
from skillaudit.contract.errors import NotYetMaterializedError, RetryableError, UnreachableError
from skillaudit.contract.sources import RecordBatch
from skillaudit.proof.acts import act_line

T = TypeVar("T")

REQUEST_WAIT_S: Final = 150.0
"""How long an order waits until it is applied here: longer than the writer waits for a seal."""

_log = logging.getLogger("skillaudit.consumer")


class InWriter(Protocol):
    """Runs something in the writer's thread, between two batches."""

    def __call__(self, work: Callable[[Materializer], T], /) -> Awaitable[T]:
        """Its result."""
        ...


class ControlFollower:
    """Reads one control log into one database. Belongs to one event loop."""

    def __init__(self, log: ControlLog, in_writer: InWriter) -> None:
        """`log` is this object's from here on."""
        self.log = log
        self._in_writer = in_writer
        self._turn = asyncio.Lock()
        """One at a time reads and applies."""
        self._ordering = asyncio.Lock()
        """One order at a time: each is planned on what the one before has left."""
        self._left: RecordBatch | None = None
        """Read, and not applied yet."""
        self._position = 0

    def __repr__(self) -> str:
        """The log and how far it is applied."""
        return f"ControlFollower({self.log!r}, {self._position})"

    @property
    def position(self) -> int:
        """The log is applied up to here."""
        return self._position

    async def open(self) -> None:
        """Open the log and apply everything in it. Raises what the log raises."""
        await self._place_deferred()
        stored = await self._in_writer(lambda m: m.positions().get(self.log.partition))
        self._position = stored.next_offset if stored else 0
        await self.log.open(stored)
        moved_s, more = time.monotonic(), await self._advance(0)
        while more:
            before = self._position
            more = await self._advance(POLL_TIMEOUT_MS)
            moved_s = time.monotonic() if self._position > before else moved_s
            if time.monotonic() - moved_s > OPEN_WAIT_S:
                raise UnreachableError(
                    f"{self.log.partition} gives nothing behind {self._position}; try again"
                )
        await self._in_writer(lambda m: m.settle_acts({}))

    async def _place_deferred(self) -> None:
        """Acts that were recorded without a place in the journal get it now, before any later one, where the log holds them:
        whoever writes the database could have put them there.
        """
        wanted = await self._in_writer(deferred_acts)
        if not wanted:
            return
        lines = frozenset(wanted)
        logged = {
            record.value async for record in read_whole(self.log) if record.value and record.value in lines
        }
        await self._in_writer(lambda m: journal_acts(m, logged))

    async def follow(self) -> None:
        """Apply what appears, until cancelled. Raises what must not be passed over."""
        pause_s = RETRY_PAUSE_S
        while True:
            try:
                await self._advance(POLL_TIMEOUT_MS)
            except RetryableError as exc:
                _log.info("acts are applied later: %s", exc)
                await asyncio.sleep(pause_s)
                pause_s = longer(pause_s)
            else:
                pause_s = RETRY_PAUSE_S

    async def order(self, plan: Planner) -> ActReport:
        """Write the acts of a plan, and wait until they are applied here. Raises what the plan raises, then nothing was
        written; `UnreachableError` where the log does not take it; `NotYetMaterializedError` where it took it, and
        applying takes too long.
        """
        async with self._ordering:
            planned = await self._in_writer(plan)
            end = self._position
            for act in planned.acts:
                end = await self.log.append(act.act_id, act_line(act))
            await self._reach(end, planned)
            return await self._in_writer(lambda m: report_of(m.acting, planned))

    async def close(self) -> None:
        """Close the log."""
        async with self._turn:
            await self.log.close()

    async def _reach(self, end: int, planned: Plan) -> None:
        deadline_s = time.monotonic() + REQUEST_WAIT_S
        while self._position < end:
            try:
                await self._advance(POLL_TIMEOUT_MS)
            except RetryableError:
                await asyncio.sleep(RETRY_PAUSE_S)
            if self._position < end and time.monotonic() >= deadline_s:
                raise NotYetMaterializedError(
                    f"the act {planned.acts[-1].act_id} is written and not applied here after {REQUEST_WAIT_S:g} s; it "
                    "will be: `skillaudit acts` shows it then"
                )

    async def _advance(self, timeout_ms: int) -> bool:
        """Read and apply once; whether more is there."""
        async with self._turn:
            if self._left is None:
                self._left = await self.log.poll(timeout_ms)
            batch, identity = self._left, self.log.identity
            if batch.records:
                await self._in_writer(lambda m: take_acts(m, batch.records, identity))
                self._position = batch.records[-1].next_offset
            self._left = None
            return self._position < batch.ends.get(self.log.partition, 0)
