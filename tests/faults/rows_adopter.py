"""Another forwarder lives beside the one that is killed, stopped or dead: it takes over what is free, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from tests.faults.dying_agent import Trip
from tests.faults.kills import (
    PATIENT_CASE_S,
    PATIENT_S,
    Workers,
    check_deaths,
    forward_to_the_end,
    read_to_the_end,
)
from tests.faults.oracle import Account, must
from tests.faults.rows import Case, row
from tests.faults.rows_forwarder import LASTING, LOAD, HostForwarder, assert_met_work, until_at_work
from tests.faults.stage import (
    QUIET_SMALL,
    Agents,
    acknowledged,
    is_drained,
    shared_broker,
    stop_process,
    through_kafka,
    wake_process,
)
from tests.faults.switched_off import count_records
from tests.faults.thread_agent import Trouble
from tests.support.waiting import until

from skillaudit.contract.errors import LockedError
from skillaudit.contract.outbox.directory import READER_LOCK_NAME, list_source_dirs
from skillaudit.contract.outbox.locks import lock_holder
from skillaudit.contract.outbox.reader import WRITER_LOCK_NAME
from skillaudit.contract.settings import Settings
from skillaudit.producer.forwarder_host import HOST_LOCK_NAME, run_host_forwarder

KILLED = 2
STANDBY_S = 0.05
STOPPED_S = (0.3, 1.5, 4.0)
"""Some longer than a request may take."""


@row(
    "forwarder-dies-beside-an-adopter",
    about="agents with a forwarder each: two are killed at random moments, one is stopped for up to four seconds and woken, in one the forwarder's "
    "thread dies while it records; beside them lives a host's forwarder or another agent's thread that takes over; in every third case a second "
    "host's forwarder that waits for the first one's death, three times, while three agents record to the last one",
    full=60,
    share=8,
    test=0,
    off={"locks": "somebody removes the lock files of an agent that does not answer"},
    off_cases_max=2,
    off_in_tests=False,
    resource=shared_broker,
    broker=True,
    case_s_max=PATIENT_CASE_S,
    not_in_tests="long",
)
async def dies_beside_an_adopter(case: Case) -> None:
    """Nobody else forwards: what the adopter has not taken would be missing."""
    settings = await through_kafka(case, case.resource, kafka_request_timeout_ms=1_000, **QUIET_SMALL)
    kind = 0 if case.switched_off else case.number % 3
    if kind == 2:
        await _beside_a_standby(case, replace(settings, forwarder="host"))
        return
    async with (_host if kind == 0 else _agent)(case, settings) as (adopter, left):
        victims = await _strike(case, settings)
        await until(lambda: len(list_source_dirs(settings.outbox_dir)) <= left, PATIENT_S)
    accounts = victims.noted() | adopter.noted()
    if left:
        must(is_drained(settings), "the adopter ended with something pending")
        await forward_to_the_end(settings)  # its own source is the next one's to remove
    await _check(case, settings, accounts, deaths=KILLED)


class _Nobody:
    """An adopter that records nothing."""

    def noted(self) -> dict[str, Account]:
        return {}


@contextlib.asynccontextmanager
async def _host(case: Case, settings: Settings) -> AsyncGenerator[tuple[_Nobody, int]]:
    """`skillaudit forward` in the same directory; leaves no source behind."""
    async with HostForwarder(case, settings, Trip()) as forwarder:
        yield _Nobody(), 0
        await forwarder.terminate()


@contextlib.asynccontextmanager
async def _agent(case: Case, settings: Settings) -> AsyncGenerator[tuple[Agents, int]]:
    """An agent that has little to record itself; leaves its own source."""
    stop = case.directory / "stop-the-adopter"
    plan = {"runs": 10_000, "open_at_once": 2, "events_per_s": 20.0, "stop_file": str(stop)}
    async with Agents(case, settings, [plan]) as adopter:
        await adopter.until_noted(1, PATIENT_S)
        yield adopter, 1
        stop.touch()
        await adopter.join(PATIENT_S)


class _Victims:
    """Agents of all fates."""

    def __init__(self, groups: Sequence[Agents]) -> None:
        self._groups = groups

    def noted(self) -> dict[str, Account]:
        return {run: account for group in self._groups for run, account in group.noted().items()}


async def _strike(case: Case, settings: Settings) -> _Victims:
    """Let agents record, and hit each in its way; all have ended when this returns."""
    chance = case.random
    trouble = Trouble(hits=1, seed=case.seed, off="supervisor")
    killed = Agents(case, settings, [LOAD | {"runs": 10_000}] * KILLED)
    stopped = Agents(case, settings, [LOAD | {"flush_s": 60.0}])
    dead = Workers(case, settings, [LOAD], module="tests.faults.thread_agent", arguments=[trouble])
    async with killed, stopped, dead:
        for victim in killed.processes:
            await killed.until_noted(killed.noted_lines() + chance.randint(20, 150), PATIENT_S)
            assert victim.running, victim.said()
            await victim.kill()
        await stopped.until_noted(chance.randint(10, 100), PATIENT_S)
        stopped_s = STOPPED_S[-1] if case.switched_off else chance.choice(STOPPED_S)
        await _stop_for(case, settings, stopped.processes[0].pid, stopped_s)
        codes = [*await stopped.ended(PATIENT_S), *await dead.ended(PATIENT_S)]
        # Whose own thread is gone hears of no acknowledgement: 3, something is pending.
        assert codes[0] == 0 or case.switched_off, stopped.processes[0].said()
        assert codes[1] in (0, 3), dead.processes[0].said()
    case.injections = KILLED + 2
    return _Victims((killed, stopped, dead))


async def _stop_for(case: Case, settings: Settings, pid: int, seconds: float) -> None:
    stop_process(pid)
    own = [
        path for path in list_source_dirs(settings.outbox_dir) if lock_holder(path / WRITER_LOCK_NAME) == pid
    ]
    if case.switched_off == "locks":
        for path in own:
            (path / WRITER_LOCK_NAME).unlink()
            (path / READER_LOCK_NAME).unlink(missing_ok=True)
        await until(lambda: not any(path.exists() for path in own), PATIENT_S)
    await asyncio.sleep(seconds)  # the fault's length
    if not case.switched_off:
        must(own, "the stopped agent's source is gone")
        must(all(path.exists() for path in own), "the source of an agent that was stopped was taken away")
    wake_process(pid)


async def _beside_a_standby(case: Case, settings: Settings) -> None:
    """The second one has the directory within seconds of the first one's death, and not before."""
    chance, stop = case.random, case.directory / "stop"
    lock = settings.outbox_dir / HOST_LOCK_NAME
    case.injections, sent = 3, 0
    async with Agents(case, settings, [LASTING | {"stop_file": str(stop)}] * 3) as agents:
        await agents.until_noted(1, PATIENT_S)
        for number in range(case.injections):
            before = acknowledged(settings)
            async with HostForwarder(case, settings, Trip()) as forwarder, _standby(settings) as refused:
                if number:  # the first one may only have begun
                    await until_at_work(forwarder, settings, before)
                await asyncio.sleep(chance.random())  # a random moment, not a wait for something
                if number == 1:
                    stop_process(forwarder.pid)
                    await asyncio.sleep(chance.choice(STOPPED_S))  # the fault's length
                    must(lock_holder(lock) == forwarder.pid, "a stopped forwarder lost its directory")
                # Asked just before: a moment later the second one sends.
                sent += assert_met_work(agents, settings, before)
                await forwarder.kill()
                await until(lambda: lock_holder(lock) == os.getpid(), 10)
                assert refused, "the second one was never refused"
                if number < case.injections - 1:
                    await asyncio.sleep(chance.random() / 2)  # a random moment again
                    continue
                stop.touch()
                for code in await agents.ended(PATIENT_S):
                    assert code in (0, 3), f"an agent ended with {code}"
                await until(lambda: not list_source_dirs(settings.outbox_dir), PATIENT_S)
    case.note(killed_after_acknowledging=sent)
    await _check(case, settings, agents.noted(), deaths=0)


@contextlib.asynccontextmanager
async def _standby(settings: Settings) -> AsyncGenerator[list[str]]:
    """A host's forwarder that tries again and again while there is another one; gives what it was told."""
    stop, refused = asyncio.Event(), list[str]()

    async def wait_for_its_turn() -> None:
        while not stop.is_set():
            try:
                await run_host_forwarder(settings, stop)
            except LockedError as exc:
                refused.append(str(exc))
                await asyncio.sleep(STANDBY_S)

    waiting = asyncio.create_task(wait_for_its_turn())
    try:
        yield refused
    finally:
        stop.set()
        await waiting


async def _check(case: Case, settings: Settings, accounts: dict[str, Account], *, deaths: int) -> None:
    case.note(records_sent=await count_records(settings))
    await read_to_the_end(settings)
    check_deaths(case, settings, accounts, deaths=deaths, torn_allowed=True)
