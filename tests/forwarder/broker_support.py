"""What the tests against a real broker share."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from aiokafka import AIOKafkaConsumer, TopicPartition

from skillaudit.contract.settings import Settings
from skillaudit.producer.kafka import KafkaTopicAdmin
from skillaudit.producer.topics import ensure_topics, plan_topics


def make_topic(bootstrap: str, name: str, *, partitions: int = 3, bytes_max: int | None = None) -> None:
    asyncio.run(create_topic(bootstrap, name, partitions=partitions, bytes_max=bytes_max))


async def create_topic(
    bootstrap: str, name: str, *, partitions: int = 3, bytes_max: int | None = None
) -> None:
    settings = Settings(kafka_bootstrap_servers=bootstrap, kafka_topic=name)
    plan = plan_topics(settings, partitions=partitions, replication=1)[0]
    if bytes_max:
        plan = replace(plan, config={**plan.config, "max.message.bytes": str(bytes_max)})
    async with KafkaTopicAdmin(settings) as admin:
        await ensure_topics(admin, [plan])


async def read_topic(bootstrap: str, name: str) -> list[tuple[int, bytes, bytes]]:
    """(partition, key, value) of everything in the topic, in the order of each partition."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_poll_records=None,
    )
    await consumer.start()
    try:
        await consumer._client._wait_on_metadata(name)
        partitions = [TopicPartition(name, p) for p in consumer.partitions_for_topic(name)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        found: list[tuple[int, bytes, bytes]] = []
        while any([await consumer.position(p) < end for p, end in ends.items()]):
            for partition, records in (await consumer.getmany(timeout_ms=200)).items():
                found += [(partition.partition, r.key, r.value) for r in records]
        return found
    finally:
        await consumer.stop()
