"""How fast the forwarder moves 1 kB events from an outbox to a broker, against a bare aiokafka `send()` loop.

Needs a broker: SKILLAUDIT_BENCH_KAFKA=host:port. Both sides publish the same records to topics of the same form on the
same broker, paired, alternating; the ratio is the median of the pairs. The baseline holds its records in memory and
does nothing else; the forwarder reads them from the outbox's files, checks each checksum, keeps order and
acknowledgements, and saves those.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
import time
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from benchmarks import harness
from skillaudit.contract import events
from skillaudit.contract.eventlog import RecordKind
from skillaudit.contract.settings import Settings
from skillaudit.producer.forwarder import Forwarder
from skillaudit.producer.forwarder_host import forwarder_limits
from skillaudit.producer.kafka import KafkaPublisher, KafkaTopicAdmin
from skillaudit.producer.outbox import OutboxLog
from skillaudit.producer.topics import ensure_topics, plan_topics

PAIRS = 3
RECORDS = 100_000
RECORD_BYTES = 1_000
PARTITIONS = 6
RUNS = 200


def records() -> list[tuple[str, bytes]]:
    """Logs of `RUNS` runs, interleaved, each about `RECORD_BYTES` long."""
    keys = [f"{secrets.token_hex(4)}-run-{n}" for n in range(RUNS)]
    head = len(events.encode_log(events.json_string(keys[0]), 0, 0, "0" * 16, b'"step"', b""))
    payload = b'{"content":"%b"}' % (b"x" * (RECORD_BYTES - head - 20))
    return [
        (
            keys[n % RUNS],
            events.encode_log(
                events.json_string(keys[n % RUNS]),
                n // RUNS,
                1_700_000_000_000_000 + n,
                f"{n:016x}",
                b'"step"',
                payload,
            ),
        )
        for n in range(RECORDS)
    ]


async def bare_send_loop(settings: Settings, items: list[tuple[str, bytes]]) -> float:
    """Records per second of `send()` with acks=all and idempotence, linger 5 ms, 128 KiB batches."""
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        acks="all",
        enable_idempotence=True,
        linger_ms=5,
        max_batch_size=128 * 1024,
    )
    await producer.start()
    try:
        begin = time.perf_counter()
        futures = [
            await producer.send(settings.kafka_topics[0], value, key=key.encode()) for key, value in items
        ]
        await asyncio.gather(*futures)
        return len(items) / (time.perf_counter() - begin)
    finally:
        await producer.stop()


async def forward(settings: Settings, items: list[tuple[str, bytes]]) -> float:
    """Records per second of a forwarder that finds them all in the outbox, from its first read to the last
    acknowledgement.
    """
    log = OutboxLog(settings)
    for key, value in items:
        log.append(key, value, RecordKind.LOG, wait_ms=0)
    forwarder = Forwarder(
        settings.outbox_dir, KafkaPublisher(settings), limits=forwarder_limits(settings), own=log.source_dir
    )
    stop, begin = asyncio.Event(), 0.0
    task = asyncio.ensure_future(forwarder.run(stop))
    while forwarder.report.acknowledged < len(items) and not task.done():
        if not begin and forwarder.report.sources:
            begin = time.perf_counter()
        await asyncio.sleep(0.001)
    rate = len(items) / (time.perf_counter() - begin)
    stop.set()
    await task
    log.close(0)
    return rate


async def measure(bootstrap: str) -> tuple[list[float], list[float]]:
    ours: list[float] = []
    bare: list[float] = []
    items = records()
    for _ in range(PAIRS):
        for side, rates in ((bare_send_loop, bare), (forward, ours)):
            with tempfile.TemporaryDirectory() as directory:
                settings = Settings(
                    data=Path(directory),
                    kafka_bootstrap_servers=bootstrap,
                    kafka_topic=f"bench.{secrets.token_hex(6)}",
                    kafka_control_topic=f"bench.{secrets.token_hex(6)}.control",
                    outbox_bytes_max=1 << 30,
                    outbox_free_bytes_min=0,
                )
                async with KafkaTopicAdmin(settings) as admin:
                    plans = plan_topics(settings, partitions=PARTITIONS, replication=1)[:1]
                    await ensure_topics(admin, plans)
                rates.append(await side(settings, items))
    return ours, bare


def main() -> list[dict[str, Any]]:
    bootstrap = os.environ.get("SKILLAUDIT_BENCH_KAFKA", "")
    if not bootstrap:
        return []
    ours, bare = asyncio.run(measure(bootstrap))
    return [
        harness.result(
            "forward_rate",
            harness.median(ours),
            "events/s of 1 kB",
            baseline="bare aiokafka send() loop, acks=all, idempotent, linger 5 ms, 128 KiB batches",
            baseline_value=harness.median(bare),
            ratio=harness.median([a / b for a, b in zip(ours, bare, strict=True)]),
        )
    ]


if __name__ == "__main__":
    for line in main():
        print(line)
