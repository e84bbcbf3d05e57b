"""materialize_rate: from the broker into DuckDB, against a bare aiokafka `getmany` loop over the same topic.

Events of about 575 bytes, 125 of a run, interleaved over 6 partitions, are in the topic before either side begins. Both
read it from the beginning to the end, in turn. `apply_rate` is the materializer alone, fed from memory, against the
interpreter's own `orjson.loads` of the same records.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from benchmarks.harness import median, result
from skillaudit.consumer.database import open_database
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.service import ConsumerService
from skillaudit.contract.clock import uuid7
from skillaudit.contract.eventlog import FlushReport, RecordKind
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import SourceRecord
from skillaudit.producer import Sink, SkillRun
from skillaudit.producer.kafka import KafkaTopicAdmin
from skillaudit.producer.publisher import partition_for
from skillaudit.producer.topics import ensure_topics, plan_topics

EVENTS = 300_000
PER_RUN = 125
OPEN_AT_ONCE = 100
PARTITIONS = 6
ROUNDS = 3
FETCH_RECORDS = 20_000
PAYLOAD = {"content": "x" * 370, "model": "m"}


class Collector:
    """An event log that keeps records in memory."""

    source_id = "0" * 32

    def __init__(self) -> None:
        self.items: list[tuple[bytes, bytes]] = []

    def append(self, key: str, record: bytes, kind: RecordKind, *, wait_ms: int) -> int:
        del kind, wait_ms
        self.items.append((key.encode(), record))
        return len(self.items)

    def append_many(self, items: Any, *, wait_ms: int) -> int:
        for key, record, kind in items:
            self.append(key, record, kind, wait_ms=wait_ms)
        return len(self.items)

    def flush(self, timeout_s: float) -> FlushReport:
        del timeout_s
        return FlushReport(acknowledged=len(self.items), pending=0)

    close = flush


def events() -> list[tuple[bytes, bytes]]:
    """(key, record) of whole runs, interleaved as a fleet's are."""
    log = Collector()
    sink = Sink(log)
    for _ in range(EVENTS // (PER_RUN * OPEN_AT_ONCE)):
        runs = [sink.start_run(SkillRun(skill_id=f"skill-{n % 9}")) for n in range(OPEN_AT_ONCE)]
        for _ in range(PER_RUN - 2):
            for run in runs:
                run.log("step", PAYLOAD)
        for run in runs:
            run.finish(output="done")
    sink.close()
    return log.items


@contextlib.asynccontextmanager
async def topic(bootstrap: str, items: list[tuple[bytes, bytes]]) -> AsyncGenerator[Settings]:
    """A topic that holds the events."""
    settings = Settings(kafka_bootstrap_servers=bootstrap, kafka_topic=f"bench.{uuid7()[-12:]}.events")
    plans = plan_topics(settings, replication=1, partitions=PARTITIONS)[:1]
    async with KafkaTopicAdmin(settings) as admin:
        await ensure_topics(admin, plans)
        try:
            await _publish(settings, items)
            yield settings
        finally:
            await admin.delete([plan.name for plan in plans])


async def _publish(settings: Settings, items: list[tuple[bytes, bytes]]) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap_servers, linger_ms=5, max_batch_size=128 * 1024
    )
    await producer.start()
    try:
        for key, value in items:
            await producer.send(
                settings.kafka_topics[0], value, key=key, partition=partition_for(key, PARTITIONS)
            )
        await producer.flush()
    finally:
        await producer.stop()


async def bare_getmany(settings: Settings, count: int) -> float:
    """Records per second of a loop that does nothing with them."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=16 * 1024 * 1024,
        fetch_max_bytes=64 * 1024 * 1024,
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(settings.kafka_topics[0], n) for n in range(PARTITIONS)])
        began, seen = time.perf_counter(), 0
        while seen < count:
            found = await consumer.getmany(timeout_ms=500, max_records=FETCH_RECORDS)
            seen += sum(len(messages) for messages in found.values())
        return seen / (time.perf_counter() - began)
    finally:
        await consumer.stop()


async def materialize(settings: Settings, count: int) -> float:
    """Records per second of the consumer's service, from its first poll until all are committed."""
    with tempfile.TemporaryDirectory() as directory:
        service = ConsumerService(
            Settings(
                kafka_bootstrap_servers=settings.kafka_bootstrap_servers,
                kafka_topic=settings.kafka_topic,
                data=Path(directory),
                batch_records_max=FETCH_RECORDS,
            )
        )
        await service.start()
        stop, began = asyncio.Event(), time.perf_counter()
        running = asyncio.ensure_future(service.run(stop))
        while service.status.records < count and not running.done():
            await asyncio.wait((running,), timeout=0.01)
        rate = service.status.records / (time.perf_counter() - began)
        stop.set()
        await running
        return rate


def apply_from_memory(items: list[tuple[bytes, bytes]]) -> float:
    records = [
        SourceRecord(
            f"bench/{partition_for(key, PARTITIONS)}", n, n + 1, 1_700_000_000_000_000 + n, key, value
        )
        for n, (key, value) in enumerate(items)
    ]
    with (
        tempfile.TemporaryDirectory() as directory,
        open_database(Path(directory) / "bench.duckdb") as database,
    ):
        materializer = Materializer(database, identity="bench")
        began = time.perf_counter()
        for at in range(0, len(records), FETCH_RECORDS):
            materializer.apply(records[at : at + FETCH_RECORDS])
        rate = len(records) / (time.perf_counter() - began)
        materializer.close()
        return rate


def loads_only(items: list[tuple[bytes, bytes]]) -> float:
    began = time.perf_counter()
    for _, value in items:
        orjson.loads(value)
    return len(items) / (time.perf_counter() - began)


async def measure(bootstrap: str, items: list[tuple[bytes, bytes]]) -> tuple[list[float], list[float]]:
    ours, bare = [], []
    async with topic(bootstrap, items) as settings:
        for _ in range(ROUNDS):
            bare.append(await bare_getmany(settings, len(items)))
            ours.append(await materialize(settings, len(items)))
    return ours, bare


def main() -> list[dict[str, Any]]:
    items = events()
    ours, bare = asyncio.run(measure(os.environ["SKILLAUDIT_BENCH_KAFKA"], items))
    applied = [apply_from_memory(items) for _ in range(ROUNDS)]
    parsed = [loads_only(items) for _ in range(ROUNDS)]
    return [
        result(
            "materialize_rate",
            median(ours),
            "events/s",
            baseline="bare getmany loop",
            baseline_value=median(bare),
            ratio=median([a / b for a, b in zip(ours, bare, strict=True)]),
        ),
        result(
            "apply_rate",
            median(applied),
            "events/s",
            baseline="orjson.loads of each record",
            baseline_value=median(parsed),
        ),
    ]
