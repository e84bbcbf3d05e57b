"""Damaged sources on their way to a broker, and files that go, are cut or replaced beside a writer and a running reader."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
from tests.conformance.compositions import settings_at
from tests.faults.damage import (
    FILES_WHILE_RUNNING,
    Touched,
    inject_by,
)
from tests.faults.oracle import must, read_accounts
from tests.faults.rows import Case, row
from tests.faults.rows_damage import (
    Deaf,
    HastyClock,
    Live,
    damage_sources,
    judge_damage,
    make_service,
    record_source,
    stored_incidents,
)
from tests.faults.stage import (
    DRAIN_S,
    consuming,
    has_everything,
    shared_broker,
    through_kafka,
)
from tests.faults.stage_kafka import CASE_S_MAX, forwarding
from tests.support.waiting import until

from skillaudit.consumer.outbox_source import OutboxSource
from skillaudit.contract.outbox.directory import list_source_dirs
from skillaudit.contract.outbox.findings import Damage
from skillaudit.contract.outbox.layout import list_segments
from skillaudit.contract.outbox.reader import SourceReader
from skillaudit.contract.settings import Settings
from skillaudit.producer.forwarder_files import read_incidents

SMALL = {"segment_bytes": 64 * 1024, "forwarder": "host"}
JUDGED_S_MAX = 30.0
TRIES_MAX = 30
"""A running reader may take a segment away before it is damaged."""


def _nothing_left(settings: Settings) -> bool:
    """Directories that a person has to look at stay, without segments."""
    return not any(list_segments(path) for path in list_source_dirs(settings.outbox_dir))


def _forwarders_incidents(_: duckdb.DuckDBPyConnection, touched: Touched) -> Sequence[Any]:
    """A forwarder tells in the source's directory."""
    return read_incidents(touched.source_dir)


def _findings(source_dir: Path) -> list[Damage]:
    """What a reader says of a dead source that is read to its end."""
    found: list[Damage] = []
    with contextlib.closing(SourceReader.resume(source_dir).reader) as reader:
        while not reader.finished:
            reader.read(1_000, 1 << 20)
            found += reader.take_findings()
    return found


def _compare_incidents(touched: Sequence[Touched], expected: Sequence[Sequence[Damage]]) -> None:
    """The forwarder tells of each damage that a reader finds, at its place, and of nothing else."""
    wrong: list[str] = []
    for one, findings in zip(touched, expected, strict=True):
        told = {(incident["kind"], incident.get("position")) for incident in read_incidents(one.source_dir)}
        wanted = {(damage.kind.value, damage.position) for damage in findings}
        # Of a copy the directory itself tells, too, at no place.
        more = {what for what in told - wanted if what != ("copied", None)}
        if wanted - told or more:
            wrong.append(f"{one.kind}: found {sorted(wanted)}, told {sorted(told, key=str)}")
    must(not wrong, "; ".join(wrong))


async def _consume(settings: Settings) -> None:
    """Everything, and so long that each partition was read beyond the moment at which a source was closed: only then is
    judged what its runs read. Whatever reads open after that is for the judge.
    """
    async with consuming(settings) as (service, running):
        with contextlib.closing(service.cursor()) as cursor:

            def none_open() -> bool:
                query = "SELECT count(*) FROM main.runs WHERE liveness = 'open'"
                return service.caught_up.is_set() and cursor.execute(query).fetchall() == [(0,)]

            with contextlib.suppress(TimeoutError):
                await until(lambda: running.done() or none_open(), JUDGED_S_MAX)


@row(
    "outbox-damaged-through-kafka",
    about="As outbox-damaged-at-rest, with a broker: a host's forwarder adopts the damaged sources, and a consumer reads what it sent",
    judge="as there, where the incident is the forwarder's; and the forwarder tells of each damage that a reader finds, at its place, and of nothing else",
    full=200,
    share=13,
    test=0,
    not_in_tests="as its twin without a broker",
    off={"checksum": "every altered line gets the checksum that makes it valid"},
    off_in_tests=False,
    off_in_share=False,
    resource=shared_broker,
    broker=True,
    case_s_max=CASE_S_MAX,
)
async def damaged_through_kafka(case: Case) -> None:
    """What was not touched arrives once, through the broker, too."""
    settings = await through_kafka(case, case.resource, **SMALL)
    account = case.directory / "account.jsonl"
    touched = damage_sources(case, settings, account)
    expected = [_findings(one.source_dir) for one in touched]
    async with forwarding(settings) as running:
        await until(lambda: running.done() or _nothing_left(settings), DRAIN_S)
    await _consume(settings)
    judge_damage(case, settings, read_accounts([account]), touched, _forwarders_incidents)
    _compare_incidents(touched, expected)
    case.injections = len(touched)
    case.note(incidents=sum(map(len, expected)))


@contextlib.asynccontextmanager
async def _reading(case: Case, settings: Settings) -> AsyncGenerator[None]:
    """A forwarder or an embedded consumer, which at the block's end has everything."""
    if settings.uses_kafka:
        async with forwarding(settings) as running:
            yield
            await until(lambda: running.done() or _nothing_left(settings), DRAIN_S)
        await _consume(settings)
        return
    kind = Deaf if case.switched_off else OutboxSource
    async with consuming(settings, partial(make_service, kind=kind, clock=HastyClock())) as (
        service,
        running,
    ):
        yield
        await until(lambda: running.done() or has_everything(service), DRAIN_S)


@row(
    "outbox-files-damaged-while-running",
    about="Sources whose processes go on writing, with an older segment missing, another's in its place, truncated or cut between lines, and "
    "an acknowledgement missing, cut or overwritten, before, or while, a consumer or (in every other case, with a broker) a forwarder reads; "
    "and a directory copied to it from elsewhere",
    judge="every event that was not touched is stored once; a touched one is stored as it was, or its number reads missing and an incident names its source",
    full=120,
    share=6,
    test=0,
    not_in_tests="its twin damages sources of living processes, too; half of its cases want a broker",
    off={"findings": "a source that does not pass on what its readers found"},
    off_cases_max=1,
    off_in_tests=False,
    off_in_share=False,
    resource=shared_broker,
    broker=True,
    case_s_max=CASE_S_MAX,
)
async def files_damaged_while_running(case: Case) -> None:
    """Writers go on, readers get past it, and what is gone is named."""
    small = SMALL | {"heartbeat_interval_ms": 100}
    if case.number % 2:
        settings = await through_kafka(case, case.resource, **small)
    else:
        settings = settings_at(case.directory / "data", **small)
    account = case.directory / "account.jsonl"
    lives = [Live(settings, account, case.seed * 1000 + n * 10) for n in range(len(FILES_WHILE_RUNNING))]
    runs_already = case.number // 2 % 2 == 1
    touched: list[Touched] = []
    async with contextlib.AsyncExitStack() as stack:
        with contextlib.ExitStack() as living:
            for live in lives:
                living.callback(live.close)
                live.record()
            if runs_already:
                await stack.enter_async_context(_reading(case, settings))
            for kind, live in zip(FILES_WHILE_RUNNING, lives, strict=True):
                touched.append(await _damaged(case, kind, live, lives[0]))
            touched.append(_copied_from_elsewhere(case, settings, account))
            if not runs_already:
                await stack.enter_async_context(_reading(case, settings))
            for live in lives:
                await asyncio.to_thread(live.record)
    incidents = _forwarders_incidents if settings.uses_kafka else stored_incidents
    judge_damage(case, settings, read_accounts([account]), touched, incidents)
    case.injections = len(touched)
    case.note(
        **{
            f"{'running' if runs_already else 'beginning'} {'forwarder' if settings.uses_kafka else 'consumer'}": 1
        }
    )


async def _damaged(case: Case, kind: str, live: Live, other: Live) -> Touched:
    """Once there is a segment that its writer has left and no reader has taken away."""
    chance = case.random
    for _ in range(TRIES_MAX):
        # In one go with the damage, so that a reader which runs beside has much left to read.
        for _ in range(2):
            live.record()
        with contextlib.suppress(FileNotFoundError, IndexError):
            one = inject_by(FILES_WHILE_RUNNING, kind, chance, live.directory, other.directory)
            one.is_tail = one.trace = False  # more is written behind it, and it may have been read before
            return one
        await asyncio.sleep(0)
    raise AssertionError(f"{kind}: readers were always faster")


def _copied_from_elsewhere(case: Case, settings: Settings, account: Path) -> Touched:
    """Another outbox's source, whose process has ended, appears in this one."""
    elsewhere = settings_at(case.directory / "data-elsewhere", **SMALL)
    source = record_source(elsewhere, account, case.seed * 1000 + 999)
    arriving = settings.outbox_dir / f".{source.name}"
    shutil.copytree(source, arriving)
    arrived = arriving.rename(settings.outbox_dir / source.name)
    return Touched("copied", arrived, trace=True)
