"""Two releases beside each other: agents older or newer than the consumer, a forwarder older than its agents."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.faults.agent import Notebook, Plan, record
from tests.faults.oracle import Account, BrokenError, must, read_accounts
from tests.faults.releases import SECOND, NewerLog, kind_of, parse_demanding, parse_newer
from tests.faults.rows import Case, row
from tests.faults.serving import as_it_is, consume_through, replay_all
from tests.faults.stage import check, database, embedded, is_drained, shared_broker, through_kafka
from tests.support.waiting import until

from skillaudit.consumer.database import Database, open_database
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.service import ConsumerService
from skillaudit.consumer.staging import Parse, parse_value
from skillaudit.contract.errors import InvalidRecordError
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import RecordBatch, RecordSource
from skillaudit.producer import Sink
from skillaudit.producer.forwarder_host import make_publisher, run_host_forwarder
from skillaudit.producer.outbox import OutboxLog
from skillaudit.producer.publisher import RecordPublisher

LETTERS_MAX = 100_000
PLAN = {"runs": 40, "open_at_once": 8, "logs_max": 8, "payload_bytes": 150}


@dataclass(slots=True)
class Recorded:
    """What an agent of some release left."""

    accounts: dict[str, Account]
    unknown: Counter[bytes]
    """Records of types that this release has no name for."""
    second: int = 0
    """Records of version 2 that belong to runs."""


def _record(case: Case, settings: Settings, *, of_newer_release: bool) -> Recorded:
    """An agent in this process; nobody forwards in it."""
    account = case.directory / "account.jsonl"
    notes, log = Notebook(str(account)), OutboxLog(settings)
    target: Any = NewerLog(log) if of_newer_release else log
    sink = Sink(target)
    record(sink, Plan(account=str(account), seed=case.seed, **PLAN), notes, 0)
    sink.close(0)
    accounts = read_accounts([account])
    if not of_newer_release:
        return Recorded(accounts, Counter())
    second = sum(text.startswith(b'{"v":2,"type":"run.') for text in target.written)
    return Recorded(accounts, Counter(target.unknown), second)


class Skipping:
    """A source of a consumer that passes over what it does not know."""

    def __init__(self, source: RecordSource) -> None:
        self._source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    async def poll(self, records_max: int, timeout_ms: int) -> RecordBatch:
        """As the source's, without what is not known."""
        batch = await self._source.poll(records_max, timeout_ms)
        known = [each for each in batch.records if _is_known(each.value)]
        return RecordBatch(known, batch.ends, batch.findings, batch.closed)


def _is_known(value: bytes | None) -> bool:
    try:
        parse_value(value)
    except InvalidRecordError:
        return False
    return True


class OtherRelease(ConsumerService):
    """A consumer whose parser is another release's."""

    parse: Parse

    def make_materializer(self, database: Database) -> Materializer:
        made = super().make_materializer(database)
        made.parse = self.parse
        return made


class NewerConsumer(OtherRelease):
    """It reads version 2."""

    parse = staticmethod(parse_newer)


class DemandingConsumer(OtherRelease):
    """It demands what came later."""

    parse = staticmethod(parse_demanding)


@row(
    "old-agents-new-consumer",
    about="Records without any of the members that a newer release adds, read by a consumer that knows version 2 and those members",
    full=20,
    share=1,
    test=1,
    off={"optional": "what came later is demanded"},
)
async def old_agents(case: Case) -> None:
    """Members are only added as optional ones."""
    settings = embedded(case)
    recorded = await asyncio.to_thread(_record, case, settings, of_newer_release=False)
    release = DemandingConsumer if case.switched_off == "optional" else NewerConsumer
    await consume_through(settings, service=release)
    check(case, settings, recorded.accounts)


@row(
    "new-agents-old-consumer",
    about="Version 1 with unknown members, version 2, unknown types of runs and sources, read by this release; upgraded then, and the dead letters replayed",
    full=20,
    share=1,
    test=1,
    off={"dead-letters": "what is not known is passed over"},
)
async def new_agents(case: Case) -> None:
    """Nothing that is not known is lost: it waits with its bytes for the release that knows it."""
    settings = embedded(case, poison_in_a_row_max=LETTERS_MAX, poison_share_percent_max=101)
    recorded = await asyncio.to_thread(_record, case, settings, of_newer_release=True)
    await consume_through(settings, Skipping if case.switched_off == "dead-letters" else as_it_is)
    readable = {run: account for run, account in recorded.accounts.items() if kind_of(run) != SECOND}
    check(case, settings, readable, expected=("dead_letters",))
    with database(settings) as cursor:
        _assert_letters(cursor, recorded, recorded.second)
    await asyncio.to_thread(_upgrade_and_replay, settings)
    check(case, settings, recorded.accounts, expected=("dead_letters",))
    with database(settings) as cursor:
        _assert_letters(cursor, recorded, 0)
    case.note(replayed=recorded.second)


def _assert_letters(cursor: Any, recorded: Recorded, second: int) -> None:
    """What waits: the unknown types, byte for byte, and so many records of version 2."""
    rows = cursor.execute("SELECT record FROM main.dead_letters WHERE state = 'waiting'").fetchall()
    waiting = Counter(bytes(row[0]) for row in rows)
    missing = recorded.unknown - waiting
    if missing:
        raise BrokenError(f"{missing.total()} records of unknown types are nowhere: {next(iter(missing))!r}")
    rest = waiting - recorded.unknown
    must(rest.total() == second, f"{rest.total()} records of version 2 wait, of {second}")
    must(all(text.startswith(b'{"v":2,') for text in rest), "what waits besides is of another version")


def _upgrade_and_replay(settings: Settings) -> None:
    """What `skillaudit dead-letters replay --all` does after the upgrade."""
    with open_database(settings.database) as opened:
        replay_all(opened, Materializer(opened, parse=parse_newer))


class Rewriting:
    """A forwarder that writes anew what it understands."""

    def __init__(self, publisher: RecordPublisher) -> None:
        self._publisher = publisher

    def __getattr__(self, name: str) -> Any:
        return getattr(self._publisher, name)

    async def send(self, partition: int, records: Sequence[tuple[bytes, bytes]]) -> int:
        """The members of version 1, and its version."""
        known = ("sequence", "span", "trace_id", "tenant", "cost_usd", "reason", "to", "when")
        return await self._publisher.send(
            partition, [(key, _without(value, known)) for key, value in records]
        )


def _without(value: bytes, names: Sequence[str]) -> bytes:
    members = {name: it for name, it in json.loads(value).items() if name not in names}
    return json.dumps(members | {"v": 1}, ensure_ascii=False, separators=(",", ":")).encode()


@row(
    "forwarder-older-than-agents",
    about="An agent of a newer release (unknown members, version 2, unknown types) whose outbox this release forwards, read by a consumer of the newer one",
    full=20,
    share=1,
    test=1,
    off={"bytes-kept": "the forwarder writes anew what it understands"},
    off_in_tests=False,
    resource=shared_broker,
    broker=True,
)
async def old_forwarder(case: Case) -> None:
    """A forwarder passes bytes on: it needs a key, and nothing else of what it carries."""
    settings = await through_kafka(case, case.resource, forwarder="host", poison_share_percent_max=101)
    recorded = await asyncio.to_thread(_record, case, settings, of_newer_release=True)
    publisher: Any = make_publisher(settings)
    if case.switched_off == "bytes-kept":
        publisher = Rewriting(publisher)
    stop = asyncio.Event()
    forwarding = asyncio.create_task(run_host_forwarder(settings, stop, publisher=publisher))
    try:
        await until(lambda: forwarding.done() or is_drained(settings), 60)
    finally:
        stop.set()
        report = await forwarding
    must((report.refused, report.incidents) == (0, 0), report)
    await consume_through(settings, service=NewerConsumer)
    check(case, settings, recorded.accounts, expected=("dead_letters",))
    with database(settings) as cursor:
        _assert_letters(cursor, recorded, 0)
