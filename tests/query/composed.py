"""Storages for the conformance suites: the readers under test, with a write half beside them."""

import threading

from skillaudit.consumer.database import Database
from skillaudit.consumer.materializer import Materializer
from skillaudit.contract import events, validation
from skillaudit.contract.clock import to_us, utc_now, uuid7
from skillaudit.contract.memory import MemoryStorage
from skillaudit.contract.records import RunStats, SkillRun, SkillRunLog
from skillaudit.contract.sources import SourceRecord
from skillaudit.query.client import HttpReader
from skillaudit.query.reading import DuckDBReader


class MemoryBehindHttp(HttpReader):
    """Writes straight into a MemoryStorage, reads and purges through a server in front of it."""

    def __init__(self, url: str, memory: MemoryStorage, token: str | None = None) -> None:
        super().__init__(url, token=token)
        self._memory = memory

    async def initialize(self) -> None:
        await self._memory.initialize()

    async def start_run(self, run: SkillRun) -> None:
        await self._memory.start_run(run)

    async def append_log(self, log: SkillRunLog) -> None:
        await self._memory.append_log(log)

    async def finish_run(self, run_id: str, stats: RunStats) -> None:
        await self._memory.finish_run(run_id, stats)


class DatabaseStorage(DuckDBReader):
    """Reads the views; what was written before a read goes through the materializer as one batch."""

    PARTITION = "outbox/" + "a" * 32

    def __init__(self, database: Database, **options) -> None:
        super().__init__(self._cursor, **options)
        self._database = database
        self._materializer = Materializer(database)
        self._pending: list[SourceRecord] = []
        self._offset = 0
        self._lock = threading.Lock()

    def _cursor(self):
        with self._lock:
            batch, self._pending = self._pending, []
            if batch:
                self._materializer.apply(batch)
        return self._database.cursor()

    async def initialize(self) -> None:
        """`open_database` did it."""

    async def start_run(self, run: SkillRun) -> None:
        run = validation.check_run(run)
        await self.apply(run.id, events.encode_storage_start(run, to_us(run.started_at), uuid7()))

    async def append_log(self, log: SkillRunLog) -> None:
        validation.check_log(log)
        await self.apply(log.run_id, events.encode_storage_log(log, to_us(log.created_at), uuid7()))

    async def finish_run(self, run_id: str, stats: RunStats) -> None:
        validation.check_stats(run_id, stats)
        await self.apply(run_id, events.encode_storage_finish(run_id, stats, to_us(utc_now()), uuid7()))

    async def purge_older_than(self, t) -> int:
        raise NotImplementedError("purging is the consumer's")

    async def apply(self, key: str, value: bytes) -> None:
        with self._lock:
            record = SourceRecord(self.PARTITION, self._offset, self._offset + 1, 0, key.encode(), value)
            self._offset += 1
            self._pending.append(record)
