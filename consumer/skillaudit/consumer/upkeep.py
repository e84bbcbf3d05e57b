"""What is due between batches: time passing for sources, hot tables to be moved, checkpoints, retention.

Moving a hot table takes a thread of its own, asking partitions for their ends and an act of retention a task of their own:
batches go on meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from skillaudit.consumer.acts import end_empty_partitions
from skillaudit.consumer.claims import Claim
from skillaudit.consumer.patience import RETRY_PAUSE_S, Patience
from skillaudit.consumer.planning import Planner, plan_purge
from skillaudit.consumer.positions import topic_of
from skillaudit.consumer.progress import Progress
from skillaudit.consumer.purging import DAY_US
from skillaudit.consumer.sealing import SealState
from skillaudit.consumer.writing import WriterThread
from skillaudit.contract.admin import ActOrder, ActReport
from skillaudit.contract.clock import Clock
from skillaudit.contract.errors import DiskFullError, RetryableError, SkillauditError, UnreachableError
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import OUTBOX_TOPIC, RecordSource
from skillaudit.contract.words import counted

TICK_INTERVAL_S: Final = 1.0
RETENTION_INTERVAL_S: Final = 3_600.0
CLOSE_WAIT_S: Final = 5.0
"""How long a retention under way may still take when the service ends."""
RETENTION_ORDER: Final = ActOrder(actor="retention")

_log = logging.getLogger("skillaudit.consumer")


class Upkeep:
    """Of one database. Belongs to one event loop."""

    def __init__(
        self, settings: Settings, clock: Clock, writer: WriterThread, patience: Patience, progress: Progress
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._writer = writer
        self._patience = patience
        self._progress = progress
        self._mover = ThreadPoolExecutor(1, thread_name_prefix="skillaudit-sealer")
        self._moving: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._ticked_s = 0.0
        writer.others_let_go = self._moved

    async def step(self, source: RecordSource, *, meeting: bool) -> None:
        """What is due now. `meeting`: the ledger is being made again, and lacks something yet."""
        now_s = time.monotonic()
        if now_s - self._ticked_s >= TICK_INTERVAL_S:
            self._ticked_s = now_s
            ends = dict(self._progress.ends)
            await self._look(source)
            await self._writer.retry(lambda materializer: materializer.tick(ends))
            if meeting and self._progress.caught_up.is_set():
                await self._end_empty()
        await self._end_move()
        sealer = self._writer.materializer.sealer
        if sealer.state is not SealState.MOVING and sealer.checkpoint_due:
            await self._writer.retry(lambda materializer: materializer.sealer.checkpoint())
        if self._moving is None and await self._swapped():
            self._moving = asyncio.ensure_future(self._move())

    @property
    def is_moving(self) -> bool:
        """Whether a hot table is being moved: an act would have to wait for it."""
        return self._moving is not None

    async def close(self) -> None:
        """A move under way is finished."""
        if self._moving is not None:
            # Who ran the service has raised it, or it is found again at the next start.
            with contextlib.suppress(SkillauditError):
                await self._moving
            self._moving = None
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait((self._looking,))
            if not self._looking.cancelled():
                self._looking.exception()  # as of a poll: found again at the next start
            self._looking = None
        self._mover.shutdown(wait=False)

    # what sources said

    async def _look(self, source: RecordSource) -> None:
        """Where a source said something that is due only when all partitions are read so far: ask how far they reach.
        Beside the loop, for a partition without a leader answers late.
        """
        if self._looking is not None and not self._looking.done():
            return
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.result()
        asked = await self._writer.run(lambda materializer: materializer.to_ask())
        if asked:
            self._looking = asyncio.ensure_future(self._ask_ends(source, asked))

    async def _ask_ends(self, source: RecordSource, asked: Mapping[str, Claim]) -> None:
        try:
            ends = await source.ends()
        except UnreachableError as exc:
            _log.info("what sources said is judged later: %s", exc)
        else:
            await self._writer.run(lambda materializer: materializer.look(ends, asked))

    async def _end_empty(self) -> None:
        """Of what was sealed before this database was made again some partitions may have no record left: expired in the
        topic, or with the archive.
        """
        emptied, there = self._progress.emptied, self._progress.ends
        kept_us = self._clock.wall_us() - self._settings.outbox_keep_days * DAY_US

        def is_expired(partition: str, sealed_us: int) -> bool:
            return topic_of(partition) == OUTBOX_TOPIC and partition not in there and sealed_us < kept_us

        await self._writer.retry(lambda materializer: end_empty_partitions(materializer, emptied, is_expired))

    # hot tables. The sealer is asked for anew each time: after the file was opened again it is another one.

    async def _end_move(self) -> None:
        """Hear what became of a move; one that found no room is begun again."""
        if self._moving is None or not self._moving.done():
            return
        moving, self._moving = self._moving, None
        try:
            moving.result()
        except DiskFullError as exc:
            self._writer.suspect()
            await self._patience.wait_out(exc, RETRY_PAUSE_S)
            await self._writer.retry(lambda _: None)

    async def _swapped(self) -> bool:
        """Whether a hot table waits to be moved now: swapped just now, or left by a move that found no room."""
        sealer = self._writer.materializer.sealer
        if sealer.state is SealState.MOVING:
            return True
        return sealer.due and await self._writer.retry(lambda materializer: materializer.sealer.swap())

    async def _move(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._mover, self._writer.materializer.sealer.move)

    async def _moved(self) -> None:
        if self._moving is not None:  # it must not have the file when that is opened again
            await asyncio.wait((self._moving,))


class Retention:
    """Lets the settings' `retention_days` take its due, now and then. Belongs to one event loop."""

    def __init__(
        self, settings: Settings, clock: Clock, order: Callable[[Planner], Awaitable[ActReport]]
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._order = order
        self._purging: asyncio.Task[None] | None = None
        self._began_s = float("-inf")

    def step(self) -> None:
        """Begin, where it is due and none runs. Beside the loop: the control log may be slow to take an act."""
        now_s = time.monotonic()
        if not self._settings.retention_days or now_s - self._began_s < RETENTION_INTERVAL_S:
            return
        if self._purging is not None and not self._purging.done():
            return
        self._began_s = now_s
        self._purging = asyncio.ensure_future(self._purge_old())

    async def close(self) -> None:
        """One under way gets `CLOSE_WAIT_S`."""
        if self._purging is not None:
            await asyncio.wait((self._purging,), timeout=CLOSE_WAIT_S)
            self._purging.cancel()
            await asyncio.wait((self._purging,))
            self._purging = None

    async def _purge_old(self) -> None:
        days = self._settings.retention_days
        before_us = self._clock.wall_us() - days * DAY_US
        minimum = self._settings.min_retention_days
        plan = plan_purge(
            RETENTION_ORDER, before_us, min_days=minimum, name="retention", received=True, orphans=True
        )
        try:
            report = await self._order(plan)
        except RetryableError as exc:
            _log.info("retention_days=%d: tried again later: %s", days, exc)
        else:
            if report.runs:
                _log.info("retention_days=%d: %s deleted", days, counted(report.runs, "run"))
