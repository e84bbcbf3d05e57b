"""The taking half of `MemoryStorage`: what the consumer does with a record, the event log, a Storage's bare writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import RLock
from typing import Final

import orjson

from skillaudit.contract import validation
from skillaudit.contract.clock import Clock, SystemClock, to_us, uuid7
from skillaudit.contract.errors import InvalidRecordError, RecordTooLargeError
from skillaudit.contract.eventlog import FlushReport, RecordKind
from skillaudit.contract.events import OpenRun, runtime_us
from skillaudit.contract.records import RunState, RunStats, SkillRun, SkillRunLog
from skillaudit.contract.runrecord import Outcome, RunRecord
from skillaudit.contract.wire_events import (
    NO_SEQ,
    Event,
    RunEvent,
    RunFinished,
    RunLog,
    RunStarted,
    SourceClosed,
    SourceHeartbeat,
    SourceOpened,
)

RECORD_BYTES_MAX: Final = 12 * 1024 * 1024
_BARE: Final = "storage"


@dataclass(slots=True)
class Tombstone:
    """What is left of a purged run."""

    last: RunState
    """What was known of it when it was purged."""
    later_records: int = 0
    """Records of it that came later and were not stored."""


class MemoryLog:
    """Takes records and keeps them by run; `contract.memory` reads them. Use `MemoryStorage`."""

    def __init__(
        self, *, clock: Clock | None = None, source_id: str = "", record_bytes_max: int = RECORD_BYTES_MAX
    ) -> None:
        self.source_id = source_id or uuid7().replace("-", "")
        self.record_bytes_max = record_bytes_max
        self.purged: dict[str, Tombstone] = {}
        """Of every purged run, so that nothing of it is stored again."""
        self.dead_letters: list[tuple[bytes, str]] = []
        """What `apply` could not read, with the reason."""
        self._clock = clock or SystemClock()
        self._lock = RLock()
        self._runs: dict[str, RunRecord] = {}
        self._closed: set[str] = set()
        self._appended = 0

    def __repr__(self) -> str:
        """How much is in it."""
        return f"<{type(self).__name__} runs={len(self._runs)} purged={len(self.purged)} appended={self._appended}>"

    # The consumer's rules.

    def apply(self, record: bytes) -> Outcome:
        """Do with one record what the consumer does. A record it can't read becomes a dead letter; never raises."""
        from skillaudit.contract.wire import parse_record  # here, because it loads pydantic

        try:
            event = parse_record(record)
        except InvalidRecordError as exc:
            with self._lock:
                self.dead_letters.append((record, str(exc)))
            return Outcome.DEAD_LETTER
        return self.apply_event(event)

    def apply_event(self, event: Event) -> Outcome:
        """As `apply`, of a record already read."""
        with self._lock:
            match event:
                case SourceOpened():
                    self._closed.discard(event.source_id)
                case SourceHeartbeat():
                    self._hear(event.source_id, event.open)
                case SourceClosed():
                    self._hear(event.source_id, event.open)
                    self._closed.add(event.source_id)
                case _:
                    return self._apply_run_event(event)
            return Outcome.STORED

    def _apply_run_event(self, event: RunEvent) -> Outcome:
        if event.run_id in self.purged:
            self.purged[event.run_id].later_records += 1
            return Outcome.PURGED
        return self._record(event.run_id).apply(event)

    def _record(self, run_id: str) -> RunRecord:
        record = self._runs.get(run_id)
        if record is None:
            record = self._runs[run_id] = RunRecord(run_id)
        return record

    def _hear(self, source_id: str, listed: Iterable[OpenRun]) -> None:
        """Note how many events a source says its open runs have. Only of runs of which anything is stored."""
        for said in listed:
            record = self._runs.get(said.run_id)
            if record is not None:
                record.known[source_id] = max(said.events, record.known.get(source_id, 0))

    # EventLog.

    def append(self, key: str, record: bytes, kind: RecordKind, *, wait_ms: int) -> int:
        """Take one record; it can be read at once. Raises `InvalidRecordError` for one that no consumer could read."""
        return self.append_many([(key, record, kind)], wait_ms=wait_ms)

    def append_many(self, items: Sequence[tuple[str, bytes, RecordKind]], *, wait_ms: int) -> int:
        """As `append` for several, all or none."""
        del wait_ms  # there is always room
        from skillaudit.contract.wire import parse_record  # here, because it loads pydantic

        events = [parse_record(self._bounded(record)) for _, record, _ in items]
        for (key, _, _), event in zip(items, events, strict=True):
            if key != _key_of(event):
                raise InvalidRecordError("the key of a record is its run_id, or its source_id")
        with self._lock:
            for event in events:
                self.apply_event(event)
            self._appended += len(events)
            return self._appended

    def _bounded(self, record: bytes) -> bytes:
        if len(record) > self.record_bytes_max:
            raise RecordTooLargeError(
                f"the record has {len(record)} bytes, record_bytes_max is {self.record_bytes_max}"
            )
        return record

    def flush(self, timeout_s: float) -> FlushReport:
        """Everything appended is acknowledged: it is stored."""
        del timeout_s
        with self._lock:
            return FlushReport(acknowledged=self._appended, pending=0, positions=self._positions())

    def close(self, timeout_s: float) -> FlushReport:
        """As `flush`; what is stored stays readable."""
        return self.flush(timeout_s)

    def _positions(self) -> dict[str, int]:
        return {f"memory/{self.source_id}": self._appended}

    # StorageWriter: bare writes, deduplicated by call id like any other's.

    async def initialize(self) -> None:
        """Nothing to create."""

    async def start_run(self, run: SkillRun) -> None:
        """Record the run with status `running`; a second start of a known run changes nothing."""
        run = validation.check_run(run)
        self.apply_event(
            RunStarted(
                run_id=run.id,
                seq=NO_SEQ,
                at_us=to_us(run.started_at),
                tag=0,
                skill_id=run.skill_id,
                caller_id=run.caller_id,
                channel_id=run.channel_id,
                parent_run_id=run.parent_run_id,
                salt="",
                source_id="",
                source_seq=0,
                clock="",
                inputs_json=orjson.dumps(run.inputs),
                attributes_json=orjson.dumps(run.attributes),
                by=_BARE,
                call_id=uuid7(),
            )
        )

    async def append_log(self, log: SkillRunLog) -> None:
        """Add one event; a repeated `(run_id, sequence)` changes nothing."""
        validation.check_log(log)
        self.apply_event(
            RunLog(
                run_id=log.run_id,
                seq=log.sequence,
                at_us=to_us(log.created_at),
                tag=0,
                event_type=log.event_type,
                payload_json=log.payload_json,
                by=_BARE,
                call_id=uuid7(),
            )
        )

    async def finish_run(self, run_id: str, stats: RunStats) -> None:
        """Set the terminal state; the last call wins."""
        validation.check_stats(run_id, stats)
        self.apply_event(
            RunFinished(
                run_id=run_id,
                seq=NO_SEQ,
                at_us=self._clock.wall_us(),
                tag=0,
                status=stats.status,
                output=stats.output,
                error=stats.error,
                tool_calls=stats.tool_calls,
                runtime_us=runtime_us(stats.runtime_seconds),
                input_tokens=stats.input_tokens,
                output_tokens=stats.output_tokens,
                thinking_tokens=stats.thinking_tokens,
                events=0,
                source_id="",
                source_seq=0,
                head="",
                lost="",
                lost_ranges=(),
                by=_BARE,
                call_id=uuid7(),
            )
        )


def _key_of(event: Event) -> str:
    return (
        event.source_id if isinstance(event, SourceOpened | SourceHeartbeat | SourceClosed) else event.run_id
    )
