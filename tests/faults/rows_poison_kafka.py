"""Records that are no events, on their way through a broker: fuzzed between good ones, and whole deployments of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from aiokafka import AIOKafkaProducer
from tests.faults.oracle import must
from tests.faults.releases import parse_newer, record_by
from tests.faults.rows import Case, row
from tests.faults.rows_poison import assert_accepted, assert_buried, assert_good, mix
from tests.faults.serving import as_it_is, consume_through, replay_all
from tests.faults.stage import check, database, forward_all, shared_broker, through_kafka
from tests.faults.stage_kafka import Topics

from skillaudit.consumer.database import open_database
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.poison import WINDOW_RECORDS as POISON_WINDOW
from skillaudit.contract.errors import PoisonLimitError
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import RecordBatch, RecordSource, SourceRecord

WITHOUT_LIMIT: dict[str, Any] = {"poison_in_a_row_max": 1_000_000_000, "poison_share_percent_max": 101}
FUZZED_THROUGH = 4_000


class DecodesKeys:
    """Takes keys for text, as deserializers of many clients do."""

    def __init__(self, source: RecordSource) -> None:
        self._source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    async def poll(self, records_max: int, timeout_ms: int) -> RecordBatch:
        """As the source's, with what could be read of the keys."""
        batch = await self._source.poll(records_max, timeout_ms)
        records = [r._replace(key=r.key and r.key.decode(errors="replace").encode()) for r in batch.records]
        return replace(batch, records=records)


async def _produce(settings: Settings, records: Sequence[SourceRecord]) -> None:
    """In order, into the topic's only partition."""
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap_servers, max_request_size=4 << 20, max_batch_size=1 << 20
    )
    await producer.start()
    try:
        sending = [
            await producer.send(settings.kafka_topic, record.value, key=record.key, partition=0)
            for record in records
        ]
        offsets = [told.offset for told in await asyncio.gather(*sending)]
    finally:
        await producer.stop()
    must(offsets == [record.offset for record in records], "the topic holds them in another order")


@row(
    "poison-fuzzed-through-kafka",
    about="Fuzzed records, as in poison-fuzzed, between good ones in a topic of a broker, with keys of any kind (none, empty, of 1 MiB, no text, another run's "
    "id), read by the consumer as it is",
    judge="every good record is stored once; every other one is a dead letter with its bytes and its key, or still an event and stored",
    synthetic=True,
    full=20_000,
    share=4_000,
    test=0,
    not_in_tests="as its twin without a broker",
    off={"keys-are-bytes": "keys are taken for text, as deserializers of many clients do it"},
    off_cases_max=1,
    off_in_tests=False,
    off_in_share=False,
    resource=shared_broker,
    broker=True,
    case_s_max=900,
)
async def fuzzed_through_kafka(case: Case) -> None:
    """Neither values nor keys end the consumer, or change what becomes of others."""
    sent = await asyncio.to_thread(mix, case, FUZZED_THROUGH)
    own = await through_kafka(case, case.resource, batch_records_max=case.random.choice((100, 700, 5_000)))
    settings = replace(own, kafka_topic=f"{own.kafka_topic}-fuzzed", **WITHOUT_LIMIT)
    async with Topics(settings.kafka_bootstrap_servers) as topics:
        await topics.create(settings.kafka_topic, 1, max_message_bytes=str(16 << 20))
    await _produce(settings, sent.records)
    await consume_through(settings, DecodesKeys if case.switched_off else as_it_is)
    with database(settings) as cursor:
        assert_buried(cursor, sent, f"{settings.kafka_topic}/0")
        assert_good(cursor, sent)
        assert_accepted(cursor, sent)
    case.injections = FUZZED_THROUGH
    case.events += len(sent.records)
    case.note(refused=len(sent.refused), still_events=len(sent.accepted), cases=1)


CONSUMED = "SELECT coalesce(sum(records), 0) FROM main.positions"
STARTS = 3
"""How often a supervisor starts the consumer into the same trouble."""


NO_LIMIT = {"poison-limit": "no limit: poison_in_a_row_max and poison_share_percent_max out of reach"}


@row(
    "bad-deployment",
    about="A deployment of agents whose every record this release refuses, behind good ones: stops by its limit, replayed after the repair",
    full=5,
    share=1,
    test=1,
    off=NO_LIMIT,
    resource=shared_broker,
    broker=True,
)
async def bad_deployment(case: Case) -> None:
    """Nothing drains away: the position stays before the batch, one incident says why, and what came is there after the repair."""
    await _bad_deployment(case, mixed=False)


@row(
    "bad-deployment-mixed",
    about="As bad-deployment, every other record of which is a good one: stops by the other limit, replayed after the repair",
    full=5,
    share=1,
    test=0,
    not_in_tests="as its twin",
    off=NO_LIMIT,
    off_in_tests=False,
    off_in_share=False,
    resource=shared_broker,
    broker=True,
)
async def bad_deployment_mixed(case: Case) -> None:
    """As there."""
    await _bad_deployment(case, mixed=True)


async def _bad_deployment(case: Case, *, mixed: bool) -> None:
    limits = WITHOUT_LIMIT | ({"poison_share_percent_max": 5} if mixed else {"poison_in_a_row_max": 50})
    if case.switched_off == "poison-limit":
        limits = WITHOUT_LIMIT
    settings = await through_kafka(case, case.resource, forwarder="host", batch_records_max=400, **limits)
    accounts = await asyncio.to_thread(record_by, case, settings, "good", "")
    accounts |= await asyncio.to_thread(record_by, case, settings, "bad", "mixed" if mixed else "all")
    await forward_all(settings)
    for _ in range(STARTS):
        await _assert_stops(settings)
    with database(settings) as cursor:
        letters = cursor.execute("SELECT count(*) FROM main.dead_letters").fetchone()[0]
        incidents = cursor.execute("SELECT kind, detail FROM main.incidents").fetchall()
        consumed = cursor.execute(CONSUMED).fetchone()[0]
    must([kind for kind, _ in incidents] == ["PoisonLimit"], f"incidents: {incidents}")
    must("malformed" in incidents[0][1], f"the incident does not say why: {incidents[0]}")
    must(letters < POISON_WINDOW * 5 // 100, f"{letters} records drained into the dead letters")
    await consume_through(replace(settings, **WITHOUT_LIMIT))
    await asyncio.to_thread(_repair, settings)
    check(case, settings, accounts, expected=("dead_letters", "incidents"))
    with database(settings) as cursor:
        left = cursor.execute("SELECT count(*) FROM main.dead_letters WHERE state = 'waiting'").fetchone()
        must(consumed < cursor.execute(CONSUMED).fetchone()[0], "the position was past what was not taken")
        must(left == (0,), f"{left[0]} records of the bad deployment could not be replayed")
    case.note(letters_before_the_stop=letters)


async def _assert_stops(settings: Settings) -> None:
    stopped = ""
    try:
        await consume_through(settings)
    except PoisonLimitError as exc:
        stopped = str(exc)
    must(stopped, "the consumer took a deployment that sends nothing but poison")
    must("Mend the sender" in stopped, stopped)


def _repair(settings: Settings) -> None:
    with open_database(settings.database) as opened:
        must(
            replay_all(opened, Materializer(opened, parse=parse_newer)) > 0, "nothing of it could be replayed"
        )
