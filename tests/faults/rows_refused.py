"""What a broker refuses: records too large, clocks ahead, permissions that are not there."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
from tests.conformance.compositions import settings_at
from tests.faults.notes import finish_digest, log_digest, start_digest
from tests.faults.oracle import Account, must
from tests.faults.rows import Case, row
from tests.faults.stage import Agents, check, consume_all, shared_broker
from tests.faults.stage_kafka import CASE_S_MAX, PATIENCE_S, Topics, flush_s, forwarding, publisher_of
from tests.support.waiting import until

from skillaudit.contract.errors import UnreachableError
from skillaudit.contract.outbox.directory import list_source_dirs
from skillaudit.contract.outbox.refused import list_refused, read_refused
from skillaudit.contract.settings import Settings
from skillaudit.producer.kafka import KafkaPublisher
from skillaudit.producer.publisher import OFFSET_UNKNOWN, RefusedForGoodError

TOPIC_BYTES_MAX = 20_000
PAYLOAD_BYTES = 16_000
"""Between half and one and a half of it: a part of them is too large."""
AHEAD_MS = 2 * 3_600_000
PENDING = 3
FINISH_MEMBERS = (
    "status", "output", "error", "tool_calls", "input_tokens", "output_tokens", "thinking_tokens",
)  # fmt: skip
"""Exit code of an agent whose flush reports that something did not arrive."""


async def _settings(case: Case, bootstrap: str, **config: str) -> Settings:
    mark = secrets.token_hex(4)
    settings = settings_at(
        case.directory / "data",
        kafka_bootstrap_servers=bootstrap,
        kafka_topic=f"refused-{mark}",
        kafka_control_topic=f"control-{mark}",
        forwarder="host",
    )
    async with Topics(bootstrap) as topics:
        await topics.create(settings.kafka_topic, 3, 1, **config)
    return settings


def _refused(settings: Settings, accounts: dict[str, Account]) -> Counter[str]:
    """Take what was refused out of the accounts, after comparing the bytes that were kept: starts, logs and finishes.

    A run of which nothing else was noted is no longer in them, so that the judge calls it foreign if any of it is stored.
    Returns how many of each type they are.
    """
    found: Counter[str] = Counter()
    for source_dir in list_source_dirs(settings.outbox_dir):
        for kept in list_refused(source_dir):
            members = orjson.loads(read_refused(Path(kept.path))[1])
            if kept.run_id:
                _take_out(accounts[kept.run_id], members, kept.path)
                found[members["type"]] += 1
    for run_id in [run_id for run_id, account in accounts.items() if _is_empty(account)]:
        del accounts[run_id]
    return found


def _take_out(account: Account, members: dict[str, Any], path: str) -> None:
    if members["type"] == "run.log":
        digest = log_digest(members["event_type"], orjson.dumps(members["payload"]))
        must(account.logs.pop(members["seq"]) == digest, f"{path} holds other bytes")
        account.lost += 1
    elif members["type"] == "run.started":
        must(account.begun, f"{path} holds a start that is no account's, or is there twice")
        given = [members[name] for name in ("skill_id", "caller_id", "channel_id", "parent_run_id")]
        given += [orjson.dumps(members[name]).decode() for name in ("inputs", "attributes")]
        must(start_digest(*given, members["at_us"]) == account.start, f"{path} holds another start")
        account.begun = False
    elif members["type"] == "run.finished":
        ends = (members["seq"], members["events"], finish_digest(*(members[name] for name in FINISH_MEMBERS)))
        must(account.end is not None, f"{path} holds a finish that is no account's, or is there twice")
        wanted = (account.end + 1, account.end + 2, account.finish)
        must(ends == wanted, f"{path} holds another finish: {ends}")
        account.end = None


def _is_empty(account: Account) -> bool:
    return not account.begun and not account.logs and account.end is None


class _Drops(KafkaPublisher):
    """What is refused is gone, as it is with clients whose errors nobody reads."""

    async def send(self, partition: int, records: Sequence[tuple[bytes, bytes]]) -> int:
        try:
            if self._producer is None:
                await self.open()
            return await super().send(partition, records)
        except RefusedForGoodError:
            await self.abandon()
            return OFFSET_UNKNOWN


@row(
    "too-large-for-the-topic",
    about="a topic that allows 20 kB, and records of 8 to 24 kB between others",
    full=20,
    share=1,
    off={"kept-aside": "what the broker refuses is dropped, and the rest of its batch with it"},
    off_cases_max=1,
    resource=shared_broker,
    broker=True,
    case_s_max=CASE_S_MAX,
)
async def too_large(case: Case) -> None:
    """Bytes in refused/, flush names it, run.refused takes its place, the rest goes on."""
    settings = await _settings(
        case, case.resource, max_message_bytes=str(TOPIC_BYTES_MAX), message_timestamp_type="LogAppendTime"
    )
    plans = [{"runs": 12, "logs_max": 6, "payload_bytes": PAYLOAD_BYTES, "flush_s": flush_s(case)}] * 2
    async with (
        publisher_of(case, settings, kept_aside=_Drops) as publisher,
        Agents(case, settings, plans) as agents,
        forwarding(settings, publisher),
    ):
        codes = await agents.ended(PATIENCE_S)
    accounts = agents.noted()
    refused = _refused(settings, accounts)
    if not case.switched_off:
        assert refused, "nothing was too large: the row tests nothing"
        for code, process in zip(codes, agents.processes, strict=True):
            must((code == PENDING) == ("MessageSizeTooLarge" in process.said()), process.said())
    await consume_all(settings, PATIENCE_S)
    case.note(refused=refused.total())
    check(case, settings, accounts)


class _FastBatch:
    """Stamps as a client would whose clock is two hours fast."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch
        self.close = batch.close

    def append(self, *, key: bytes, value: bytes, timestamp: int | None) -> Any:
        del timestamp
        return self.batch.append(key=key, value=value, timestamp=int(time.time() * 1_000) + AHEAD_MS)


class _FastProducer:
    def __init__(self, producer: Any) -> None:
        self._producer = producer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def create_batch(self) -> _FastBatch:
        return _FastBatch(self._producer.create_batch())

    async def send_batch(self, batch: _FastBatch, topic: str, *, partition: int) -> Any:
        return await self._producer.send_batch(batch.batch, topic, partition=partition)


class _FastClock(KafkaPublisher):
    """On a host whose clock is two hours fast."""

    def _opened(self) -> Any:
        return _FastProducer(super()._opened())


@row(
    "clock-two-hours-fast",
    about="the host's clock two hours fast: on a topic as `skillaudit topics` makes it, and on one with CreateTime",
    full=20,
    share=2,
    off={"log-append-time": "the topic is made with the producer's time, as brokers do by default"},
    off_cases_max=1,
    resource=shared_broker,
    broker=True,
    off_in_tests=False,
    case_s_max=CASE_S_MAX,
)
async def clock_fast(case: Case) -> None:
    """With LogAppendTime nothing is refused. With CreateTime everything is, kept and named, and nothing jams for good."""
    by_producer = bool(case.switched_off) or case.number % 2 == 1
    kind = "CreateTime" if by_producer else "LogAppendTime"
    settings = await _settings(case, case.resource, message_timestamp_type=kind)
    plans = [{"runs": 6, "logs_max": 5, "flush_s": flush_s(case)}]
    async with Agents(case, settings, plans) as agents, forwarding(settings, _FastClock(settings)):
        (code,) = await agents.ended(PATIENCE_S)
    accounts = agents.noted()
    if by_producer and not case.switched_off:
        must(code == PENDING, "the flush did not say that everything was refused")
        must("InvalidTimestamp" in agents.processes[0].said(), agents.processes[0].said())
        everything = _noted(accounts)
        must(_refused(settings, accounts) == everything, "something was refused and not kept")
        must(not accounts, f"of {len(accounts)} runs something is left that was neither refused nor kept")
        case.note(refused=everything.total())
    async with Agents(case, settings, plans) as later, forwarding(settings):  # the clock is mended
        await later.join(PATIENCE_S)
    await consume_all(settings, PATIENCE_S)
    check(case, settings, accounts | later.noted())


def _noted(accounts: dict[str, Account]) -> Counter[str]:
    """How many records of each type agents were told are safe."""
    return Counter(
        {
            "run.started": sum(account.begun for account in accounts.values()),
            "run.log": sum(len(account.logs) for account in accounts.values()),
            "run.finished": sum(account.end is not None for account in accounts.values()),
        }
    )


@contextlib.asynccontextmanager
async def secured_broker() -> AsyncGenerator[Any]:
    """One broker with passwords, permissions and TLS for all cases."""
    from tests.support.secured import SecuredKafka

    with tempfile.TemporaryDirectory(prefix="skillaudit-certificates-") as directory:
        broker = await asyncio.to_thread(SecuredKafka(Path(directory)).start)
        try:
            yield broker
        finally:
            await asyncio.to_thread(broker.stop)


def _as_user(case: Case, broker: Any, settings: Settings, user: str, *, tls: bool) -> Settings:
    from tests.support.secured import PASSWORDS

    word = case.directory / f"{user}.password"
    word.write_text(PASSWORDS[user])
    return replace(
        settings,
        kafka_bootstrap_servers=broker.tls_bootstrap if tls else broker.password_bootstrap,
        kafka_security_protocol="SASL_SSL" if tls else "SASL_PLAINTEXT",
        kafka_sasl_username=user,
        kafka_sasl_password=PASSWORDS[user],
        kafka_sasl_password_file=word,
        kafka_ssl_cafile=broker.cafile if tls else None,
    )


class _PermissionsArePermanent(KafkaPublisher):
    """Takes a missing permission for a refusal for good."""

    has_sent = False

    async def send(self, partition: int, records: Sequence[tuple[bytes, bytes]]) -> int:
        try:
            offset = await super().send(partition, records)
        except UnreachableError as exc:
            raise RefusedForGoodError(str(exc)) from exc
        self.has_sent = True
        return offset


@row(
    "permission-taken-back",
    about="the permission to write taken back under load and granted again (SASL/PLAIN, ACLs; half of the cases over TLS)",
    full=20,
    share=2,
    off={"waits": "a missing permission counts as a refusal for good"},
    off_cases_max=1,
    resource=secured_broker,
    broker=True,
    off_in_tests=False,
    case_s_max=CASE_S_MAX,
)
async def permission_taken(case: Case) -> None:
    """It is for the operator to mend: nothing is refused, events wait in the outbox and go when they may."""
    from confluent_kafka.admin import AclOperation
    from tests.support.secured import AGENT, CONSUMER

    broker = case.resource
    plain = await _settings(case, broker.bootstrap, message_timestamp_type="LogAppendTime")
    topic, tls = plain.kafka_topic, case.number % 2 == 0
    writing = (AclOperation.WRITE, AclOperation.DESCRIBE)
    await asyncio.to_thread(broker.grant, AGENT, topic, *writing)
    for read in (topic, plain.kafka_control_topic):  # which need not be there
        await asyncio.to_thread(broker.grant, CONSUMER, read, AclOperation.READ, AclOperation.DESCRIBE)
    settings = _as_user(case, broker, plain, AGENT, tls=tls)
    if not case.switched_off:
        settings = replace(settings, forwarder="thread")
    stop = case.directory / "stop"
    plan = {"runs": 10_000, "events_per_s": 60.0, "stop_file": str(stop), "flush_s": flush_s(case)}
    async with contextlib.AsyncExitStack() as stack:
        if case.switched_off:
            publisher = await stack.enter_async_context(
                publisher_of(case, settings, waits=_PermissionsArePermanent)
            )
            await stack.enter_async_context(forwarding(settings, publisher))
        by_file = replace(settings, kafka_sasl_password="")  # an environment shows no secrets
        agents = await stack.enter_async_context(Agents(case, by_file, [plan] * 2))
        await agents.until_noted(40, PATIENCE_S)
        if case.switched_off:  # who never might would not even get a producer id
            await until(lambda: publisher.has_sent, PATIENCE_S)
        await asyncio.to_thread(broker.take_back, AGENT, topic, AclOperation.WRITE)
        if case.switched_off:
            await until(lambda: any(map(list_refused, list_source_dirs(settings.outbox_dir))), PATIENCE_S)
        else:
            await until(lambda: all("AuthorizationFailed" in p.said() for p in agents.processes))
        await agents.until_noted(agents.noted_lines() + 40, PATIENCE_S)
        await asyncio.to_thread(broker.grant, AGENT, topic, AclOperation.WRITE)
        stop.touch()
        codes = await agents.ended(PATIENCE_S)
    accounts = agents.noted()
    must(not _refused(settings, accounts), "a missing permission was taken for a refusal")
    must(codes == [0, 0], [process.said() for process in agents.processes])
    reading = _as_user(case, broker, settings, CONSUMER, tls=tls)
    await consume_all(reading, PATIENCE_S)
    check(case, reading, accounts)
