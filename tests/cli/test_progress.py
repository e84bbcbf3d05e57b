"""What `consume` says while it works: not only that it is behind, but where, and what is wrong. What `verify` says."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.attacks.world import Tampered, build
from tests.query.test_verifying import HERE, SEALS, Paused

from skillaudit.cli.consume import lag_text, progress_text
from skillaudit.cli.running import ProgressLine
from skillaudit.cli.verify import _check
from skillaudit.consumer.figures import HostFigures, StoredFigures
from skillaudit.consumer.status import ServiceState, ServiceStatus
from skillaudit.contract.memory import MemoryStorage
from skillaudit.proof.verify import VerifyRequest
from skillaudit.query.server import HttpServer, create_app
from skillaudit.query.verifying import Checks

NOW_US = 1_700_000_000_000_000


def host(name: str, *, oldest_s: int = 0, refused: int = 0, lost: int = 0) -> HostFigures:
    oldest_us = NOW_US - oldest_s * 1_000_000 if oldest_s else 0
    return HostFigures(name, 1, 0, 0, 0, oldest_us, NOW_US, refused, lost)


def test_lag_names_the_partitions_that_are_furthest_behind() -> None:
    """A partition that stands still does not vanish in the sum."""
    assert lag_text({}) == "0 behind"
    assert lag_text({"events/0": 0}) == "0 behind"
    assert lag_text({"events/0": 2, "events/1": 0, "events/2": 50_000}) == (
        "50,002 behind (events/2 50,000, events/0 2)"
    )
    assert lag_text({f"events/{number}": number for number in range(6)}) == (
        "15 behind (events/5 5, events/4 4, events/3 3 and 2 more)"
    )


def test_troubles_losses_and_age_are_named() -> None:
    """With their numbers; the age is that of the host where the oldest event waits."""
    status = ServiceStatus(ServiceState.RUNNING, records=1_200, rate=300.4, lag={"events/1": 7})
    figures = StoredFigures(
        [("conflicts", "", 3), ("dead_letters", "waiting", 1), ("dead_letters", "replayed", 9)],
        [host("north", oldest_s=70, refused=2, lost=1_668), host("south", oldest_s=50, lost=1), host("west")],
    )
    assert progress_text(status, figures, NOW_US) == (
        "running: 1,200 records, 300/s, 7 behind (events/1 7), 3 conflicts, 1 dead letter, 2 refused, 1,669 lost, "
        "the oldest not forwarded waits for 70 s"
    )


def test_what_is_in_order_is_short() -> None:
    """And what keeps it from its work comes last."""
    status = ServiceStatus(ServiceState.RUNNING, records=1)
    assert (
        progress_text(status, StoredFigures((), [host("north")]), NOW_US)
        == "running: 1 record, 0/s, 0 behind"
    )
    status.last_error = "the broker does not answer"
    assert progress_text(status, None, NOW_US) == (
        "running: 1 record, 0/s, 0 behind, the broker does not answer"
    )


class LetGo(ProgressLine):
    """A line that lets the paused check go on once it was told."""

    def __init__(self, paused: Paused) -> None:
        super().__init__(interval_s=0.001)
        self._paused = paused

    def show(self, text) -> None:
        super().show(text)
        if text().startswith("ledger: numbering"):
            self._paused.go.set()


async def test_a_check_says_how_far_it_is_without_a_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """On stderr, a line each, with counts and share, and nothing that only a terminal understands."""
    world = build(tmp_path / "world")
    tampered = Tampered(world, world.path)
    paused = Paused(tampered.connection.cursor, SEALS)
    async with HttpServer(create_app(MemoryStorage(), checks=Checks(paused)), HERE) as server:
        report = await _check(replace(HERE, url=server.url), VerifyRequest(), None, LetGo(paused))
    tampered.close()
    said = capfd.readouterr()
    assert report.runs == 36
    assert "ledger: numbering 1 of 4 (25 %)" in said.err.splitlines()
    assert re.fullmatch(r"(?:[a-z: ]+ [0-9,]+(?: of [0-9,]+ \([0-9]+ %\))?\n)+", said.err)
    assert said.out == ""
