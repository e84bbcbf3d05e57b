"""The broker away, under load: stopped, killed or frozen for 20 s and for ten minutes, and for moments again and again."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from tests.faults.oracle import must, read_positions
from tests.faults.rows import Case, row
from tests.faults.stage import Agents, check, consume_with, consuming, own_broker, through_kafka
from tests.faults.stage_kafka import CASE_S_MAX, PATIENCE_S, flush_s, forwarding, publisher_of, through_mock
from tests.support.mock_cluster import MockCluster

from skillaudit.contract.errors import RetryableError
from skillaudit.contract.settings import Settings
from skillaudit.producer.kafka import KafkaPublisher
from skillaudit.producer.publisher import OFFSET_UNKNOWN

AGENTS = 4
EVENTS_PER_S = 500
EVENTS_A_RUN = 16
"""On average, start and finish included: what the plans below give."""
RECOVERY_S_MAX = 150.0
"""For a backlog of 20 s, on a machine that has other work; a longer one is given as much more."""


class FireAndForget(KafkaPublisher):
    """What other clients do by default: a batch that could not be sent is gone, and counts as done."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._opening = asyncio.Lock()

    async def send(self, partition: int, records: Sequence[tuple[bytes, bytes]]) -> int:
        """Send, and take whatever comes for success."""
        try:
            async with self._opening:
                if self._producer is None:
                    await self.open()
            return await super().send(partition, records)
        except RetryableError:
            async with self._opening:
                await self.abandon()
            return OFFSET_UNKNOWN


RESEND = {"resend": "a batch that failed counts as sent"}


def _plans(case: Case, seconds: float) -> list[dict[str, Any]]:
    each_per_s = EVENTS_PER_S / AGENTS
    return [
        {
            "runs": int(seconds * each_per_s / EVENTS_A_RUN) + 1,
            "open_at_once": 8,
            "logs_min": 4,
            "logs_max": 24,
            "events_per_s": each_per_s,
            "flush_s": RECOVERY_S_MAX + seconds,
        }
        for _ in range(AGENTS)
    ]


@contextlib.asynccontextmanager
async def _away(broker: Any, how: str) -> AsyncGenerator[None]:
    leave, come_back = {
        "stopped": (broker.halt, broker.resume),
        "killed": (broker.kill, broker.resume),
        "frozen": (broker.pause, broker.unpause),
    }[how]
    await asyncio.to_thread(leave)
    try:
        yield
    finally:
        await asyncio.to_thread(come_back)


async def _broker_away(case: Case, seconds: float) -> None:
    """The consumer lives through it, too; agents forward by themselves, or leave it to their host's forwarder."""
    how = ("stopped", "killed", "frozen")[case.number % 3]
    by_host = bool(case.switched_off) or case.number % 2 == 1
    members = {
        "forwarder": "host" if by_host else "thread",
        "kafka_request_timeout_ms": 1_000
        if case.switched_off
        else case.random.choice((1_000, 5_000, 30_000)),
    }
    settings = await through_kafka(case, case.resource.bootstrap, **members)
    plans = _plans(case, seconds + 3)
    async with contextlib.AsyncExitStack() as stack:
        consumer, running = await stack.enter_async_context(consuming(settings))
        if by_host:
            publisher = await stack.enter_async_context(publisher_of(case, settings, resend=FireAndForget))
            await stack.enter_async_context(forwarding(settings, publisher))
        agents = await stack.enter_async_context(Agents(case, settings, plans))
        await agents.until_noted(EVENTS_PER_S // 2, PATIENCE_S)
        async with _away(case.resource, how):
            before = agents.noted_lines()
            await asyncio.sleep(seconds)  # the fault's length
            case.note(recorded_meanwhile=agents.noted_lines() - before)
        back_s = time.monotonic()
        await agents.join(RECOVERY_S_MAX + 2 * seconds)
        case.note(**{how: 1, "recovery_s": round(time.monotonic() - back_s, 1)})
        positions = read_positions(agents.account_files)
        waiting = asyncio.ensure_future(consumer.wait_for(positions, RECOVERY_S_MAX + seconds))
        await asyncio.wait((waiting, running), return_when=asyncio.FIRST_COMPLETED)
        must(not running.done(), f"the consumer ended: {running}")
        await waiting
    check(case, settings, agents.noted())


@row(
    "broker-away-20-s",
    about="the broker stopped, killed or frozen for 20 s under 500 events/s from 4 processes, a consumer beside them",
    full=20,
    share=1,
    test=0,
    off=RESEND,
    off_cases_max=2,
    off_in_tests=False,
    resource=own_broker,
    broker=True,
    off_in_share=False,
    case_s_max=CASE_S_MAX,
    not_in_tests="long: 20 s without the broker",
)
async def broker_away_20_s(case: Case) -> None:
    """Nothing is dropped: the outbox keeps it until the broker is back."""
    await _broker_away(case, 8.0 if case.switched_off else 20.0)


@row(
    "broker-away-10-min",
    about="the broker stopped, killed or frozen for ten minutes (really) under 500 events/s from 4 processes",
    full=3,
    share=0,
    test=0,
    off=RESEND,
    off_cases_max=2,
    off_in_tests=False,
    off_in_share=False,
    resource=own_broker,
    broker=True,
    case_s_max=3_600.0,
    not_in_tests="long: ten minutes without the broker",
)
async def broker_away_10_min(case: Case) -> None:
    """The same when the backlog is a few hundred thousand events. Without its mechanism some of it is lost in seconds."""
    await _broker_away(case, 8.0 if case.switched_off else 600.0)


@row(
    "broker-away-for-moments",
    about="the broker away for up to two seconds, up to five times in a row (mock cluster)",
    full=50,
    share=1,
    off=RESEND,
    off_cases_max=2,
    off_in_tests=False,
    test=1,
    case_s_max=CASE_S_MAX,
)
async def broker_away_for_moments(case: Case) -> None:
    """Each time everything unacknowledged is sent again, in order."""
    chance = case.random
    with MockCluster() as cluster:
        settings = through_mock(case, cluster)
        plans = [{"runs": 10, "logs_max": 8, "events_per_s": 60.0, "flush_s": flush_s(case)}] * 2
        async with (
            publisher_of(case, settings, resend=FireAndForget) as publisher,
            Agents(case, settings, plans) as agents,
            forwarding(settings, publisher),
        ):
            for time_away in range(1 if case.switched_off else chance.randint(1, 5)):
                await agents.until_noted(5 + 20 * time_away, PATIENCE_S)
                cluster.down()
                # The fault's length; beyond the bound on acknowledgements, where that has to show.
                await asyncio.sleep(2.5 if case.switched_off else chance.uniform(0.05, 2.0))
                cluster.up()
                case.note(times_away=1)
            await agents.join(PATIENCE_S)
        await consume_with(settings)
        check(case, settings, agents.noted())
