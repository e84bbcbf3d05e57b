"""The write half of a bare Storage on an event log: the same pipeline an agent's Writer feeds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping

from skillaudit.contract.clock import Clock, SystemClock, to_us, uuid7
from skillaudit.contract.eventlog import EventLog, FlushReport, RecordKind
from skillaudit.contract.events import encode_storage_finish, encode_storage_log, encode_storage_start
from skillaudit.contract.records import RunStats, SkillRun, SkillRunLog
from skillaudit.contract.validation import check_log, check_run, check_stats


class LogWriter:
    """`StorageWriter` that appends each call as one record to an event log.

    A call returns once its record would survive the death of this process. `flush` makes the positions known that a
    reader has to reach; nothing is appended twice, since each call has an id of its own.
    """

    def __init__(self, log: EventLog, *, wait_ms: int, clock: Clock | None = None) -> None:
        """`wait_ms`: how long a call waits for room in the log before it raises `OutboxFullError`."""
        self._log = log
        self._wait_ms = wait_ms
        self._clock = clock or SystemClock()
        self._guard = threading.Lock()
        self._written = 0
        self._flushed = 0
        """How many of the appends that have returned are known to be acknowledged."""
        self._positions: Mapping[str, int] = {}
        self._flushing = asyncio.Lock()

    async def initialize(self) -> None:
        """Nothing to create: the consumer owns the schema, the log makes its files at the first append."""

    async def start_run(self, run: SkillRun) -> None:
        """Append a start."""
        checked = check_run(run)
        await self._append(
            run.id, encode_storage_start(checked, to_us(run.started_at), uuid7()), RecordKind.RESERVED
        )

    async def append_log(self, log: SkillRunLog) -> None:
        """Append a log."""
        check_log(log)
        await self._append(
            log.run_id, encode_storage_log(log, to_us(log.created_at), uuid7()), RecordKind.LOG
        )

    async def finish_run(self, run_id: str, stats: RunStats) -> None:
        """Append a finish; `finished_at` is now."""
        check_stats(run_id, stats)
        record = encode_storage_finish(run_id, stats, self._clock.wall_us(), uuid7())
        await self._append(run_id, record, RecordKind.RESERVED)

    async def flush(self, timeout_s: float) -> FlushReport | None:
        """Wait until what was written is acknowledged; None where that is so already. Readers that come together share
        one flush: each needs one that began after its own writes, and the first of them brings that for all.
        """
        with self._guard:
            written, flushed = self._written, self._flushed
        if flushed >= written:
            return None
        try:
            async with asyncio.timeout(timeout_s):
                await self._flushing.acquire()
        except TimeoutError:
            return FlushReport(acknowledged=flushed, pending=written - flushed)
        try:
            if self._flushed >= written:
                return None
            return await asyncio.to_thread(self._flush, timeout_s)
        finally:
            self._flushing.release()

    @property
    def positions(self) -> Mapping[str, int]:
        """What the flushes reported: the token for reading one's own writes."""
        with self._guard:
            return self._positions

    async def aclose(self, timeout_s: float) -> FlushReport:
        """Flush and release the log."""
        return await asyncio.to_thread(self._log.close, timeout_s)

    def _flush(self, timeout_s: float) -> FlushReport:
        with self._guard:
            written = self._written
        report = self._log.flush(timeout_s)
        with self._guard:
            self._positions = _furthest(self._positions, report.positions)
            if not report.pending:
                self._flushed = max(self._flushed, written)
        return report

    async def _append(self, key: str, record: bytes, kind: RecordKind) -> None:
        await asyncio.to_thread(self._append_here, key, record, kind)

    def _append_here(self, key: str, record: bytes, kind: RecordKind) -> None:
        self._log.append(key, record, kind, wait_ms=self._wait_ms)
        # Counted when it is there: a flush that runs meanwhile may not have seen it, and must not count for it.
        with self._guard:
            self._written += 1


def _furthest(one: Mapping[str, int], other: Mapping[str, int]) -> Mapping[str, int]:
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in (*one, *other)}
