"""The forwarder killed, stopped and woken, its thread dead: duplicates for the broker, exactly once in the database."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random

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
from tests.faults.oracle import must
from tests.faults.rows import Case, row
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
from tests.faults.switched_off import consume_without_looking, count_records
from tests.faults.thread_agent import Trouble
from tests.faults.tripwires import places_of_death
from tests.pipeline.support import Process
from tests.support.waiting import until

from skillaudit.contract.errors import LockedError
from skillaudit.contract.outbox.directory import list_source_dirs
from skillaudit.contract.outbox.locks import lock_holder
from skillaudit.contract.settings import Settings
from skillaudit.producer.forwarder_files import read_incidents
from skillaudit.producer.forwarder_host import HOST_LOCK_NAME, run_host_forwarder

DYING = "tests.faults.dying_forwarder"
HASTY = {
    "acknowledged-by-broker": "a batch counts as acknowledged when it was handed over to the client library"
}
NAIVE = {"duplicates-dropped": "a consumer that stores every record it reads"}
LOAD = {"runs": 60, "open_at_once": 4, "payload_bytes": 400, "events_per_s": 150.0, "flush_s": 0.1}
LASTING = LOAD | {"runs": 100_000, "events_per_s": 80.0}
"""Until a file says that it is enough: a fault has to meet agents that still record."""
KILLS, STOPS = 6, 3
PENDING = 3
"""Exit code of an agent whose last flush told of something pending."""
FLUSH_S = 60.0


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
    await forward_to_the_end(settings, or_until=lambda: bool(_incidents(settings)))
    incidents = _incidents(settings)
    must(not incidents, f"forwarders that were killed left damage behind: {incidents[:3]}")
    case.note(records_sent=await count_records(settings))
    if case.switched_off == "duplicates-dropped":
        await consume_without_looking(settings)
    else:
        await read_to_the_end(settings, sources_end=not case.switched_off)
    check_deaths(case, settings, agents.noted(), deaths=deaths)


async def until_at_work(forwarder: HostForwarder, settings: Settings, before: int) -> None:
    """Wait until more than that is acknowledged."""
    await until(lambda: acknowledged(settings) > before or not forwarder.running, PATIENT_S)
    assert forwarder.running, forwarder.said()


def assert_met_work(agents: Agents, settings: Settings, before: int) -> bool:
    """What was done to a forwarder was done to one that had something to do. Whether it has sent since."""
    ended = [process.name for process in agents.processes if not process.running]
    assert not ended, f"{ended} ended before the last fault"
    sent = acknowledged(settings) - before
    assert sent or not is_drained(settings), "the forwarder was hit when it had nothing to do"
    return sent > 0


def _incidents(settings: Settings) -> list[str]:
    found = (read_incidents(path) for path in list_source_dirs(settings.outbox_dir))
    return [str(incident) for incidents in found for incident in incidents]


@row(
    "forwarder-killed-under-load",
    about="the host's forwarder is killed six times in a row while three agents record to the last kill: at a random moment from its start on, and every "
    "second time from its first acknowledgement on; nobody forwards in between",
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
    stop = case.directory / "stop"
    case.injections, at_work = KILLS, 0
    async with Agents(case, settings, [LASTING | {"stop_file": str(stop)}] * 3) as agents:
        await agents.until_noted(1, PATIENT_S)
        for number in range(KILLS):
            before = acknowledged(settings)
            async with HostForwarder(case, settings, Trip(off=case.switched_off)) as forwarder:
                if number % 2:
                    await until_at_work(forwarder, settings, before)
                await asyncio.sleep(chance.random() * 1.5)  # a random moment, not a wait for something
                assert forwarder.running, forwarder.said()
            at_work += assert_met_work(agents, settings, before)
        stop.touch()
        case.note(killed_after_acknowledging=at_work)
        await _drain_and_check(case, settings, agents)


Place = tuple[str, str, bool]
"""A function of the product; what it calls, itself or by others; whether the call has returned."""


def _places(within: str, *names: str) -> tuple[Place, ...]:
    return tuple((within, name, after) for name in names for after in (False, True))


WRITING = _places(
    "write_acknowledgement", "write_acknowledgement", "open", "write", "fsync", "close", "replace"
)
"""From the broker's acknowledgement to its record on the disk."""
RETIRING = _places("_retire", "write_tally", "write", "fsync", "replace", "unlink")
"""What is kept of the segments that it covers, and their end."""
REMOVING = _places("_remove_all", "rename", "fsync", "rmtree", "unlink", "rmdir")
"""The end of a source of which everything is acknowledged."""
HALVES = _places("write_over", "write")
"""Of an acknowledgement that is written in place."""
AROUND = {
    "duplicates-dropped": NAIVE["duplicates-dropped"],
    "acknowledged-by-broker": HASTY["acknowledged-by-broker"],
    "replaced-whole": "the acknowledgement is written over the one before, not beside it and renamed",
}


def _chosen(chance: random.Random, switched_off: str) -> list[Place]:
    """In the order in which they come: sources are removed in the end."""
    if switched_off == "replaced-whole":
        return chance.choices(HALVES, k=3)
    first = [*chance.sample(WRITING, 4), *chance.sample(RETIRING, 3)]
    return [*chance.sample(first, len(first)), chance.choice(REMOVING)]


@row(
    "forwarder-killed-around-its-acknowledgement",
    about="once the broker has acknowledged something, the forwarder dies inside the writing of its own acknowledgement (before and after each of: write beside, fsync, rename, fsync of the directory), of what is kept of the segments that this covers, in the midst of deleting them, or of a source's removal",
    full=160,
    share=8,
    test=0,
    off=AROUND,
    resource=shared_broker,
    broker=True,
    off_in_tests=False,
    case_s_max=PATIENT_CASE_S,
    off_in_share=False,
    not_in_tests="long: eight forwarders after each other",
)
async def killed_around_its_acknowledgement(case: Case) -> None:
    """A kill at the n-th of these calls, one after the other."""
    chance, settings = case.random, await _settings(case)
    told = case.directory / "places"
    case.injections = 0
    stop = case.directory / "stop"
    plan = LASTING | {"payload_bytes": 2_000, "stop_file": str(stop)}
    async with Agents(case, settings, [plan] * 3) as agents:
        for within, name, after in _chosen(chance, case.switched_off):
            if within == "_remove_all":
                stop.touch()
            trip = Trip(
                kind="calls",
                what=name,
                within=within,
                after=after,
                at=chance.randint(1, 3),
                told=str(told),
                off=case.switched_off,
            )
            async with HostForwarder(case, settings, trip) as forwarder:
                await until(lambda own=forwarder: not own.running or _is_idle(agents, settings), PATIENT_S)
                if not forwarder.running:
                    assert await ended(forwarder) == KILLED, forwarder.said()
                    case.injections += 1
        stop.touch()
        places = places_of_death(told)
        case.note(**places)
        assert places.total() == case.injections, f"{case.injections} died, at {dict(places)}"
        await _drain_and_check(case, settings, agents)


def _is_idle(agents: Agents, settings: Settings) -> bool:
    """Whether nothing is left that a forwarder could do: no source, and none that is being removed."""
    recording = any(process.running for process in agents.processes)
    return not recording and not any(path.is_dir() for path in settings.outbox_dir.iterdir())


@row(
    "forwarder-stopped-and-woken",
    about="SIGSTOP of the host's forwarder for up to four seconds, longer than its requests may take; another one is refused meanwhile, with its process named; then it is woken, or, the third time in every other case, killed and succeeded; three agents record to the end",
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
    stop = case.directory / "stop"
    case.injections = STOPS
    async with Agents(case, settings, [LASTING | {"stop_file": str(stop)}] * 3) as agents:
        async with HostForwarder(case, settings, Trip()) as forwarder:
            for number in range(STOPS):
                before = acknowledged(settings)
                await until_at_work(forwarder, settings, before)  # the first time it only starts
                await asyncio.sleep(chance.random() * 0.7)  # a random moment, not a wait for something
                stop_process(forwarder.pid)
                if case.switched_off == "locks":
                    (settings.outbox_dir / HOST_LOCK_NAME).unlink()
                await _is_refused(settings, forwarder.pid)
                await asyncio.sleep(chance.choice((0.0, 0.3, 4.0 if number == 1 else 1.0)))
                assert_met_work(agents, settings, before)
                if number < STOPS - 1 or not case.number % 2:
                    wake_process(forwarder.pid)
                    await until_at_work(forwarder, settings, acknowledged(settings))
        stop.touch()
        await _drain_and_check(case, settings, agents)


async def _is_refused(settings: Settings, holder: int) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(run_host_forwarder(settings, stop))
    await asyncio.wait((running,), timeout=1.0)
    stop.set()
    (outcome,) = await asyncio.gather(running, return_exceptions=True)
    must(
        isinstance(outcome, LockedError),
        f"a second forwarder took the directory of a stopped one: {outcome!r}",
    )
    must(str(holder) in str(outcome), f"the holder {holder} is not named: {outcome}")


@row(
    "forwarder-thread-hit-by-its-publisher",
    about="the publisher raises what none may raise (RuntimeError, MemoryError, SystemExit, KeyboardInterrupt, CancelledError, a BaseException), before or after the broker has the batch; the thread has to recover by itself",
    full=30,
    share=5,
    test=1,
    off={"supervisor": "the thread ends with its first forwarder"},
    off_by_waiting=("supervisor",),
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
    off_by_waiting=("supervisor",),
    resource=shared_broker,
    broker=True,
    off_in_tests=False,
    case_s_max=PATIENT_CASE_S,
)
async def thread_hit_from_outside(case: Case) -> None:
    """At any point of it."""
    await _hit_threads(case, asynchronous=True)


def _hits(agents: Agents) -> int:
    """How often the agent's thread was hit, as its account says at its end."""
    lines = agents.account_files[0].read_bytes().splitlines()
    return sum(int(entry.get("hits", 0)) for entry in map(json.loads, lines))


async def _hit_threads(case: Case, *, asynchronous: bool) -> None:
    settings = await through_kafka(case, case.resource, **QUIET_SMALL)
    trouble = Trouble(hits=5, seed=case.seed, asynchronous=asynchronous, off=case.switched_off)
    plan = {"runs": 10, "payload_bytes": 400, "events_per_s": 400.0, "flush_s": case.with_it_s or FLUSH_S}
    agents = Workers(case, settings, [plan], module="tests.faults.thread_agent", arguments=[trouble])
    async with agents:
        (code,) = await agents.ended(PATIENT_S)
    (process,) = agents.processes
    said = process.said()[-600:]
    assert code in (0, PENDING), f"ended with {code}: {said}"
    must(code == 0, f"ended with {code}, not everything acknowledged: {said}")
    case.injections = _hits(agents)
    assert case.injections == trouble.hits, f"hit {case.injections} times: {said}"
    await forward_to_the_end(settings)
    await read_to_the_end(settings)
    check_deaths(case, settings, agents.noted(), deaths=0)
