"""What a Kafka client gets stuck in: a jammed producer, a dead sender, lost answers, batches that overtake each other.

On librdkafka's mock cluster: it gives answers on demand that a real broker gives once in a year. What is compared is what
the consumer makes of what the cluster was left with; of durability this says nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import Any

from tests.faults.jams import (
    Mortal,
    MortalForever,
    MortalPatient,
    assert_in_order,
    runs_out_of_order,
    send_overtaking,
)
from tests.faults.notes import now_us
from tests.faults.oracle import Account, Span
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
JAM_ERRORS = 10_000
"""More than any client asks before it gives up: they are taken back when a new producer shows up."""
CAME_ABOUT_S_MAX = 60.0
"""For a fault to come about, while agents record."""


@contextlib.asynccontextmanager
async def _recording(case: Case, settings: Settings) -> AsyncGenerator[Agents]:
    """Agents that record until the block is left, which is when the fault is over; then they have ended."""
    stop = case.directory / "stop"
    plan = {
        "runs": 100_000,
        "logs_max": 8,
        "events_per_s": 150.0,
        "flush_s": flush_s(case),
        "stop_file": str(stop),
    }
    async with Agents(case, settings, [plan] * AGENTS) as agents:
        await agents.until_noted(case.random.randint(5, 60), PATIENCE_S)  # a moment of the run, by chance
        yield agents
        stop.touch()
        await agents.join(PATIENCE_S)


async def _comes_about(case: Case, shown: Callable[[], Any]) -> None:
    """Wait until the fault is seen at work; without a mechanism that shows it, as long as all of it took with that."""
    try:
        await until(shown, case.with_it_s or CAME_ABOUT_S_MAX)
    except TimeoutError:
        if not case.with_it_s:
            raise


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
        async with publisher_of(case, settings, supervisor=NeverRebuilt) as publisher:
            async with forwarding(settings, publisher), _recording(case, settings) as agents:
                await until(lambda: cluster.requests(Api.INIT_PRODUCER_ID))
                producers = cluster.requests(Api.INIT_PRODUCER_ID)
                refused = -cluster.requests(Api.PRODUCE)
                cluster.push_errors(Api.PRODUCE, [Answer.OUT_OF_ORDER_SEQUENCE_NUMBER] * JAM_ERRORS)
                await _comes_about(case, lambda: cluster.requests(Api.INIT_PRODUCER_ID) > producers)
                refused += cluster.requests(Api.PRODUCE)
                if not case.switched_off:
                    cluster.clear_errors(Api.PRODUCE)
            cluster.clear_errors(Api.PRODUCE)
        assert refused > 0, "no batch was refused"
        case.note(refused_batches=refused, new_producers=cluster.requests(Api.INIT_PRODUCER_ID) - producers)
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
            forwarding(settings, publisher),
            _recording(case, settings) as agents,
        ):
            silently = case.number % 2 == 0
            await until(lambda: publisher.kill_sender(silently=silently))
            opened, before = publisher.opened, agents.noted_lines()
            await until(publisher.killed.done, CAME_ABOUT_S_MAX)
            await _comes_about(case, lambda: publisher.opened > opened)
            case.note(recorded_behind_the_death=agents.noted_lines() - before, silently=int(silently))
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
        async with forwarding(settings, publisher), _recording(case, settings) as agents:
            if not loses:
                late = case.random.randint(1, 4)
                cluster.push_late_answers(1, Api.PRODUCE, [REQUEST_TIMEOUT_MS + 300] * late)

            async def some_twice() -> bool:
                return await _stored_twice(settings) > 0

            await until(some_twice, CAME_ABOUT_S_MAX)
        case.note(stored_twice=await _stored_twice(settings))
        await consume_with(
            settings,
            WithoutDuplicateDetection if case.switched_off else ConsumerService,
        )
        check(case, settings, agents.noted())


async def _stored_twice(settings: Settings) -> int:
    sent = await read_batches(settings, settings.kafka_topic)
    values = [value for records in sent.values() for _, value in records]
    return len(values) - len(set(values))


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
        orphaned = chance.sample(range(3), chance.randint(1, 3))
        async with (
            forwarding(settings),
            _recording(case, settings) as agents,
            _leaderless(cluster, topic, orphaned) as since_us,
        ):
            # The fault's length.
            await asyncio.sleep(chance.uniform(1.2, 2.5) * REQUEST_TIMEOUT_MS / 1000)
            within = since_us, now_us()
        sent = await read_batches(settings, topic)
        for records in sent.values():
            assert_in_order(records)
        late = _recorded_for(sent, orphaned, agents.noted(), within)
        assert late, f"nothing was recorded for the partitions {orphaned} while nobody led them"
        moved = await send_overtaking(cluster.bootstrap, overtaken, sent, chance)
        other = replace(settings, kafka_topic=overtaken)
        overtook = runs_out_of_order(await read_batches(other, overtaken))
        assert overtook, f"{moved} batches were moved, and no run's records overtook each other"
        case.note(overtaken=moved, runs_out_of_order=overtook, recorded_without_a_leader=late)
        await consume_with(other, WithHighWaterMark if case.switched_off else ConsumerService)
        check(case, other, agents.noted())


def _recorded_for(
    sent: dict[int, list[tuple[bytes, bytes]]],
    partitions: Sequence[int],
    accounts: dict[str, Account],
    within: Span,
) -> int:
    """How many events of runs that lie in these partitions were recorded within that time."""
    runs = {key.decode() for partition in partitions for key, _ in sent[partition]} & accounts.keys()
    begun = [low for run_id in runs for low, _ in accounts[run_id].spans.values()]
    return sum(within[0] <= at_us <= within[1] for at_us in begun)


@contextlib.asynccontextmanager
async def _leaderless(cluster: MockCluster, topic: str, partitions: Sequence[int]) -> AsyncGenerator[int]:
    """Gives the time since which nobody leads them, in microseconds."""
    for partition in partitions:
        cluster.set_leader(topic, partition, None)
    try:
        yield now_us()
    finally:
        for partition in partitions:
            cluster.set_leader(topic, partition, 1)
