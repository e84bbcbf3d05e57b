"""Two consumers of the same topics, each with a file of its own, and a third file made later: acts reach them all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.acts.support import hits, state
from tests.acts.test_surfaces import ORDER, record
from tests.conformance.compositions import kafka_settings
from tests.support.waiting import until

from skillaudit.consumer.service import ConsumerService
from skillaudit.contract.admin import HoldScope
from skillaudit.contract.errors import UnreachableError
from skillaudit.contract.settings import Settings
from skillaudit.storage.hosting import host_consumer
from skillaudit.storage.operations import ServiceOperations

pytestmark = pytest.mark.broker
SAME = ("runs", "events", "redactions", "run_salts", "acts", "leaves", "holds", "purges", "ledger")


@contextlib.asynccontextmanager
async def consuming(settings: Settings, runs: int) -> AsyncGenerator[ConsumerService]:
    """A consumer that has read so many runs, or tombstones of them."""
    async with host_consumer(settings, serve=False) as hosted:
        count = "SELECT (SELECT count(*) FROM runs WHERE finished_at IS NOT NULL) + (SELECT count(*) FROM tombstones)"

        async def all_there() -> bool:
            with contextlib.closing(hosted.service.cursor()) as cursor:
                return cursor.execute(count).fetchall() == [(runs,)]

        await until(all_there, 60)
        yield hosted.service


async def test_an_act_reaches_every_consumer_and_a_rebuild(tmp_path: Path, kafka_bootstrap: str) -> None:
    """Ordered of one, applied by the other, and again by one that begins with an empty file."""
    settings = await kafka_settings(tmp_path / "agent", kafka_bootstrap)
    one, two, three = (replace(settings, data=tmp_path / name) for name in ("one", "two", "three"))
    await record(settings, "purged", "redacted", "erased", "held")
    async with consuming(one, 4) as first, consuming(two, 4) as second:
        operations = ServiceOperations(first)
        await operations.hold(ORDER, HoldScope(runs=("held",)))
        await operations.purge(ORDER, runs=["purged"])
        await operations.redact(ORDER, "redacted", 1)
        await operations.erase(ORDER, ["erased"])
        other = ServiceOperations(second)
        await until(lambda: _acts(other, 4), 30)
        await other.purge(ORDER, runs=["redacted"])
        await until(lambda: _acts(operations, 5), 30)
        states = [state(service.database) for service in (first, second)]
        assert "erased" not in "".join(hits(first.database, "secret"))
    async with consuming(three, 4) as third:
        states.append(state(third.database))
    for name in SAME:
        assert states[0][name] == states[1][name] == states[2][name], name
    assert [row["id"] for row in states[0]["runs"]] == ["erased", "held"]


async def _acts(operations: ServiceOperations, count: int) -> bool:
    return len(await operations.list_acts(50)) == count


async def test_without_a_control_topic_events_go_on_and_acts_are_refused(
    tmp_path: Path, kafka_bootstrap: str
) -> None:
    """There are no acts then; whoever orders one is told how to make the topic, and nothing is done."""
    settings = await kafka_settings(tmp_path / "agent", kafka_bootstrap)
    without = replace(
        settings, data=tmp_path / "one", kafka_control_topic=f"{settings.kafka_control_topic}.none"
    )
    await record(settings, "a")
    async with consuming(without, 1) as service:
        with pytest.raises(UnreachableError, match="skillaudit topics"):
            await ServiceOperations(service).purge(ORDER, runs=["a"])
        assert await asyncio.wait_for(_acts(ServiceOperations(service), 0), 10)
