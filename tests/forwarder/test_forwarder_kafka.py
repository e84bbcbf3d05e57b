"""The forwarder against a real broker: everything arrives, in order per run, whatever is killed or refused."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from tests.forwarder.broker_support import create_topic, read_topic
from tests.forwarder.support import HandwrittenSource, until

from skillaudit.contract.errors import UnreachableError
from skillaudit.contract.outbox.refused import list_refused
from skillaudit.contract.settings import Settings
from skillaudit.producer.forwarder_host import run_host_forwarder
from skillaudit.producer.kafka import KafkaPublisher, KafkaTopicAdmin
from skillaudit.producer.publisher import PublisherBrokenError, RefusedForGoodError, partition_for
from skillaudit.producer.topics import check_topics, ensure_topics, plan_topics

pytestmark = pytest.mark.broker

CHILD = """
    import asyncio, sys
    from pathlib import Path
    from skillaudit.contract.settings import Settings
    from skillaudit.producer.forwarder_host import run_host_forwarder

    settings = Settings(
        data=Path(sys.argv[1]), kafka_bootstrap_servers=sys.argv[2], kafka_topic=sys.argv[3], kafka_batch_bytes=16384
    )
    asyncio.run(run_host_forwarder(settings, asyncio.Event()))
"""


@pytest.fixture
def settings(tmp_path: Path, kafka_bootstrap: str, topic_names) -> Settings:
    return Settings(
        data=tmp_path,
        kafka_bootstrap_servers=kafka_bootstrap,
        kafka_topic=topic_names.events,
        kafka_control_topic=topic_names.control,
        kafka_batch_bytes=16 * 1024,
    )


async def forward_until(settings: Settings, condition) -> None:
    stop = asyncio.Event()
    task = asyncio.ensure_future(run_host_forwarder(settings, stop))
    try:
        await until(lambda: task.done() or condition(), timeout_s=60)
    finally:
        stop.set()
        await asyncio.wait_for(task, 10)


async def stored_by_key(settings: Settings) -> dict[str, list[bytes]]:
    """Each key's values in the order of its partition, repeats dropped as a consumer does."""
    found: dict[str, list[bytes]] = defaultdict(list)
    places: dict[str, set[int]] = defaultdict(set)
    for partition, key, value in await read_topic(settings.kafka_bootstrap_servers, settings.kafka_topics[0]):
        places[key.decode()].add(partition)
        found[key.decode()].append(value)
    assert all(len(p) == 1 for p in places.values()), "a key is in several partitions"
    return {key: list(dict.fromkeys(values)) for key, values in found.items()}


def several_runs(source: HandwrittenSource, runs: int = 30, logs: int = 100) -> None:
    all_runs = [source.run(f"run-{n}") for n in range(runs)]
    for _ in range(logs):
        for run in all_runs:
            run.log(size=100)
        if source.lines % 7 == 0:
            source.next_segment()
    for run in all_runs:
        run.finish()


async def test_thousands_of_events_arrive_in_order(settings: Settings, kafka_bootstrap: str):
    """Byte for byte, each run in one partition by Java's rule; the source is closed and gone."""
    await create_topic(kafka_bootstrap, settings.kafka_topics[0])
    source = HandwrittenSource(settings.outbox_dir)
    several_runs(source)
    await forward_until(settings, lambda: not source.dir.exists())
    stored = await stored_by_key(settings)
    for run in source.runs.values():
        assert stored[run.run_id] == run.records
    (closed,) = stored[source.source_id]
    assert json.loads(closed)["open"] == []
    for partition, key, _ in await read_topic(kafka_bootstrap, settings.kafka_topics[0]):
        assert partition == partition_for(key, 3)


async def test_killed_in_the_middle_several_times(settings: Settings, kafka_bootstrap: str):
    """SIGKILL at any moment costs repeats at most; the next forwarder takes over by itself."""
    await create_topic(kafka_bootstrap, settings.kafka_topics[0])
    source = HandwrittenSource(settings.outbox_dir)
    several_runs(source, runs=30, logs=200)
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(settings.data), kafka_bootstrap]
    killed = 0
    for wanted in (500, 1_500, 3_000):
        child = subprocess.Popen([*command, settings.kafka_topics[0]])  # noqa: ASYNC220  killed, never awaited
        try:
            await until(lambda wanted=wanted: acknowledged(source) >= wanted, 30)
        finally:
            os.kill(child.pid, signal.SIGKILL)
            killed += child.wait() == -signal.SIGKILL
    assert killed == 3
    await forward_until(settings, lambda: not source.dir.exists())
    stored = await stored_by_key(settings)
    for run in source.runs.values():
        assert stored[run.run_id] == run.records


def acknowledged(source: HandwrittenSource) -> int:
    ack = source.acknowledgement() if source.dir.exists() else None
    return ack.records if ack else 0


async def test_a_record_the_broker_will_never_take(settings: Settings, kafka_bootstrap: str):
    """It is kept with its bytes, run.refused takes its number, its neighbours in the batch arrive in order."""
    await create_topic(kafka_bootstrap, settings.kafka_topics[0], bytes_max=20_000)
    source = HandwrittenSource(settings.outbox_dir, alive=True)
    run = source.run("r")
    for n in range(40):
        run.log(size=50_000 if n == 20 else 100)
    await forward_until(settings, lambda: acknowledged(source) == source.lines)
    kinds = [(json.loads(v)["type"], json.loads(v)["seq"]) for v in (await stored_by_key(settings))["r"]]
    assert kinds == [
        ("run.started" if n == 0 else "run.refused" if n == 21 else "run.log", n) for n in range(41)
    ]
    assert [(r.run_id, r.seq) for r in list_refused(source.dir)] == [("r", 21)]
    source.die()


async def test_batches_shrink_to_what_the_topic_takes(settings: Settings, kafka_bootstrap: str):
    """A topic that allows less than a batch refuses no record that fits alone."""
    await create_topic(kafka_bootstrap, settings.kafka_topics[0], bytes_max=20_000)
    source = HandwrittenSource(settings.outbox_dir, alive=True)
    run = source.run("r")
    for _ in range(600):
        run.log(size=200)
    await forward_until(replace(settings, kafka_batch_bytes=1 << 20), lambda: acknowledged(source) == 601)
    assert (await stored_by_key(settings))["r"] == run.records
    assert not list_refused(source.dir)
    source.die()


async def test_a_missing_topic_is_waited_for_and_never_made(settings: Settings, kafka_bootstrap: str):
    """A topic made by accident would have the broker's defaults; the forwarder says what to do and goes on then."""
    publisher = KafkaPublisher(settings)
    await publisher.open()
    with pytest.raises(UnreachableError, match="skillaudit topics"):
        await publisher.partition_count()
    await publisher.abandon()
    source = HandwrittenSource(settings.outbox_dir, alive=True)
    source.run("r")
    stop = asyncio.Event()
    task = asyncio.ensure_future(run_host_forwarder(settings, stop))
    await create_topic(kafka_bootstrap, settings.kafka_topics[0])
    await until(lambda: acknowledged(source) == 1, timeout_s=30)
    stop.set()
    await asyncio.wait_for(task, 10)
    source.die()


async def test_a_refused_batch_leaves_a_spent_publisher(settings: Settings, kafka_bootstrap: str):
    """The broker counts sequence numbers that were never stored; opening anew is the way out."""
    await create_topic(kafka_bootstrap, settings.kafka_topics[0], bytes_max=20_000)
    publisher = KafkaPublisher(settings)
    cluster = await publisher.open()
    assert await publisher.send(0, [(b"k", b"1"), (b"k", b"2")]) == 0
    with pytest.raises(RefusedForGoodError, match="MessageSizeTooLarge"):
        await publisher.send(0, [(b"k", b"x" * 50_000)])
    with pytest.raises(PublisherBrokenError, match="OutOfOrderSequenceNumber"):
        await publisher.send(0, [(b"k", b"3")])
    assert await publisher.open() == cluster
    assert await publisher.send(0, [(b"k", b"3")]) == 2
    await publisher.close()
    await publisher.close()


async def test_nobody_at_the_address(settings: Settings):
    """Unreachable within the bound, again and again, with nothing left open."""
    publisher = KafkaPublisher(replace(settings, kafka_bootstrap_servers="127.0.0.1:1"))
    for _ in range(2):
        with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1"):
            await publisher.open()


async def test_topics_are_created_as_planned_and_checked(settings: Settings, kafka_bootstrap: str):
    """Checking creates nothing; creating twice changes nothing; what differs is named."""
    plans = plan_topics(settings, partitions=4, replication=1)
    async with KafkaTopicAdmin(settings) as admin:
        assert {d.what for d in await check_topics(admin, plans)} == {"missing"}
        assert {d.what for d in await check_topics(admin, plans)} == {"missing"}
        assert await ensure_topics(admin, plans) == tuple(p.name for p in plans)
        assert await check_topics(admin, plans) == ()
        assert await ensure_topics(admin, plans) == ()
        stricter = [replace(p, config={**p.config, "retention.ms": "1"}) for p in plans[:1]]
        (difference,) = await check_topics(admin, stricter)
    assert str(difference) == f"{plans[0].name}: retention.ms is 2592000000, should be 1"
