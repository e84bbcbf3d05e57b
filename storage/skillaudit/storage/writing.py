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
        self._unflushed = False
        self._guard = threading.Lock()
        self._positions: Mapping[str, int] = {}

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
        """Wait until what was written is acknowledged; None where nothing was written since the last flush."""
        with self._guard:
            if not self._unflushed:
                return None
            self._unflushed = False
        report = await asyncio.to_thread(self._log.flush, timeout_s)
        with self._guard:
            self._positions = report.positions
            self._unflushed = self._unflushed or report.pending > 0
        return report

    @property
    def positions(self) -> Mapping[str, int]:
        """What the last flush reported: the token for reading one's own writes."""
        with self._guard:
            return self._positions

    async def aclose(self, timeout_s: float) -> FlushReport:
        """Flush and release the log."""
        return await asyncio.to_thread(self._log.close, timeout_s)

    async def _append(self, key: str, record: bytes, kind: RecordKind) -> None:
        # Marked before the append: a flush that runs in between waits for one record too many, never for one too few.
        with self._guard:
            self._unflushed = True
        await asyncio.to_thread(self._log.append, key, record, kind, wait_ms=self._wait_ms)
