"""Straight on a database file: what a call wrote is committed when it returns. No outbox, no broker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Final

from skillaudit.consumer.database import open_database
from skillaudit.consumer.materializer import Materializer, MaterializerPolicy
from skillaudit.consumer.purge import purge_older_than
from skillaudit.contract.errors import DatabaseError, RunStateError, SkillauditError
from skillaudit.contract.eventlog import FlushReport, RecordKind
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import SourceRecord
from skillaudit.query.reading import DuckDBReader

TOPIC: Final = "direct"


class _Call:
    """One call of `append_many` and what became of it."""

    __slots__ = ("done", "error", "items", "position")

    def __init__(self, items: Sequence[tuple[str, bytes, RecordKind]]) -> None:
        self.items = items
        self.done = False
        self.position = -1
        self.error: BaseException | None = None

    def end(self, *, position: int = -1, error: BaseException | None = None) -> None:
        self.position, self.error, self.done = position, error, True


class DirectLog:
    """`EventLog` whose records are materialized before `append` returns; the partition is `direct/<database id>`."""

    def __init__(self, materializer: Materializer) -> None:
        """`materializer` stays the caller's."""
        self.source_id = materializer.database.database_id
        self.partition = f"{TOPIC}/{self.source_id}"
        self._materializer = materializer
        self._guard = threading.Lock()
        """Whoever holds it writes."""
        self._queue_guard = threading.Lock()
        self._queue: list[_Call] = []
        self._closed = False
        stored = materializer.positions().get(self.partition)
        self._next = stored.next_offset if stored else 0

    def append(self, key: str, record: bytes, kind: RecordKind, *, wait_ms: int) -> int:
        """As `EventLog.append`; never waits for room."""
        return self.append_many(((key, record, kind),), wait_ms=wait_ms)

    def append_many(self, items: Sequence[tuple[str, bytes, RecordKind]], *, wait_ms: int) -> int:
        """As `EventLog.append_many`. What arrives while a transaction is under way shares the next one."""
        del wait_ms
        call = _Call(items)
        with self._queue_guard:
            self._queue.append(call)
        with self._guard:
            if not call.done:
                self._write_queue()
        if call.error is not None:
            raise call.error
        return call.position

    def _write_queue(self) -> None:
        with self._queue_guard:
            calls, self._queue = self._queue, []
        try:
            self._write_together(calls)
        finally:
            for call in calls:
                if not call.done:
                    call.end(error=DatabaseError("a write that shared the transaction failed unexpectedly"))
        self._tidy()

    def _write_together(self, calls: Sequence[_Call]) -> None:
        if self._closed:
            for call in calls:
                call.end(error=RunStateError("this storage is closed"))
            return
        try:
            self._write(calls)
        except SkillauditError:  # nothing of it was written; each alone shows whose fault it was
            for call in calls:
                try:
                    self._write([call])
                except SkillauditError as exc:
                    call.end(error=exc)

    def _write(self, calls: Sequence[_Call]) -> None:
        items = [item for call in calls for item in call.items]
        records = [
            SourceRecord(self.partition, offset, offset + 1, 0, key.encode(), record)
            for offset, (key, record, _) in enumerate(items, self._next)
        ]
        self._materializer.apply(records)
        for call in calls:
            self._next += len(call.items)
            call.end(position=self._next - 1)

    def flush(self, timeout_s: float) -> FlushReport:
        """As `EventLog.flush`: nothing is ever pending."""
        del timeout_s
        return FlushReport(acknowledged=self._next, pending=0, positions={self.partition: self._next})

    def close(self, timeout_s: float) -> FlushReport:
        """As `EventLog.close`."""
        with self._guard:
            self._closed = True
        return self.flush(timeout_s)

    def _tidy(self) -> None:
        """Nobody else does it here: seal a full hot table, and write a long log into the file."""
        sealer = self._materializer.sealer
        if sealer.due:
            sealer.seal()
        elif sealer.checkpoint_due:
            sealer.checkpoint()


class DirectAdmin:
    """Purges through the materializer. There is no control log: nothing could be rebuilt that it would be read for."""

    def __init__(self, materializer: Materializer, *, min_days: int = 0) -> None:
        """`materializer` stays the caller's; `min_days`: younger runs are kept."""
        self._materializer = materializer
        self._min_days = min_days

    async def purge_older_than(self, t: datetime) -> int:
        """As `StorageAdmin.purge_older_than`."""
        return await asyncio.to_thread(purge_older_than, self._materializer, t, min_days=self._min_days)


async def open_direct(
    settings: Settings, resources: AsyncExitStack
) -> tuple[DirectLog, DuckDBReader, DirectAdmin]:
    """The three parts over `settings.database`, owned until `resources` is closed."""
    database = await asyncio.to_thread(open_database, settings.database)
    resources.push_async_callback(asyncio.to_thread, database.close)
    materializer = await asyncio.to_thread(
        Materializer,
        database,
        identity=f"direct:{database.database_id}",
        policy=MaterializerPolicy(seal_rows=settings.seal_rows),
    )
    resources.push_async_callback(asyncio.to_thread, materializer.close)
    reader = DuckDBReader(database.cursor, settings=settings)
    resources.push_async_callback(reader.aclose)
    log = DirectLog(materializer)
    resources.push_async_callback(asyncio.to_thread, log.close, 0)
    return log, reader, DirectAdmin(materializer, min_days=settings.min_retention_days)
