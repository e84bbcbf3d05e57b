"""What a Kafka client gets stuck in, with a real broker's answers: holes in its sequence numbers, answers lost on the way."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aiokafka import TopicPartition
from tests.faults.jams import (
    Mortal,
    MortalForever,
    MortalPatient,
    assert_in_order,
    runs_out_of_order,
    send_overtaking,
)
from tests.faults.oracle import must
from tests.faults.rows import Case, row
from tests.faults.stage import Agents, check, consume_with, own_broker, shared_broker, through_kafka
from tests.faults.stage_kafka import (
    CASE_S_MAX,
    PATIENCE_S,
    REQUEST_TIMEOUT_MS,
    NeverRebuilt,
    Topics,
    flush_s,
    forwarding,
    publisher_of,
    read_batches,
)
from tests.faults.switched_off import consume_without_looking
from tests.faults.switches_consumer import WithHighWaterMark
from tests.support.proxy import Fate, KafkaProxy
from tests.support.waiting import until

from skillaudit.consumer.service import ConsumerService
from skillaudit.contract.errors import SkillauditError
from skillaudit.contract.settings import Settings
from skillaudit.producer.kafka import KafkaPublisher

AGENTS = 2
RUNS = 60
"""So many that enough goes on behind each fault."""
HOLES = 3


def _plans(case: Case, runs: int = RUNS) -> list[dict[str, object]]:
    return [
        {"runs": runs, "logs_max": 8, "events_per_s": 100.0, "flush_s": flush_s(case)} for _ in range(AGENTS)
    ]


def _options(case: Case) -> dict[str, Any]:
    own: dict[str, Any] = {"forwarder": "host", "kafka_request_timeout_ms": REQUEST_TIMEOUT_MS}
    return own | ({"flush_timeout_ms": 0} if case.with_it_s else {})


class _Skips(KafkaPublisher):
    """Before a few of its batches the client skips numbers, as it does when a batch before was given up."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.chance = random.Random(1)
        self.holes = HOLES
        self.refusals: list[str] = []
        """What the broker said of batches behind a hole."""

    async def send(self, partition: int, records: Sequence[tuple[bytes, bytes]]) -> int:
        """Send, maybe behind a hole."""
        numbers = self._producer._txn_manager if self._producer is not None else None
        place = TopicPartition(self.topic, partition)
        # The first number of a producer may be any: only behind another one is there a hole.
        if self.holes and numbers is not None and numbers.sequence_number(place):
            self.holes -= 1
            numbers.increment_sequence_number(place, self.chance.randint(1, 50))
        try:
            return await super().send(partition, records)
        except SkillauditError as exc:
            self.refusals.append(str(exc))
            raise


class _SkipsForever(_Skips, NeverRebuilt):
    """Nobody opens it anew."""


@row(
    "producer-jammed-real-broker",
    about="the idempotent producer's sequence numbers get a hole three times: a real broker refuses every batch behind it (OutOfOrderSequenceNumber)",
    full=50,
    share=3,
    test=0,
    not_in_tests="ten seconds: clients wait a second for each of their time-outs",
    off={"supervisor": "the publisher is never opened anew"},
    off_by_waiting=("supervisor",),
    off_cases_max=1,
    off_in_tests=False,
    off_in_share=False,
    resource=shared_broker,
    broker=True,
    case_s_max=CASE_S_MAX,
)
async def producer_jammed(case: Case) -> None:
    """Each time the publisher is opened anew, and what is not acknowledged is sent again, in order."""
    settings = await through_kafka(case, case.resource, **_options(case))
    async with (
        publisher_of(case, settings, supervisor=_SkipsForever, usual=_Skips) as publisher,
        Agents(case, settings, _plans(case)) as agents,
        forwarding(settings, publisher),
    ):
        await agents.ended(PATIENCE_S)
    refused = [told for told in publisher.refusals if "OutOfOrderSequenceNumber" in told]
    if not case.switched_off:
        assert not publisher.holes, "too few batches to make holes between"
        assert refused, f"the broker minded no hole: {publisher.refusals}"
    case.injections = max(HOLES - publisher.holes, 1)
    case.note(refused_by_the_broker=len(refused))
    await consume_with(settings)
    check(case, settings, agents.noted())


@row(
    "sender-dead-real-broker",
    about="as sender-dead, with a real broker: the client's sender task dies, by an unexpected error or silently, while events are recorded",
    full=50,
    share=1,
    test=0,
    not_in_tests="as its twin on the mock cluster, with a broker",
    off={
        "supervisor": "the publisher is never opened anew",
        "ack-timeout": "an acknowledgement is waited for without a bound",
    },
    off_by_waiting=("supervisor", "ack-timeout"),
    off_cases_max=2,
    off_in_tests=False,
    off_in_share=False,
    resource=shared_broker,
    broker=True,
    case_s_max=CASE_S_MAX,
)
async def sender_dead(case: Case) -> None:
    """As there."""
    settings = await through_kafka(case, case.resource, **_options(case))
    silently = case.number % 2 == 0
    async with (
        publisher_of(
            case, settings, supervisor=MortalForever, ack_timeout=MortalPatient, usual=Mortal
        ) as publisher,
        Agents(case, settings, _plans(case, runs=30)) as agents,
        forwarding(settings, publisher),
    ):
        await agents.until_noted(case.random.randint(5, 120), PATIENCE_S)
        await until(lambda: publisher.kill_sender(silently=silently))
        before = agents.noted_lines()
        await agents.join(PATIENCE_S)
        case.note(recorded_behind_the_death=agents.noted_lines() - before, silently=int(silently))
    must(case.switched_off or publisher.opened > 1, "nobody noticed that the sender was dead")
    await consume_with(settings)
    check(case, settings, agents.noted())


@row(
    "batches-overtake-real-broker",
    about="as batches-overtake, with a real broker: nobody leads a partition (the only broker is frozen) for longer than a client of time-outs of 1 s waits; "
    "behind that the same records composed anew, batches in another order, some twice",
    full=50,
    share=1,
    test=0,
    not_in_tests="as its twin on the mock cluster, with a broker of its own",
    off={"ranges": "the consumer keeps the highest number of a run instead of ranges"},
    off_cases_max=3,
    off_in_tests=False,
    off_in_share=False,
    resource=own_broker,
    broker=True,
    case_s_max=CASE_S_MAX,
)
async def batches_overtake(case: Case) -> None:
    """As there."""
    chance, broker = case.random, case.resource
    small = {"batch_records_max": 10} if case.switched_off else {}
    settings = await through_kafka(case, broker.bootstrap, **_options(case), **small)
    async with Agents(case, settings, _plans(case, runs=20)) as agents, forwarding(settings):
        await agents.until_noted(chance.randint(5, 60), PATIENCE_S)
        await asyncio.to_thread(broker.pause)
        try:
            # The fault's length.
            await asyncio.sleep(chance.uniform(1.2, 2.5) * REQUEST_TIMEOUT_MS / 1000)
        finally:
            await asyncio.to_thread(broker.unpause)
        await agents.join(PATIENCE_S)
    sent = await read_batches(settings, settings.kafka_topic)
    for records in sent.values():
        assert_in_order(records)
    other = replace(settings, kafka_topic=f"{settings.kafka_topic}-overtaken")
    async with Topics(broker.bootstrap) as topics:
        await topics.create(other.kafka_topic, len(sent))
    moved = await send_overtaking(broker.bootstrap, other.kafka_topic, sent, chance)
    overtook = runs_out_of_order(await read_batches(other, other.kafka_topic))
    assert overtook, f"{moved} batches were moved, and no run's records overtook each other"
    case.note(overtaken=moved, runs_out_of_order=overtook)
    await consume_with(other, WithHighWaterMark if case.switched_off else ConsumerService)
    check(case, other, agents.noted())


@dataclass(frozen=True)
class _Proxied:
    """A broker that everybody reaches through the proxy."""

    bootstrap: str
    proxy: KafkaProxy


@contextlib.asynccontextmanager
async def broker_behind_proxy() -> AsyncGenerator[_Proxied]:
    """A real broker that tells its clients the proxy's address."""
    from tests.support.broker import KafkaContainer, free_port

    port = free_port()
    address = f"127.0.0.1:{port}"
    env = {"KAFKA_ADVERTISED_LISTENERS": f"INTERNAL://localhost:9092,EXTERNAL://{address}"}
    container = KafkaContainer(env=env)
    async with KafkaProxy(port, late_s=2.5 * REQUEST_TIMEOUT_MS / 1000) as proxy:
        proxy.forward_to(container.port)
        await asyncio.to_thread(container.start)
        try:
            yield _Proxied(address, proxy)
        finally:
            await asyncio.to_thread(container.stop)


class _Fates:
    """Lets some produce requests go, and others not."""

    TROUBLES = (Fate.NEVER_ARRIVES, Fate.ANSWER_LOST, Fate.ANSWER_LATE)

    def __init__(self, chance: random.Random, *, only_late: bool) -> None:
        """`only_late`: the first ones, so that they are surely stored twice."""
        self._chance = chance
        self._only = Fate.ANSWER_LATE if only_late else None
        self._share, self._max = (1.0, 3) if only_late else (0.3, 8)
        self.made: list[str] = []

    def __call__(self) -> Fate:
        """The next one's."""
        if len(self.made) >= self._max or self._chance.random() > self._share:
            return Fate.PASSES
        fate = self._only or self._chance.choice(self.TROUBLES)
        self.made.append(fate.value)
        return fate


@row(
    "produce-answers-lost-real-broker",
    about="a proxy before a real broker loses produce requests, cuts the connection in the place of an answer, or lets an answer come later than the client "
    "waits: eight times under load",
    full=80,
    share=8,
    test=0,
    not_in_tests="a broker of its own behind a proxy",
    off={"duplicates-dropped": "a consumer that stores every record it reads"},
    off_cases_max=1,
    off_in_tests=False,
    resource=broker_behind_proxy,
    broker=True,
    case_s_max=CASE_S_MAX,
)
async def answers_lost(case: Case) -> None:
    """What was stored and not acknowledged is sent again, in order, and dropped by number and tag."""
    behind: _Proxied = case.resource
    settings = await through_kafka(case, behind.bootstrap, **_options(case))
    fates = _Fates(case.random, only_late=bool(case.switched_off))
    behind.proxy.fate = fates
    try:
        async with Agents(case, settings, _plans(case)) as agents, forwarding(settings):
            codes = await agents.ended(PATIENCE_S)
    finally:
        behind.proxy.fate = lambda: Fate.PASSES
    assert case.switched_off or codes == [0] * AGENTS, [process.said() for process in agents.processes]
    assert fates.made, "nothing was lost on the way"
    sent = await read_batches(settings, settings.kafka_topic)
    values = [value for records in sent.values() for _, value in records]
    case.injections = len(fates.made)
    case.note(
        stored_twice=len(values) - len(set(values)),
        **{f"{f.value}": fates.made.count(f.value) for f in _Fates.TROUBLES},
    )
    await (consume_without_looking(settings) if case.switched_off else consume_with(settings))
    check(case, settings, agents.noted())
