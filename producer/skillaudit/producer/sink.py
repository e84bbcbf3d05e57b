"""The Sink: what an agent's executor is given, and where its runs begin."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from threading import get_ident
from typing import Any, Final, Literal, Protocol, Self, TypeAlias, cast

from skillaudit.contract.clock import Clock, SystemClock
from skillaudit.contract.digests import SALT_BYTES
from skillaudit.contract.errors import InvalidRecordError, RunStateError, SkillauditError
from skillaudit.contract.eventlog import EventLog, FlushReport
from skillaudit.contract.records import SkillRun
from skillaudit.contract.settings import Settings
from skillaudit.contract.storage import StorageWriter
from skillaudit.producer._drafting import draft_run
from skillaudit.producer._holding import Hold
from skillaudit.producer._numbering import Limits, NumberedRun
from skillaudit.producer._reentrancy import BUSY, defer, guarded
from skillaudit.producer._warning import warn
from skillaudit.producer.heartbeat import Heart
from skillaudit.producer.masking import Mask
from skillaudit.producer.source import Source
from skillaudit.producer.writer import NullWriter, Writer

HEART_STOP_S: Final = 1.0
FORWARDER_STOP_S: Final = 0.5
"""What a forwarder has at least to end in order, even when the time for flushing is used up."""

Encoding: TypeAlias = Literal["coerce", "strict"]


class SinkState(Enum):
    """What a Sink is at."""

    DISABLED = "disabled"
    """Its target is None: it audits nothing."""
    NEW = "new"
    """No run begun in this process."""
    OPEN = "open"
    CLOSED = "closed"


class Forwarder(Protocol):
    """The handle of a forwarder thread."""

    def close(self, timeout_s: float) -> object:
        """End it, within the time."""
        ...


class Sink:
    """Records runs into one target: None (audits nothing, costs nothing), an event log (the outbox, MemoryStorage), or
    any other Storage, whose write half a background thread awaits in order.

    One open Sink records into a log; when it has closed, another may go on there, as far as the log takes more.
    Safe from any thread, task and signal handler, and across forks: the child goes on with a source of its own. At
    interpreter exit an open Sink is closed, within `flush_timeout_ms`.
    """

    def __init__(
        self,
        target: EventLog | StorageWriter | None = None,
        *,
        settings: Settings | None = None,
        mask: Mask | None = None,
        clock: Clock | None = None,
        encoding: Encoding = "coerce",
        start_forwarder: Callable[[], Forwarder] | None = None,
    ) -> None:
        """`mask`: see `masking`. `encoding`: what becomes of values that JSON can't hold, see `encoding`.
        `start_forwarder` is called when a process begins its first run here.
        """
        if encoding not in ("coerce", "strict"):
            raise InvalidRecordError(f"encoding is 'coerce' or 'strict', not {encoding!r}")
        self.settings = settings or Settings()
        self.log = _as_log(target)
        self._mask = mask
        self._strict = encoding == "strict"
        self._clock = clock or SystemClock()
        self._limits = Limits(
            record_bytes_max=self.settings.record_bytes_max,
            block_ms_max=self.settings.outbox_block_ms_max,
            best_effort=self.settings.outbox_on_full == "count",
        )
        self._start_forwarder = start_forwarder
        self._state = SinkState.DISABLED if self.log is None else SinkState.NEW
        self._sources: dict[int, Source] = {}
        """By pid: this process's, once it has begun a run, and until then its parent's."""
        self._hold = None if self.log is None else Hold(self.log)
        self._heart: Heart | None = None
        self._forwarder: Forwarder | None = None
        self._last_report = FlushReport(acknowledged=0, pending=0)

    @classmethod
    def from_settings(
        cls,
        settings: Settings | None = None,
        *,
        mask: Mask | None = None,
        clock: Clock | None = None,
        encoding: Encoding = "coerce",
        **overrides: Any,
    ) -> Self:
        """A Sink as the settings say: none where `enabled` is 0, else an outbox in the data directory, with a forwarder
        thread where Kafka is configured and `forwarder` is auto or thread.
        """
        settings = replace(settings, **overrides) if settings else Settings.load(overrides)
        if not settings.enabled:
            return cls(None, settings=settings)
        from skillaudit.producer.outbox import OutboxLog

        log = OutboxLog(settings, clock=clock or SystemClock())

        def start_thread() -> Forwarder:
            from skillaudit.producer.forwarder_thread import start_forwarder

            return start_forwarder(settings, log)

        start = start_thread if settings.uses_kafka and settings.forwarder in ("auto", "thread") else None
        return cls(log, settings=settings, mask=mask, clock=clock, encoding=encoding, start_forwarder=start)

    def __repr__(self) -> str:
        """State, source and its runs."""
        return f"<Sink {self.state.value} {self._source_here() or self.log!r}>"

    @property
    def mask(self) -> Mask | None:
        """The mask hook."""
        return self._mask

    @property
    def strict(self) -> bool:
        """Whether values that JSON can't hold are refused."""
        return self._strict

    @property
    def state(self) -> SinkState:
        """What it is at, in this process."""
        if self._state is SinkState.OPEN and self._source_here() is None:
            return SinkState.NEW
        return self._state

    def start_run(self, run: SkillRun) -> Writer:
        """Record the start and return the run's Writer. Raises `InvalidRecordError` for a run that can't be recorded,
        `RecordTooLargeError`, `OutboxFullError`, or `RunStateError` once the Sink is closed, for a run that was begun
        already, and where another open Sink records into this log; no number is taken then.
        """
        if self._state is SinkState.DISABLED:
            return NullWriter(self, run.id)
        if self._state is SinkState.CLOSED:
            raise RunStateError("the sink is closed; make a new one")
        draft = draft_run(run, os.urandom(SALT_BYTES).hex(), self._mask, strict=self._strict)
        source = self._current_source()
        numbered = NumberedRun(source, draft, self._limits, self._clock)
        writer = Writer(self, numbered, draft.run.skill_id, self._mask, self._strict)
        source.claim(numbered.run_id)
        try:
            numbered.begin()
        except BaseException:
            source.disclaim(numbered)
            raise
        return writer

    def flush(self, timeout_s: float | None = None) -> FlushReport:
        """Wait, at most `timeout_s` (default: `flush_timeout_ms`), until all recorded so far is acknowledged.

        From a signal handler that interrupted an append it can't wait: it then reports that one record as pending.
        """
        if self.log is None:
            return FlushReport(acknowledged=0, pending=0)
        if get_ident() in BUSY:
            return FlushReport(acknowledged=0, pending=1)
        if self._state is SinkState.CLOSED:
            return self._last_report
        return self._with_lost(self.log.flush(self._timeout_s(timeout_s)))

    async def aflush(self, timeout_s: float | None = None) -> FlushReport:
        """As `flush`, in a worker thread."""
        import asyncio

        return await asyncio.to_thread(self.flush, timeout_s)

    def close(self, timeout_s: float | None = None) -> FlushReport:
        """Say that this source ends, wait as `flush`, and release everything; open runs become inert. What is pending
        stays in the outbox for the next adopter. Safe to call again; from a signal handler that interrupted an append
        it happens when that append is done.
        """
        if self.log is None or self._state is SinkState.CLOSED:
            return self._last_report
        if get_ident() in BUSY:
            defer(lambda: self._close_here(timeout_s))
            return FlushReport(acknowledged=0, pending=1)
        guarded(lambda: self._close_here(timeout_s))
        return self._last_report

    async def aclose(self, timeout_s: float | None = None) -> FlushReport:
        """As `close`, in a worker thread."""
        import asyncio

        return await asyncio.to_thread(self.close, timeout_s)

    def __enter__(self) -> Self:
        """The Sink itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close."""
        self.close()

    async def __aenter__(self) -> Self:
        """The Sink itself."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close."""
        await self.aclose()

    def _source_here(self) -> Source | None:
        return self._sources.get(os.getpid())

    def _current_source(self) -> Source:
        pid = os.getpid()
        source = self._sources.get(pid)
        if source is None:
            assert self.log is not None  # noqa: S101  disabled Sinks start nothing
            assert self._hold is not None  # noqa: S101  as above
            ended = self._hold.take()
            before = next(iter(self._sources.values()), None)
            made = Source(self.log, self._clock, before=before, ended=ended)
            source = self._sources.setdefault(pid, made)  # one dict operation: of two threads one wins
            if source is made:
                guarded(lambda: self._begin_process(pid, made))
        return source

    def _begin_process(self, pid: int, source: Source) -> None:
        """This process's first run: what belongs to other processes (parents) is let go, helpers start."""
        for other in [p for p in self._sources if p != pid]:
            del self._sources[other]
        self._state = SinkState.OPEN
        self._heart = self._forwarder = None
        atexit.unregister(self._at_exit)
        atexit.register(self._at_exit)
        if getattr(self.log, "takes_heartbeats", True):
            self._heart = Heart(source, self.settings.heartbeat_interval_ms)
            self._heart.start()
        if self._start_forwarder is not None:
            self._forwarder = self._start_forwarder()

    def _close_here(self, timeout_s: float | None) -> None:
        if self.log is None or self._state is SinkState.CLOSED:
            return
        self._state = SinkState.CLOSED
        atexit.unregister(self._at_exit)
        self._last_report = self._closed(self.log, self._timeout_s(timeout_s))

    def _closed(self, log: EventLog, timeout_s: float) -> FlushReport:
        deadline = time.monotonic() + timeout_s
        source = self._source_here()
        if source is None:  # nothing was recorded in this process
            return log.close(0)
        if self._heart is not None:
            self._heart.stop(HEART_STOP_S)
        try:
            source.close(self._clock.wall_us())
        except SkillauditError as exc:
            warn("the source could not say that it ends; whoever reads it to its end will: %s", exc)
        if self._hold is not None:
            self._hold.free(source.numbers)
        if self._forwarder is None:
            return self._with_lost(log.close(timeout_s))
        report = log.flush(timeout_s)
        self._forwarder.close(max(FORWARDER_STOP_S, deadline - time.monotonic()))
        lost = log.close(0).lost  # of what was pending: only now is it known that it finds no room
        return self._with_lost(
            replace(report, pending=max(report.pending - lost, 0), lost=report.lost + lost)
        )

    def _at_exit(self) -> None:
        if self._source_here() is not None:
            self.close()

    def _with_lost(self, report: FlushReport) -> FlushReport:
        source = self._source_here()
        return replace(report, lost=report.lost + source.lost) if source and source.lost else report

    def _timeout_s(self, timeout_s: float | None) -> float:
        return self.settings.flush_timeout_ms / 1_000 if timeout_s is None else timeout_s


def _as_log(target: EventLog | StorageWriter | None) -> EventLog | None:
    if target is None:
        return None
    if all(callable(getattr(target, name, None)) for name in ("append", "append_many", "flush", "close")):
        return cast("EventLog", target)
    if isinstance(target, StorageWriter):
        from skillaudit.producer.storage_log import StorageLog

        return StorageLog(target)
    raise InvalidRecordError(
        f"a Sink's target is None, an event log or a Storage, not {type(target).__name__}; see Sink.from_settings"
    )
