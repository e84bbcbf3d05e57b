"""The forwarder inside an agent's process: a daemon thread with an event loop of its own.

It forwards this process's source and adopts those of dead processes in the same directory. The agent never waits for
it but in `flush` and `close`. Whatever ends it unexpectedly is logged and it begins again, after a growing wait; until
then `flush` reports what is pending. A forked child has no such thread: its Sink starts another one for its own source,
and this one's handle does nothing there but close what was inherited.

Names are looked up in the thread itself, which has nothing else to do, instead of in asyncio's executor: that one is
gone as soon as the interpreter begins to exit, and a short process may end before its first connection is up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Final, Protocol

from skillaudit.contract.errors import SkillauditError
from skillaudit.contract.eventlog import RefusedRecord
from skillaudit.contract.outbox.acknowledgement import Acknowledgement
from skillaudit.contract.settings import Settings
from skillaudit.producer.forwarder import Forwarder, ForwardReport
from skillaudit.producer.forwarder_backlog import BacklogWatch, watching
from skillaudit.producer.forwarder_core import ForwarderLimits
from skillaudit.producer.forwarder_host import forwarder_limits, make_publisher
from skillaudit.producer.forwarder_sources import Scope
from skillaudit.producer.publisher import RecordPublisher

logger = logging.getLogger(__name__)

_RESTART_WAIT_S: Final = 1.0
_RESTART_WAIT_S_MAX: Final = 60.0
_END_S_MAX: Final = 10.0
"""For the tasks of a forwarder that something else than an error has stopped."""
_LASTING_S: Final = 60.0
"""A forwarder that ran this long before it failed begins again without a grown wait."""


class ForwardedLog(Protocol):
    """What the thread needs of an `OutboxLog`."""

    @property
    def source_id(self) -> str:
        """This process's source."""
        ...

    @property
    def source_dir(self) -> Path:
        """Where it is, once something was appended."""
        ...

    def notify_acknowledged(self, ack: Acknowledgement) -> None:
        """So much of it is where it has to be."""
        ...


class ThreadState(Enum):
    """What the thread is at."""

    NEW = "new"
    RUNNING = "running"
    FAILED = "failed"
    """The forwarder ended unexpectedly; it begins again after a wait."""
    STOPPED = "stopped"
    FORKED = "forked"
    """This is a forked child: the thread is the parent's."""


class ForwarderThread:
    """The handle. `start` once; `close` from any thread, any number of times."""

    def __init__(
        self,
        settings: Settings,
        log: ForwardedLog,
        *,
        publisher: Callable[[Settings], RecordPublisher] = make_publisher,
        limits: ForwarderLimits | None = None,
        restart_wait_s: float = _RESTART_WAIT_S,
    ) -> None:
        """`publisher` makes one for each beginning."""
        self.state = ThreadState.NEW
        self.restarts = 0
        self.failure = ""
        """Why it last ended unexpectedly."""
        self._settings = settings
        self._outbox_dir = settings.outbox_dir
        self._log = log
        self._source_id = log.source_id
        self._source_dir = log.source_dir
        self._make_publisher = publisher
        self._limits = limits or forwarder_limits(settings)
        self._restart_wait_s = restart_wait_s
        self._stopping = threading.Event()
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._forwarder: Forwarder | None = None
        self._last: Forwarder | None = None
        """The one that has ended, until its sources are let go."""
        self._report = ForwardReport()
        self._thread = threading.Thread(target=self._run, name="skillaudit-forwarder", daemon=True)
        _threads.add(self)

    def __repr__(self) -> str:
        """State, the forwarder in it, and what went wrong."""
        wrong = f", {self.restarts} restarts, last: {self.failure}" if self.restarts else ""
        return f"ForwarderThread({self.state.value}, {self._forwarder!r}{wrong})"

    def start(self) -> None:
        """Begin; returns at once."""
        self.state = ThreadState.RUNNING
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs in this process."""
        return self.state is not ThreadState.FORKED and self._thread.is_alive()

    @property
    def report(self) -> ForwardReport:
        """What it did so far."""
        forwarder = self._forwarder
        return self._report if forwarder is None else forwarder.report

    def close(self, timeout_s: float) -> ForwardReport:
        """End it: what is under way is waited for, what is acknowledged is saved. Returns within `timeout_s`; the
        thread of a process that exits then goes with it. Nothing is lost: the rest is the next adopter's.
        """
        if self.state is ThreadState.FORKED:
            return self._report
        with self._guard:
            self._stopping.set()
            if self._loop is not None and self._stop is not None:
                with contextlib.suppress(RuntimeError):  # the loop ended in this moment
                    self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread is not threading.current_thread() and self._thread.ident is not None:
            self._thread.join(timeout_s)
        return self.report

    def _run(self) -> None:
        """The thread. What is raised in it from outside may hit it anywhere, also while it tells of the last one: so that
        is done where the next one is caught, too.
        """
        untold: BaseException | None = None
        while not self._stopping.is_set():
            try:
                if untold is not None:
                    self._failed(untold)
                    untold = None
                    self._stopping.wait(self._restart_wait_s)
                self._supervise()
            except BaseException as exc:  # noqa: BLE001  told above
                untold = exc
        self.state = ThreadState.STOPPED

    def _supervise(self) -> None:
        """One forwarder after the other until it is told to end."""
        wait_s = self._restart_wait_s
        while not self._stopping.is_set():
            began_s = time.monotonic()
            try:
                self._run_once()
            except BaseException as exc:  # noqa: BLE001  whatever it is: the records wait in the outbox, and it is said
                self._failed(exc)
            if time.monotonic() - began_s > _LASTING_S:
                wait_s = self._restart_wait_s
            self._stopping.wait(0 if self._stopping.is_set() else wait_s)
            wait_s = min(2 * wait_s, _RESTART_WAIT_S_MAX)

    def _failed(self, exc: BaseException) -> None:
        self.state = ThreadState.FAILED
        self.restarts += 1
        self.failure = f"{type(exc).__name__}: {exc}"
        trace = None if isinstance(exc, SkillauditError) else exc
        logger.error("forwarding stopped and begins again: %s", self.failure, exc_info=trace)

    def _run_once(self) -> None:
        self._let_go_of_the_last()
        with contextlib.closing(LoopWithOwnLookups()) as loop:
            asyncio.set_event_loop(loop)
            try:
                self._report = loop.run_until_complete(self._forward())
            finally:
                self._last, self._forwarder = self._forwarder, None
                with self._guard:
                    self._loop = self._stop = None
                try:
                    _end_tasks(loop)
                    loop.run_until_complete(loop.shutdown_asyncgens())
                finally:
                    self._let_go_of_the_last()
                    asyncio.set_event_loop(None)

    def _let_go_of_the_last(self) -> None:
        """Its sources are free then: also where it could not end in order, and where that was interrupted."""
        if self._last is not None:
            self._last.let_go()
            self._last = None

    async def _forward(self) -> ForwardReport:
        forwarder = Forwarder(
            self._outbox_dir,
            self._make_publisher(self._settings),
            limits=self._limits,
            scope=Scope.OWN_AND_DEAD,
            own=self._source_dir,
            on_progress=self._progress,
        )
        with self._guard:
            self._loop = asyncio.get_running_loop()
            self._stop = asyncio.Event()
            self._forwarder = forwarder
            if self._stopping.is_set():
                self._stop.set()
        self.state = ThreadState.RUNNING
        async with watching(BacklogWatch(self._outbox_dir, own=self._source_dir), beside=False):
            return await forwarder.run(self._stop)

    def _progress(self, source_id: str, ack: Acknowledgement, refused: Sequence[RefusedRecord]) -> None:
        del refused  # the log reads them where they are kept
        if source_id == self._source_id:
            self._log.notify_acknowledged(ack)

    def after_fork_in_child(self) -> None:
        """Close what was inherited, so that the child holds no connection open for the parent."""
        self.state = ThreadState.FORKED
        forwarder, self._forwarder, self._last = self._forwarder or self._last, None, None
        if forwarder is not None:
            forwarder.release_inherited()


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """What is no `Exception` (SystemExit, one raised in the thread from outside) comes out of the loop and leaves its
    tasks in their midst: they have to save what is acknowledged, and let connections and sources go.
    """
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=_END_S_MAX))
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # looked at: what counts is what came out of the loop


class LoopWithOwnLookups(asyncio.SelectorEventLoop):
    """Looks names up where it runs."""

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """As asyncio's, without its executor; blocks this loop meanwhile."""
        return socket.getaddrinfo(host, port, family, type, proto, flags)


def start_forwarder(settings: Settings, log: ForwardedLog) -> ForwarderThread:
    """Start the forwarder of this process's source; the Sink calls it with its first run in a process."""
    thread = ForwarderThread(settings, log)
    thread.start()
    return thread


_threads: Final[weakref.WeakSet[ForwarderThread]] = weakref.WeakSet()


def _after_fork() -> None:
    for thread in tuple(_threads):
        thread.after_fork_in_child()
    _threads.clear()


os.register_at_fork(after_in_child=_after_fork)
