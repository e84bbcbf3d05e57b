"""The notary beside the consuming loop: sealing in one thread, publishing in another, for an anchor may take its time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from skillaudit.consumer.acts import record_unmet
from skillaudit.consumer.notary import (
    STEP_INTERVAL_S,
    Notary,
    NotaryState,
    NotaryStatus,
    rest_s,
)
from skillaudit.consumer.progress import Progress
from skillaudit.consumer.status import ServiceStatus
from skillaudit.consumer.writing import WriterThread, run_to_end
from skillaudit.contract.clock import Clock
from skillaudit.contract.errors import RetryableError
from skillaudit.contract.settings import Settings
from skillaudit.contract.words import counted

SEALS_LATE: Final = 5
"""Seal intervals that rows may wait before a supervisor is told."""
LACKING_LATE_S: Final = 5.0
"""How long rows that were sealed may be missing, with all there is read, before a supervisor is told."""
CLOSING_STEPS_MAX: Final = 16
"""Seals at the end, each of as many rows as one takes."""

_log = logging.getLogger("skillaudit.consumer")


class NotaryWork:
    """Hosts one notary, from `open` to `close`. Belongs to one event loop."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        status: ServiceStatus,
        writer: WriterThread,
        progress: Progress,
        make: Callable[[], Notary],
    ) -> None:
        """`make` is called by `open`, in the notary's thread."""
        self._clock = clock
        self._make = make
        self._status = status
        self._writer = writer
        self._progress = progress
        self._sealing = ThreadPoolExecutor(1, thread_name_prefix="skillaudit-notary")
        self._publishing = ThreadPoolExecutor(1, thread_name_prefix="skillaudit-anchors")
        self._notary: Notary | None = None
        self._late_s = SEALS_LATE * settings.seal_interval_ms / 1000
        self._lacking_s: float | None = None
        """Since when rows that were sealed have been missing, with all there is read; monotonic."""
        self.told_unmet = False
        """Whether log and incidents say so."""

    @property
    def is_meeting(self) -> bool:
        """Whether the ledger is being made again, and has not met what was sealed before."""
        return self._status.notary.state is NotaryState.MEETING

    async def open(self) -> None:
        """As `Notary.prepare`; again, where that found no answer."""
        await run_to_end(self._sealing, self._open)

    def _open(self) -> None:
        if self._notary is None:
            self._notary = self._make()
        self._status.notary = self._notary.status
        self._notary.prepare()

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """What runs beside the loop until it is cancelled; raises what must not be passed over."""
        notary = self._notary
        return [] if notary is None else [self._seal(notary), self._publish(notary)]

    def late(self) -> str:
        """Why the ledger is not sealed as it should be, for supervisors; empty where it is, or is not to be. A database
        that is made again from the events has first to meet what was sealed before, and is late only if they all were read.
        """
        notary = self._status.notary
        if notary.lacking:
            since_s = self._lacking_s
            if since_s is None or time.monotonic() - since_s < LACKING_LATE_S:
                return ""
            return (
                f"all there is was read, and rows of the ledger that were sealed are not there ({', '.join(notary.lacking)}): nothing"
                " is sealed until they come, from the topics, the archive or a backup; see `skillaudit verify`"
            )
        age_s = notary.seal_age_s(self._clock.wall_us())
        if age_s <= self._late_s:
            return ""
        why = notary.last_error or "it is behind"
        return (
            f"the ledger's newest rows ({notary.behind_rows:,}) have waited {age_s:.0f} s for a seal: {why}"
        )

    async def _seal(self, notary: Notary) -> None:
        while True:
            began_s = time.monotonic()
            more = await run_to_end(self._sealing, notary.step)
            took_s = time.monotonic() - began_s
            await self._tell_lacking(notary.status)
            await self._leave_room(took_s)
            await asyncio.sleep(0 if more else STEP_INTERVAL_S)

    async def _leave_room(self, took_s: float) -> None:
        """After a step of sealing that took so long: as long as records come faster than they are stored, for `rest_s`; not
        where the newest rows have waited half as long as is too long.
        """
        most_s = self._late_s / 2
        until_s = time.monotonic() + rest_s(took_s, most_s)
        while (left_s := until_s - time.monotonic()) > 0 and self._progress.reads_full():
            if self._status.notary.seal_age_s(self._clock.wall_us()) > most_s:
                break
            await asyncio.sleep(min(left_s, STEP_INTERVAL_S))

    async def _tell_lacking(self, notary: NotaryStatus) -> None:
        """Say once, by log and incident, that a database made again has not met what was sealed before, and can't."""
        if not notary.lacking or not self._progress.caught_up.is_set():
            if self.told_unmet and not notary.lacking:
                _log.info("the ledger has met what was sealed before")
            self._lacking_s, self.told_unmet = None, False
            return
        if self._lacking_s is None:
            self._lacking_s = time.monotonic()
        late = self.late()
        if late and not self.told_unmet:
            with contextlib.suppress(RetryableError):  # it is said with a later step
                await self._writer.run(lambda materializer: record_unmet(materializer, late))
                self.told_unmet = True
                _log.error("%s", late)

    async def _publish(self, notary: Notary) -> None:
        while True:
            await run_to_end(self._publishing, notary.publish)
            await asyncio.sleep(STEP_INTERVAL_S)

    async def close(self, *, whole: bool) -> None:
        """`whole`: what was consumed is sealed and anchored before the end, as where the end is none by trouble."""
        notary, self._notary = self._notary, None
        try:
            if notary is not None and whole:
                await self._finish(notary)
        finally:
            if notary is not None:
                notary.close()
            for thread in (self._sealing, self._publishing):
                thread.shutdown(wait=False)

    async def _finish(self, notary: Notary) -> None:
        behind, step = math.inf, partial(notary.step, force=True)
        for _ in range(CLOSING_STEPS_MAX):
            await run_to_end(self._sealing, step)
            if not 0 < notary.status.behind_rows < behind:
                break
            behind = notary.status.behind_rows
        await run_to_end(self._publishing, notary.publish)
        if notary.status.behind_rows:
            _log.warning("%s are not sealed yet", counted(notary.status.behind_rows, "row"))
