"""Running checks of the record beside readers: in a thread, on a cursor of their own, bounded in number and time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from skillaudit.contract.errors import RetryableError
from skillaudit.proof.verify import Memory, Report, Verifier, VerifyRequest
from skillaudit.proof.verify.records import OpenRecords
from skillaudit.query.execution import CursorFactory

CHECKS_MAX: Final = 1
"""At once: each uses all cores by itself."""
CHECK_S_MAX: Final = 7_200.0
PROGRESS_S: Final = 0.25
_STOP_AGAIN_S: Final = 0.02
_ENDING_S: Final = 0.000_5
"""A thread that has its result ends at once; a check of one run should not wait longer for it than it took."""


class BusyError(RetryableError):
    """As many checks run as may run at once; ask again when one is done."""

    exit_code = 7


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a check is: `of` is 0 where that is not known."""

    what: str
    done: int
    of: int


class Checks:
    """Checks of one database. Belongs to one event loop."""

    def __init__(
        self,
        cursor_factory: CursorFactory,
        *,
        records: OpenRecords | None = None,
        checks_max: int = CHECKS_MAX,
    ) -> None:
        """`cursor_factory` makes a cursor of the open database, `records` a reader of Kafka's records, for a check that is to
        hold events against these; both are called in worker threads.
        """
        self._factory = cursor_factory
        self._records = records
        self._free = [Memory() for _ in range(checks_max)]
        """Of those that may begin, what each may use of what earlier ones read."""

    async def run(
        self, request: VerifyRequest, now_us: Callable[[], int] = lambda: time.time_ns() // 1000
    ) -> AsyncGenerator[Progress | Report]:
        """Progress now and then, the report last. Leaving the generator stops the check. Raises what the check raises,
        and `BusyError` where too many run.
        """
        if not self._free:
            raise BusyError("another check runs; ask again when it is done")
        memory = self._free.pop()
        check = _Check(self._factory, request, now_us, memory, self._records)
        try:
            async for progress in check.watched():
                yield progress
            yield check.done.result()
        finally:
            await check.stop()
            self._free.append(memory)


def _retrieved(future: asyncio.Future[Report]) -> None:
    if not future.cancelled():
        future.exception()


class _Check:
    """One check in its thread."""

    def __init__(
        self,
        factory: CursorFactory,
        request: VerifyRequest,
        now_us: Callable[[], int],
        memory: Memory,
        records: OpenRecords | None,
    ) -> None:
        self._factory = factory
        self._records = records
        self._request = request
        self._memory = memory
        self._now_us = now_us
        self._verifier: Verifier | None = None
        self._guard = threading.Lock()
        self._stopped = False
        self._progress = Progress("reading", 0, 0)
        self.done: Future[Report] = Future()
        self._thread = threading.Thread(target=self._work, name="skillaudit-verify", daemon=True)

    async def watched(self) -> AsyncGenerator[Progress]:
        """Run it; its progress whenever that has changed, until it is done or its time is over."""
        self._thread.start()
        told, deadline_s = None, time.monotonic() + CHECK_S_MAX
        waiting = asyncio.wrap_future(self.done)
        waiting.add_done_callback(_retrieved)  # its error is raised from `done`
        while not self.done.done() and time.monotonic() < deadline_s:
            await asyncio.wait({waiting}, timeout=PROGRESS_S)
            if self._progress != told and not self.done.done():
                told = self._progress
                yield told
        await self.stop()

    async def stop(self) -> None:
        """End it; returns when its thread has."""
        while self._thread.is_alive():
            with self._guard:
                self._stopped = self._stopped or not self.done.done()
                if self._verifier is not None and not self.done.done():
                    self._verifier.stop()
            await asyncio.sleep(_ENDING_S if self.done.done() else _STOP_AGAIN_S)

    def _work(self) -> None:
        try:
            self.done.set_result(self._checked())
        except BaseException as exc:  # noqa: BLE001  it is raised where the result is asked for
            self.done.set_exception(exc)

    def _checked(self) -> Report:
        cursor = self._factory()
        try:
            with self._guard:
                self._verifier = verifier = Verifier(cursor, self._tell, self._memory, self._records)
                if self._stopped:
                    verifier.stop()
            return verifier.check(self._request, self._now_us())
        finally:
            with self._guard:  # a closed cursor must not be interrupted
                self._verifier = None
                cursor.close()

    def _tell(self, what: str, done: int, of: int) -> None:
        self._progress = Progress(what, done, of)
