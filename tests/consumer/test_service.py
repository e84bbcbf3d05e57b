"""The service around the materializer: how it ends, what it keeps of its end, and what it does by the clock."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import until

from skillaudit.consumer.acts import record_stop
from skillaudit.consumer.database import Database, open_database
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.service import ConsumerService
from skillaudit.consumer.status import ServiceState
from skillaudit.contract.clock import to_us, uuid7
from skillaudit.contract.errors import DatabaseError, HistoryLostError, LockedError, RetryableError
from skillaudit.contract.events import encode_storage_log, encode_storage_start
from skillaudit.contract.records import SkillRun, SkillRunLog
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import RecordBatch, SourceRecord, StoredPosition

WAIT_S = 10.0


class ListSource:
    """A source that gives one batch, then nothing; or refuses to open."""

    def __init__(
        self, records: list[SourceRecord], *, identity: str = "kafka:one", error: Exception | None = None
    ):
        self.identity = identity
        self._records = records
        self._error = error

    async def open(self, positions: Mapping[str, StoredPosition]) -> None:
        if self._error is not None:
            raise self._error

    async def poll(self, records_max: int, timeout_ms: int) -> RecordBatch:
        if self._records:
            given, self._records = self._records, []
            return RecordBatch(given)
        await asyncio.sleep(0.001)
        return RecordBatch()

    async def ends(self) -> Mapping[str, int]:
        return {}

    async def commit(self, positions: Mapping[str, int]) -> None:
        pass

    async def close(self) -> None:
        pass


def start_record(
    run_id: str, started_at: datetime, *, partition: str = "t/0", offset: int = 0, received_us: int = 0
):
    run = SkillRun(id=run_id, skill_id="s", started_at=started_at)
    return SourceRecord(
        partition,
        offset,
        offset + 1,
        received_us,
        None,
        encode_storage_start(run, to_us(started_at), uuid7()),
    )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path)


@contextlib.asynccontextmanager
async def running(settings: Settings, source: Any) -> AsyncGenerator[ConsumerService]:
    service, stop = ConsumerService(settings, source=lambda _: source), asyncio.Event()
    await service.start()
    task = asyncio.create_task(service.run(stop))
    try:
        async with asyncio.timeout(WAIT_S):
            await service.caught_up.wait()
            yield service
    finally:
        stop.set()
        await task


def rows(settings: Settings, query: str) -> list[tuple[Any, ...]]:
    with open_database(settings.database) as database, contextlib.closing(database.cursor()) as cursor:
        return cursor.execute(query).fetchall()


async def test_a_service_that_cannot_start_says_why(settings: Settings) -> None:
    """`run` without `start` raises what stood in the way, and closing again does nothing."""
    with open_database(settings.database):
        service = ConsumerService(settings, source=lambda _: ListSource([]))
        with pytest.raises(LockedError):
            await service.run(asyncio.Event())
        await service.close()
    assert service.status.state is ServiceState.FAILED
    with pytest.raises(DatabaseError, match="is already open in this process"):
        service.cursor()


async def test_history_lost_at_the_start_is_an_incident_told_once(settings: Settings) -> None:
    """A supervisor that starts it into the same trouble again and again fills no table."""
    for _ in range(3):
        service = ConsumerService(
            settings, source=lambda _: ListSource([], error=HistoryLostError("t/0 is gone"))
        )
        with pytest.raises(HistoryLostError):
            await service.start()
    assert rows(settings, "SELECT kind, detail FROM store.incidents") == [("HistoryLost", "t/0 is gone")]


async def test_a_reader_that_waits_hears_when_the_service_stops(settings: Settings) -> None:
    """Nothing moves any more: no reason to wait for the whole time allowed."""
    async with running(settings, ListSource([])) as service:
        waiting = asyncio.create_task(service.wait_for({"t/0": 5}, 60))
    with pytest.raises(DatabaseError, match="stopped"):
        await asyncio.wait_for(waiting, WAIT_S)


async def test_another_kind_of_source_may_feed_the_same_database(settings: Settings) -> None:
    """Embedded first and through a broker later is no lost history; another cluster is."""
    now = datetime.now(UTC)
    async with running(
        settings, ListSource([start_record("a", now, partition="outbox/1")], identity="outbox:1")
    ):
        pass
    async with running(settings, ListSource([start_record("b", now)], identity="kafka:one")):
        pass
    with pytest.raises(HistoryLostError, match="kafka:one"):
        await ConsumerService(settings, source=lambda _: ListSource([], identity="kafka:two")).start()
    assert rows(settings, "SELECT id FROM runs ORDER BY id") == [("a",), ("b",)]


def orphan_record(run_id: str, made_at: datetime, *, offset: int, received_us: int) -> SourceRecord:
    log = SkillRunLog(run_id=run_id, sequence=1, event_type="step", payload={}, created_at=made_at)
    value = encode_storage_log(log, to_us(made_at), uuid7())
    return SourceRecord("t/0", offset, offset + 1, received_us, None, value)


async def test_retention_counts_from_the_later_of_start_and_arrival(tmp_path: Path) -> None:
    """`retention_days` deletes what began and arrived before; a host's wrong clock must not delete its evidence. Of runs
    whose start never came the first record counts.
    """
    old = datetime.now(UTC) - timedelta(days=40)
    records = [
        start_record("old", old, offset=0, received_us=to_us(old)),
        start_record("arrived now", old, offset=1, received_us=to_us(datetime.now(UTC))),
        start_record("embedded, arrived now", old, offset=2),
        orphan_record("old orphan", datetime.now(UTC), offset=3, received_us=to_us(old)),
        orphan_record("orphan of now", old, offset=4, received_us=to_us(datetime.now(UTC))),
    ]
    keeping = Settings(data=tmp_path, retention_days=30)
    async with running(keeping, ListSource(records)):
        pass
    assert rows(keeping, "SELECT id FROM runs ORDER BY id") == [("arrived now",), ("embedded, arrived now",)]
    assert rows(keeping, "SELECT id FROM orphans") == [("orphan of now",)]
    assert rows(keeping, "SELECT policy, runs FROM purges") == [("retention", 1)] * 2


def test_what_stopped_it_is_kept_again_after_something_else(settings: Settings) -> None:
    """Only repetitions of the newest incident are left out."""
    with open_database(settings.database) as database:
        materializer = Materializer(database)
        for detail in ("x", "x", "y", "x"):
            record_stop(materializer, HistoryLostError(detail))
        materializer.close()
    assert [row[0] for row in rows(settings, "SELECT detail FROM store.incidents ORDER BY id")] == [
        "x",
        "y",
        "x",
    ]


class BusyMaterializer:
    """Refuses the first batches as a seal in flight does."""

    def __init__(self, materializer: Materializer, refusals: list[str]) -> None:
        self._materializer = materializer
        self._refusals = refusals

    def __getattr__(self, name: str) -> Any:
        return getattr(self._materializer, name)

    def apply(self, *args: Any) -> Any:
        if self._refusals:
            raise RetryableError(self._refusals.pop())
        return self._materializer.apply(*args)


class BusyService(ConsumerService):
    """A service over such a materializer."""

    refusals: list[str]

    def make_materializer(self, database: Database) -> Any:
        return BusyMaterializer(super().make_materializer(database), self.refusals)


async def test_a_batch_that_cannot_be_taken_now_is_taken_later(settings: Settings) -> None:
    """Nothing of it was committed: the service says so and applies the same batch again, it does not end."""
    service = BusyService(settings, source=lambda _: ListSource([start_record("a", datetime.now(UTC))]))
    service.refusals = ["a seal is still running"] * 2
    stop = asyncio.Event()
    task = asyncio.create_task(service.run(stop))
    async with asyncio.timeout(WAIT_S):
        await service.caught_up.wait()
    assert service.status.state is ServiceState.RUNNING
    stop.set()
    await task
    assert rows(settings, "SELECT id FROM runs") == [("a",)]


async def test_a_service_that_waits_for_its_turn_can_be_stopped(settings: Settings) -> None:
    """The batch is read again at the next start."""
    service = BusyService(settings, source=lambda _: ListSource([start_record("a", datetime.now(UTC))]))
    service.refusals = ["a seal is still running"] * 1_000
    stop = asyncio.Event()
    task = asyncio.create_task(service.run(stop))
    async with asyncio.timeout(WAIT_S):
        await until(lambda: service.status.state is ServiceState.RETRYING)
        stop.set()
        await task
    assert service.status.state is ServiceState.STOPPED
    assert rows(settings, "SELECT count(*) FROM runs") == [(0,)]
