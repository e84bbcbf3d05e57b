"""The consumer's metrics: troubles as stored, and every host's share as its agents' heartbeats tell it."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.consumer import support
from tests.consumer.test_service import ListSource, running
from tests.support.waiting import until

from skillaudit.consumer.metrics import ServiceCollector
from skillaudit.consumer.service import ConsumerService
from skillaudit.contract import events
from skillaudit.contract.clock import ManualClock
from skillaudit.contract.events import SourceCounts
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import RecordBatch, SourceRecord

NOW_US = 1_700_000_000_000_000
QUIET_US = 90_000_000


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path)


def heard_of(number: int, host: str, **counts: int) -> list[bytes]:
    """A source's opening and one heartbeat."""
    source_id = f"{number:032x}"
    told = SourceCounts(runs_started=0, runs_finished=0, open=(), **counts)
    return [
        events.encode_source_opened(source_id, NOW_US, host, number, "boot", "manual", "1"),
        events.encode_heartbeat(source_id, NOW_US, 1, told),
    ]


def figures(service: ConsumerService, clock: ManualClock) -> dict[str, float]:
    return {
        f"{sample.name}{sorted(sample.labels.values())}": sample.value
        for family in ServiceCollector(service, clock).collect()
        for sample in family.samples
    }


async def test_a_hosts_share_is_summed_over_its_sources(settings: Settings) -> None:
    """A stuck forwarder shows at the consumer: the backlog, the age of its oldest event, how long nothing was heard."""
    values = [
        *heard_of(1, "north", backlog_records=3, backlog_bytes=300, oldest_us=NOW_US - 70_000_000, refused=1),
        *heard_of(2, "north", backlog_records=4, backlog_bytes=400, oldest_us=NOW_US - 50_000_000, lost=5),
        *heard_of(3, "south"),
    ]
    records = support.records(values, received_us=NOW_US)
    # Of the other partition everything is read that came until later: nothing was heard of the hosts since.
    records += support.records([support.start()], partition="t/1", received_us=NOW_US + QUIET_US)
    async with running(settings, ListSource(records)) as service:
        found = figures(service, ManualClock(NOW_US))
    assert found["skillaudit_host_backlog_records['north']"] == 7
    assert found["skillaudit_host_backlog_bytes['north']"] == 700
    assert found["skillaudit_host_oldest_unforwarded_seconds['north']"] == 70
    assert found["skillaudit_host_oldest_unforwarded_seconds['south']"] == 0
    assert found["skillaudit_host_refused_records['north']"] == 1
    assert found["skillaudit_host_lost_events['north']"] == 5
    assert found["skillaudit_host_sources['live', 'north']"] == 2
    assert found["skillaudit_host_silence_seconds['north']"] == 0, "the other partition is not read so far"


async def test_troubles_are_counted_as_stored(settings: Settings) -> None:
    """Conflicts, orphans, dead letters by state, incidents by kind."""
    values = [
        support.start(),
        support.log(1),
        support.log(1, variant=1),
        support.log(1, run=1),
        b"no event",
    ]
    async with running(settings, ListSource(support.records(values))) as service:
        found = figures(service, ManualClock(NOW_US))
    assert found["skillaudit_conflicts[]"] == 1
    assert found["skillaudit_orphans[]"] == 1
    assert found["skillaudit_dead_letters['waiting']"] == 1
    assert found["skillaudit_incidents['conflict']"] == 1


async def test_a_closed_database_leaves_the_state(settings: Settings) -> None:
    """A scrape while the service starts or after it failed tells that, and does not fail itself."""
    found = figures(ConsumerService(settings), ManualClock(NOW_US))
    assert found["skillaudit_consumer_up[]"] == 0
    assert not any(name.startswith("skillaudit_host") for name in found)


class HalfSource(ListSource):
    """Says that more waits in one partition than it ever gives."""

    def __init__(self, records: list[SourceRecord], ends: Mapping[str, int]) -> None:
        super().__init__(records)
        self._ends = ends

    async def poll(self, records_max: int, timeout_ms: int) -> RecordBatch:
        batch = await super().poll(records_max, timeout_ms)
        return RecordBatch(batch.records, self._ends)


async def test_lag_and_position_are_told_by_partition(settings: Settings) -> None:
    """One that stands still shows: its lag stays, and its position does not move."""
    values = support.whole_run()
    source = HalfSource(support.records(values), {"t/0": len(values), "t/1": 50_000})
    service, stop = ConsumerService(settings, source=lambda _: source), asyncio.Event()
    running_it = asyncio.create_task(service.run(stop))
    try:
        await until(lambda: len(service.status.lag) == 2)
        found = figures(service, ManualClock(NOW_US))
    finally:
        stop.set()
        await running_it
    assert found["skillaudit_consumer_lag_offsets['t/0']"] == 0
    assert found["skillaudit_consumer_position_offsets['t/0']"] == len(values)
    assert found["skillaudit_consumer_lag_offsets['t/1']"] == 50_000
    assert found["skillaudit_consumer_position_offsets['t/1']"] == 0
