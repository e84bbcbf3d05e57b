"""The consumer's metrics: troubles as stored, and every host's share as its agents' heartbeats tell it."""

from pathlib import Path

import pytest
from tests.consumer import support
from tests.consumer.test_service import ListSource, running

from skillaudit.consumer.metrics import ServiceCollector
from skillaudit.consumer.service import ConsumerService
from skillaudit.contract import events
from skillaudit.contract.clock import ManualClock
from skillaudit.contract.events import SourceCounts
from skillaudit.contract.settings import Settings

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
