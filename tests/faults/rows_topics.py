"""Topics that change under their readers: made anew, cut off, grown, without a leader, two with the same runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from tests.faults.notes import LOG_DIGEST_SQL
from tests.faults.oracle import Account, BrokenError, must
from tests.faults.rows import Case, row
from tests.faults.stage import (
    Agents,
    check,
    consume_with,
    consuming,
    database,
    drain,
    forward_all,
    shared_broker,
    through_kafka,
)
from tests.faults.stage_kafka import (
    CASE_S_MAX,
    PATIENCE_S,
    Topics,
    flush_s,
    forwarding,
    read_batches,
    through_mock,
)
from tests.support.mock_cluster import MockCluster
from tests.support.waiting import until

from skillaudit.consumer.kafka_source import KafkaSource
from skillaudit.consumer.service import ConsumerService
from skillaudit.consumer.status import ServiceState
from skillaudit.contract.errors import HistoryLostError
from skillaudit.contract.outbox.directory import list_source_dirs
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import RecordBatch, StoredPosition
from skillaudit.producer.forwarder_files import PARTITIONS_NAME

NOTICED_S_MAX = 60.0


async def record_through(case: Case, settings: Settings, *, runs: int, agents: int = 1) -> dict[str, Account]:
    """Agents record, and a host's forwarder brings all of it to the broker."""
    plans = [{"runs": runs, "logs_max": 6, "flush_s": 0.0}] * agents
    async with Agents(case, replace(settings, forwarder="host"), plans) as recording:
        await recording.ended(PATIENCE_S)
    await forward_all(settings, PATIENCE_S)
    return recording.noted()


async def _recreate(settings: Settings) -> None:
    async with Topics(settings.kafka_bootstrap_servers) as topics:
        await topics.delete(settings.kafka_topic)
        await topics.create(settings.kafka_topic, 6)


async def refused_by_name(settings: Settings, make: Any = ConsumerService) -> None:
    """The consumer does not go on: it names the partition, and how to go on."""
    with pytest.raises(HistoryLostError) as lost:
        async with consuming(settings, make):
            raise BrokenError("the consumer went on over lost history without a word")
    name = lost.value.partition
    must(name.startswith(f"{settings.kafka_topic}/"), lost.value)
    must(f"--accept-history-loss {name}" in str(lost.value), lost.value)


def _incidents(settings: Settings) -> list[tuple[str, str]]:
    with database(settings) as cursor:
        return cursor.execute("SELECT kind, subject FROM main.incidents ORDER BY id").fetchall()


async def accepted_once(settings: Settings) -> None:
    """`TOPIC/*` goes on, recorded; left in a unit file it gives nothing up a second time."""
    option = {"accept_history_loss": (f"{settings.kafka_topic}/*",)}
    await consume_with(settings, **option)
    before = _incidents(settings)
    must(any(kind == "history-loss-accepted" for kind, _ in before), before)
    await consume_with(settings, **option)
    must(_incidents(settings) == before, "history that was accepted is told of again")


class _NeverLooksBack(KafkaSource):
    """Does not compare the last record consumed with what is there now."""

    async def _check_last_record(
        self, prober: Any, partition: TopicPartition, stored: StoredPosition
    ) -> None:
        del prober, partition, stored
        await asyncio.sleep(0)  # the client does not like to be stopped before its tasks have begun


def never_looking_back(settings: Settings, **options: Any) -> ConsumerService:
    return ConsumerService(settings, source=lambda _: _NeverLooksBack(settings), **options)


@row(
    "topic-made-anew",
    about="the topic deleted and made again, left empty or filled beyond the position, while the consumer is down or running",
    full=20,
    share=1,
    off={"last-record": "the last record consumed is not compared with what is there now"},
    off_cases_max=2,
    resource=shared_broker,
    broker=True,
    case_s_max=CASE_S_MAX,
)
async def topic_made_anew(case: Case) -> None:
    """Noticed, named, stopped; accepted, everything of the new topic is read from its beginning."""
    settings = await through_kafka(case, case.resource)
    accounts = await record_through(case, settings, runs=4)
    live = case.number % 2 == 1 and not case.switched_off
    await (_recreated_live(settings) if live else _recreated_while_down(settings))
    filled = live or bool(case.switched_off) or case.number % 4 == 0
    if filled:
        other = replace(settings, data=case.directory / "data-anew")
        accounts |= await record_through(case, other, runs=60, agents=2)
    if case.switched_off:
        await consume_with(settings, never_looking_back)
        check(case, settings, accounts)
    await refused_by_name(settings)
    await accepted_once(settings)
    case.note(live=int(live), filled=int(filled))
    check(case, settings, accounts, expected=("incidents",))


async def _recreated_while_down(settings: Settings) -> None:
    await consume_with(settings)
    await _recreate(settings)


async def _recreated_live(settings: Settings) -> None:
    """While it is deleted the consumer says so, and serves; once another one is there it stops."""
    async with consuming(settings, may_stop=True) as (service, running):
        await until(service.caught_up.is_set)
        async with Topics(settings.kafka_bootstrap_servers) as topics:
            await topics.delete(settings.kafka_topic)
            await until(
                lambda: running.done() or service.status.state is ServiceState.RETRYING, NOTICED_S_MAX
            )
            assert "has no topic" in service.status.last_error, service.status
            await topics.create(settings.kafka_topic, 6)
        await asyncio.wait((running,), timeout=NOTICED_S_MAX)
        must(running.done(), f"a topic made anew was not noticed: {service.status}")
        must(isinstance(running.exception(), HistoryLostError), running)


class _SkipsSilently(KafkaSource):
    """Begins where there is something, as clients do that reset their offsets."""

    async def open(self, positions: Mapping[str, StoredPosition]) -> None:
        left = dict(positions)
        while True:
            try:
                return await super().open(left)
            except HistoryLostError as exc:
                del left[exc.partition]


def _skipping_silently(settings: Settings, **options: Any) -> ConsumerService:
    return ConsumerService(settings, source=lambda _: _SkipsSilently(settings), **options)


@row(
    "retention-past-the-consumer",
    about="records deleted below the position (nothing is lost), and beyond it while the consumer is down, then more records",
    full=20,
    share=1,
    off={"no-reset": "the consumer begins where there is something, as clients do that reset offsets"},
    off_cases_max=1,
    resource=shared_broker,
    broker=True,
    off_in_tests=False,
    case_s_max=CASE_S_MAX,
    off_in_share=False,
)
async def retention_past_the_consumer(case: Case) -> None:
    """What was consumed may go; what was not is lost history: named, and no run of it reads as whole."""
    settings = await through_kafka(case, case.resource)
    everything = dict.fromkeys(range(6), -1)
    accounts = await record_through(case, settings, runs=6)
    await consume_with(settings)
    async with Topics(settings.kafka_bootstrap_servers) as topics:
        await topics.delete_records(settings.kafka_topic, everything)
        await consume_with(settings)
        must(_incidents(settings) == [], "what was consumed was deleted, and that is no incident")
        lost = await record_through(case, replace(settings, data=case.directory / "data-lost"), runs=10)
        await topics.delete_records(settings.kafka_topic, everything)
    accounts |= await record_through(case, replace(settings, data=case.directory / "data-later"), runs=10)
    await refused_by_name(settings, _skipping_silently if case.switched_off else ConsumerService)
    await accepted_once(settings)
    with database(settings) as cursor:
        whole = {
            r[0]
            for r in cursor.execute("SELECT id FROM main.runs WHERE completeness = 'complete'").fetchall()
        }
    must(not whole & lost.keys(), "runs of which records were lost read complete")
    case.note(lost_and_named=sum(len(account.logs) + 1 for account in lost.values()))
    check(case, settings, accounts, expected=("incidents", "orphans"), foreign_allowed=True)


@row(
    "partitions-added",
    about="the topic grows from 6 to 12 partitions under load; forwarders of before and after, adopters, a running consumer",
    full=20,
    share=1,
    off={"pinned": "an adopter takes the topic's present count of partitions"},
    off_cases_max=8,
    resource=shared_broker,
    broker=True,
    case_s_max=CASE_S_MAX,
    off_in_share=False,
    off_in_tests=False,  # chance decides whether it shows within a few cases
)
async def partitions_added(case: Case) -> None:
    """A source keeps the count it began with: no run is split over two partitions."""
    settings = await through_kafka(case, case.resource, forwarder="host")
    stop = case.directory / "stop"
    plan = {
        "runs": 10_000,
        "open_at_once": 8,
        "events_per_s": 100.0,
        "stop_file": str(stop),
        "flush_s": flush_s(case),
    }
    async with consuming(settings) as (service, running):
        async with Agents(case, settings, [plan] * 2) as agents:
            async with forwarding(settings):
                await agents.until_noted(100, PATIENCE_S)
            async with Topics(settings.kafka_bootstrap_servers) as topics:
                await topics.add_partitions(settings.kafka_topic, 12)
            if case.switched_off:
                for source_dir in list_source_dirs(settings.outbox_dir):
                    (source_dir / PARTITIONS_NAME).unlink(missing_ok=True)
            async with forwarding(settings), Agents(case, settings, [plan]) as later:
                await later.until_noted(later.noted_lines() + 50, PATIENCE_S)
                await agents.until_noted(agents.noted_lines() + 50, PATIENCE_S)
                stop.touch()
                await agents.join(PATIENCE_S)
                await later.join(PATIENCE_S)
        stored = await read_batches(settings, settings.kafka_topic)
        filled = {f"{settings.kafka_topic}/{number}" for number, records in stored.items() if records}
        await until(lambda: running.done() or filled <= service.status.lag.keys())
        must(not running.done(), running)
    accounts = agents.noted() | later.noted()
    places: dict[bytes, set[int]] = {}
    for partition, records in stored.items():
        for key, _ in records:
            places.setdefault(key, set()).add(partition)
    split = {key: where for key, where in places.items() if len(where) > 1}
    must(not split, f"{len(split)} runs are in several partitions: {split}")
    await drain(settings, PATIENCE_S)
    check(case, settings, accounts)


class _OneNamespace(KafkaSource):
    """Tells records of two topics by their numbers alone."""

    async def poll(self, records_max: int, timeout_ms: int) -> RecordBatch:
        batch = await super().poll(records_max, timeout_ms)
        first = self._topics[0]
        return replace(
            batch,
            records=[r._replace(partition=_renamed(r.partition, first)) for r in batch.records],
            ends={_renamed(name, first): end for name, end in batch.ends.items()},
        )


def _renamed(partition: str, first: str) -> str:
    topic, _, number = partition.rpartition("/")
    return partition if topic == first else f"{first}/{int(number) + 1_000}"


@row(
    "two-topics-same-runs",
    about="two topics that hold runs of the same ids, one of them only the first half of each",
    judge="each topic's runs hold exactly what was sent to it, byte for byte",
    full=10,
    share=1,
    off={"namespace": "runs of two topics with one id are one run"},
    off_cases_max=1,
    resource=shared_broker,
    broker=True,
    off_in_tests=False,
    case_s_max=CASE_S_MAX,
    off_in_share=False,
)
async def two_topics(case: Case) -> None:
    """Ids are a topic's own: neither completes the other's runs."""
    settings = await through_kafka(case, case.resource)
    accounts = await record_through(case, settings, runs=12)
    copy = f"{settings.kafka_topic}.copy"
    async with Topics(settings.kafka_bootstrap_servers) as topics:
        await topics.create(copy, 6)
    await _copy_half(settings, copy)
    # In every other case the halves come first: whoever takes both for one topic completes them.
    names = (settings.kafka_topic, copy) if case.number % 2 else (copy, settings.kafka_topic)
    both = replace(settings, kafka_topic=",".join(names))
    await consume_with(both, _in_one_namespace if case.switched_off else ConsumerService)
    wrong = [
        *_wrong_of_topic(both, copy, accounts, half=True),
        *_wrong_of_topic(both, settings.kafka_topic, accounts, half=False),
    ]
    must(not wrong, f"{len(wrong)} of {2 * len(accounts)} runs are wrong: {'; '.join(wrong[:3])}")
    case.events += sum(len(account.logs) + 2 for account in accounts.values())


def _in_one_namespace(settings: Settings, **options: Any) -> ConsumerService:
    return ConsumerService(settings, source=lambda _: _OneNamespace(settings), **options)


async def _copy_half(settings: Settings, copy: str) -> None:
    """Starts, and logs of odd numbers."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers)
    await producer.start()
    try:
        for partition, records in (await read_batches(settings, settings.kafka_topic)).items():
            for key, value in records:
                members = orjson.loads(value)
                if members["type"] == "run.started" or (members["type"] == "run.log" and members["seq"] % 2):
                    await producer.send_and_wait(copy, value, key=key, partition=partition)
    finally:
        await producer.stop()


_STORED_OF_TOPIC = f"""
SELECT r.id, r.completeness, list(struct_pack(n := sequence, h := {LOG_DIGEST_SQL}) ORDER BY sequence)
    FILTER (WHERE sequence IS NOT NULL)
FROM main.runs r LEFT JOIN main.events e USING (run_key)
WHERE r.topic = ?
GROUP BY ALL
"""


def _wrong_of_topic(settings: Settings, topic: str, accounts: dict[str, Account], *, half: bool) -> list[str]:
    """Each run that is not as it was sent to this topic, in words."""
    with database(settings) as cursor:
        rows = cursor.execute(_STORED_OF_TOPIC, [topic]).fetchall()
    ids = [row[0] for row in rows]
    wrong = [f"{run_id} is no run of {topic}" for run_id in sorted(set(ids) - accounts.keys())]
    wrong += [f"{run_id} is there {n} times in {topic}" for run_id, n in Counter(ids).items() if n > 1]
    for run_id, completeness, logs in rows:
        if run_id in accounts:
            sent = {n: h for n, h in accounts[run_id].logs.items() if not half or n % 2}
            wrong += _wrong_of_run(f"{run_id} of {topic}", sent, completeness, logs or (), half=half)
    return wrong + [f"{run_id} of {topic} is lost" for run_id in sorted(accounts.keys() - set(ids))]


def _wrong_of_run(
    name: str, sent: dict[int, str], completeness: str, logs: Sequence[dict[str, Any]], *, half: bool
) -> list[str]:
    stored = {log["n"]: log["h"] for log in logs}
    more, lost = sorted(stored.keys() - sent.keys()), sorted(sent.keys() - stored.keys())
    altered = sorted(n for n in sent.keys() & stored.keys() if sent[n] != stored[n])
    found = {"were sent to the other topic alone": more, "are lost": lost, "are altered": altered}
    told = [f"logs {numbers} {what}" for what, numbers in found.items() if numbers]
    told += ["logs are there twice"] if len(logs) > len(stored) else []
    told += [f"reads {completeness}"] if (completeness == "complete") is half else []
    return [f"{name}: {', '.join(told)}"] if told else []


LEADERLESS_S = 60.0


@row(
    "partition-leaderless-60-s",
    about="one partition without a leader for 60 s under load, an agent and a consumer beginning meanwhile (mock cluster)",
    full=5,
    share=0,
    test=0,
    off={"others-go-on": "the consumer asks partitions without a leader, too, and waits for the answer"},
    off_cases_max=1,
    off_in_tests=False,
    case_s_max=CASE_S_MAX,
    off_in_share=False,
    not_in_tests="long: 60 s without a leader",
)
async def partition_leaderless(case: Case) -> None:
    """The other partitions go on, at the forwarder and at the consumer; afterwards all of it is there."""
    with MockCluster() as cluster:
        settings = through_mock(case, cluster, kafka_request_timeout_ms=5_000)
        leaderless = _without_leader(cluster, settings.kafka_topic, case.random.randrange(3))
        await go_on_beside(case, settings, leaderless)


async def go_on_beside(
    case: Case, settings: Settings, leaderless: contextlib.AbstractAsyncContextManager[None]
) -> None:
    """Agents, a forwarder and a consumer work on, others begin beside it; nobody stands still for long."""
    stop = case.directory / "stop"
    plan = {"runs": 10_000, "events_per_s": 20.0, "stop_file": str(stop), "flush_s": flush_s(case)}
    make = _asking_all if case.switched_off else ConsumerService
    async with contextlib.AsyncExitStack() as stack:
        first, running = await stack.enter_async_context(consuming(settings, make))
        await stack.enter_async_context(forwarding(settings))
        agents = await stack.enter_async_context(Agents(case, settings, [plan]))
        await agents.until_noted(20, PATIENCE_S)
        async with leaderless:
            later = await stack.enter_async_context(Agents(case, settings, [plan]))
            second = replace(settings, data=case.directory / "data-second")
            try:
                other, _ = await stack.enter_async_context(consuming(second, make, begin_s=20.0))
            except TimeoutError as exc:
                raise BrokenError(f"a consumer can't begin beside it: {exc}") from exc
            slowest = {"first": 0.0, "second": 0.0}
            seconds = 25.0 if case.switched_off else LEADERLESS_S
            for _ in range(int(seconds / 5)):
                before = first.status.records, other.status.records
                await asyncio.sleep(5)  # the fault's length, in pieces
                for name, now, then in zip(slowest, (first, other), before, strict=True):
                    stood_still = now.status.records == then
                    slowest[name] = slowest[name] + 5 if stood_still else 0.0
                must(max(slowest.values()) <= 15, f"consumers stand still beside it: {slowest}")
        stop.touch()
        await agents.join(PATIENCE_S)
        await later.join(PATIENCE_S)
        must(not running.done(), running)
    await consume_with(settings)
    await consume_with(second)
    accounts = agents.noted() | later.noted()
    check(case, settings, accounts)
    check(case, second, accounts)


class _AsksAll(KafkaSource):
    """Makes no difference between partitions with a leader and without."""

    async def _led(self, partitions: set[TopicPartition]) -> set[TopicPartition]:
        return partitions

    def _with_leader(self, partitions: set[TopicPartition]) -> set[TopicPartition]:
        return partitions


def _asking_all(settings: Settings, **options: Any) -> ConsumerService:
    return ConsumerService(settings, source=lambda _: _AsksAll(settings), **options)


@contextlib.asynccontextmanager
async def _without_leader(cluster: MockCluster, topic: str, partition: int) -> AsyncGenerator[None]:
    cluster.set_leader(topic, partition, None)
    try:
        yield
    finally:
        cluster.set_leader(topic, partition, 1)
