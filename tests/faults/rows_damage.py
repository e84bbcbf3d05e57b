"""Damaged sources: what can't be told intact is named, and everything else arrives once."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
from tests.conformance.compositions import settings_at
from tests.faults.agent import Notebook, Plan, record
from tests.faults.damage import AT_REST, FINISH, Number, Touched, inject, seal_with_checksums
from tests.faults.oracle import Account, read_accounts
from tests.faults.rows import Case, row
from tests.faults.stage import DRAIN_S, database, is_drained
from tests.support.waiting import until

from skillaudit.consumer.database import Database
from skillaudit.consumer.outbox_source import OutboxSource
from skillaudit.consumer.service import ConsumerService
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


def make_service(settings: Settings, kind: type[OutboxSource] = OutboxSource) -> ConsumerService:
    """A consumer of the outbox, whose source is of that kind."""

    def make(database: Database) -> OutboxSource:
        return kind(settings.outbox_dir, settings.archive_dir, database_id=database.database_id, keep_days=30)

    return ConsumerService(settings, source=make)


async def consume(settings: Settings, service: ConsumerService) -> None:
    """Until nothing waits; raises what stops it."""
    stop = asyncio.Event()
    await service.start()
    running = asyncio.create_task(service.run(stop))
    try:
        await until(lambda: running.done() or (service.caught_up.is_set() and is_drained(settings)), DRAIN_S)
    finally:
        stop.set()
        await running


def record_source(settings: Settings, account: Path, seed: int, runs: int = 24) -> Path:
    """One process's life, in this one; answers its directory."""
    plan = Plan(
        account=str(account), seed=seed, runs=runs, open_at_once=5, logs_min=2, logs_max=14, payload_bytes=400,
        leave_unfinished=2,
    )  # fmt: skip
    with Sink.from_settings(settings) as sink:
        record(sink, plan, Notebook(plan.account), 0)
        directory: Path = sink.log.source_dir  # type: ignore[union-attr]
    return directory


@row(
    "outbox-damaged-at-rest",
    about="Dead sources with a flipped byte, bit or frame, a hole, zeros, garbage, a torn tail, a cut, a missing or foreign "
    "segment, a copied directory, a damaged source.json, at random places",
    full=400,
    share=26,
    test=13,
    off={
        "checksum": "every altered line gets the checksum that makes it valid",
        "findings": "a source that does not pass on what its readers found",
    },
)
async def damaged_at_rest(case: Case) -> None:
    """What was not touched arrives once; what was is never stored otherwise, and its run reads incomplete by number."""
    settings = settings_at(case.directory / "data", segment_bytes=64 * 1024)
    chance = case.random
    account = case.directory / "account.jsonl"
    kinds = list(AT_REST) if len(AT_REST) <= SOURCES else chance.sample(list(AT_REST), SOURCES)
    foreign = record_source(settings, account, case.seed * 100, runs=24)
    touched: list[Touched] = []
    for n, kind in enumerate(kinds):
        directory = record_source(settings, account, case.seed * 100 + n + 1)
        touched.append(inject(kind, chance, directory, foreign))
        if case.switched_off == "checksum":
            seal_with_checksums(directory)
    await consume(settings, make_service(settings, Deaf if case.switched_off == "findings" else OutboxSource))
    judge_damage(case, settings, read_accounts([account]), touched)
    case.injections = len(touched)


def judge_damage(
    case: Case, settings: Settings, accounts: Mapping[str, Account], touched: Sequence[Touched]
) -> None:
    """Everything that is wrong, in one AssertionError."""
    with database(settings) as cursor:
        wrong = list(_judge_runs(case, cursor, accounts, set().union(*(one.numbers for one in touched))))
        for one in touched:
            wrong += _judge_names(cursor, one)
        for name in ("conflicts", "dead_letters"):
            wrong += [f"{name}: {row}" for row in cursor.execute(f"SELECT * FROM main.{name}").fetchall()]
    case.note(touched=sum(len(one.numbers) for one in touched))
    assert not wrong, f"{len(wrong)} wrong: " + "; ".join(wrong[:6])


_RUNS = """
SELECT id, true AS started, completeness, liveness, missing, e.logs FROM main.runs LEFT JOIN e USING (run_key)
UNION ALL
SELECT id, false, completeness, liveness, missing, e.logs FROM main.orphans LEFT JOIN e USING (run_key)
"""
_LOGS = """
WITH e AS (SELECT run_key, list(struct_pack(n := sequence, h := sha256(payload)) ORDER BY sequence) AS logs
           FROM main.events GROUP BY run_key)
"""


def _judge_runs(
    case: Case, cursor: duckdb.DuckDBPyConnection, accounts: Mapping[str, Account], touched: set[Number]
) -> list[str]:
    stored = {found[0]: found[1:] for found in cursor.execute(_LOGS + _RUNS).fetchall()}
    wrong = [f"{run_id} is nobody's" for run_id in stored.keys() - accounts.keys()]
    for run_id, account in accounts.items():
        numbers = {0, *account.logs, *([FINISH] if account.end is not None else [])}
        lost = {number for number in numbers if (run_id, number) in touched}
        case.events += len(numbers) - len(lost)
        if run_id in stored:
            wrong += [f"{run_id}: {text}" for text in _judge_run(account, lost, *stored[run_id])]
        elif numbers != lost:
            wrong.append(f"{run_id} is not there, and {len(numbers - lost)} of its events were not touched")
    return wrong


def _judge_run(
    account: Account,
    touched: set[int],
    started: bool,
    completeness: str,
    liveness: str,
    missing: str,
    logs: list[dict[str, Any]] | None,
) -> list[str]:
    found = {log["n"]: log["h"] for log in logs or ()}
    wrong = [f"event {log['n']} is there twice" for log in logs or () if len(found) < len(logs or ())]
    wrong += [f"event {n} is altered" for n, digest in found.items() if account.logs.get(n) != digest]
    finished = liveness == "finished"
    there = {*found, *([0] if started else []), *([FINISH] if finished else [])}
    everything = {0, *account.logs, *([FINISH] if account.end is not None else [])}
    lost = everything - there
    wrong += [f"event {n} is not there, and was not touched" for n in sorted(lost - touched)]
    named = {n for low, high in parse_ranges(missing or "") for n in range(low, high + 1)}
    top = max(there)
    below = {n for n in lost if n != FINISH and (finished or n < top)}
    finish_named = {len(account.logs) + 1} if FINISH in lost else set()
    if not (below <= named <= (lost - {FINISH}) | finish_named):
        wrong.append(f"{sorted(named)} read missing, and {sorted(lost)} are")
    expected = "incomplete" if named else "complete" if finished else "open"
    if completeness != expected:
        wrong.append(f"reads {completeness}, not {expected}, with {sorted(lost)} lost")
    # Only its start says whose a run is; without that it reads incomplete, and its source is not known.
    if started and not finished and liveness != "abandoned":
        wrong.append(f"reads {liveness}, and its source is gone")
    return wrong


def _judge_names(cursor: duckdb.DuckDBPyConnection, touched: Touched) -> list[str]:
    """Damage is an incident of its source. Lines cut off cleanly at the very end leave no trace in the files: then the
    source's own last word is missing, too.
    """
    partition = f"outbox/{touched.source_dir.name}"
    incidents = cursor.execute(
        "SELECT kind FROM main.incidents WHERE subject LIKE ? || '#%'", [partition]
    ).fetchall()
    if incidents or not (touched.numbers or touched.trace):
        return []
    closed_by = cursor.execute(
        "SELECT closed_by FROM main.sources WHERE source_id = ?", [touched.source_dir.name]
    ).fetchone()
    if touched.is_tail and (closed_by is None or closed_by[0] == "adopter"):
        return []
    return [f"{touched.kind}: {len(touched.numbers)} events lost from {partition}, and nothing says so"]
