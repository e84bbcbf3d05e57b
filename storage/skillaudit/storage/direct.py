"""Straight on a database file: each call is a batch of one record, committed when it returns. No outbox, no broker."""

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
from skillaudit.contract.errors import RunStateError
from skillaudit.contract.eventlog import FlushReport, RecordKind
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import SourceRecord
from skillaudit.query.reading import DuckDBReader

TOPIC: Final = "direct"


class DirectLog:
    """`EventLog` whose records are materialized before `append` returns; the partition is `direct/<database id>`."""

    def __init__(self, materializer: Materializer) -> None:
        """`materializer` stays the caller's."""
        self.source_id = materializer.database.database_id
        self.partition = f"{TOPIC}/{self.source_id}"
        self._materializer = materializer
        self._guard = threading.Lock()
        self._closed = False
        stored = materializer.positions().get(self.partition)
        self._next = stored.next_offset if stored else 0

    def append(self, key: str, record: bytes, kind: RecordKind, *, wait_ms: int) -> int:
        """As `EventLog.append`; never waits for room."""
        return self.append_many(((key, record, kind),), wait_ms=wait_ms)

    def append_many(self, items: Sequence[tuple[str, bytes, RecordKind]], *, wait_ms: int) -> int:
        """As `EventLog.append_many`: one transaction."""
        del wait_ms
        with self._guard:
            if self._closed:
                raise RunStateError("this storage is closed")
            records = [
                SourceRecord(self.partition, offset, offset + 1, 0, key.encode(), record)
                for offset, (key, record, _) in enumerate(items, self._next)
            ]
            self._materializer.apply(records)
            self._next += len(records)
            self._tidy()
            return self._next - 1

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
    """Purges through the materializer."""

    def __init__(self, materializer: Materializer) -> None:
        """`materializer` stays the caller's."""
        self._materializer = materializer

    async def purge_older_than(self, t: datetime) -> int:
        """As `StorageAdmin.purge_older_than`."""
        return await asyncio.to_thread(purge_older_than, self._materializer, t)


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
    return log, reader, DirectAdmin(materializer)
