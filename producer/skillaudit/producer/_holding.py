"""Which Sink numbers the runs of a log, so that no two do under one `source_id`, and the next goes on where one ended.

No lock, as the first run may begin in a signal handler: a hold is one operation of a dict. A forked child may go on with
the Sink it inherited, or with another one where the log gives the child a `source_id` of its own (the outbox does).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from weakref import WeakKeyDictionary

from skillaudit.contract.errors import RunStateError
from skillaudit.contract.eventlog import EventLog
from skillaudit.producer._begun import BegunRuns


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Where the numbering under one `source_id` ended."""

    source_id: str
    runs_started: int
    runs_finished: int
    beats: int
    begun: BegunRuns


@dataclass(slots=True)
class _Log:
    holders: dict[str, object] = field(default_factory=dict[str, object])
    """`source_id` -> the holder; others than the newest are the parents' of this process."""
    ended: Numbers | None = None


_LOGS: Final[WeakKeyDictionary[EventLog, _Log]] = WeakKeyDictionary()


class Hold:
    """One Sink's right to number runs in its log. Nothing is held before `take`."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._token = object()
        try:
            self._state = _LOGS.setdefault(log, _Log())
        except TypeError:  # a log that can't be hashed or weakly referenced looks after itself
            self._state = _Log()

    def take(self) -> Numbers | None:
        """Hold the log under its present `source_id`; returns where its numbering ended before. Raises `RunStateError`
        while another Sink holds it. Taking again changes nothing.
        """
        source_id, state = self._log.source_id, self._state
        if state.holders.setdefault(source_id, self._token) is not self._token:
            raise RunStateError(
                "another open Sink of this process records into this log, and both would number their runs from 1: use "
                "that one, close it first, or give each Sink a log of its own"
            )
        return state.ended if state.ended and state.ended.source_id == source_id else None

    def free(self, ended: Numbers) -> None:
        """Let go, for whoever goes on from there."""
        if self._state.holders.get(ended.source_id) is self._token:
            self._state.ended = ended
            del self._state.holders[ended.source_id]
