"""The forwarder killed, stopped and woken, its thread dead: duplicates for the broker, exactly once in the database."""

from __future__ import annotations

import asyncio
import dataclasses
import json

from tests.faults.dying_agent import Trip
from tests.faults.kills import (
    KILLED,
    PATIENT_CASE_S,
    PATIENT_S,
    Workers,
    check_deaths,
    ended,
    forward_to_the_end,
    read_to_the_end,
)
from tests.faults.rows import Case, row
from tests.faults.stage import (
    QUIET_SMALL,
    Agents,
    is_drained,
    shared_broker,
    stop_process,
    through_kafka,
    wake_process,
)
from tests.faults.switched_off import consume_without_looking, count_records
from tests.faults.thread_agent import Trouble
from tests.pipeline.support import Process
from tests.support.waiting import until

from skillaudit.contract.errors import LockedError
from skillaudit.contract.outbox.locks import lock_holder
from skillaudit.contract.settings import Settings
from skillaudit.producer.forwarder_host import HOST_LOCK_NAME, run_host_forwarder

DYING = "tests.faults.dying_forwarder"
HASTY = {
    "acknowledged-by-broker": "a batch counts as acknowledged when it was handed over to the client library"
}
NAIVE = {"duplicates-dropped": "a consumer that stores every record it reads"}
LOAD = {"runs": 60, "open_at_once": 4, "payload_bytes": 400, "events_per_s": 150.0, "flush_s": 0.1}


class HostForwarder(Process):
    """`dying_forwarder.py`, started when it holds the host's lock."""

    def __init__(self, case: Case, settings: Settings, trip: Trip) -> None:
        super().__init__(
            "forwarder", settings, ["-m", DYING, json.dumps(_members(trip))], case.directory / "forwarder.log"
        )

    async def start(self) -> None:
        await super().start()
        lock = self.settings.outbox_dir / HOST_LOCK_NAME
        await until(lambda: not self.running or lock_holder(lock) == self.pid, PATIENT_S)


def _members(trip: Trip) -> dict[str, object]:
    return {name: getattr(trip, name) for name in Trip.__dataclass_fields__}


async def _settings(case: Case) -> Settings:
    return await through_kafka(case, case.resource, forwarder="host", **QUIET_SMALL)


async def _drain_and_check(case: Case, settings: Settings, agents: Agents, deaths: int = 0) -> None:
    for code in await agents.ended(PATIENT_S):
        assert code in (0, 3), f"an agent ended with {code}: {[p.said() for p in agents.processes]}"
    await forward_to_the_end(settings)
    case.note(records_sent=await count_records(settings))
    if case.switched_off == "duplicates-dropped":
        await consume_without_looking(settings)
    else:
        await read_to_the_end(settings)
    check_deaths(case, settings, agents.noted(), deaths=deaths)


@row(
    "forwarder-killed-under-load",
    about="the host's forwarder is killed at random moments, six times in a row, while three agents record; nobody forwards in between",
    full=120,
    share=6,
    test=0,
    off=HASTY,
    resource=shared_broker,
    broker=True,
    off_in_tests=False,
    case_s_max=PATIENT_CASE_S,
    not_in_tests="long: seven forwarders after each other",
)
async def killed_under_load(case: Case) -> None:
    """What it had sent and not noted is sent again."""
    chance, settings = case.random, await _settings(case)
    case.injections = 6
    async with Agents(case, settings, [LOAD] * 3) as agents:
        for _ in range(case.injections):
            async with HostForwarder(case, settings, Trip(off=case.switched_off)) as forwarder:
                await asyncio.sleep(chance.random() * 1.5)  # a random moment, not a wait for something
                assert forwarder.running, forwarder.said()
        await _drain_and_check(case, settings, agents)


AROUND = (
    ("write_acknowledgement", False),
    ("write_acknowledgement", True),
    ("replace", False),
    ("replace", True),
    ("fsync", False),
    ("fsync", True),
    ("write_tally", False),
    ("write_tally", True),
    ("unlink", False),
    ("unlink", True),
    ("rename", True),
    ("rmtree", False),
)
"""Functions between the broker's acknowledgement and a retired segment, or a removed source; whether after them."""


@row(
    "forwarder-killed-around-its-acknowledgement",
    about="the forwarder dies between the broker's acknowledgement and its record on the disk, inside the writing of that, or in the midst of deleting what it covers",
    full=60,
    share=4,
    test=0,
    off=NAIVE,
    resource=shared_broker,
    broker=True,
    off_in_tests=False,
    case_s_max=PATIENT_CASE_S,
    off_in_share=False,
    not_in_tests="long: six forwarders after each other",
)
async def killed_around_its_acknowledgement(case: Case) -> None:
    """A kill at the n-th of these calls, one after the other."""
    chance, settings = case.random, await _settings(case)
    case.injections = 0
    async with Agents(case, settings, [LOAD | {"payload_bytes": 2_000}] * 3) as agents:
        for _ in range(5):
            name, after = chance.choice(AROUND)
            at = chance.randrange(1, 6)
            trip = Trip(kind="calls", what=name, after=after, at=at, off=case.switched_off)
            async with HostForwarder(case, settings, trip) as forwarder:
                await until(lambda own=forwarder: not own.running or _is_idle(agents, settings), PATIENT_S)
                if not forwarder.running:
                    assert await ended(forwarder) == KILLED, forwarder.said()
                    case.injections += 1
                    case.note(**{f"{name}_{'after' if after else 'before'}": 1})
        await _drain_and_check(case, settings, agents)


def _is_idle(agents: Agents, settings: Settings) -> bool:
    return not any(p.running for p in agents.processes) and is_drained(settings)


@row(
    "forwarder-stopped-and-woken",
    about="SIGSTOP of the host's forwarder for up to four seconds, longer than its requests may take; another one is refused meanwhile, with its process named; then it is woken, or killed and succeeded",
    full=60,
    share=3,
    test=0,
    off={"locks": "somebody removes the lock files of a forwarder that does not answer"},
    resource=shared_broker,
    broker=True,
    off_in_tests=False,
    case_s_max=PATIENT_CASE_S,
    not_in_tests="long: stands still for seconds",
)
async def stopped_and_woken(case: Case) -> None:
    """A stopped process keeps its locks: nobody forwards beside it, whoever wakes up goes on in order."""
    chance, settings = case.random, await _settings(case)
    settings = dataclasses.replace(settings, kafka_request_timeout_ms=1_000)
    case.injections = 3
    async with Agents(case, settings, [LOAD] * 3) as agents:
        await until(lambda: agents.noted_lines() > 0, PATIENT_S)
        async with HostForwarder(case, settings, Trip()) as forwarder:
            for number in range(case.injections):
                await asyncio.sleep(chance.random() * 0.7)
                stop_process(forwarder.pid)
                if case.switched_off == "locks":
                    (settings.outbox_dir / HOST_LOCK_NAME).unlink()
                await _is_refused(settings, forwarder.pid)
                await asyncio.sleep(chance.choice((0.0, 0.3, 4.0 if number == 1 else 1.0)))
                wake_process(forwarder.pid)
                assert forwarder.running, forwarder.said()
            if case.number % 2:
                stop_process(forwarder.pid)
        await _drain_and_check(case, settings, agents)


async def _is_refused(settings: Settings, holder: int) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(run_host_forwarder(settings, stop))
    await asyncio.wait((running,), timeout=1.0)
    stop.set()
    (outcome,) = await asyncio.gather(running, return_exceptions=True)
    assert isinstance(outcome, LockedError), (
        f"a second forwarder took the directory of a stopped one: {outcome!r}"
    )
    assert str(holder) in str(outcome), f"the holder {holder} is not named: {outcome}"


@row(
    "forwarder-thread-hit-by-its-publisher",
    about="the publisher raises what none may raise (RuntimeError, MemoryError, SystemExit, KeyboardInterrupt, CancelledError, a BaseException), before or after the broker has the batch; the thread has to recover by itself",
    full=30,
    share=5,
    test=1,
    off={"supervisor": "the thread ends with its first forwarder"},
    resource=shared_broker,
    broker=True,
    off_in_tests=False,
    case_s_max=PATIENT_CASE_S,
)
async def thread_hit_by_its_publisher(case: Case) -> None:
    """The living process's records are acknowledged all the same: it ends with nothing pending."""
    await _hit_threads(case, asynchronous=False)


@row(
    "forwarder-thread-hit-from-outside",
    about="an exception is raised in the thread from outside at random bytecodes; it recovers, or the next adopter takes what is left",
    full=30,
    share=5,
    test=1,
    off={"supervisor": "the thread ends with its first forwarder"},
    resource=shared_broker,
    broker=True,
    off_in_tests=False,
    case_s_max=PATIENT_CASE_S,
)
async def thread_hit_from_outside(case: Case) -> None:
    """At any point of it."""
    await _hit_threads(case, asynchronous=True)


async def _hit_threads(case: Case, *, asynchronous: bool) -> None:
    settings = await through_kafka(case, case.resource, **QUIET_SMALL)
    trouble = Trouble(hits=5, seed=case.seed, asynchronous=asynchronous, off=case.switched_off)
    plan = {"runs": 10, "payload_bytes": 400, "events_per_s": 400.0}
    agents = Workers(case, settings, [plan], module="tests.faults.thread_agent", arguments=[trouble])
    async with agents:
        (code,) = await agents.ended(PATIENT_S)
    (process,) = agents.processes
    assert code == 0, f"ended with {code}, not everything acknowledged: {process.said()[-600:]}"
    case.injections = trouble.hits
    await forward_to_the_end(settings)
    await read_to_the_end(settings)
    check_deaths(case, settings, agents.noted(), deaths=0)
