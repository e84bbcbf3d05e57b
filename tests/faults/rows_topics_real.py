"""A partition without a leader on a real cluster: the only broker that has it is gone for a minute."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator
from typing import Any

from tests.conformance.compositions import settings_at
from tests.faults.rows import Case, row
from tests.faults.rows_cluster import cluster_of_three
from tests.faults.rows_topics import go_on_beside
from tests.faults.stage_kafka import CASE_S_MAX, PATIENCE_S, Topics
from tests.support.waiting import until


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
