"""A database made again from the topics: the same ledger, the same journal, the same acts, and what was sealed is met."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from tests.acts.support import Run, state
from tests.acts.test_restore import judge
from tests.conformance.compositions import PARTITIONS, kafka_settings
from tests.pipeline.support import ConsumeCommand
from tests.proof.support import sealing
from tests.support.waiting import until

from skillaudit.consumer.database import open_database
from skillaudit.consumer.notary import NotaryState
from skillaudit.consumer.planning import plan_erase, plan_purge_of, plan_redact
from skillaudit.consumer.service import ConsumerService
from skillaudit.contract.admin import ActOrder
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import OUTBOX_TOPIC
from skillaudit.producer.publisher import partition_for
from skillaudit.producer.topics import checkpoints_topic
from skillaudit.proof.anchors import open_anchor
from skillaudit.storage import open_operations

pytestmark = pytest.mark.broker

WAIT_S = 30.0
LEDGER = "SELECT * FROM main.ledger ORDER BY partition, idx"
JOURNAL = "SELECT leaf FROM main.journal ORDER BY idx"
ORDER = ActOrder(actor="tester", reason="why not")


def first_part(runs: Sequence[Run]) -> list[tuple[str, bytes]]:
    """(run, record): whole runs, one delivered twice, one whose start never came, rubbish, and a second start."""
    sent = [(run.id, record) for run in runs[:8] for record in run.whole({"n": 1}, {"n": 2})]
    sent += sent[4:8]
    sent += [(runs[8].id, record) for record in runs[8].whole({"n": 3})[1:]]
    sent += [("rubbish", b"{"), ("rubbish", b"\xff"), ("rubbish", b'{"v":2,"type":"run.started"}')]
    sent += [(runs[0].id, Run(runs[0].id, number=99, at_us=runs[0].at_us + 7).start(caller="other"))]
    return sent


def honest(runs: Sequence[Run]) -> tuple[list[tuple[str, bytes]], list[tuple[str, bytes]]]:
    """The same without the two starts that contradict others, which no record ever loses again."""
    again = Run(runs[1].id, number=2).start()
    return first_part(runs)[:-1], [*second_part(runs)[:-1], (runs[1].id, again)]


def second_part(runs: Sequence[Run]) -> list[tuple[str, bytes]]:
    """More runs, and a purged run's records again."""
    sent = [(run.id, record) for run in runs[9:] for record in run.whole({"n": 4})]
    return [*sent, (runs[1].id, Run(runs[1].id).start())]


async def send(settings: Settings, records: Sequence[tuple[str, bytes]]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers, acks="all")
    await producer.start()
    for key, value in records:
        place = partition_for(key.encode(), PARTITIONS)
        await producer.send_and_wait(settings.kafka_topic, value, key=key.encode(), partition=place)
    await producer.stop()


@contextlib.asynccontextmanager
async def consuming(settings: Settings, until_records: int) -> AsyncGenerator[ConsumerService]:
    """Once so many records are stored in all."""
    service, stop = ConsumerService(settings, seal=True), asyncio.Event()
    running = asyncio.ensure_future(service.run(stop))

    def stored() -> bool:
        if running.done():
            return True
        if not service.caught_up.is_set():
            return False
        with contextlib.closing(service.cursor()) as cursor:
            found = cursor.execute(
                "SELECT sum(records) FROM main.positions WHERE starts_with(partition, ?)",
                [f"{settings.kafka_topic if settings.uses_kafka else OUTBOX_TOPIC}/"],
            ).fetchall()
            return found == [(until_records,)]

    try:
        await until(stored, WAIT_S)
        if not running.done():
            yield service
    finally:
        stop.set()
        await running


def read(path: Path, query: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(duckdb.connect(str(path), read_only=True)) as closed:
        return closed.execute(query).fetchall()


def content(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    with open_database(path) as database:
        return state(database)


async def test_a_database_made_again_from_the_topics(tmp_path: Path, kafka_bootstrap: str) -> None:
    """After duplicates, a conflict, an orphan, dead letters, a redaction, an erasure, a purge and a restart."""
    settings = await kafka_settings(
        tmp_path / "data", kafka_bootstrap, poison_share_percent_max=101, **sealing(tmp_path)
    )
    runs = [Run(f"run-{n}", number=n + 1) for n in range(12)]
    parts = first_part(runs), second_part(runs)
    await send(settings, parts[0])
    async with consuming(settings, len(parts[0])) as service:
        await until(lambda: service.status.notary.leaves > 0, WAIT_S)
        await service.order(plan_redact(ORDER, runs[2].id, 1, None))
        await service.order(plan_erase(ORDER, [runs[3].id]))
        await service.order(plan_purge_of(ORDER, [runs[1].id]))
    await send(settings, parts[1])
    total = len(parts[0]) + len(parts[1])
    async with consuming(settings, total):
        pass
    ledger, journal = read(settings.database, LEDGER), read(settings.database, JOURNAL)
    assert len(ledger) > 2 * len(runs)
    assert [kind for (kind,) in read(settings.database, "SELECT DISTINCT kind FROM journal ORDER BY 1")] == [
        "act",
        "seal",
    ]
    again = replace(settings, db_file=tmp_path / "again.duckdb", seal_state_file=tmp_path / "again.state")
    async with consuming(again, total) as service:
        await until(lambda: service.status.notary.state is NotaryState.SEALING, WAIT_S)
    assert read(again.database, LEDGER) == ledger
    assert read(again.database, JOURNAL)[: len(journal)] == journal
    assert content(again.database) == content(settings.database)


@pytest.mark.parametrize("anchor", ["file", "kafka"])
async def test_a_database_made_again_after_its_consumer_was_killed(
    tmp_path: Path, kafka_bootstrap: str, anchor: str
) -> None:
    """By SIGKILL, while it was storing and sealing, after acts were ordered: what it had anchored is met, and `verify` accuses
    the new file of nothing, to the grade of the anchor. The topic still holds what is missing, and says so.
    """
    settings = await kafka_settings(
        tmp_path / "data", kafka_bootstrap, poison_share_percent_max=101, **sealing(tmp_path)
    )
    if anchor == "kafka":
        settings = replace(settings, anchors=f"kafka:{checkpoints_topic(settings)}")
    runs = [Run(f"run-{n}", number=n + 1) for n in range(12)]
    parts = honest(runs)
    total = len(parts[0]) + len(parts[1])
    async with ConsumeCommand(settings, logs=tmp_path) as consumer:
        await send(settings, parts[0])
        await until(lambda: asyncio.to_thread(anchored, settings), WAIT_S)
        async with open_operations(settings) as operations:
            await operations.redact(ORDER, runs[2].id, 1)
            await operations.erase(ORDER, [runs[3].id])
            await operations.purge(ORDER, runs=[runs[1].id])
        await send(settings, parts[1])
        await consumer.kill()
    journal = await asyncio.to_thread(anchored, settings)
    again = replace(settings, db_file=tmp_path / "again.duckdb", seal_state_file=tmp_path / "again.state")
    async with consuming(again, total) as service:
        await until(lambda: service.status.notary.state is NotaryState.SEALING, WAIT_S)
    assert [leaf for (leaf,) in read(again.database, JOURNAL)][: len(journal)] == journal
    judged = await judge(again)
    assert (judged.exit_code, judged.grade) == (4, "anchored"), judged.findings
    assert {"RUN_INCOMPLETE", "REDACTED"} <= set(judged.counts), judged.findings
    assert judged.purged == 1
    for run, code in ((runs[0], 0), (runs[1], 0), (runs[2], 0), (runs[3], 0), (runs[8], 4), (runs[9], 0)):
        assert (await judge(again, run.id)).exit_code == code


def anchored(settings: Settings) -> list[bytes]:
    """The leaves that the anchor holds; empty while it holds none."""
    leaves: list[bytes] = []
    with contextlib.closing(open_anchor(settings.anchors, settings)) as found:
        for stored in found.objects():
            leaves[stored.content.first :] = stored.content.leaves
    return leaves


async def delete_before(settings: Settings, positions: dict[str, int]) -> None:
    """As the topic's retention does."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    places = {name: TopicPartition(settings.kafka_topic, int(name.rpartition("/")[2])) for name in positions}
    await admin.delete_records({places[name]: RecordsToDelete(at) for name, at in positions.items()})
    await admin.close()


async def test_a_database_made_again_from_what_retention_left(tmp_path: Path, kafka_bootstrap: str) -> None:
    """One partition has lost its first records, another all of them, acts among what they held: the ledger begins at seals,
    meets the rest of them, and is sealed on.
    """
    settings = await kafka_settings(
        tmp_path / "data", kafka_bootstrap, poison_share_percent_max=101, **sealing(tmp_path)
    )
    runs = [Run(f"run-{n}", number=n + 1) for n in range(24)]
    parts = first_part(runs[:12]), second_part(runs)
    await send(settings, parts[0])
    async with consuming(settings, len(parts[0])) as service:
        await until(lambda: service.status.notary.leaves > 0, WAIT_S)
        await service.order(plan_redact(ORDER, runs[2].id, 1, None))
        await service.order(plan_purge_of(ORDER, [runs[1].id]))
    await send(settings, parts[1])
    total = len(parts[0]) + len(parts[1])
    async with consuming(settings, total):
        pass
    ledger = read(settings.database, LEDGER)
    ends = dict(
        read(
            settings.database,
            f"SELECT partition, next_offset FROM positions WHERE starts_with(partition, '{settings.kafka_topic}/')"
            " AND ledger_next > 1 ORDER BY ledger_next DESC LIMIT 2",
        )
    )
    some, emptied = sorted(ends)
    await delete_before(settings, {some: 2, emptied: ends[emptied]})
    again = replace(settings, db_file=tmp_path / "again.duckdb", seal_state_file=tmp_path / "again.state")
    async with consuming(again, total - 2 - ends[emptied]) as service:
        await until(lambda: service.status.notary.state is NotaryState.SEALING, WAIT_S)
        sealed = service.status.notary.rows_sealed
        await send(settings, [(runs[5].id, runs[5].log(n=9)), ("late", Run("late", number=50).start())])
        await until(lambda: service.status.notary.rows_sealed > sealed, WAIT_S)
    cuts = {row[0]: row[1] for row in read(again.database, "SELECT partition, first_row FROM ledger_cuts")}
    assert sorted(cuts) == sorted(ends)
    assert cuts[emptied] == sum(row[0] == emptied for row in ledger)
    left = [row for row in ledger if row[1] >= cuts.get(row[0], 0)]
    late = [row for row in read(again.database, LEDGER) if row not in left]
    assert [(row[2], row[3]) for row in late] == [("start", "late")]
    assert set(left) <= set(read(again.database, LEDGER))
    assert read(again.database, "SELECT * FROM pending_acts") == []
    named = read(again.database, "SELECT subject FROM incidents WHERE kind = 'ledger-cut' ORDER BY 1")
    assert named == [(some,), (emptied,)]
