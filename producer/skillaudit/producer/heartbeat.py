"""When a source says that it lives, and of which runs it speaks.

`HeartbeatPlan` decides, given the time; `Heart` is the thread that asks it. A heartbeat is due every interval while a
run is open, and once more after anything changed. It lists open runs, at
most `HEARTBEAT_RUNS_MAX` of them and each at most once in five minutes, those first that have waited longest: every
listing becomes a row of the ledger.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from threading import Event, Thread
from typing import Final

from skillaudit.contract.errors import SkillauditError
from skillaudit.contract.events import HEARTBEAT_RUNS_MAX
from skillaudit.producer._reentrancy import guarded
from skillaudit.producer.source import Numbered, Source, backlog_of

LISTING_INTERVAL_US: Final = 300_000_000
"""A run is listed at most once in this time."""


class HeartbeatPlan:
    """What one source's heartbeats have said so far."""

    def __init__(self, interval_ms: int, *, runs_max: int = HEARTBEAT_RUNS_MAX) -> None:
        self._interval_us = interval_ms * 1_000
        self._runs_max = runs_max
        self._beat_us: int | None = None
        self._said = (0, 0, 0, 0)
        self._listed_us: dict[int, int] = {}
        """Open run -> when it was last listed, the longest ago first."""

    def due(
        self, now_us: int, runs_started: int, runs_finished: int, lost: int = 0, refused: int = 0
    ) -> bool:
        """Whether a heartbeat is to be sent now; `now_us` by a clock that doesn't run backwards."""
        if self._beat_us is not None and now_us - self._beat_us < self._interval_us:
            return False
        return runs_started > runs_finished or (runs_started, runs_finished, lost, refused) != self._said

    def select(self, now_us: int, open_runs: Mapping[int, Numbered]) -> list[Numbered]:
        """The runs that the next heartbeat lists."""
        for number in [n for n in self._listed_us if n not in open_runs]:
            del self._listed_us[number]
        new = [n for n in open_runs if n not in self._listed_us]
        again = [n for n, at_us in self._listed_us.items() if now_us - at_us >= LISTING_INTERVAL_US]
        return [open_runs[n] for n in (new + again)[: self._runs_max]]

    def sent(
        self,
        now_us: int,
        runs_started: int,
        runs_finished: int,
        lost: int,
        refused: int,
        listed: list[Numbered],
    ) -> None:
        """A heartbeat is in the log."""
        self._beat_us = now_us
        self._said = (runs_started, runs_finished, lost, refused)
        for run in listed:
            self._listed_us.pop(run.source_seq, None)
            self._listed_us[run.source_seq] = now_us


def beat_if_due(source: Source, plan: HeartbeatPlan) -> bool:
    """Append a heartbeat if one is due; returns whether it did. A log without room gets the next one."""
    now_us = source.clock.steady_us()
    started, finished, lost = source.runs_started, source.runs_finished, source.lost
    try:
        backlog = backlog_of(source.log)
        counts = started, finished, lost, backlog.refused if backlog else 0
        if not plan.due(now_us, *counts):
            return False
        runs = plan.select(now_us, dict(source.open))
        source.beat(source.clock.wall_us(), runs, backlog)
    except (SkillauditError, OSError):  # no room, closed meanwhile, no descriptor left to look at the backlog
        return False  # what it would have said, the next one says
    plan.sent(now_us, *counts, runs)
    return True


class Heart:
    """The thread behind a source's heartbeats. A daemon: it never keeps a process alive."""

    def __init__(self, source: Source, interval_ms: int) -> None:
        self._source = source
        self._plan = HeartbeatPlan(interval_ms)
        self._interval_s = interval_ms / 1_000
        self._stop = Event()
        self._thread = Thread(target=self._run, name="skillaudit-heartbeat", daemon=True)

    def start(self) -> None:
        """Begin; the first heartbeat comes one interval later."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End it; returns when the thread has, or after `timeout_s`."""
        self._stop.set()
        with contextlib.suppress(
            RuntimeError
        ):  # never started, or asked from the thread itself (a finalizer)
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            guarded(self._beat)

    def _beat(self) -> None:
        if not self._stop.is_set():
            self._source.warn_of_losses()
            beat_if_due(self._source, self._plan)
