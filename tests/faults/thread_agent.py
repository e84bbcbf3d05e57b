"""An agent process whose forwarder thread meets what no publisher may do, again and again.

`python -m tests.faults.thread_agent PLAN TROUBLE`. Ends with 0 if everything is acknowledged at its end, else with 3. Its
account says besides how often the forwarder was hit: {"hits": n}.
"""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import json
import random
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from tests.faults.agent import Notebook, Plan, record

from skillaudit.contract.settings import Settings
from skillaudit.producer import Sink
from skillaudit.producer.forwarder_host import forwarder_limits, make_publisher
from skillaudit.producer.forwarder_thread import ForwarderThread
from skillaudit.producer.outbox import OutboxLog
from skillaudit.producer.publisher import RecordPublisher

RESTART_WAIT_S = 0.01
HITS_S_MAX = 60.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What hits the thread, and how often."""

    hits: int
    seed: int
    asynchronous: bool = False
    """An exception is raised in the thread from outside, wherever it is; else the publisher raises."""
    off: str = ""


class OddError(BaseException):
    """No `Exception`: what some libraries stop a thread with."""


PUBLISHERS_RAISE = (
    RuntimeError,
    MemoryError,
    SystemExit,
    KeyboardInterrupt,
    asyncio.CancelledError,
    OddError,
)
THREADS_RAISE = (SystemExit, OddError, KeyboardInterrupt, MemoryError)


class Hits:
    """Counts them down."""

    def __init__(self, trouble: Trouble) -> None:
        self.chance = random.Random(trouble.seed)
        self.left = trouble.hits
        self.made: list[str] = []

    def take(self, kinds: Sequence[type[BaseException]]) -> type[BaseException] | None:
        """The next one, where it is to happen now."""
        if self.left <= 0:
            return None
        self.left -= 1
        kind = self.chance.choice(kinds)
        self.made.append(kind.__name__)
        return kind


class PublisherThatBreaksItsForwarder:
    """Every few calls it raises, before or after the broker has the batch."""

    def __init__(self, publisher: RecordPublisher, hits: Hits) -> None:
        self._publisher = publisher
        self._hits = hits
        self._calls = hits.chance.randrange(1, 6)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._publisher, name)

    async def partition_count(self) -> int:
        """As the real one's, or not."""
        self._count_call()
        return await self._publisher.partition_count()

    async def send(self, partition: int, records: Sequence[tuple[bytes, bytes]]) -> int:
        """As the real one's, or not."""
        late = self._hits.chance.random() < 0.5
        if not late:
            self._count_call()
        offset = await self._publisher.send(partition, records)
        if late:
            self._count_call()
        return offset

    def _count_call(self) -> None:
        self._calls -= 1
        if self._calls > 0:
            return
        self._calls = self._hits.chance.randrange(
            1, 6
        )  # not every hit makes the forwarder open another publisher
        if (kind := self._hits.take(PUBLISHERS_RAISE)) is not None:
            raise kind("a fault")


class ThreadWithoutSupervisor(ForwarderThread):
    """Ends with its first forwarder."""

    def _failed(self, exc: BaseException) -> None:
        self._stopping.set()


def hit_from_outside(hits: Hits, thread: ForwarderThread, stop: threading.Event) -> None:
    """Raise something in the forwarder's thread now and then, wherever it is."""
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    while not stop.wait(hits.chance.uniform(0.01, 0.25)):
        ident = thread._thread.ident
        if ident is None or not thread.is_alive or (kind := hits.take(THREADS_RAISE)) is None:
            continue
        raise_in(ctypes.c_ulong(ident), ctypes.py_object(kind))


def main(plan: Plan, trouble: Trouble) -> int:
    """Record while the thread is hit; then it must recover."""
    notes, settings, hits = Notebook(plan.account), Settings.load(), Hits(trouble)
    log = OutboxLog(settings)
    stop = threading.Event()

    def make(own: Settings) -> RecordPublisher:
        publisher = make_publisher(own)
        return publisher if trouble.asynchronous else PublisherThatBreaksItsForwarder(publisher, hits)  # type: ignore[return-value]

    def start() -> ForwarderThread:
        kind = ThreadWithoutSupervisor if trouble.off == "supervisor" else ForwarderThread
        limits = dataclasses.replace(forwarder_limits(settings), backoff_ms_max=200)
        thread = kind(settings, log, publisher=make, limits=limits, restart_wait_s=RESTART_WAIT_S)
        thread.start()
        if trouble.asynchronous:
            threading.Thread(target=hit_from_outside, args=(hits, thread, stop), daemon=True).start()
        return thread

    with Sink(log, settings=settings, start_forwarder=start) as sink:
        deadline_s = time.monotonic() + HITS_S_MAX
        while True:
            record(sink, plan, notes, hits.left)
            if hits.left <= 0 or (trouble.off and hits.made) or time.monotonic() > deadline_s:
                break
            sink.flush(0.5)
        stop.set()
        report = sink.flush(plan.flush_s)
    notes.note(hits=len(hits.made), kinds=hits.made)
    print(report, hits.made, file=sys.stderr)
    return 0 if report.complete else 3


if __name__ == "__main__":
    sys.exit(main(Plan(**json.loads(sys.argv[1])), Trouble(**json.loads(sys.argv[2]))))
