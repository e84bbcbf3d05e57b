"""The Kafka source against a real broker: what an error or a changed topic must not do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from uuid import uuid4

import aiokafka.codec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.errors import KafkaError
from tests.faults.stage_kafka import Topics
from tests.support.mock_cluster import MockCluster
from tests.support.waiting import until

from skillaudit.consumer.kafka_source import KafkaSource, MissingTopicError
from skillaudit.contract.errors import HistoryLostError, UnreachableError
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import SourceRecord, StoredPosition

RECORDS = 20
POLLS_MAX = 200
WAIT_S = 20.0


@pytest.fixture
async def settings(kafka_bootstrap: str) -> AsyncGenerator[Settings]:
    """Two partitions, the first with records."""
    topic = f"source-{uuid4().hex[:12]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 2, 1)])
    try:
        yield Settings(kafka_bootstrap_servers=kafka_bootstrap, kafka_topic=topic)
    finally:
        await admin.delete_topics([topic])
        await admin.close()


async def send(settings: Settings, partition: int, count: int, compression: str | None = None) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap_servers, compression_type=compression
    )
    await producer.start()
    for number in range(count):
        await producer.send_and_wait(settings.kafka_topic, b"%d" % number * 100, partition=partition)
    await producer.stop()


async def poll(source: KafkaSource, taken: list[SourceRecord], records: int) -> None:
    """Until so many were taken, bounded."""
    for _ in range(POLLS_MAX):
        taken += (await source.poll(1_000, 50)).records
        if len(taken) >= records:
            return


async def test_an_error_of_one_partition_loses_no_record_of_another(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client drops what it had taken of the others and goes on behind it: the source goes back."""
    await send(settings, 0, RECORDS)
    source = KafkaSource(settings)
    await source.open({})
    await send(settings, 1, 1, compression="gzip")
    with monkeypatch.context() as patch:
        patch.setattr(aiokafka.codec, "has_gzip", lambda: False)  # as where a codec is not installed
        taken: list[SourceRecord] = []
        with pytest.raises(UnreachableError, match="gzip"):
            await poll(source, taken, POLLS_MAX)
    await poll(source, taken, RECORDS + 1)
    await source.close()
    first = [record.offset for record in taken if record.partition.endswith("/0")]
    assert first == list(range(RECORDS))
    assert len(taken) == RECORDS + 1


async def test_a_topic_with_fewer_partitions_is_another_one(settings: Settings) -> None:
    """Topics only grow: it was made anew, even where the partitions that are left were never consumed."""
    source = KafkaSource(settings)
    with pytest.raises(HistoryLostError, match=r"accept-history-loss .*/5"):
        await source.open({f"{settings.kafka_topic}/5": StoredPosition(3)})
    await source.open({"another-topic/5": StoredPosition(3)})
    await source.close()


async def test_ends_are_asked_for_anew(settings: Settings) -> None:
    """Of partitions of which nothing was read yet, too, and of those the topic has got since; an empty one has none."""
    await send(settings, 0, 3)
    source = KafkaSource(settings)
    await source.open({})
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    try:
        assert await source.ends() == {f"{settings.kafka_topic}/0": 3}
        await admin.create_partitions({settings.kafka_topic: NewPartitions(3)})
        await until(lambda: send_fits(settings), WAIT_S)
        await send(settings, 0, 2)
        assert await source.ends() == {f"{settings.kafka_topic}/0": 5, f"{settings.kafka_topic}/2": 1}
    finally:
        await admin.close()
        await source.close()


async def send_fits(settings: Settings) -> bool:
    """Whether the new partition takes a record; it takes no more than one."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers, request_timeout_ms=2_000)
    await producer.start()
    try:
        await producer.send_and_wait(settings.kafka_topic, b"{}", partition=2)
    except (AssertionError, KafkaError):  # not heard of yet
        return False
    finally:
        await producer.stop()
    return True


async def test_a_partition_without_a_leader_keeps_nobody_waiting() -> None:
    """The others are read meanwhile, from the start on; it joins when it has a leader, from its beginning."""
    with MockCluster() as cluster:
        cluster.create_topic("t", 2)
        led = Settings(
            kafka_bootstrap_servers=cluster.bootstrap, kafka_topic="t", kafka_request_timeout_ms=60_000
        )
        await send(led, 0, RECORDS)
        await send(led, 1, RECORDS)
        cluster.set_leader("t", 1, None)
        source = KafkaSource(led)
        taken: list[SourceRecord] = []
        async with asyncio.timeout(20):
            await source.open({})
            await poll(source, taken, RECORDS)
            assert {record.partition for record in taken} == {"t/0"}
            cluster.set_leader("t", 1, 1)
            await poll(source, taken, 2 * RECORDS)
        await source.close()
    assert [record.offset for record in taken if record.partition == "t/1"] == list(range(RECORDS))


async def test_a_topic_that_is_gone_is_said_and_another_one_in_its_place_stops(settings: Settings) -> None:
    """The client gives no error for either: a topic that is gone gives nothing, and a new one other records."""
    await send(settings, 0, RECORDS)
    source = KafkaSource(settings, topic_attempts_max=1)
    taken: list[SourceRecord] = []
    await source.open({})
    await poll(source, taken, RECORDS)
    async with Topics(settings.kafka_bootstrap_servers) as topics:
        await topics.delete(settings.kafka_topic)
        with pytest.raises(MissingTopicError, match="has no topic"):
            await poll(source, taken, POLLS_MAX)
        await topics.create(settings.kafka_topic, 2)
    await send(settings, 0, 2 * RECORDS)
    with pytest.raises(HistoryLostError, match=r"accept-history-loss .*/0"):
        await _poll_through(source)
    await source.close()


async def _poll_through(source: KafkaSource) -> None:
    for _ in range(POLLS_MAX):
        with contextlib.suppress(UnreachableError):
            await source.poll(1_000, 50)
        await asyncio.sleep(0.02)
