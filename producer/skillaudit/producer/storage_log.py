"""An event log in front of any Storage: a background thread awaits the Storage's write half, in order.

For a Storage of somebody else's. What it means is the bare Storage's (`contract.storage`): no tags, no heads, no
heartbeats. The queue is in memory, bounded, and never drops: where it is full the call waits, then raises
`OutboxFullError`. A call that fails as `RetryableError` is made again, with growing pauses; one that fails otherwise is
counted as refused, named in the flush report, and the rest goes on.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import orjson

from skillaudit.contract import events
from skillaudit.contract.clock import from_us, uuid7
from skillaudit.contract.errors import OutboxFullError, RetryableError, StopError
from skillaudit.contract.eventlog import FlushReport, RecordKind, RefusedRecord
from skillaudit.contract.records import RunStats, SkillRun, SkillRunLog
from skillaudit.contract.storage import StorageWriter
from skillaudit.contract.words import counted
from skillaudit.producer._warning import warn

QUEUE_RECORDS_MAX: Final = 10_000
QUEUE_BYTES_MAX: Final = 64 * 1024 * 1024
REFUSED_MAX: Final = 1_000
"""Refused records named at most; more are only logged, and count neither as acknowledged nor as pending."""
_RESERVE_RECORDS: Final = 1_000
_BACKOFF_S_MIN: Final = 0.05
_BACKOFF_S_MAX: Final = 5.0
_JOIN_S: Final = 1.0
_EVENT_TYPE: Final = b'"event_type":'
_PAYLOAD: Final = b',"payload":'


class StorageLog:
    """The write half of a Storage as an `EventLog`."""

    takes_heartbeats = False

    def __init__(self, storage: StorageWriter, *, records_max: int = QUEUE_RECORDS_MAX) -> None:
        self._storage = storage
        self._records_max = records_max
        self._begin_process()

    def _begin_process(self) -> None:
        """A forked child has neither the thread nor any business with its parent's queue."""
        self._pid = os.getpid()
        self._source_id = uuid7().replace("-", "")
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._wake: Callable[[], object] | None = None
        self._closing = False
        self._appended = 0
        self._done = 0
        self._refused: list[RefusedRecord] = []
        self._refused_count = 0

    def __repr__(self) -> str:
        """How much waits."""
        return f"<StorageLog appended={self._appended} waiting={self._appended - self._done}>"

    @property
    def source_id(self) -> str:
        """Names this process's runs; a bare Storage keeps no trace of it."""
        self._notice_fork()
        return self._source_id

    def _notice_fork(self) -> None:
        if os.getpid() != self._pid:
            self._begin_process()

    def append(self, key: str, record: bytes, kind: RecordKind, *, wait_ms: int) -> int:
        """As `EventLog.append`, but in memory: it doesn't survive the process."""
        return self.append_many([(key, record, kind)], wait_ms=wait_ms)

    def append_many(self, items: Sequence[tuple[str, bytes, RecordKind]], *, wait_ms: int) -> int:
        """As `append` for several, all or none."""
        self._notice_fork()
        size_bytes = sum(len(record) for _, record, _ in items)
        reserve = 0 if any(kind is RecordKind.LOG for _, _, kind in items) else _RESERVE_RECORDS
        with self._changed:
            if self._closing:
                raise StopError("the sink of this storage is closed; make a new one")
            if not self._changed.wait_for(
                lambda: self._fits(len(items), size_bytes, reserve), wait_ms / 1_000
            ):
                raise OutboxFullError(
                    f"the storage is slower than its writers: {counted(len(self._queue), 'record')} waiting for it"
                )
            self._queue.extend(record for _, record, _ in items)
            self._queued_bytes += size_bytes
            self._appended += len(items)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="skillaudit-storage", daemon=True)
                self._thread.start()
            elif self._wake is not None:
                self._wake()
            return self._appended

    def flush(self, timeout_s: float) -> FlushReport:
        """As `EventLog.flush`."""
        self._notice_fork()
        with self._changed:
            target = self._appended
            self._changed.wait_for(lambda: self._done >= target, timeout_s)
            return FlushReport(
                acknowledged=max(self._done - self._refused_count, 0),
                pending=self._appended - self._done,
                refused=tuple(self._refused),
            )

    def close(self, timeout_s: float) -> FlushReport:
        """As `EventLog.close`. What is pending after `timeout_s` is gone with the process: memory is all there is."""
        report = self.flush(timeout_s)
        with self._changed:
            self._closing = True
            if self._wake is not None:
                self._wake()
        if self._thread is not None:
            self._thread.join(_JOIN_S)
        return report

    def has_room(self) -> bool:
        """Whether a log of usual size would be taken now."""
        self._notice_fork()
        return self._fits(1, 64 * 1024, 0)

    def _fits(self, records: int, size_bytes: int, reserve: int) -> bool:
        if not self._queue:
            return True
        room = QUEUE_BYTES_MAX + reserve * 64 * 1024 - self._queued_bytes
        return len(self._queue) + records <= self._records_max + reserve and size_bytes <= room

    def _run(self) -> None:
        import asyncio

        asyncio.run(self._forward())

    async def _forward(self) -> None:
        import asyncio

        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        with self._changed:
            self._wake = lambda: loop.call_soon_threadsafe(woken.set)
        await self._until_done(self._storage.initialize, "", 0)
        while True:
            woken.clear()
            while self._queue:
                record = self._queue[0]
                await self._write(record)
                with self._changed:
                    self._queue.popleft()
                    self._queued_bytes -= len(record)
                    self._done += 1
                    self._changed.notify_all()
            with self._changed:
                if self._closing and not self._queue:
                    self._wake = None
                    return
            await woken.wait()

    async def _write(self, record: bytes) -> None:
        members = orjson.loads(record)
        call = self._call(members, record)
        if call is not None:
            await self._until_done(call, members["run_id"], members["seq"])

    def _call(self, members: dict[str, Any], record: bytes) -> Callable[[], Awaitable[None]] | None:
        storage = self._storage
        match members["type"]:
            case events.STARTED:
                run = _run_of(members)
                return lambda: storage.start_run(run)
            case events.LOG:
                log = _log_of(members, record)
                return lambda: storage.append_log(log)
            case events.FINISHED:
                run_id, stats = members["run_id"], _stats_of(members)
                return lambda: storage.finish_run(run_id, stats)
            case _:
                return None  # a bare Storage knows nothing of sources

    async def _until_done(self, call: Callable[[], Awaitable[None]], run_id: str, seq: int) -> None:
        import asyncio

        pause_s = _BACKOFF_S_MIN
        while True:
            try:
                await call()
            except RetryableError:
                if self._closing:
                    return self._refuse(run_id, seq, "the storage was not to be had until the sink closed")
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _BACKOFF_S_MAX)
            except Exception as exc:  # noqa: BLE001  a foreign Storage may raise anything; the record counts as refused
                return self._refuse(run_id, seq, type(exc).__name__)
            else:
                return None

    def _refuse(self, run_id: str, seq: int, reason: str) -> None:
        with self._changed:
            self._refused_count += run_id != ""  # else it was `initialize`, no record
            if len(self._refused) < REFUSED_MAX:
                self._refused.append(RefusedRecord(run_id=run_id, seq=seq, reason=reason, path=""))
        warn("the storage refused event %d of run %s: %s", seq, run_id, reason)


def _run_of(members: dict[str, Any]) -> SkillRun:
    return SkillRun(
        id=members["run_id"],
        skill_id=members["skill_id"],
        caller_id=members["caller_id"],
        channel_id=members["channel_id"],
        parent_run_id=members["parent_run_id"],
        inputs=members["inputs"],
        attributes=members["attributes"],
        started_at=from_us(members["at_us"]),
    )


def _log_of(members: dict[str, Any], record: bytes) -> SkillRunLog:
    start = record.index(_PAYLOAD, record.index(_EVENT_TYPE)) + len(_PAYLOAD)
    return SkillRunLog(
        run_id=members["run_id"],
        sequence=members["seq"],
        event_type=members["event_type"],
        payload=members["payload"],
        payload_json=record[start:-1],
        created_at=from_us(members["at_us"]),
    )


def _stats_of(members: dict[str, Any]) -> RunStats:
    return RunStats(
        status=members["status"],
        output=members["output"],
        error=members["error"],
        tool_calls=members["tool_calls"],
        runtime_seconds=members["runtime_us"] / 1_000_000,
        input_tokens=members["input_tokens"],
        output_tokens=members["output_tokens"],
        thinking_tokens=members["thinking_tokens"],
    )
