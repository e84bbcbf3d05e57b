"""What goes wrong with records is in the consumer's log, by name and number, and does not flood it."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import pytest
from tests.consumer import support
from tests.consumer.test_metrics import heard_of
from tests.consumer.test_service import ListSource, running

from skillaudit.consumer.losses import HOSTS_MAX, LossLog, Told
from skillaudit.contract.clock import ManualClock
from skillaudit.contract.runrecord import Outcome
from skillaudit.contract.settings import Settings
from skillaudit.contract.telling import TELL_INTERVAL_S


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    caplog.clear()
    return found


async def test_each_kind_is_said_with_its_number(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Conflicts, dead letters, what hosts were refused and have lost; nothing of records that are in order."""
    values = [
        *heard_of(1, "north", refused=2, lost=1_668),
        *heard_of(2, "south", lost=1),
        *heard_of(3, "west"),
        support.start(),
        support.log(1),
        support.log(1),
        support.log(1, variant=1),
        support.log(1, variant=2),
        b"no event",
    ]
    async with running(Settings(data=tmp_path), ListSource(support.records(values))):
        pass
    told = said(caplog)
    assert [text.partition(":")[0] for text in told if "conflicts" in text] == [
        "2 records kept aside as conflicts"
    ]
    assert [text.partition(":")[0] for text in told if "letters" in text] == ["1 record kept as dead letters"]
    assert [text.partition(";")[0] for text in told if "refused" in text] == [
        "2 records refused for good by the broker, as heartbeats tell (host north)"
    ]
    assert [text.partition(";")[0] for text in told if "dropped" in text] == [
        "1,669 events dropped by agents in best effort, as heartbeats tell (hosts north, south)"
    ]
    assert len(told) == 4


async def test_what_is_in_order_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also what is delivered again, heartbeats among it."""
    values = [*support.whole_run(), *heard_of(1, "north")]
    async with running(Settings(data=tmp_path), ListSource(support.records(values * 2))):
        pass
    assert said(caplog) == []


def told(**losses: int) -> Told:
    found = Told()
    for host, lost in losses.items():
        found.add(host, 0, lost)
    return found


def test_a_flood_makes_one_line_an_interval(caplog: pytest.LogCaptureFixture) -> None:
    """For each kind by itself, with the count since and the hosts of that time; the rest at the end."""
    clock = ManualClock()
    losses = LossLog(clock)
    losses.take({Outcome.CONFLICT: 1}, Told())
    assert len(said(caplog)) == 1
    for _ in range(1_000):
        losses.take({Outcome.CONFLICT: 2, Outcome.STORED: 5}, told(a=1, b=2))
        losses.tell()
    (first,) = said(caplog)
    assert first.startswith("3 events dropped"), "another kind does not wait for the first"
    clock.now_us += int(TELL_INTERVAL_S * 1_000_000)
    losses.tell()
    conflicts, lost = said(caplog)
    assert conflicts.startswith("2,000 records kept aside")
    assert lost.startswith("2,997 events dropped")
    assert "(hosts a, b)" in lost
    losses.take({}, told(c=4))
    assert said(caplog) == []
    losses.tell(last=True)
    (rest,) = said(caplog)
    assert "4 events" in rest
    assert "(host c)" in rest


def test_names_of_hosts_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """A fleet of thousands does not fill memory or the line."""
    losses = LossLog(ManualClock())
    losses.take({}, told(first=1))
    losses.take({}, Told(lost=Counter({f"host{number}": 1 for number in range(10 * HOSTS_MAX)})))
    caplog.clear()
    losses.tell(last=True)
    (line,) = said(caplog)
    assert line.startswith(f"{10 * HOSTS_MAX:,} events dropped")
    assert len(line) < 300


def test_a_source_that_begins_anew_says_nothing() -> None:
    """Counts that went down are no losses, and take none back."""
    found = told(a=5)
    found.add("a", -2, -5)
    assert (found.refused.total(), found.lost.total()) == (0, 5)


async def test_a_run_without_start_and_finish_is_nobodys(tmp_path: Path) -> None:
    """It is named as incomplete; as nothing says whose it is, nobody's end makes it abandoned."""
    values = [support.opened(), support.log(1), support.log(2), support.closed()]
    async with running(Settings(data=tmp_path), ListSource(support.records(values))) as service:
        found = support.rows(service.database, "SELECT completeness, liveness, missing FROM main.orphans")
    assert found == [("incomplete", "open", "0")]
