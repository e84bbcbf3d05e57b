"""What rows around Kafka share: a forwarder in this process whose parts a row may replace, mock clusters, topics."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.errors import KafkaError
from tests.conformance.compositions import settings_at
from tests.faults.rows import Case
from tests.faults.stage import DRAIN_S
from tests.support.mock_cluster import MockCluster
from tests.support.waiting import until

from skillaudit.contract.settings import Settings
from skillaudit.producer.forwarder_host import run_host_forwarder
from skillaudit.producer.kafka import KafkaPublisher
from skillaudit.producer.publisher import RecordPublisher

REQUEST_TIMEOUT_MS = 1_000
"""The shortest that the settings allow: outages of seconds are to a client with it what minutes are to one with 30 s."""
PATIENCE_S = DRAIN_S
CASE_S_MAX = 900.0
FLUSH_S = 180.0


def flush_s(case: Case) -> float:
    """How long agents wait for acknowledgements in the end; where they wait in vain, as long as all of it took before."""
    return case.with_it_s or FLUSH_S


def through_mock(case: Case, cluster: MockCluster, partitions: int = 3, **members: Any) -> Settings:
    """Settings through a mock cluster, with a topic of the case's own; a host's forwarder is expected."""
    topic = f"events-{secrets.token_hex(3)}"
    cluster.create_topic(topic, partitions)
    own = {
        "kafka_bootstrap_servers": cluster.bootstrap,
        "kafka_topic": topic,
        "kafka_request_timeout_ms": REQUEST_TIMEOUT_MS,
        "forwarder": "host",
    }
    if case.with_it_s:
        own["flush_timeout_ms"] = 0  # what does not come is not waited for once more
    return settings_at(case.directory / f"data-{secrets.token_hex(2)}", **(own | members))


@contextlib.asynccontextmanager
async def forwarding(
    settings: Settings, publisher: RecordPublisher | None = None
) -> AsyncGenerator[asyncio.Task[Any]]:
    """A host's forwarder in this process; what it raises is raised at the end of the block."""
    stop = asyncio.Event()
    running = asyncio.create_task(run_host_forwarder(settings, stop, publisher=publisher))
    try:
        yield running
    finally:
        stop.set()
        await running


class NeverRebuilt(KafkaPublisher):
    """A publisher that nobody supervises: the client that was opened first is used for ever, whatever it says."""

    async def open(self) -> str:
        """Connect once."""
        if self._producer is None:
            self._cluster = await super().open()
        return self._cluster

    async def abandon(self) -> None:
        """Nothing; `end` releases the connections."""
        if self._producer is None:
            await super().abandon()

    async def end(self) -> None:
        """Release the connections."""
        await KafkaPublisher.abandon(self)


@contextlib.asynccontextmanager
async def publisher_of(case: Case, settings: Settings, **kinds: type[KafkaPublisher]) -> AsyncGenerator[Any]:
    """The publisher to forward through: of the kind that is named after the mechanism which is switched off."""
    publisher = kinds.get(case.switched_off.replace("-", "_"), kinds.get("usual", KafkaPublisher))(settings)
    try:
        yield publisher
    finally:
        await KafkaPublisher.abandon(publisher)


async def read_batches(settings: Settings, topic: str) -> dict[int, list[tuple[bytes, bytes]]]:
    """All records of a topic, by partition, in order."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=50,
    )
    await consumer.start()
    try:
        await consumer._client._wait_on_metadata(topic)
        partitions = [TopicPartition(topic, n) for n in sorted(consumer.partitions_for_topic(topic) or ())]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        found: dict[int, list[tuple[bytes, bytes]]] = {tp.partition: [] for tp in partitions}
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            for tp, records in (await consumer.getmany(timeout_ms=100)).items():
                found[tp.partition] += [(r.key, r.value) for r in records]
        return found
    finally:
        await consumer.stop()


class Topics:
    """A cluster's topics, for a row that changes them; `async with`."""

    def __init__(self, bootstrap: str) -> None:
        self._client = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=60_000)

    async def __aenter__(self) -> Self:
        await self._client.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.close()

    async def create(self, name: str, partitions: int = 3, replication: int = 1, **config: str) -> None:
        """Make it; it has leaders when this returns."""
        options = {key.replace("_", "."): value for key, value in config.items()}
        await self._client.create_topics([NewTopic(name, partitions, replication, topic_configs=options)])
        await until(lambda: self._led(name, partitions), PATIENCE_S)

    async def _led(self, name: str, partitions: int) -> bool:
        return sum(leader >= 0 for leader, _ in (await self.places(name)).values()) == partitions

    async def places(self, name: str) -> dict[int, tuple[int, list[int]]]:
        """Partition -> (leader, replicas in sync); empty where the topic is not there or nobody answers."""
        with contextlib.suppress(KafkaError, OSError):
            (topic,) = await self._client.describe_topics([name])
            return {p["partition"]: (p["leader"], p["isr"]) for p in topic["partitions"]}
        return {}

    async def delete(self, name: str) -> None:
        """Delete it; it is gone when this returns."""
        await self._client.delete_topics([name])

        async def gone() -> bool:
            return name not in await self._client.list_topics()

        await until(gone, PATIENCE_S)

    async def add_partitions(self, name: str, total: int) -> None:
        """Let it grow."""
        await self._client.create_partitions({name: NewPartitions(total_count=total)})
        await until(lambda: self._led(name, total), PATIENCE_S)

    async def delete_records(self, name: str, before: dict[int, int]) -> None:
        """Cut partitions off below these offsets: -1 is everything."""
        await self._client.delete_records(
            {TopicPartition(name, p): RecordsToDelete(before_offset=o) for p, o in before.items()}
        )
