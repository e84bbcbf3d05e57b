"""What is stored of one run, and the rules by which its records become a run. The plain model of the consumer.

The kind of a run. A run is a Writer's or a bare Storage's. Its first stored start decides; while there is none (an
orphan) it is a Writer's as soon as one of its records is a Writer's. A start that arrives late therefore gives the same
run as if it had come first: what was stored before is judged again.

Of a Writer's run, every record has a number and a tag:

* same number and same tag: a duplicate, dropped. A `run.refused` and the record it stands for are duplicates too, so
  whichever came first stays;
* same number and another tag: kept in `conflicts`; the first stored stays in the run;
* a second start, with another tag or from another source: conflict. A second finish, with any other tag or number, or
  from another source than the start: conflict; it takes no number;
* any record of a bare Storage: conflict.

Of a bare run, no number proves anything:

* the first start stays; others change nothing and are no conflict;
* the first log of a sequence stays; others change nothing and are no conflict;
* the last finish to arrive stays; a finish that was delivered before (same call id) changes nothing;
* any record of a Writer: conflict.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TypeAlias

import orjson

from skillaudit.contract import ranges
from skillaudit.contract.clock import from_us
from skillaudit.contract.completeness import RunNumbers, completeness, liveness, missing
from skillaudit.contract.ranges import Ranges
from skillaudit.contract.records import RunState, SkillRun, SkillRunLog, Status
from skillaudit.contract.wire_events import RunEvent, RunFinished, RunLog, RunRefused, RunStarted

_Key: TypeAlias = tuple[str, int, int, str]


class Outcome(Enum):
    """What became of one record."""

    STORED = "stored"
    """It is part of the record now. A source's records are always stored."""
    DUPLICATE = "duplicate"
    """It changed nothing: it was there, or something that wins over it."""
    CONFLICT = "conflict"
    """Kept aside: it claims a place that another record holds."""
    PURGED = "purged"
    """Its run was purged; it was counted and not stored."""
    DEAD_LETTER = "dead-letter"
    """It is not a record of this format, or of a newer one; kept as it came."""


class RunRecord:
    """All records of one run id. Not safe for threads: its store locks."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.known: dict[str, int] = {}
        """Source -> how many events of this run it said exist."""
        self._arrived: list[RunEvent] = []
        self._clear()

    def __repr__(self) -> str:
        """The run's state in one line."""
        kind = "bare" if self.bare else "writer's"
        state = "orphan" if self.start is None else self.status
        return (
            f"<RunRecord {self.run_id!r} {kind} {state} received={self.received} conflicts={self.conflicts}>"
        )

    def apply(self, event: RunEvent) -> Outcome:
        """Take one record of this run."""
        if self._is_duplicate(event):
            return Outcome.DUPLICATE
        outcome = self._place(event)
        self._arrived.append(event)
        if self._judged_otherwise(event):
            self._judge_again()
            return Outcome.STORED
        return outcome

    # What readers see.

    @property
    def arrived(self) -> Sequence[RunEvent]:
        """All records in order of arrival, conflicts and what lost against others included, repeated deliveries not."""
        return self._arrived

    @property
    def status(self) -> str:
        """What the run says of itself."""
        return self.finish.status if self.finish else Status.RUNNING

    @property
    def source_id(self) -> str:
        """The source the run belongs to: its start's; of an orphan, its finish's; empty where unknown or bare."""
        first = self.start or self.finish
        return first.source_id if first else ""

    def run(self) -> SkillRun:
        """The run as readers get it, its JSON parsed anew. Only of a run whose start is stored."""
        start, finish = self._stored_start(), self.finish
        run = SkillRun(
            id=self.run_id,
            skill_id=start.skill_id,
            caller_id=start.caller_id,
            channel_id=start.channel_id,
            inputs=orjson.loads(start.inputs_json),
            started_at=from_us(start.at_us),
            parent_run_id=start.parent_run_id,
            attributes=orjson.loads(start.attributes_json),
        )
        return _finished(run, finish) if finish else run

    def skill_logs(self) -> list[SkillRunLog]:
        """The run's logs in order of their numbers."""
        return [
            SkillRunLog.from_json(
                run_id=self.run_id,
                sequence=log.seq,
                event_type=log.event_type,
                payload_json=log.payload_json,
                created_at=from_us(log.at_us),
            )
            for _, log in sorted(self.logs.items())
        ]

    def state(self, *, source_gone: bool) -> RunState:
        """What the record says about the run; `source_gone`: the run's source is closed."""
        numbers = self.numbers()
        return RunState(
            run_id=self.run_id,
            liveness=liveness(finished=self.finish is not None, source_gone=source_gone),
            completeness=completeness(numbers),
            events=len(self.logs),
            missing=missing(numbers),
            lost=numbers.declared,
            conflicts=self.conflicts,
            source_id=self.source_id,
            last_event_at=from_us(self.last_event_us) if self.last_event_us >= 0 else None,
        )

    def numbers(self) -> RunNumbers:
        """The run's numbers, for judging them."""
        source = self.source_id
        said = self.known.values() if not source else (self.known.get(source, 0),)
        return RunNumbers(
            received=self.received,
            declared=self.declared,
            events=self.finish.events if self.finish else None,
            known=max(said, default=0),
            bare=self.bare,
        )

    # The rules.

    def _clear(self) -> None:
        self.start: RunStarted | None = None
        self.finish: RunFinished | None = None
        self.logs: dict[int, RunLog] = {}
        self.received: Ranges = ()
        self.declared: Ranges = ()
        self.conflicts = 0
        self.last_event_us = -1
        self.bare = True
        self._tags: dict[int, int] = {}
        self._refused: dict[int, int] = {}
        self._seen: set[_Key] = set()

    def _judged_otherwise(self, event: RunEvent) -> bool:
        """Whether this record, the last to arrive, changes how earlier ones are to be judged."""
        if len(self._arrived) == 1:
            return False
        if isinstance(event, RunStarted):
            return self.start is event
        return self.start is None and self.bare is False and all(map(_is_bare, self._arrived[:-1]))

    def _judge_again(self) -> None:
        """Judge all records as if the start had come first."""
        start = self.start
        rest = [event for event in self._arrived if event is not start]
        bare = self.bare
        self._clear()
        self.bare = bare
        for event in [start, *rest] if start else rest:
            self._place(event)

    def _place(self, event: RunEvent) -> Outcome:
        self._seen.add(_key(event))
        if self.start is None and (isinstance(event, RunStarted) or not _is_bare(event)):
            self.bare = _is_bare(event)
        if _is_bare(event) is not self.bare:
            outcome = Outcome.CONFLICT
        elif self.bare:
            outcome = self._place_bare(event)
        else:
            outcome = self._place_numbered(event)
        if outcome is Outcome.STORED:
            self.last_event_us = max(self.last_event_us, event.at_us)
        elif outcome is Outcome.CONFLICT:
            self.conflicts += 1
        return outcome

    def _is_duplicate(self, event: RunEvent) -> bool:
        if _key(event) in self._seen:
            return True
        if _is_bare(event) or self._tags.get(event.seq) != event.tag:
            return False
        return isinstance(event, RunRefused) or event.seq in self._refused

    def _place_bare(self, event: RunEvent) -> Outcome:
        match event:
            case RunStarted() if self.start is None:
                self.start = event
            case RunLog() if event.seq not in self.logs:
                self.logs[event.seq] = event
            case RunFinished():
                self.finish = event
            case _:
                return Outcome.DUPLICATE
        return Outcome.STORED

    def _place_numbered(self, event: RunEvent) -> Outcome:
        if event.seq in self._tags or (isinstance(event, RunFinished) and not self._may_finish(event)):
            return Outcome.CONFLICT
        self._tags[event.seq] = event.tag
        match event:
            case RunStarted():
                self.start = event
            case RunLog():
                self.logs[event.seq] = event
                self.declared = ranges.union(self.declared, event.lost_ranges)
            case RunFinished():
                self.finish = event
                self.declared = ranges.union(self.declared, event.lost_ranges)
            case RunRefused():
                self._refused[event.seq] = event.tag
                self.declared = ranges.add(self.declared, event.seq)
                return Outcome.STORED
        self.received = ranges.add(self.received, event.seq)
        return Outcome.STORED

    def _may_finish(self, event: RunFinished) -> bool:
        return self.finish is None and (self.start is None or self.start.source_id == event.source_id)

    def _stored_start(self) -> RunStarted:
        if self.start is None:
            raise LookupError(f"the start of run {self.run_id!r} is not stored")
        return self.start


def _is_bare(event: RunEvent) -> bool:
    return not isinstance(event, RunRefused) and event.is_bare


def _key(event: RunEvent) -> _Key:
    """Equal for two deliveries of one record. Starts and finishes of two sources are two, whatever their tags."""
    if isinstance(event, RunRefused):
        return ("", event.seq, event.tag, "")
    if event.call_id:
        return (event.call_id, 0, 0, "")
    source = "" if isinstance(event, RunLog) else event.source_id
    return ("", event.seq, event.tag, source)


def _finished(run: SkillRun, finish: RunFinished) -> SkillRun:
    return SkillRun(
        id=run.id,
        skill_id=run.skill_id,
        caller_id=run.caller_id,
        channel_id=run.channel_id,
        inputs=run.inputs,
        started_at=run.started_at,
        parent_run_id=run.parent_run_id,
        attributes=run.attributes,
        finished_at=from_us(finish.at_us),
        status=finish.status,
        output=finish.output,
        error=finish.error,
        tool_calls_count=finish.tool_calls,
        runtime_seconds=finish.runtime_us / 1_000_000,
        total_input_tokens=finish.input_tokens,
        total_output_tokens=finish.output_tokens,
        total_thinking_tokens=finish.thinking_tokens,
    )
