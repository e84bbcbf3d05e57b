"""What a Kafka client gets stuck in: a jammed producer, a dead sender, lost answers, batches that overtake each other.

On librdkafka's mock cluster: it gives answers on demand that a real broker gives once in a year. What is compared is what
the consumer makes of what the cluster was left with; of durability this says nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from tests.faults.jams import Mortal, MortalForever, MortalPatient, assert_in_order, send_overtaking
from tests.faults.rows import Case, row
from tests.faults.stage import Agents, check, consume_with
from tests.faults.stage_kafka import (
    CASE_S_MAX,
    PATIENCE_S,
    REQUEST_TIMEOUT_MS,
    NeverRebuilt,
    flush_s,
    forwarding,
    publisher_of,
    read_batches,
    through_mock,
)
from tests.faults.switches_consumer import WithHighWaterMark, WithoutDuplicateDetection
from tests.support.mock_cluster import Answer, Api, MockCluster
from tests.support.waiting import until

from skillaudit.consumer.service import ConsumerService
from skillaudit.contract.errors import UnreachableError
from skillaudit.contract.settings import Settings
from skillaudit.producer.kafka import KafkaPublisher

AGENTS = 2
RUNS = 8
JAM_ERRORS = 10_000
"""More than any client asks before it gives up: they are taken back when a new producer shows up."""


def _plans(case: Case, events_per_s: float = 150.0) -> list[dict[str, object]]:
    return [
        {"runs": RUNS, "logs_max": 8, "events_per_s": events_per_s, "flush_s": flush_s(case)}
        for _ in range(AGENTS)
    ]


async def _some_noted(case: Case, agents: Agents) -> None:
    """A moment of the run, by chance."""
    await agents.until_noted(case.random.randint(5, 60), PATIENCE_S)


@row(
    "producer-jammed",
    about="a jammed idempotent producer: OutOfOrderSequenceNumber for every batch until a new producer comes (mock cluster)",
    full=50,
    share=1,
    off={"supervisor": "the publisher is never opened anew"},
    off_by_waiting=("supervisor",),
    off_cases_max=1,
    off_in_tests=False,
    case_s_max=CASE_S_MAX,
)
async def producer_jammed(case: Case) -> None:
    """The forwarder opens the publisher anew and sends what is not acknowledged again."""
    with MockCluster() as cluster:
        settings = through_mock(case, cluster)
        async with (
            publisher_of(case, settings, supervisor=NeverRebuilt) as publisher,
            Agents(case, settings, _plans(case)) as agents,
            forwarding(settings, publisher),
        ):
            await _some_noted(case, agents)
            await until(lambda: cluster.requests(Api.INIT_PRODUCER_ID))
            before = cluster.requests(Api.INIT_PRODUCER_ID)
            cluster.push_errors(Api.PRODUCE, [Answer.OUT_OF_ORDER_SEQUENCE_NUMBER] * JAM_ERRORS)
            joining = asyncio.ensure_future(agents.join(PATIENCE_S))
            await until(lambda: joining.done() or cluster.requests(Api.INIT_PRODUCER_ID) > before)
            cluster.clear_errors(Api.PRODUCE)
            await joining
        await consume_with(settings)
        check(case, settings, agents.noted())


@row(
    "sender-dead",
    about="the client's sender task dies, by an unexpected error or silently, while events are recorded (mock cluster)",
    full=50,
    share=2,
    off={
        "supervisor": "the publisher is never opened anew",
        "ack-timeout": "an acknowledgement is waited for without a bound",
    },
    off_by_waiting=("supervisor", "ack-timeout"),
    off_cases_max=2,
    off_in_tests=False,
    case_s_max=CASE_S_MAX,
)
async def sender_dead(case: Case) -> None:
    """A dead sender is noticed by its error, or by the bound on acknowledgements; the publisher is opened anew."""
    with MockCluster() as cluster:
        settings = through_mock(case, cluster)
        async with (
            publisher_of(
                case, settings, supervisor=MortalForever, ack_timeout=MortalPatient, usual=Mortal
            ) as publisher,
            Agents(case, settings, _plans(case)) as agents,
            forwarding(settings, publisher),
        ):
            await _some_noted(case, agents)
            await until(lambda: publisher.kill_sender(silently=case.number % 2 == 0))
            await agents.join(PATIENCE_S)
        await consume_with(settings)
        check(case, settings, agents.noted())


class _AnswersLost(KafkaPublisher):
    """Batches are stored, and every few of them count as not acknowledged: what a lost answer looks like."""

    def __init__(self, settings: Settings, chance: random.Random) -> None:
        super().__init__(settings)
        self._chance = chance

    async def send(self, partition: int, records: Sequence[tuple[bytes, bytes]]) -> int:
        """Send, and maybe lose the answer."""
        offset = await super().send(partition, records)
        if self._chance.random() < 0.2:
            raise UnreachableError("RequestTimedOutError: no answer, but stored")
        return offset


@row(
    "written-but-timed-out",
    about="RequestTimedOut for batches that were stored: answers that come too late, or never (mock cluster)",
    full=50,
    share=2,
    off={"duplicate-detection": "the consumer does not remember which numbers it has"},
    off_cases_max=2,
    case_s_max=CASE_S_MAX,
)
async def written_but_timed_out(case: Case) -> None:
    """What is stored twice is dropped by number and tag."""
    with MockCluster() as cluster:
        small = 5 if case.switched_off else 500
        settings = through_mock(case, cluster, batch_records_max=small)
        loses = case.number % 2 == 0
        publisher = _AnswersLost(settings, case.random) if loses else KafkaPublisher(settings)
        async with (
            Agents(case, settings, _plans(case)) as agents,
            forwarding(settings, publisher),
        ):
            await _some_noted(case, agents)
            if case.number % 2:
                late = case.random.randint(1, 4)
                cluster.push_late_answers(1, Api.PRODUCE, [REQUEST_TIMEOUT_MS + 300] * late)
            await agents.join(PATIENCE_S)
        sent = await read_batches(settings, settings.kafka_topic)
        values = [value for records in sent.values() for _, value in records]
        case.note(stored_twice=len(values) - len(set(values)))
        await consume_with(
            settings,
            WithoutDuplicateDetection if case.switched_off else ConsumerService,
        )
        check(case, settings, agents.noted())


@row(
    "batches-overtake",
    about="partitions without a leader (clients' time-outs of 1 s for a minute's); behind that the same records composed anew, batches in another order, some twice (mock cluster)",
    full=50,
    share=1,
    off={"ranges": "the consumer keeps the highest number of a run instead of ranges"},
    off_cases_max=3,
    off_in_tests=False,
    case_s_max=CASE_S_MAX,
)
async def batches_overtake(case: Case) -> None:
    """The forwarder keeps its order over a leaderless partition; where another client does not, the consumer minds nothing."""
    chance = case.random
    with MockCluster() as cluster:
        settings = through_mock(case, cluster, batch_records_max=10 if case.switched_off else 500)
        topic, overtaken = settings.kafka_topic, f"{settings.kafka_topic}-overtaken"
        cluster.create_topic(overtaken, 3)
        async with Agents(case, settings, _plans(case)) as agents, forwarding(settings):
            await _some_noted(case, agents)
            async with _leaderless(cluster, topic, chance.sample(range(3), chance.randint(1, 3))):
                await asyncio.sleep(
                    chance.uniform(1.2, 2.5) * REQUEST_TIMEOUT_MS / 1000
                )  # the fault's length
            await agents.join(PATIENCE_S)
        sent = await read_batches(settings, topic)
        for records in sent.values():
            assert_in_order(records)
        case.note(overtaken=await send_overtaking(cluster.bootstrap, overtaken, sent, chance))
        other = replace(settings, kafka_topic=overtaken)
        await consume_with(other, WithHighWaterMark if case.switched_off else ConsumerService)
        check(case, other, agents.noted())


@contextlib.asynccontextmanager
async def _leaderless(cluster: MockCluster, topic: str, partitions: Sequence[int]) -> AsyncGenerator[None]:
    for partition in partitions:
        cluster.set_leader(topic, partition, None)
    try:
        yield
    finally:
        for partition in partitions:
            cluster.set_leader(topic, partition, 1)
