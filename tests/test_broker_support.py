"""The brokers that other tests stand on: they answer, carry records of every size, and come back with their data."""

import asyncio
from collections.abc import Iterator

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import TopicPartition

pytestmark = pytest.mark.broker

READ_S_MAX = 30
LARGE = 12 * 1024 * 1024
REQUEST_BYTES_MAX = 16 * 1024 * 1024


async def make_topic(bootstrap, topic, *, partitions=6, replicas=1):
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, partitions, replicas)])
    finally:
        await admin.close()


async def send(bootstrap, topic, records):
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, max_request_size=REQUEST_BYTES_MAX
    )
    await producer.start()
    try:
        for key, value in records:
            await producer.send_and_wait(topic, value, key=key)
    finally:
        await producer.stop()


async def read(bootstrap, topic, count, *, partitions=6) -> list[ConsumerRecord]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, fetch_max_bytes=2 * LARGE
    )
    await consumer.start()
    try:
        mine = [TopicPartition(topic, number) for number in range(partitions)]
        consumer.assign(mine)
        await consumer.seek_to_beginning(*mine)
        got: list[ConsumerRecord] = []
        async with asyncio.timeout(READ_S_MAX):
            while len(got) < count:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    got.extend(records)
        return got
    finally:
        await consumer.stop()


async def test_what_is_sent_comes_back_in_order_per_key(kafka_bootstrap, topic_names):
    await make_topic(kafka_bootstrap, topic_names.events)
    sent = [(f"run-{number % 8}".encode(), str(number).encode()) for number in range(200)]
    await send(kafka_bootstrap, topic_names.events, sent)
    got = await read(kafka_bootstrap, topic_names.events, len(sent))
    assert len({record.partition for record in got}) > 1
    for key in {key for key, _ in sent}:
        assert [record.value for record in got if record.key == key] == [v for k, v in sent if k == key]


async def test_a_record_of_the_largest_size_passes(kafka_bootstrap, topic_names):
    await make_topic(kafka_bootstrap, topic_names.events, partitions=1)
    value = bytes(range(256)) * (LARGE // 256)
    await send(kafka_bootstrap, topic_names.events, [(b"large", value)])
    (record,) = await read(kafka_bootstrap, topic_names.events, 1, partitions=1)
    assert record.value == value


async def test_topics_are_not_made_by_mistyping(kafka_bootstrap, topic_names):
    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap, request_timeout_ms=1_000)
    await producer.start()
    try:
        with pytest.raises(Exception, match=r"(?i)unknown|timeout|not found"):
            await producer.send_and_wait(topic_names.events, b"lost")
    finally:
        await producer.stop()
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    try:
        assert topic_names.events not in await admin.list_topics()
    finally:
        await admin.close()


@pytest.fixture
def own_broker(broker_support) -> Iterator:
    with broker_support.KafkaContainer() as container:
        yield container


async def test_a_broker_that_went_down_comes_back_with_its_data(own_broker, topic_names):
    await make_topic(own_broker.bootstrap, topic_names.events)
    sent = []
    for go_down in (None, own_broker.halt, own_broker.kill):
        if go_down is not None:
            await asyncio.to_thread(go_down)
            await asyncio.to_thread(own_broker.resume)
        sent.append(getattr(go_down, "__name__", "before").encode())
        await send(own_broker.bootstrap, topic_names.events, [(b"run", sent[-1])])
    got = await read(own_broker.bootstrap, topic_names.events, len(sent))
    assert [record.value for record in got] == sent


async def test_a_cluster_of_three_keeps_what_it_acknowledged_without_one(broker_support, topic_names):
    cluster = broker_support.Cluster()
    with cluster:
        await make_topic(cluster.bootstrap, topic_names.events, replicas=3)
        await send(cluster.bootstrap, topic_names.events, [(b"run", b"before")])
        await asyncio.to_thread(cluster.brokers[0].kill)
        await send(cluster.bootstrap, topic_names.events, [(b"run", b"after")])
        got = await read(cluster.bootstrap, topic_names.events, 2)
        assert [record.value for record in got] == [b"before", b"after"]
