"""A cluster of three brokers, replication 3, min.insync 2: what it acknowledged survives the loss of any one broker."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from tests.conformance.compositions import settings_at
from tests.faults.rows import Case, row
from tests.faults.stage import Agents, check, consume_all
from tests.faults.stage_kafka import PATIENCE_S, Topics, forwarding, publisher_of
from tests.support.waiting import until

from skillaudit.contract.settings import Settings
from skillaudit.producer.kafka import KafkaPublisher, KafkaTopicAdmin
from skillaudit.producer.topics import ensure_topics, plan_topics

PARTITIONS = 3
AGENTS = 2
EVENTS_PER_S = 200
AWAY_S = 1.5
RECOVERY_S_MAX = 120.0


@contextlib.asynccontextmanager
async def cluster_of_three() -> AsyncGenerator[Any]:
    """Started once for all cases."""
    from tests.support.broker import Cluster

    cluster = await asyncio.to_thread(Cluster().start)
    try:
        yield cluster
    finally:
        await asyncio.to_thread(cluster.stop)


class LeaderAlone(KafkaPublisher):
    """Is content when the leader has a batch, as clients are by default."""

    async def open(self) -> str:
        """Connect, and then ask for less."""
        cluster = await super().open()
        self._producer._sender._acks = 1
        return cluster


class Grave:
    """The brokers of a cluster by their ids, to be killed and to come back."""

    def __init__(self, cluster: Any, topics: Topics, topic: str) -> None:
        self._cluster, self._topics, self._topic = cluster, topics, topic

    async def kill(self, broker: int, *, behind: bool) -> None:
        """SIGKILL it. `behind`: its followers hang for a moment before, so that it has what they have not."""
        others = [b for n, b in enumerate(self._cluster.brokers, 1) if n != broker]
        if behind:
            await _signal(others, "SIGSTOP")
            await asyncio.sleep(AWAY_S)  # the fault's length
        await asyncio.to_thread(self._cluster.brokers[broker - 1].kill)
        if behind:
            await _signal(others, "SIGCONT")
        await until(lambda: self._led_without(broker), RECOVERY_S_MAX)

    async def come_back(self, broker: int) -> None:
        """Start it again and wait until it has everything."""
        await asyncio.to_thread(self._cluster.brokers[broker - 1].resume, wait=False)
        await until(self._in_sync, RECOVERY_S_MAX)

    async def leader(self, partition: int) -> int:
        """Who leads a partition now."""
        places = await until(lambda: self._topics.places(self._topic))
        return int(places[partition][0])

    async def _led_without(self, broker: int) -> bool:
        places = await self._topics.places(self._topic)
        return bool(places) and all(leader not in (-1, broker) for leader, _ in places.values())

    async def _in_sync(self) -> bool:
        places = await self._topics.places(self._topic)
        return bool(places) and all(len(isr) == len(self._cluster.brokers) for _, isr in places.values())


async def _signal(brokers: Sequence[Any], name: str) -> None:
    # Not Docker's own pause, whose freezer gives up where a machine is busy.
    for broker in brokers:
        await asyncio.to_thread(broker.get_wrapped_container().kill, signal=name)


async def _settings(case: Case, bootstrap: str) -> Settings:
    mark = secrets.token_hex(4)
    settings = settings_at(
        case.directory / "data",
        kafka_bootstrap_servers=bootstrap,
        kafka_topic=f"{mark}.events",
        kafka_control_topic=f"{mark}.control",
        kafka_request_timeout_ms=5_000,
        forwarder="host" if case.switched_off else "thread",
    )
    async with KafkaTopicAdmin(settings) as admin:
        await ensure_topics(admin, plan_topics(settings, partitions=PARTITIONS, replication=3))
    return settings


@row(
    "leader-killed",
    about="one of three brokers SIGKILLed under load, then the leader of every partition in turn, half of them just when their "
    "followers hang (replication 3, min.insync.replicas 2)",
    full=20,
    share=0,
    test=0,
    off={"acks-all": "acks=1: the leader's word is enough"},
    off_cases_max=2,
    off_in_tests=False,
    resource=cluster_of_three,
    broker=True,
    case_s_max=900.0,
    off_in_share=False,
    not_in_tests="long: four brokers die and come back",
)
async def leader_killed(case: Case) -> None:
    """Everything acknowledged is there afterwards, and everything else was sent again."""
    chance, cluster = case.random, case.resource
    settings = await _settings(case, cluster.bootstrap)
    # More than the faults take; ended by the row.
    plans = [
        {
            "runs": 100_000,
            "open_at_once": 6,
            "events_per_s": EVENTS_PER_S / AGENTS,
            "flush_s": RECOVERY_S_MAX,
            "stop_file": str(case.directory / "stop"),
        }
        for _ in range(AGENTS)
    ]
    async with contextlib.AsyncExitStack() as stack:
        topics = await stack.enter_async_context(Topics(cluster.bootstrap))
        grave = Grave(cluster, topics, settings.kafka_topic)
        if case.switched_off:
            publisher = await stack.enter_async_context(publisher_of(case, settings, acks_all=LeaderAlone))
            await stack.enter_async_context(forwarding(settings, publisher))
        agents = await stack.enter_async_context(Agents(case, settings, plans))
        await agents.until_noted(EVENTS_PER_S, PATIENCE_S)
        for victim in (chance.randint(1, 3), *range(-1, -PARTITIONS - 1, -1)):
            broker = victim if victim > 0 else await grave.leader(-victim - 1)
            await grave.kill(broker, behind=bool(case.switched_off) or chance.random() < 0.5)
            case.note(killed=1)
            await agents.until_noted(agents.noted_lines() + EVENTS_PER_S // 4, PATIENCE_S)
            await grave.come_back(broker)
        (case.directory / "stop").touch()
        await agents.join(RECOVERY_S_MAX)
    await consume_all(settings, PATIENCE_S)
    check(case, settings, agents.noted())
