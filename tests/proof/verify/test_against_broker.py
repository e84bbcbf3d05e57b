"""Stored events against a real broker: the live owner of a database, a closed file, and what is not the topic that was read."""

import asyncio
import contextlib
import json
import time
from dataclasses import replace
from typing import Any

import duckdb
import pytest
from tests.cli.conftest import command, recorded  # noqa: F401  fixtures
from tests.conformance.compositions import kafka_settings
from tests.support.waiting import until

from skillaudit.contract.records import SkillRun
from skillaudit.contract.settings import Settings
from skillaudit.producer import Sink
from skillaudit.producer.kafka import KafkaTopicAdmin
from skillaudit.proof.kafka_records import KafkaRecords
from skillaudit.proof.verify import Report, VerifyRequest
from skillaudit.storage.hosting import host_consumer
from skillaudit.storage.verifying import verify

pytestmark = pytest.mark.broker
RUNS, LOGS = 12, 3
WAIT_S = 60.0
AGAINST = VerifyRequest(against_kafka=True)


def record(settings: Settings, runs: int) -> None:
    with Sink.from_settings(settings) as sink:
        for number in range(runs):
            with sink.start_run(SkillRun(skill_id="s", inputs={"n": number})) as writer:
                for step in range(LOGS):
                    writer.step(f"thought {step}")
                writer.finish(output="done")
        sink.flush(WAIT_S)


@contextlib.asynccontextmanager
async def consuming(settings: Settings, runs: int, **options: Any):
    async with host_consumer(settings, **options) as hosted:

        async def arrived() -> bool:
            with contextlib.closing(hosted.service.cursor()) as cursor:
                row = cursor.execute("SELECT count(*) FROM runs WHERE finish_seq IS NOT NULL").fetchone()
            return row == (runs,)

        await until(arrived, WAIT_S)
        yield hosted


async def made(tmp_path, bootstrap: str) -> Settings:
    """A database that has consumed some runs from a topic of its own; nobody owns it."""
    settings = await kafka_settings(tmp_path / "data", bootstrap)
    await asyncio.to_thread(record, settings, RUNS)
    async with consuming(settings, RUNS, serve=False):
        return replace(settings, db_file=settings.database)


def change(settings: Settings, *statements: str) -> None:
    with contextlib.closing(duckdb.connect(str(settings.database))) as connection:
        for text in statements:
            connection.execute(text)


def kinds(report: Report) -> set[str]:
    return {it["kind"] for it in report.findings if it["severity"] in {"violation", "unchecked"}}


async def test_a_live_owner_reads_its_own_kafka(tmp_path, kafka_bootstrap):
    """Asked over HTTP while it consumes; the report says of which cluster, and who read it."""
    settings = await kafka_settings(tmp_path / "data", kafka_bootstrap)
    await asyncio.to_thread(record, settings, RUNS)
    async with consuming(settings, RUNS, serve=True) as hosted:
        elsewhere = replace(settings, kafka_bootstrap_servers="", url=hosted.url)
        writing = asyncio.ensure_future(asyncio.to_thread(record, settings, RUNS))
        told: list[tuple[str, int, int]] = []
        report = await verify(elsewhere, AGAINST, lambda *it: told.append(it))
        await writing
        assert not kinds(report), report.findings
        assert report.kafka["compared"] == report.kafka["runs"] >= RUNS
        assert report.kafka["by"].startswith("the process that owns the database (process ")
        assert report.kafka["cluster"].startswith("kafka:")
        assert report.kafka["records"] >= RUNS * (LOGS + 2)
        with hosted.service.materializer.transaction("tamper") as cursor:
            cursor.execute("UPDATE store.events_hot_a SET tag = tag + 1 WHERE run_key = 3 AND sequence = 2")
            cursor.execute("UPDATE store.events_hot_b SET tag = tag + 1 WHERE run_key = 3 AND sequence = 2")
        report = await verify(elsewhere, AGAINST)
        own = [it for it in report.findings if "Kafka" in it["says"]]
        assert [(it["kind"], it["sequence"]) for it in own] == [("EVENT_ALTERED", 2)]
        run = await verify(elsewhere, replace(AGAINST, run_id=own[0]["run_id"]))
        assert own[0] in run.findings


def test_a_closed_file_by_the_command(tmp_path, kafka_bootstrap, command):  # noqa: F811  the fixture
    """What is wrong with the file is named with the record; what is wrong with Kafka is 7, with the remedy."""
    settings = asyncio.run(made(tmp_path, kafka_bootstrap))
    said = command("verify", "--all", "--against-kafka", settings=settings)
    line = said.out.splitlines()[3]
    assert (said.code, line.startswith(f"kafka         ok    {RUNS} of {RUNS} runs compared; ")) == (
        0,
        True,
    ), said
    assert "read by this process (process " in line
    change(settings, "UPDATE store.runs SET output = 'other' WHERE run_key = 4")
    [(run_id,)] = query(settings, "SELECT id FROM runs WHERE run_key = 4")
    said = command("verify", run_id, "--against-kafka", "--json", settings=settings)
    report = json.loads(said.out)
    assert (said.code, report["kafka"]["compared"], report["kafka"]["violations"]) == (5, 1, 1)
    assert any("differs from it in output" in it["says"] for it in report["findings"])
    change(settings, "UPDATE store.runs SET output = 'done' WHERE run_key = 4")

    away = replace(settings, kafka_bootstrap_servers="127.0.0.1:1")
    said = command("verify", "--all", "--against-kafka", settings=away)
    assert said.code == 7
    assert "NOT_CHECKED: could not check the records that Kafka holds: can't ask for the ends" in said.out
    assert "integrity     part" in said.out

    change(settings, "UPDATE store.positions SET cluster = 'kafka:other'")
    said = command("verify", run_id, "--against-kafka", settings=settings)
    assert said.code == 7
    assert "it was consumed from kafka:other, and this is kafka:" in said.out


def query(settings: Settings, text: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(duckdb.connect(str(settings.database), read_only=True)) as connection:
        return connection.execute(text).fetchall()


def test_retention_and_a_topic_made_anew(tmp_path, kafka_bootstrap):
    """Records that were deleted are counted as older; a topic that is not there, or is another one, is told."""
    settings = asyncio.run(made(tmp_path, kafka_bootstrap))
    positions = dict(query(settings, "SELECT partition, next_offset FROM positions"))
    ours = {name: end for name, end in positions.items() if name.startswith(settings.kafka_topic)}
    largest = max(ours, key=ours.__getitem__)
    half = ours[largest] // 2
    asyncio.run(delete_records(settings, largest, half))
    with contextlib.closing(KafkaRecords(settings, by="a test")) as records:
        assert records.bounds([largest])[largest] == (half, ours[largest])
        portions = list(
            records.read(largest, 0, ours[largest])
        )  # as if retention had been faster than the reading
        assert (portions[0].first, portions[0].records[0].offset) == (half, half)
    asyncio.run(delete_records(settings, largest, ours[largest]))
    report = asyncio.run(verify(settings, AGAINST))
    assert not kinds(report), report.findings
    gone = query(settings, f"SELECT count(*) FROM runs WHERE partition = '{largest}'")[0][0]
    assert report.kafka["runs"] - report.kafka["compared"] == gone > 0

    async def anew():
        async with KafkaTopicAdmin(settings) as admin:
            await admin._client.delete_topics([settings.kafka_topic])

    asyncio.run(anew())
    report = asyncio.run(verify(settings, AGAINST))
    assert (report.exit_code, kinds(report)) == (7, {"NOT_CHECKED"})
    assert all(
        "was the topic deleted?" in it["says"] for it in report.findings if it["kind"] == "NOT_CHECKED"
    )


async def delete_records(settings: Settings, partition: str, before: int) -> None:
    from aiokafka import TopicPartition
    from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

    topic, _, number = partition.rpartition("/")
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(topic, int(number)): RecordsToDelete(before)})
    finally:
        await admin.close()


def test_the_reader_gives_each_record_once(tmp_path, kafka_bootstrap):
    """In portions that follow each other, from any offset on; times are asked for, too."""
    settings = asyncio.run(made(tmp_path, kafka_bootstrap))
    positions = dict(query(settings, "SELECT partition, next_offset FROM positions"))
    ours = sorted(name for name in positions if name.startswith(settings.kafka_topic))
    with contextlib.closing(KafkaRecords(settings, by="a test")) as records:
        bounds = records.bounds([*ours, f"{settings.kafka_topic}/99"])
        assert sorted(bounds) == ours
        for name in ours:
            assert bounds[name] == (0, positions[name])
            portions = list(records.read(name, 2, positions[name]))
            assert [portions[0].first, portions[-1].end] == [2, positions[name]]
            assert [it.offset for p in portions for it in p.records] == list(range(2, positions[name]))
            assert records.at(name, 0) == 0
            assert records.at(name, time.time_ns() // 1000 + 60_000_000) == positions[name]
