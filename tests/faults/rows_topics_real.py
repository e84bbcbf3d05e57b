"""Real brokers at their worst: the only one that has a partition is gone for a minute; the only one there is loses a part of it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import secrets
import tarfile
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.conformance.compositions import settings_at
from tests.faults.oracle import must
from tests.faults.rows import Case, row
from tests.faults.rows_cluster import cluster_of_three
from tests.faults.rows_topics import (
    accepted_once,
    go_on_beside,
    never_looking_back,
    record_through,
    refused_by_name,
)
from tests.faults.stage import check, consume_with, consuming, own_broker, through_kafka
from tests.faults.stage_kafka import CASE_S_MAX, PATIENCE_S, Topics
from tests.support.waiting import until

from skillaudit.consumer.service import ConsumerService
from skillaudit.contract.errors import HistoryLostError

LOGS = "/var/lib/kafka/data"
"""Where a broker's container has its partitions."""


@row(
    "partition-leaderless-60-s-real",
    about="one of three real brokers killed for 60 s, which alone had a partition (replication 1), under load; an agent and a consumer begin meanwhile",
    full=5,
    share=0,
    test=0,
    not_in_tests="long: a cluster of three, and 60 s without a leader",
    off={"others-go-on": "the consumer asks partitions without a leader, too, and waits for the answer"},
    off_cases_max=1,
    off_in_tests=False,
    off_in_share=False,
    resource=cluster_of_three,
    broker=True,
    case_s_max=CASE_S_MAX,
)
async def partition_leaderless(case: Case) -> None:
    """As on the mock cluster: the other partitions go on; afterwards all of it is there."""
    cluster, mark = case.resource, secrets.token_hex(4)
    settings = settings_at(
        case.directory / "data",
        kafka_bootstrap_servers=cluster.bootstrap,
        kafka_topic=f"{mark}.events",
        kafka_control_topic=f"{mark}.control",
        kafka_request_timeout_ms=5_000,
        forwarder="host",
    )
    async with Topics(cluster.bootstrap) as topics:
        await topics.create(settings.kafka_topic, 3, 1, min_insync_replicas="1")
        places = await topics.places(settings.kafka_topic)
        partition = case.random.choice(sorted(places))
        leaderless = _without(cluster, topics, settings.kafka_topic, places[partition][0])
        await go_on_beside(case, settings, leaderless)
    case.note(partitions_without_leader=[leader for leader, _ in places.values()].count(places[partition][0]))


@contextlib.asynccontextmanager
async def _without(cluster: Any, topics: Topics, topic: str, broker: int) -> AsyncGenerator[None]:
    """That broker is gone; its partitions have no leader when the block begins, and have it again at its end."""
    container = cluster.brokers[broker - 1]
    await asyncio.to_thread(container.kill)
    try:
        await until(lambda: _leads(topics, topic, broker, count=0), PATIENCE_S)
        yield
    finally:
        await asyncio.to_thread(container.resume, wait=False)
        await until(lambda: _leads(topics, topic, -1, count=0), PATIENCE_S)


async def _leads(topics: Topics, topic: str, broker: int, *, count: int) -> bool:
    """Whether so many of the topic's partitions are led by it; -1: by nobody."""
    places = await topics.places(topic)
    return bool(places) and [leader for leader, _ in places.values()].count(broker) == count


@row(
    "topic-cut-by-power-loss",
    about="the newest half of a partition's log is cut off on the disk of the only broker, between its death and its next start, as a power loss leaves it; "
    "then the same topic is filled beyond the consumer's position, while the consumer is down or running",
    judge="the consumer stops and names the partition and how to go on; accepted, what was consumed before and what came after is there; no run reads complete that is not",
    full=10,
    share=0,
    test=0,
    not_in_tests="a broker of its own, killed and started again",
    off={"last-record": "the last record consumed is not compared with what is there now"},
    off_cases_max=2,
    off_in_tests=False,
    off_in_share=False,
    resource=own_broker,
    broker=True,
    case_s_max=CASE_S_MAX,
)
async def topic_cut(case: Case) -> None:
    """Another record stands where the last one consumed stood: noticed, named, stopped; accepted, the rest is read."""
    broker = case.resource
    own = await through_kafka(case, broker.bootstrap)
    settings = replace(own, kafka_topic=f"{own.kafka_topic}-cut")
    async with Topics(broker.bootstrap) as topics:
        await topics.create(settings.kafka_topic, 1)
    accounts = await record_through(case, settings, runs=20)
    make = never_looking_back if case.switched_off else ConsumerService
    async with contextlib.AsyncExitStack() as stack:
        if live := case.number % 2 == 1 and not case.switched_off:
            service, running = await stack.enter_async_context(consuming(settings, may_stop=True))
            await until(service.caught_up.is_set)
        else:
            await consume_with(settings)
        await asyncio.to_thread(broker.kill)
        cut = await asyncio.to_thread(_cut_log, broker, settings.kafka_topic, case.directory)
        await asyncio.to_thread(broker.resume)
        other = replace(settings, data=case.directory / "data-later")
        accounts |= await record_through(case, other, runs=60)
        if live:
            await asyncio.wait((running,), timeout=PATIENCE_S)
            must(running.done(), f"a topic cut below the position was not noticed: {service.status}")
            must(isinstance(running.exception(), HistoryLostError), running)
    case.note(bytes_cut=cut, live=int(live))
    if case.switched_off:
        await consume_with(settings, make)
        check(case, settings, accounts)
    await refused_by_name(settings)
    await accepted_once(settings)
    check(case, settings, accounts, expected=("incidents",))


def _cut_log(broker: Any, topic: str, directory: Path) -> int:
    """Cut the newest segment of the topic's only partition by half, while the broker is down; how many bytes."""
    container, where = broker.get_wrapped_container(), f"{LOGS}/{topic}-0"
    stream, _ = container.get_archive(where)
    (directory / "log.tar").write_bytes(b"".join(stream))
    with tarfile.open(directory / "log.tar") as archive:
        newest = max(name for name in archive.getnames() if name.endswith(".log"))
        member = archive.extractfile(newest)
        assert member is not None
        info, content = archive.getmember(newest), member.read()
    kept = content[: len(content) // 2]  # in the midst of a batch, as a rule
    info.name, info.size = Path(newest).name, len(kept)
    cut = io.BytesIO()
    with tarfile.open(fileobj=cut, mode="w") as archive:
        archive.addfile(info, io.BytesIO(kept))
    assert container.put_archive(where, cut.getvalue())
    return len(content) - len(kept)
