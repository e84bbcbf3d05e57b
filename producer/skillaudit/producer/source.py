"""One source: the numbering of the runs that this process starts in one event log.

`runs_started` advances only when a start's append has returned, so that a number stands for a start that is there. Lock
order: a run's lock, then its source's lock when it starts; the heartbeat takes the source's lock, then those of runs
that have started. These never meet in a circle: a starting run isn't listed yet.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from threading import Lock
from typing import Final, Protocol, cast
from weakref import WeakSet

from skillaudit.contract import events
from skillaudit.contract.clock import Clock
from skillaudit.contract.errors import RunStateError, SkillauditError
from skillaudit.contract.eventlog import EventLog, RecordKind, taken_at
from skillaudit.contract.events import OpenRun, SourceCounts
from skillaudit.contract.telling import Untold
from skillaudit.contract.words import counted
from skillaudit.producer._begun import BegunRuns
from skillaudit.producer._holding import Numbers
from skillaudit.producer._reentrancy import guarded
from skillaudit.producer._version import VERSION
from skillaudit.producer._warning import warn

Item = tuple[str, bytes, RecordKind]

CLOSED_RUNS_MAX: Final = 10_000
"""Open runs that a `source.closed` lists at most."""


class Backlog(Protocol):
    """What a log holds that nobody has acknowledged, for the heartbeat. A log that knows has a method `backlog()`."""

    @property
    def records(self) -> int:
        """Records waiting."""
        ...

    @property
    def bytes(self) -> int:
        """Their size."""
        ...

    @property
    def oldest_us(self) -> int:
        """When the oldest of them was appended, 0 where nothing waits or it isn't known."""
        ...

    @property
    def refused(self) -> int:
        """Records that were refused for good, of all there were."""
        ...


def backlog_of(log: EventLog) -> Backlog | None:
    """The log's backlog, None where it keeps none."""
    ask = getattr(log, "backlog", None)
    return cast("Backlog", ask()) if callable(ask) else None


class Numbered(Protocol):
    """A run as its source sees it."""

    run_id: str
    source_seq: int
    """0 until its start is in the log."""

    def encode_start(self, source_id: str, source_seq: int) -> bytes:
        """The start's record under this number; nothing has happened yet."""
        ...

    def commit_start(self, source_seq: int) -> None:
        """The start is in the log. Only plain statements, so that no signal divides it."""
        ...

    def progress(self) -> OpenRun | None:
        """What a heartbeat says of the run; None when it has finished meanwhile."""
        ...

    def release(self, *, forked: bool) -> None:
        """This process can't write the run any more."""
        ...


class Source:
    """This process's life in one log, as long as the log keeps its `source_id`."""

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        *,
        before: Source | None = None,
        ended: Numbers | None = None,
        opened_by: tuple[str, int, str] | None = None,
    ) -> None:
        """`before`: the parent's source, before a fork; a log that keeps its `source_id` goes on where that was.
        `ended`: where the numbering of an earlier Sink on this log ended; the source is then opened again behind that.
        `opened_by`: host, pid and boot id for `source.opened`, for a source that is no process's life.
        """
        self.log = log
        self.clock = clock
        self.source_id = log.source_id
        self.pid = os.getpid()
        self.lock = Lock()
        self.runs_started = 0
        self.open: dict[int, Numbered] = {}
        """Runs started and not finished, by their number."""
        self._left_open = 0
        """Runs of an earlier Sink that it left unfinished."""
        self.lost = 0
        """Events dropped in best-effort mode, all of them declared in their runs."""
        self._lost_lock = Lock()
        self._untold = Untold()
        self.beats = 0
        self._told = 0, 0
        """Records refused and events lost, as the last heartbeat had them."""
        self.opened = False
        self._closed = False
        self._opened_by = opened_by
        self._doubt: tuple[Sequence[Item], Numbered] | None = None
        self._begun = BegunRuns()
        if ended is not None:
            self.runs_started, self.beats, self._begun = ended.runs_started, ended.beats, ended.begun
            self._left_open = ended.runs_started - ended.runs_finished
        if before is not None:  # also where the child's log is another one: an id names one run
            self._begun = before._begun  # noqa: SLF001
        if before is not None and before.source_id == self.source_id:
            self.runs_started, self.beats, self.opened = before.runs_started, before.beats, before.opened
            self.open, self._left_open = dict(before.open), before._left_open  # noqa: SLF001
        _SOURCES.add(self)

    def __repr__(self) -> str:
        """Number of runs started and open."""
        return f"<Source {self.source_id} started={self.runs_started} open={len(self.open)}>"

    @property
    def runs_finished(self) -> int:
        """Finishes in the log."""
        return self.runs_started - self._left_open - len(self.open)

    @property
    def numbers(self) -> Numbers:
        """Where the numbering stands, for another Sink to go on when this source has closed."""
        return Numbers(
            source_id=self.source_id,
            runs_started=self.runs_started,
            runs_finished=self.runs_finished,
            beats=self.beats,
            begun=self._begun,
        )

    def claim(self, run_id: str) -> None:
        """Before a run is made: raises `RunStateError` where one of this id was begun here."""
        self._begun.claim(run_id, lambda: [run.run_id for run in list(self.open.values())])

    def disclaim(self, run: Numbered) -> None:
        """Its start failed: unless it was taken, or is in doubt, the same run may be started again."""
        doubt = self._doubt
        if not run.source_seq and (doubt is None or doubt[1] is not run):
            self._begun.forget(run.run_id)

    def start(self, run: Numbered) -> None:
        """Give the run its number and append its start. When it raises, no number is taken.

        If what interrupts it is no error of the log (a signal handler's exception), the start is in doubt: the same
        bytes are appended again, under the same number, before the next start. Readers drop the duplicate.
        """
        with self.lock:
            self._check_open()
            self._settle()
            if run.source_seq:  # it was this run's start that was in doubt
                return
            source_seq = self.runs_started + 1
            record = run.encode_start(self.source_id, source_seq)
            items = [*self._opening(), (run.run_id, record, RecordKind.RESERVED)]
            self._doubt = (items, run)
            try:
                self.log.append_many(items, wait_ms=0)
            except SkillauditError as exc:
                self._doubt = None
                if taken_at(exc) is not None:  # it was taken, and its disk failed after that
                    self._commit(run)
                raise
            self._commit(run)

    def _check_open(self) -> None:
        """Nothing follows `source.closed`: its counts are the last word."""
        if self._closed:
            raise RunStateError("the sink is closed; make a new one")

    def _settle(self) -> None:
        if self._doubt is not None:
            items, run = self._doubt
            self.log.append_many(items, wait_ms=0)
            self._commit(run)

    def _commit(self, run: Numbered) -> None:
        source_seq = self.runs_started + 1
        run.commit_start(source_seq)
        self.open[source_seq] = run
        self.runs_started = source_seq
        self.opened = True
        self._doubt = None

    def finished(self, source_seq: int) -> None:
        """The run's finish is in the log."""
        self.open.pop(source_seq, None)

    def count_lost(self, events_lost: int) -> None:
        """Events were dropped and declared in their run. Called under the run's lock, by a thread that is in `BUSY`."""
        with self._lost_lock:
            self.lost += events_lost
            untold = self._untold.add(events_lost, self.clock.steady_us())
        if untold:
            # Not here: another thread may be in a handler of the log, and in there wait for this run.
            guarded(lambda: self._warn(untold))

    def warn_of_losses(self, *, last: bool = False) -> None:
        """Say in the log what was lost and is not said yet, if it is time; no lock is to be held."""
        with self._lost_lock:
            untold = self._untold.due(self.clock.steady_us(), last=last)
        if untold:
            self._warn(untold)

    def _warn(self, events_lost: int) -> None:
        dropped, all_in_all = counted(events_lost, "event"), f"{self.lost:,}"
        warn(
            "the outbox has no room and outbox_on_full is `count`: %s dropped, and declared as lost (%s since the start)",
            dropped,
            all_in_all,
        )

    def beat(self, now_us: int, runs: Sequence[Numbered], backlog: Backlog | None) -> None:
        """Append a heartbeat that lists `runs`: composed and appended under the lock, so that every start and every
        event it counts stands before it. Raises as `append` does, and has then done nothing.
        """
        with self.lock:
            self._check_open()
            self._settle()
            self._beat(now_us, runs, backlog)

    def _beat(self, now_us: int, runs: Sequence[Numbered], backlog: Backlog | None) -> None:
        counts = SourceCounts(
            runs_started=self.runs_started,
            runs_finished=self.runs_finished,
            open=_progress(runs),
            backlog_records=backlog.records if backlog else 0,
            backlog_bytes=backlog.bytes if backlog else 0,
            oldest_us=backlog.oldest_us if backlog else 0,
            refused=backlog.refused if backlog else 0,
            lost=self.lost,
        )
        record = events.encode_heartbeat(self.source_id, now_us, self.beats + 1, counts)
        self.log.append(self.source_id, record, RecordKind.RESERVED, wait_ms=0)
        self.beats += 1
        self._told = counts.refused, counts.lost

    def _tell_losses(self, now_us: int) -> None:
        """What was lost or refused since the last heartbeat, by one more: `source.closed` has no place for it."""
        # No room, or no descriptor left to look at the backlog: the runs themselves declare what they lost.
        with contextlib.suppress(SkillauditError, OSError):
            backlog = backlog_of(self.log)
            if (backlog.refused if backlog else 0, self.lost) != self._told:
                self._beat(now_us, (), backlog)

    def close(self, now_us: int) -> None:
        """Append `source.closed`, if the source was ever opened; the open runs become inert. Safe to call again."""
        self.warn_of_losses(last=True)
        with self.lock:
            if self._closed:
                return
            self._closed = True
            if not self.opened:
                return
            self._settle()
            if getattr(self.log, "takes_heartbeats", True):
                self._tell_losses(now_us)
            runs = list(self.open.values())
            counts = SourceCounts(
                runs_started=self.runs_started,
                runs_finished=self.runs_finished,
                open=_progress(runs[:CLOSED_RUNS_MAX]),
            )
            for run in runs:
                run.release(forked=False)
            record = events.encode_source_closed(self.source_id, now_us, "process", counts)
            self.log.append(self.source_id, record, RecordKind.RESERVED, wait_ms=0)

    def _opening(self) -> list[Item]:
        if self.opened:
            return []
        host, pid, boot_id = self._opened_by or (os.uname().nodename, self.pid, _boot_id())
        record = events.encode_source_opened(
            self.source_id, self.clock.wall_us(), host, pid, boot_id, self.clock.name, VERSION
        )
        return [(self.source_id, record, RecordKind.RESERVED)]

    def abandon(self) -> None:
        """In a forked child: nothing here is this process's any more. Locks may be held by threads that aren't here."""
        self.lock = Lock()
        self._lost_lock = Lock()
        for run in list(self.open.values()):
            run.release(forked=True)


def _progress(runs: Sequence[Numbered]) -> list[OpenRun]:
    return [progress for run in runs if (progress := run.progress()) is not None]


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123  pathlib isn't loaded yet
            return file.read().strip()
    except OSError:
        return ""  # not Linux


_SOURCES: Final[WeakSet[Source]] = WeakSet()


def _after_fork() -> None:
    for source in list(_SOURCES):
        source.abandon()


os.register_at_fork(after_in_child=_after_fork)
