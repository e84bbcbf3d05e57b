"""How a service begins: while the other side does not answer, and where history is lost that was given up beforehand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.consumer.test_service import ListSource, rows, running, start_record

from skillaudit.consumer.service import ConsumerService
from skillaudit.consumer.status import ServiceState
from skillaudit.contract.errors import HistoryLostError, UnreachableError
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import StoredPosition

WAIT_S = 10.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path)


class ForgetfulSource(ListSource):
    """Holds another history than the positions of these partitions were stored for."""

    def __init__(self, *lost: str) -> None:
        super().__init__([])
        self._lost = lost

    async def open(self, positions: Mapping[str, StoredPosition]) -> None:
        for name in self._lost:
            if name in positions:
                raise HistoryLostError(f"{name} is another one", name)


class AbsentSource(ListSource):
    """Does not answer the first times it is opened."""

    def __init__(self, attempts: int) -> None:
        super().__init__([start_record("later", datetime.now(UTC), offset=1)])
        self.attempts = attempts

    async def open(self, positions: Mapping[str, StoredPosition]) -> None:
        self.attempts -= 1
        if self.attempts >= 0:
            raise UnreachableError("nobody at the address")


@pytest.fixture
async def consumed(settings: Settings) -> Settings:
    """Two partitions of one topic were consumed, and one of another."""
    now = datetime.now(UTC)
    records = [start_record(name, now, partition=name) for name in ("t/0", "t/1", "u/0")]
    async with running(settings, ListSource(records)):
        pass
    return settings


def positions(settings: Settings) -> list[str]:
    return [row[0] for row in rows(settings, "SELECT partition FROM store.positions ORDER BY partition")]


@contextlib.asynccontextmanager
async def accepting(settings: Settings, source: ListSource, *accepted: str):
    service = ConsumerService(settings, source=lambda _: source, accept_history_loss=accepted)
    await service.start()
    try:
        yield service
    finally:
        await service.close()


async def test_only_what_is_lost_is_given_up(consumed: Settings) -> None:
    """An option left in a unit file costs nothing while nothing is lost."""
    for _ in range(2):
        async with accepting(consumed, ListSource([]), "t/*", "u/0", "not/7"):
            pass
    assert positions(consumed) == ["t/0", "t/1", "u/0"]
    assert rows(consumed, "SELECT kind FROM store.incidents") == []


async def test_all_of_a_topic_can_be_given_up(consumed: Settings) -> None:
    """`TOPIC/*` names every partition of it that turns out lost, and no other topic's; each is recorded."""
    async with accepting(consumed, ForgetfulSource("t/0", "t/1"), "t/*"):
        pass
    assert positions(consumed) == ["u/0"]
    assert rows(consumed, "SELECT kind, subject FROM store.incidents ORDER BY subject") == [
        ("history-loss-accepted", "t/0"),
        ("history-loss-accepted", "t/1"),
    ]


async def test_what_was_not_named_stops(consumed: Settings) -> None:
    """One partition's acceptance says nothing of another's."""
    with pytest.raises(HistoryLostError, match="t/1"):
        async with accepting(consumed, ForgetfulSource("t/1"), "t/0", "u/*"):
            pass
    assert positions(consumed) == ["t/0", "t/1", "u/0"]


async def test_what_is_stored_can_be_read_before_the_source_answers(consumed: Settings) -> None:
    """The service retries for ever, says so, and knows how far it is meanwhile."""
    service, stop = ConsumerService(consumed, source=lambda _: source), asyncio.Event()
    source = AbsentSource(2)
    await service.open()
    task = asyncio.create_task(service.run(stop))
    async with asyncio.timeout(WAIT_S):
        await service.tried.wait()
        assert service.status.state is ServiceState.RETRYING
        assert service.status.last_error == "nobody at the address"
        await service.wait_for({"t/0": 1, "u/0": 1}, 0)
        with contextlib.closing(service.cursor()) as cursor:
            assert cursor.execute("SELECT count(*) FROM main.runs").fetchone() == (3,)
        await service.wait_for({"t/0": 2}, WAIT_S)
    assert service.status.state is ServiceState.RUNNING
    stop.set()
    await task


async def test_a_service_can_be_told_to_end_before_the_source_answers(consumed: Settings) -> None:
    """It ends in order, whatever it waits for."""
    service, stop = ConsumerService(consumed, source=lambda _: AbsentSource(1_000)), asyncio.Event()
    await service.open()
    task = asyncio.create_task(service.run(stop))
    async with asyncio.timeout(WAIT_S):
        await service.tried.wait()
        stop.set()
        await task
    assert service.status.state is ServiceState.STOPPED
