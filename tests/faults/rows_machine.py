"""What machines do: clocks that are set, sleep, names and ids that are there twice, file systems without locks."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import random
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import duckdb
from tests.faults.agent import Notebook, Plan, record
from tests.faults.oracle import Account, BrokenError, must, read_accounts
from tests.faults.rows import Case, row
from tests.faults.rows_damage import make_service
from tests.faults.stage import (
    DRAIN_S,
    Agents,
    check,
    consume_all,
    consume_with,
    consuming,
    database,
    embedded,
    forward_all,
    has_everything,
    is_drained,
    shared_broker,
    stop_process,
    through_kafka,
    wake_process,
)
from tests.faults.switches_consumer import WithHighWaterMark, WithoutDuplicateDetection
from tests.pipeline.support import Process
from tests.support.waiting import until

from skillaudit.consumer.outbox_source import OutboxSource
from skillaudit.consumer.service import ConsumerService
from skillaudit.contract.clock import SystemClock, uuid7
from skillaudit.contract.errors import OutboxMismatchError
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import RecordBatch
from skillaudit.producer import Sink
from skillaudit.producer.forwarder_files import read_incidents

HOUR_US = 3_600_000_000
STEPS = 12
"""How often the clock is set in one case."""
RUN_S_MAX = 100
"""No run of these rows takes so long."""


class SetClock:
    """The machine's clocks, with a wall that is set; sleep moves both."""

    name = "boottime"

    def __init__(self) -> None:
        self._clock = SystemClock()
        self.set_us = 0
        self.slept_us = 0

    def wall_us(self) -> int:
        return self._clock.wall_us() + self.set_us + self.slept_us

    def steady_us(self) -> int:
        return self._clock.steady_us() + self.slept_us


class OneClock(SetClock):
    """Without a steady one: everything goes by the wall."""

    def steady_us(self) -> int:
        return self.wall_us()


async def _record_while(sink: Sink, plan: Plan, disturb: Callable[[], None], chance: random.Random) -> None:
    """Record in a thread; disturb at random moments meanwhile."""
    notes = Notebook(plan.account, timed=False)  # its clock is turned
    recording = asyncio.create_task(asyncio.to_thread(record, sink, plan, notes, 0))
    while not recording.done():
        disturb()
        await asyncio.sleep(chance.uniform(0, 0.05))
    await recording


@row(
    "clock-set",
    about="The wall clock of agent and consumer is set back and forward by up to an hour, many times, in the middle of runs",
    full=20,
    share=2,
    off={"steady-clock": "the agent measures by the wall clock alone"},
)
async def clock_set(case: Case) -> None:
    """Nothing is lost; within a run no time goes backwards and none lasts an hour; nobody is taken for gone."""
    settings = embedded(case)
    chance, clock = case.random, OneClock() if case.switched_off else SetClock()
    account = case.directory / "account.jsonl"
    plan = Plan(account=str(account), seed=case.seed, runs=60, events_per_s=600, logs_min=4, logs_max=20)

    def set_clock() -> None:
        clock.set_us = chance.choice((-HOUR_US, HOUR_US, chance.randint(-HOUR_US, HOUR_US)))

    async with consuming(settings, clock=clock) as (_, running):
        with Sink.from_settings(settings, clock=clock) as sink:
            await _record_while(sink, plan, set_clock, chance)
        await until(lambda: running.done() or is_drained(settings), DRAIN_S)
    check(case, settings, read_accounts([account]))
    _check_times(settings)


def _check_times(settings: Settings) -> None:
    with database(settings) as cursor:
        backwards = cursor.execute(
            "SELECT run_key, sequence FROM (SELECT run_key, sequence, created_at, lag(created_at) OVER "
            "(PARTITION BY run_key ORDER BY sequence) AS before FROM main.events) WHERE created_at < before"
        ).fetchall()
        long = cursor.execute(
            "SELECT id, runtime_us FROM main.runs WHERE runtime_us NOT BETWEEN 0 AND ?",
            [RUN_S_MAX * 1_000_000],
        ).fetchall()
    must(not backwards, f"{len(backwards)} times go backwards: {backwards[:3]}")
    must(not long, f"{len(long)} runs took a time they did not take: {long[:3]}")


class TakesSilenceForDeath(OutboxSource):
    """Reads nothing more of whoever was silent for five minutes."""

    SILENT_US = 300_000_000
    clock = SetClock()

    async def poll(self, records_max: int, timeout_ms: int) -> RecordBatch:
        heard: dict[str, int] = self.__dict__.setdefault("heard", {})
        batch = await super().poll(records_max, timeout_ms)
        now = self.clock.steady_us()
        for name in batch.ends:
            heard.setdefault(name, now)
        alive = [r for r in batch.records if now - heard[r.partition] < self.SILENT_US]
        heard.update({r.partition: now for r in alive})
        return dataclasses.replace(batch, records=alive)


@row(
    "machine-suspended",
    about="The machine sleeps for hours in the middle of runs: every clock that counts sleep jumps at once, and beside that "
    "agents and consumer are stopped and woken in any order",
    full=20,
    share=1,
    off_in_tests=False,
    off_in_share=False,
    off_by_waiting=("silence-is-not-death",),
    off={"silence-is-not-death": "a consumer that reads no more of whoever was silent for five minutes"},
)
async def machine_suspended(case: Case) -> None:
    """Nothing is lost or taken for ended: a process that lives goes on where it was."""
    settings = embedded(case, abandon_after_ms=5_000)
    chance, clock = case.random, SetClock()
    account = case.directory / "account.jsonl"
    plan = Plan(account=str(account), seed=case.seed, runs=40, events_per_s=400, logs_min=4, logs_max=20)

    def sleep() -> None:
        clock.slept_us += chance.choice((0, 0, 0, 2 * HOUR_US))

    kind = type("Switched", (TakesSilenceForDeath,), {"clock": clock}) if case.switched_off else OutboxSource
    make = partial(make_service, kind=kind, clock=clock, service_clock=clock)
    agents = Agents(
        case,
        settings,
        [{"runs": 30, "logs_max": 20, "events_per_s": 300, "flush_s": case.with_it_s or 60}] * 2,
    )
    async with consuming(settings, make) as (_, running):
        async with agents:
            napping = asyncio.create_task(_naps(agents, chance))
            with Sink.from_settings(settings, clock=clock) as sink:
                await _record_while(sink, plan, sleep, chance)
            await napping
            await agents.join()
        # What has not come by then is lost to the judge.
        with contextlib.suppress(*([TimeoutError] if case.switched_off else [])):
            await until(lambda: running.done() or is_drained(settings), case.with_it_s or DRAIN_S)
    check(case, settings, read_accounts([account, *agents.account_files]))


async def _naps(agents: Agents, chance: random.Random) -> None:
    await agents.until_noted(10)
    for _ in range(3):
        pids = [process.pid for process in agents.processes if process.running]
        for pid in pids:
            stop_process(pid)
        await asyncio.sleep(chance.uniform(0.05, 0.5))
        for pid in chance.sample(pids, len(pids)):
            wake_process(pid)
        await asyncio.sleep(chance.uniform(0, 0.3))


@row(
    "same-run-id",
    about="Two processes begin a run with the same id, at the same time, and record other events under it",
    judge="besides: every record of the other process is kept as a conflict or stored behind the finish",
    full=20,
    share=3,
    off={"tags-compared": "what comes at or below the highest number of its run counts as delivered before"},
)
async def same_run_id(case: Case) -> None:
    """The first stored start wins; every event of the other is kept as a conflict, and an incident says so."""
    settings, run_id, go = embedded(case), uuid7(), case.directory / "go"
    plans = [{"logs_min": 3, "logs_max": 30}] * 2
    twins = Agents(case, settings, plans, module="tests.faults.twin_agent", words=(run_id, str(go)))
    async with twins:
        await until(lambda: all(path.exists() for path in twins.account_files), DRAIN_S)
        go.touch()
        await twins.join()
    await consume_with(settings, WithHighWaterMark if case.switched_off else ConsumerService)
    accounts = {_source_of(path): read_accounts([path])[run_id] for path in twins.account_files}
    with database(settings) as cursor:
        winner, behind = _judge_twins(case, cursor, accounts)
    check(case, settings, {run_id: winner}, expected=("conflicts", "incidents"))
    case.note(behind_the_finish=behind)


def _source_of(account: Path) -> str:
    entries = map(json.loads, account.read_bytes().splitlines())
    return next(str(entry["source"]) for entry in entries if "source" in entry)


def _judge_twins(
    case: Case, cursor: duckdb.DuckDBPyConnection, accounts: Mapping[str, Account]
) -> tuple[Account, int]:
    """The account of the run as it must be stored, and how many of its events are the other's, behind its finish."""
    found = cursor.execute("SELECT source_id, caller_id FROM main.runs").fetchall()
    must(len(found) == 1, f"{len(found)} runs under one id")
    must(found[0][0] == found[0][1], "the run is not its start's source's")
    winner = accounts[found[0][0]]
    (loser,) = (account for source, account in accounts.items() if source != found[0][0])
    assert winner.end is not None
    # A number that the winner does not have is nobody's place: such an event is stored behind the finish, for `verify`.
    stored = {n for (n,) in cursor.execute("SELECT sequence FROM main.events").fetchall()}
    behind = {n: loser.logs[n] for n in loser.logs if n > winner.end and n in stored}
    kept, places = cursor.execute(
        "SELECT count(*), count(DISTINCT (partition, record_offset)) FROM main.conflicts"
    ).fetchall()[0]
    wanted = len(loser.logs) + 2
    must(kept == places, "a conflict is kept twice")
    must(kept + len(behind) >= wanted, f"{kept} of the other's {wanted} records are kept as conflicts")
    told = cursor.execute("SELECT count(*) FROM main.incidents WHERE kind LIKE 'conflict%'").fetchall()
    must(told[0][0], "no incident says that two processes used one run id")
    case.note(conflicts=kept)
    logs = winner.logs | behind
    return dataclasses.replace(winner, logs=logs, end=len(logs)), len(behind)


@row(
    "same-host-and-process",
    about="Two containers with one host name, in each of which the agent is process 1, share an outbox directory",
    full=20,
    share=1,
    off={"random-source-ids": "a source is named after host and process"},
    root="a host name and a process number of its own",
)
async def same_host_and_process(case: Case) -> None:
    """Nothing goes by names or numbers of machines: each has its own source, alive as long as its process."""
    settings = embedded(case)
    agents = Agents(
        case,
        settings,
        [{"runs": 20, "logs_max": 20}] * 2,
        module="tests.faults.named_agent" if case.switched_off else "tests.faults.agent",
        under=("tests.support.namespaces", f"twin-{case.number}"),
    )
    async with agents:
        codes = await agents.ended()
    refused = [p.said().strip()[-300:] for p, code in zip(agents.processes, codes, strict=True) if code]
    must(not refused, f"{len(refused)} of {len(codes)} agents could not record beside the other: {refused}")
    await consume_all(settings)
    check(case, settings, agents.noted())
    with database(settings) as cursor:
        names = cursor.execute("SELECT host, pid, count(*) FROM main.sources GROUP BY ALL").fetchall()
    # Two that are one source are one to the consumer, too: whose run is whose, and who still lives, nobody can tell.
    must(names == [(f"twin-{case.number}", 1, 2)], f"host, process and sources of the two agents: {names}")


@row(
    "no-locks",
    about="The file system answers ENOLCK to every lock (seccomp): an agent, a consumer or a forwarder starts on it",
    judge="the start is refused with cause and remedy, and nothing is recorded",
    full=20,
    share=3,
    test=2,
    off={"refusal": "the file system claims to lock, and does not"},
)
async def no_locks(case: Case) -> None:
    """Refused, with cause and remedy, before anything is recorded or read: without locks nobody can tell who lives."""
    settings = embedded(case, kafka_bootstrap_servers="127.0.0.1:9" if case.number % 3 == 2 else "")
    what = "lying-locks" if case.switched_off else "no-locks"
    account = case.directory / "account.jsonl"
    plan = json.dumps(dataclasses.asdict(Plan(account=str(account), seed=case.seed, runs=3)))
    words = (("tests.faults.agent", plan), ("skillaudit.cli", "consume"), ("skillaudit.cli", "forward"))
    process = Process(
        "on it",
        settings,
        ["-m", "tests.support.syscalls", what, *words[case.number % 3]],
        case.directory / "log",
    )
    async with process:
        code = await process.join(60)
        said = process.said()
    who = ("an agent", "a consumer", "a forwarder")[case.number % 3]
    must(code != 0, f"{who} started on a file system without working locks, and nothing was said")
    must("has no working locks" in said, f"exit code {code}: {said[-400:]}")
    must("put the directory on a local one" in said, f"no remedy is named: {said[-400:]}")
    must(not account.exists() or not account.read_bytes(), "something was recorded")
    must(not list(settings.outbox_dir.glob("*/*.seg")), "a segment was made")


@row(
    "machine-cloned",
    about="The machine's image with its outbox is started a second time while the agent goes on: the copy is given to another "
    "database, and to a copy of the same one",
    full=20,
    share=2,
    off={"reader-claim": "the outbox does not say whose it is"},
)
async def machine_cloned(case: Case) -> None:
    """Another database is refused, since two readers would each get a part; a whole copy goes on for itself, and says so."""
    settings, chance = embedded(case, segment_bytes=64 * 1024), case.random
    account = case.directory / "account.jsonl"
    with Sink.from_settings(settings) as sink:
        notes = Notebook(str(account))
        record(sink, Plan(account=str(account), seed=case.seed, runs=chance.randint(5, 40)), notes, 0)
        wanted, small = chance.randrange(1, 300), dataclasses.replace(settings, batch_records_max=50)
        async with consuming(small) as (service, running):
            await until(lambda: running.done() or service.status.records >= wanted or has_everything(service))
        clone = dataclasses.replace(settings, data=case.directory / "clone")
        shutil.copytree(settings.data, clone.data)
        before = read_accounts([account])
        record(sink, Plan(account=str(account), seed=case.seed + 1, runs=chance.randint(5, 40)), notes, 0)
    if case.switched_off:
        (clone.outbox_dir / "reader").unlink()
    other = dataclasses.replace(clone, db_file=case.directory / "other.duckdb")
    with contextlib.suppress(OutboxMismatchError):
        await consume_all(other)
        raise BrokenError("another database takes what is left of an outbox that is not its own")
    await consume_all(clone)
    with database(clone) as cursor:
        kinds = {kind for (kind,) in cursor.execute("SELECT DISTINCT kind FROM main.incidents").fetchall()}
    must(kinds == {"outbox-copied"}, kinds)
    check(case, clone, before, expected=("incidents",))
    await consume_all(settings)
    check(case, settings, read_accounts([account]))


@row(
    "machine-cloned-kafka",
    about="The same where both send to one topic: the copy's forwarder sends what the original's has sent, or will",
    full=20,
    share=1,
    off={"duplicates-dropped": "a consumer that remembers no number"},
    resource=shared_broker,
    broker=True,
)
async def machine_cloned_kafka(case: Case) -> None:
    """Every event is there once; the copy is named, and does not end a source that lives on elsewhere."""
    settings = await through_kafka(case, case.resource, forwarder="none", segment_bytes=64 * 1024)
    chance, account = case.random, case.directory / "account.jsonl"
    consumer = WithoutDuplicateDetection if case.switched_off else ConsumerService
    clone = dataclasses.replace(settings, data=case.directory / "clone")
    with Sink.from_settings(settings) as sink:
        notes = Notebook(str(account))
        plan = Plan(account=str(account), seed=case.seed, runs=chance.randint(5, 40), leave_unfinished=1)
        record(sink, plan, notes, 0)
        if chance.random() < 0.5:
            await forward_all(settings)
        record(sink, dataclasses.replace(plan, seed=case.seed + 2), notes, 0)
        shutil.copytree(settings.data, clone.data)
        for sender in chance.sample([settings, clone], 2):
            await forward_all(sender)
            await consume_with(settings, consumer)
        plan = dataclasses.replace(plan, seed=case.seed + 1, leave_unfinished=0)
        record(sink, plan, notes, 0)
        source_id = sink.log.source_id if sink.log else ""
        kinds = {incident["kind"] for incident in read_incidents(clone.outbox_dir / source_id)}
        must("copied" in kinds, f"the copy is named {kinds}")
        sink.close(0)
    await forward_all(settings)
    await consume_with(settings, consumer)
    check(case, settings, read_accounts([account]))
    with database(settings) as cursor:
        ended = cursor.execute("SELECT closed_by FROM main.sources").fetchall()
    must(ended == [("process",)], f"the source was ended by {ended}")
