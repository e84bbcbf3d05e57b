"""Agents killed: at any moment, at exact points inside an append and a segment's change, around a fork."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path

from tests.faults.dying_agent import Trip
from tests.faults.forking_agent import Births, all_gone, read_lives
from tests.faults.kills import (
    PATIENT_CASE_S,
    PATIENT_S,
    Workers,
    account_files,
    check_deaths,
    ended,
    forward_to_the_end,
    read_to_the_end,
)
from tests.faults.oracle import read_accounts
from tests.faults.rows import Case, row
from tests.faults.stage import (
    QUIET_SMALL,
    Agents,
    consuming,
    embedded,
    shared_broker,
    through_kafka,
)
from tests.faults.switched_off import believe_torn_lines
from tests.faults.tripwires import places_of_death
from tests.support.waiting import until

DYING = "tests.faults.dying_agent"
ENDLESS_RUNS = 1_000_000
QUEUE = {"stored-before-return": "events wait in memory and are stored 32 at a time, as other SDKs do it"}
SMALL_EVENTS = {"runs": 30, "open_at_once": 4, "logs_max": 12, "payload_bytes": 900}
"""Several segments of 64 KiB."""


async def _die_by_themselves(
    case: Case, plan: dict[str, object], trips: list[Trip], *, outbox_fsync: str = "never"
) -> int:
    """So many agents in one outbox, each with its own point of death; then drained and judged."""
    settings = embedded(case, **QUIET_SMALL, outbox_fsync=outbox_fsync)
    workers = Workers(case, settings, [plan] * len(trips), module=DYING, arguments=trips)
    deaths = await workers.run()
    case.injections = deaths
    if case.switched_off == "checksum":
        believe_torn_lines(settings.outbox_dir)
    await read_to_the_end(settings)
    torn = any(trip.kind in ("stores", "bytecodes") for trip in trips)
    check_deaths(case, settings, workers.noted(), deaths=deaths, torn_allowed=torn)
    return deaths


@row(
    "agent-killed-under-load",
    about="SIGKILL at a random moment while it records as fast as it can; ten agents in one outbox, a consumer beside them in every other case",
    full=300,
    share=10,
    test=10,
    off=QUEUE,
    case_s_max=PATIENT_CASE_S,
)
async def killed_under_load(case: Case) -> None:
    """Time decides where it hits."""
    agents_killed = 10
    settings = embedded(case, **QUIET_SMALL)
    plans = [{"runs": ENDLESS_RUNS, "payload_bytes": 400}] * agents_killed
    trips = [Trip(off=case.switched_off)] * agents_killed
    workers = Workers(case, settings, plans, module=DYING, arguments=trips)
    if case.number % 2 and not case.switched_off:
        async with consuming(settings):
            await _kill_all(case, workers)
    else:
        await _kill_all(case, workers)
    case.injections = agents_killed
    await read_to_the_end(settings)
    check_deaths(case, settings, workers.noted(), deaths=agents_killed, torn_allowed=True)


async def _kill_all(case: Case, agents: Agents, within_s: float = 0.2) -> None:
    """Each at a moment of its own, once it has recorded."""
    chance = case.random

    async def one(number: int, after_s: float) -> None:
        process, account = agents.processes[number], agents.account_files[number]
        await until(
            lambda: (account.exists() and account.stat().st_size > 0) or not process.running, PATIENT_S
        )
        await asyncio.sleep(after_s)  # a random moment, not a wait for something
        await process.kill()
        assert await ended(process) == -9, process.said()

    async with agents:
        kills = [one(number, chance.random() * within_s) for number in range(len(agents.processes))]
        await asyncio.gather(*kills)


@row(
    "agent-killed-at-a-bytecode",
    about="kills itself before the n-th bytecode that the appending code executes: first append, hot path, segment change, flush, close",
    full=300,
    share=10,
    test=1,
    off=QUEUE,
    off_in_tests=False,
    case_s_max=PATIENT_CASE_S,
    off_in_share=False,
)
async def killed_at_a_bytecode(case: Case) -> None:
    """No point of it is special."""
    chance = case.random
    places = [("skillaudit/producer/outbox", 50_000), ("skillaudit/producer/", 165_000)]
    trips = [
        Trip(kind="bytecodes", what=part, at=chance.randrange(1, most), off=case.switched_off)
        for part, most in chance.choices(places, k=10)
    ]
    await _die_by_themselves(case, SMALL_EVENTS, trips)


@row(
    "agent-killed-inside-a-store",
    about="dies before, in the middle of (torn, or stored in any order) and after the copy of one line into the mapped segment",
    full=150,
    share=10,
    test=1,
    off={"checksum": "what a reader finds behind the last whole line is taken for one"},
    case_s_max=PATIENT_CASE_S,
)
async def killed_inside_a_store(case: Case) -> None:
    """The one place where a line is half there."""
    chance = case.random
    trips = [
        Trip(kind="stores", what=what, at=chance.randrange(1, 200), seed=chance.getrandbits(32))
        for what in chance.choices(["before", "torn", "scattered", "after"], [1, 3, 3, 1], k=10)
    ]
    await _die_by_themselves(case, SMALL_EVENTS, trips)


CHANGES = {
    **dict.fromkeys([("outbox_id", "outbox_id"), ("open", "mkdir"), ("open", "try_acquire")], 1),
    **dict.fromkeys([("write_source", name) for name in ("write_source", "write", "replace")], 1),
    ("_open_locked", "fsync"): 3,
    **dict.fromkeys([("create_segment", name) for name in ("open", "allocate", "map", "prepare")], 8),
    **dict.fromkeys([("create_segment", name) for name in ("store", "replace")], 8),
    **dict.fromkeys([("next_segment", "fsync"), ("finish", "cut")], 8),
}
"""What makes a source, and its next segment; a call of it, and how many of these an agent comes to at least."""
IN_PLACE = {("create_segment_in_place", name): 8 for name in ("allocate", "map", "prepare", "store")}
AS_MADE = {"named-when-whole": "a segment has its name from the beginning, and gets its header there"}


def _change(case: Case, chance: random.Random, place: tuple[str, str], at_most: int) -> Trip:
    return Trip(
        kind="calls",
        within=place[0],
        what=place[1],
        at=chance.randint(1, at_most),
        after=chance.random() < 0.5,
        told=str(case.directory / "places"),
        off=case.switched_off,
    )


@row(
    "agent-killed-in-a-segment-change",
    about="dies before or after one of the calls that make a source or its next segment: its directory, its lock, its identity; allocate, map, write the header, rename, sync, cut the last one",
    full=150,
    share=15,
    test=1,
    off=QUEUE | AS_MADE,
    off_in_tests=False,
    case_s_max=PATIENT_CASE_S,
    off_in_share=False,
)
async def killed_in_a_segment_change(case: Case) -> None:
    """Half a segment, a segment without a name, a source without its identity."""
    chance = case.random
    changes = IN_PLACE if case.switched_off in AS_MADE else CHANGES
    trips = [_change(case, chance, place, at_most) for place, at_most in changes.items()]
    plan = SMALL_EVENTS | {"payload_bytes": 4_000}
    deaths = await _die_by_themselves(case, plan, trips, outbox_fsync="interval")
    places = places_of_death(case.directory / "places")
    case.note(**places)
    assert places.total() == deaths, f"{deaths} died, at {dict(places)}"


FORK_POINTS = (
    ("fork", False, ""),
    ("fork", True, "parent"),
    ("fork", True, "child"),
    ("begin_in_child", False, "child"),
    ("begin_in_child", True, "child"),
    ("abandon", False, "child"),
    ("abandon", True, "child"),
)
"""Function, whether after its return, who dies."""
FORKING = "tests.faults.forking_agent"
OFF_READ_S = 60.0
"""A source that is shared may never be closed."""
FORK_NOTICED = {"fork-noticed": "the child goes on in its parent's source, in the same mapped segment"}


async def _fork_and_die(case: Case, births: list[Births]) -> None:
    settings = embedded(case, **QUIET_SMALL)
    plan = {"runs": 6, "logs_max": 8, "payload_bytes": 900}
    parents = Workers(case, settings, [plan] * len(births), module=FORKING, arguments=births)
    # Who shares a segment with another may end in any way, or never: what is missing then is for the judge to say.
    off = bool(case.switched_off)
    async with consuming(settings) if case.number % 2 and not off else contextlib.nullcontext():
        deaths = await parents.run()
        with contextlib.suppress(*([AssertionError] if off else [])):
            await all_gone(births)
    accounts = [*parents.account_files, *account_files(case.directory / "children")]
    lives = read_lives(accounts)
    assert off or not lives.failed, lives.failed
    case.injections = deaths + lives.died
    with contextlib.suppress(*([TimeoutError] if off else [])):
        await read_to_the_end(settings, OFF_READ_S if off else PATIENT_S)
    threads = 2 * deaths + lives.died  # a parent records on two
    check_deaths(case, settings, read_accounts(accounts), deaths=case.injections, threads=threads)
    case.note(children=lives.left)


@row(
    "agent-killed-around-a-fork",
    about="parent or child dies before or after os.fork, or before or after the product's own handlers in the child; a second thread records meanwhile",
    full=50,
    share=4,
    test=1,
    off=FORK_NOTICED,
    case_s_max=PATIENT_CASE_S,
)
async def killed_around_a_fork(case: Case) -> None:
    """Whoever lives goes on; nobody writes into another's source."""
    chance = case.random
    births = []
    for number in range(4):
        name, after, who = chance.choice(FORK_POINTS)
        own = Births(
            directory=str(case.directory / "children"),
            name=f"{number}",
            at=0 if case.switched_off else chance.randrange(1, 4) if name == "fork" else 1,
            point=name,
            after=after,
            who=who,
            off=case.switched_off,
        )
        births.append(own)
    await _fork_and_die(case, births)


@row(
    "agent-killed-while-its-children-live",
    about="a parent is killed while its forked children, and theirs, record; they go on after its death",
    full=50,
    share=3,
    test=1,
    off=FORK_NOTICED,
    off_in_tests=False,
    case_s_max=PATIENT_CASE_S,
)
async def killed_while_its_children_live(case: Case) -> None:
    """A child holds nothing of its parent's: the parent's source counts as dead while the child writes its own."""
    births = [
        Births(directory=str(case.directory / "children"), name=f"{n}", outlive=True, off=case.switched_off)
        for n in range(3)
    ]
    await _fork_and_die(case, births)


@row(
    "agent-killed-while-it-forwards",
    about="SIGKILL at a random moment of agents whose own threads forward to a broker, several generations after each other, which adopt what the dead have left",
    full=100,
    share=10,
    test=1,
    off={
        "acknowledged-by-broker": "a batch counts as acknowledged when it was handed over to the client library"
    },
    resource=shared_broker,
    broker=True,
    off_in_tests=False,
    case_s_max=PATIENT_CASE_S,
)
async def killed_while_it_forwards(case: Case) -> None:
    """The thread dies with the process, wherever it is."""
    settings = await through_kafka(case, case.resource, **QUIET_SMALL)
    generations, agents_killed = (1, 5) if case.switched_off else (2, 5)
    accounts: list[Path] = []
    for _ in range(generations):
        plans = [{"runs": ENDLESS_RUNS, "payload_bytes": 400, "events_per_s": 600.0}] * agents_killed
        trips = [Trip(off=case.switched_off)] * agents_killed
        workers = Workers(case, settings, plans, module=DYING, arguments=trips)
        await _kill_all(case, workers, within_s=1.5)
        accounts += workers.account_files
    case.injections = generations * agents_killed
    await forward_to_the_end(settings)
    await read_to_the_end(settings)
    check_deaths(case, settings, read_accounts(accounts), deaths=case.injections)
