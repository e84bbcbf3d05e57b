"""against_kafka_rate, against_kafka_cpu_us: stored events held against the records of a broker, as `verify --against-kafka` does.

The records of `materialize`, in a topic and in a database that consumed them; the whole record is compared, nothing differs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import benchmarks.materialize as fleet
from benchmarks.harness import median, result
from skillaudit.consumer.database import open_database
from skillaudit.consumer.materializer import Materializer
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import SourceRecord
from skillaudit.producer.publisher import partition_for
from skillaudit.proof.kafka_records import KafkaRecords
from skillaudit.proof.verify import VerifyRequest
from skillaudit.proof.verify.against import AgainstCheck
from skillaudit.proof.verify.engine import Engine

ROUNDS = 3
BATCH_RECORDS = 20_000


def published(topic: str, items: list[tuple[bytes, bytes]]) -> list[SourceRecord]:
    """The records as the broker holds them: sent in order, one after the other in each partition."""
    ends = Counter[str]()
    records = []
    for key, value in items:
        name = f"{topic}/{partition_for(key, fleet.PARTITIONS)}"
        records.append(SourceRecord(name, ends[name], ends[name] + 1, 0, key, value))
        ends[name] += 1
    return records


def compare(settings: Settings, records: list[SourceRecord]) -> list[tuple[float, float]]:
    """Wall and processor seconds of each round."""
    with tempfile.TemporaryDirectory() as directory:
        database = open_database(Path(directory) / "bench.duckdb")
        materializer = Materializer(database, identity="")
        taken = []
        try:
            for first in range(0, len(records), BATCH_RECORDS):
                batch = sorted(records[first : first + BATCH_RECORDS], key=lambda it: it.partition)
                materializer.apply(batch)
            for _ in range(ROUNDS):
                with (
                    contextlib.closing(database.cursor()) as cursor,
                    contextlib.closing(KafkaRecords(settings, by="a benchmark")) as reader,
                ):
                    wall, cpu = time.perf_counter(), time.process_time()
                    check = AgainstCheck(Engine(cursor), VerifyRequest(), reader)
                    check.check()
                    taken.append((time.perf_counter() - wall, time.process_time() - cpu))
                    assert check.totals.records == len(records), check.totals
                    assert not check.findings.counts, check.findings.counts
        finally:
            materializer.close()
            database.close()
        return taken


async def measure(bootstrap: str) -> tuple[int, list[tuple[float, float]]]:
    """How many records, and what each round took."""
    items = fleet.events()
    async with fleet.topic(bootstrap, items) as settings:
        records = published(settings.kafka_topics[0], items)
        return len(items), await asyncio.to_thread(compare, settings, records)


def main() -> list[dict[str, Any]]:
    count, taken = asyncio.run(measure(os.environ["SKILLAUDIT_BENCH_KAFKA"]))
    wall, cpu = (median([it[place] for it in taken]) for place in (0, 1))
    return [
        result("against_kafka_rate", count / wall, f"records/s, of {count:,} records of about 575 bytes"),
        result("against_kafka_cpu_us", cpu / count * 1e6, "us of processor time a record"),
    ]
