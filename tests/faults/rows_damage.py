"""Damaged sources: what can't be told intact is named, and everything else arrives once."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
from tests.conformance.compositions import settings_at
from tests.faults.agent import Notebook, Plan, record
from tests.faults.damage import AT_REST, FINISH, WHILE_RUNNING, Number, Touched, inject, seal_with_checksums
from tests.faults.oracle import LOGS_SQL, Account, altered, must, read_accounts
from tests.faults.rows import Case, row
from tests.faults.stage import DRAIN_S, consume_with, consuming, database, has_everything
from tests.support.waiting import until

from skillaudit.consumer.database import Database
from skillaudit.consumer.outbox_source import OutboxSource
from skillaudit.consumer.service import ConsumerService
from skillaudit.contract.clock import Clock, SystemClock
from skillaudit.contract.events import parse_ranges
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import RecordBatch
from skillaudit.producer import Sink

SOURCES = 13
"""Damaged in one case, each in another way."""


class Deaf(OutboxSource):
    """Does not pass on what its readers found."""

    async def poll(self, records_max: int, timeout_ms: int) -> RecordBatch:
        batch = await super().poll(records_max, timeout_ms)
        return dataclasses.replace(batch, findings=())


def make_service(
    settings: Settings,
    kind: type[OutboxSource] = OutboxSource,
    clock: Clock | None = None,
    *,
    service_clock: Clock | None = None,
) -> ConsumerService:
    """A consumer of the outbox, whose source is of that kind."""

    def make(database: Database) -> OutboxSource:
        return kind(
            settings.outbox_dir,
            settings.archive_dir,
            database_id=database.database_id,
            keep_days=30,
            clock=clock or SystemClock(),
        )

    return ConsumerService(settings, source=make, clock=service_clock)


def record_source(settings: Settings, account: Path, seed: int, runs: int = 24) -> Path:
    """One process's life, in this one; answers its directory."""
    plan = Plan(
        account=str(account), seed=seed, runs=runs, open_at_once=5, logs_min=2, logs_max=14, payload_bytes=400,
        leave_unfinished=2,
    )  # fmt: skip
    with Sink.from_settings(settings) as sink:
        record(sink, plan, Notebook(plan.account), 0)
        directory: Path = sink.log.source_dir  # type: ignore[union-attr]
        sink.close(0)  # nobody takes anything meanwhile
    return directory


@row(
    "outbox-damaged-at-rest",
    about="Dead sources with a flipped byte, bit or frame, a hole, zeros, garbage, a torn tail, a cut, a missing or foreign "
    "segment, a copied directory, a damaged source.json, at random places",
    judge="every event that was not touched is stored once; a touched one is stored as it was, or its number reads missing and an incident names its source",
    full=400,
    share=13,
    test=13,
    off={
        "checksum": "every altered line gets the checksum that makes it valid",
        "findings": "a source that does not pass on what its readers found",
    },
)
async def damaged_at_rest(case: Case) -> None:
    """What was not touched arrives once; what was is never stored otherwise, and its run reads incomplete by number."""
    settings = settings_at(case.directory / "data", segment_bytes=64 * 1024)
    account = case.directory / "account.jsonl"
    touched = damage_sources(case, settings, account)
    kind = Deaf if case.switched_off == "findings" else OutboxSource
    await consume_with(settings, partial(make_service, kind=kind))
    judge_damage(case, settings, read_accounts([account]), touched)
    case.injections = len(touched)


def damage_sources(case: Case, settings: Settings, account: Path) -> list[Touched]:
    """Sources of processes that are gone, each damaged in another way."""
    chance = case.random
    kinds = list(AT_REST) if len(AT_REST) <= SOURCES else chance.sample(list(AT_REST), SOURCES)
    foreign = record_source(settings, account, case.seed * 100, runs=24)
    touched: list[Touched] = []
    for n, kind in enumerate(kinds):
        directory = record_source(settings, account, case.seed * 100 + n + 1)
        touched.append(inject(kind, chance, directory, foreign))
        if case.switched_off == "checksum":
            seal_with_checksums(directory)
    return touched


Incidents = Callable[[duckdb.DuckDBPyConnection, Touched], Sequence[Any]]
"""What was told of a source."""


def stored_incidents(cursor: duckdb.DuckDBPyConnection, touched: Touched) -> Sequence[Any]:
    """An embedded consumer tells in its database."""
    query = "SELECT kind FROM main.incidents WHERE subject LIKE ? || '#%'"
    return cursor.execute(query, [f"outbox/{touched.source_dir.name}"]).fetchall()


def judge_damage(
    case: Case,
    settings: Settings,
    accounts: Mapping[str, Account],
    touched: Sequence[Touched],
    incidents: Incidents = stored_incidents,
) -> None:
    """Everything that is wrong, in one BrokenError."""
    with database(settings) as cursor:
        wrong, lost = _judge_runs(case, cursor, accounts, set().union(*(one.numbers for one in touched)))
        wrong += altered(cursor, accounts)
        for one in touched:
            wrong += _judge_names(cursor, one, one.numbers & lost, incidents)
        for name in ("conflicts", "dead_letters"):
            wrong += [
                f"{name}: {row}"
                for row in cursor.execute(f"SELECT COLUMNS(*)::VARCHAR FROM main.{name}").fetchall()
            ]
    case.note(touched=sum(len(one.numbers) for one in touched), lost_and_named=len(lost))
    must(not wrong, f"{len(wrong)} wrong: " + "; ".join(wrong[:6]))


_RUNS = """
SELECT id, true AS started, completeness, liveness, missing, e.logs FROM main.runs LEFT JOIN e USING (run_key)
UNION ALL
SELECT id, false, completeness, liveness, missing, e.logs FROM main.orphans LEFT JOIN e USING (run_key)
"""
_LOGS = f"WITH e AS ({LOGS_SQL})"


def _judge_runs(
    case: Case, cursor: duckdb.DuckDBPyConnection, accounts: Mapping[str, Account], touched: set[Number]
) -> tuple[list[str], set[Number]]:
    """What is wrong, and what is lost."""
    stored = {found[0]: _Stored(*found[1:]) for found in cursor.execute(_LOGS + _RUNS).fetchall()}
    wrong = [f"{run_id} is nobody's" for run_id in stored.keys() - accounts.keys()]
    lost: set[Number] = set()
    for run_id, account in accounts.items():
        found = stored.get(run_id, _Stored())
        everything = {0, *account.logs, *([FINISH] if account.end is not None else [])}
        gone = everything - found.numbers
        lost |= {(run_id, number) for number in gone}
        case.events += len(everything & found.numbers)
        untouched = sorted(number for number in gone if (run_id, number) not in touched)
        wrong += [f"{run_id}: event {number} is not there, and was not touched" for number in untouched]
        if run_id in stored:
            wrong += [f"{run_id}: {text}" for text in _judge_run(account, found, gone)]
    return wrong, lost


@dataclasses.dataclass(frozen=True, slots=True)
class _Stored:
    """A run as the database has it."""

    started: bool = False
    completeness: str = ""
    liveness: str = ""
    missing: str = ""
    logs: list[dict[str, Any]] | None = None

    @property
    def finished(self) -> bool:
        return self.liveness == "finished"

    @property
    def digests(self) -> dict[int, str]:
        return {log["n"]: log["h"] for log in self.logs or ()}

    @property
    def numbers(self) -> set[int]:
        return {*self.digests, *([0] if self.started else []), *([FINISH] if self.finished else [])}


def _judge_run(account: Account, found: _Stored, lost: set[int]) -> list[str]:
    digests = found.digests
    wrong = (
        [f"{len(found.logs or ()) - len(digests)} events are there twice"]
        if len(digests) < len(found.logs or ())
        else []
    )
    wrong += [f"event {n} is altered" for n, digest in digests.items() if account.logs.get(n) != digest]
    named = {n for low, high in parse_ranges(found.missing or "") for n in range(low, high + 1)}
    top = max(found.numbers)
    below = {n for n in lost if n != FINISH and (found.finished or n < top)}
    finish = {len(account.logs) + 1} if FINISH in lost else set[int]()
    if not (below <= named <= (lost - {FINISH}) | finish):
        wrong.append(f"{sorted(named)} read missing, and {sorted(lost)} are")
    expected = "incomplete" if named else "complete" if found.finished else "open"
    if found.completeness != expected:
        wrong.append(f"reads {found.completeness}, not {expected}, with {sorted(lost)} lost")
    # Only its start says whose a run is; without that it reads incomplete, and its source is not known.
    if found.started and not found.finished and found.liveness != "abandoned":
        wrong.append(f"reads {found.liveness}, and its source is gone")
    return wrong


def _judge_names(
    cursor: duckdb.DuckDBPyConnection, touched: Touched, lost: set[Number], incidents: Incidents
) -> list[str]:
    """Damage is an incident of its source. Lines cut off cleanly at the very end leave no trace in the files: then the
    source's own last word is missing, too.
    """
    if not (lost or touched.trace) or incidents(cursor, touched):
        return []
    closed_by = cursor.execute(
        "SELECT closed_by FROM main.sources WHERE source_id = ?", [touched.source_dir.name]
    ).fetchone()
    if touched.is_tail and (closed_by is None or closed_by[0] == "adopter"):
        return []
    return [f"{touched.kind}: {len(lost)} events lost from {touched.source_dir.name}, and nothing says so"]


class HastyClock:
    """Time goes sixteen times as fast, so that nobody waits for the patience with holes."""

    name = "hasty"

    def wall_us(self) -> int:
        return SystemClock().wall_us()

    def steady_us(self) -> int:
        return SystemClock().steady_us() * 16


class Live:
    """A source whose process lives: recorded in stretches."""

    def __init__(self, settings: Settings, account: Path, seed: int) -> None:
        self._sink = Sink.from_settings(settings)
        self._account, self._seed = account, seed

    def record(self) -> None:
        """Some runs more, the last of which stays open."""
        self._seed += 1
        plan = Plan(
            account=str(self._account), seed=self._seed, runs=12, logs_min=2, logs_max=14, payload_bytes=400,
            leave_unfinished=1,
        )  # fmt: skip
        record(self._sink, plan, Notebook(plan.account), 0)

    @property
    def directory(self) -> Path:
        """The source's."""
        found: Path = self._sink.log.source_dir  # type: ignore[union-attr]
        return found

    def close(self) -> None:
        """The process ends in order."""
        self._sink.close(0)


@row(
    "outbox-damaged-while-running",
    about="Sources whose processes go on writing, with a flipped byte, bit or frame, a hole, zeros or garbage before, or while, "
    "a consumer reads",
    judge="every event that was not touched is stored once; a touched one is stored as it was, or its number reads missing and an incident names its source",
    full=100,
    share=6,
    test=6,
    off={"findings": "a source that does not pass on what its readers found"},
)
async def damaged_while_running(case: Case) -> None:
    """As at rest; and the reader gets past the place although the writer lives."""
    settings = settings_at(case.directory / "data", segment_bytes=64 * 1024)
    chance, account = case.random, case.directory / "account.jsonl"
    kind = Deaf if case.switched_off else OutboxSource
    lives = [Live(settings, account, case.seed * 1000 + n * 10) for n in range(len(WHILE_RUNNING))]
    async with contextlib.AsyncExitStack() as stack:
        consumer = consuming(settings, partial(make_service, kind=kind, clock=HastyClock()))
        with contextlib.ExitStack() as living:
            for live in lives:
                living.callback(live.close)
                live.record()
            if case.number % 2:
                service, running = await stack.enter_async_context(consumer)
            touched = [
                inject(damage, chance, live.directory, live.directory)
                for damage, live in zip(WHILE_RUNNING, lives, strict=True)
            ]
            if not case.number % 2:
                service, running = await stack.enter_async_context(consumer)
            for live in lives:
                await asyncio.to_thread(live.record)
        await until(lambda: running.done() or has_everything(service), DRAIN_S)
    for one in touched:
        one.is_tail = one.trace = False  # more was written behind it, and it may have been read before
    judge_damage(case, settings, read_accounts([account]), touched)
    case.injections = len(touched)
