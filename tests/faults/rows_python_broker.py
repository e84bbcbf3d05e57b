"""Real servers, forks and exits of Python, with a broker: at each fork and at each end there is a forwarder's thread."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

from tests.faults.kills import PATIENT_CASE_S, PATIENT_S
from tests.faults.oracle import must
from tests.faults.python_lives import HOLD
from tests.faults.rows import Case, row
from tests.faults.rows_python import (
    EXITS,
    FORGETFUL,
    FORK_NOTICED,
    entries,
    live,
    serve_prefork,
    work_prefork,
)
from tests.faults.stage import QUIET_SMALL, own_broker, shared_broker, through_kafka
from tests.faults.stage_kafka import read_batches
from tests.pipeline.support import Process
from tests.support.waiting import until

from skillaudit.contract.outbox.directory import list_sources
from skillaudit.contract.settings import Settings

FLUSH_MS = 3_000
EXIT_S_MAX = FLUSH_MS / 1000 + 15.0
"""A bound, for a machine that has other work: the time for flushing, and what ends in order behind that."""
_BROKER: dict[str, Any] = {
    "full": 20,
    "share": 1,
    "test": 0,
    "not_in_tests": "as its twin without a broker",
    "off_in_tests": False,
    "off_in_share": False,
    "broker": True,
    "case_s_max": PATIENT_CASE_S,
}


async def _settings(case: Case, bootstrap: str, **members: Any) -> Settings:
    own = {"kafka_request_timeout_ms": 5_000, "flush_timeout_ms": FLUSH_MS}
    return await through_kafka(case, bootstrap, **(QUIET_SMALL | own | members))


async def _at_the_broker(settings: Settings) -> int:
    """Records of the topic, those that were sent twice counted once."""
    sent = await read_batches(settings, settings.kafka_topic)
    return len({value for records in sent.values() for _, value in records})


async def _note_forwarded(case: Case, settings: Settings) -> None:
    """Without threads that forward the row would test nothing that its twin does not."""
    forwarded = await _at_the_broker(settings)
    assert forwarded or case.switched_off, "nothing was forwarded by the processes themselves"
    case.note(forwarded_by_threads=forwarded)


@row(
    "gunicorn-prefork-through-a-broker",
    about="as gunicorn-prefork, with a broker: the master, which has begun a run, and each worker has its forwarder's thread",
    off=FORK_NOTICED,
    resource=shared_broker,
    **_BROKER,
)
async def gunicorn_prefork(case: Case) -> None:
    """As there; what threads did not send before their processes ended, an adopter does."""
    settings = await _settings(case, case.resource)
    await serve_prefork(case, settings, then=partial(_note_forwarded, case, settings))


@row(
    "celery-prefork-through-a-broker",
    about="as celery-prefork, with a Kafka broker: the worker, which has begun a run, and each child of its pool has its forwarder's thread",
    off=FORK_NOTICED,
    resource=shared_broker,
    **_BROKER,
)
async def celery_prefork(case: Case) -> None:
    """As there."""
    settings = await _settings(case, case.resource)
    await work_prefork(case, settings, then=partial(_note_forwarded, case, settings))


@row(
    "multiprocessing-fork-through-a-broker",
    about="as multiprocessing-fork, with a broker: the parent, which has begun a run, and each child has its forwarder's thread",
    off=FORK_NOTICED,
    resource=shared_broker,
    **_BROKER,
)
async def multiprocessing_fork(case: Case) -> None:
    """As there."""
    settings = await _settings(case, case.resource)
    then = partial(_note_forwarded, case, settings)
    await live(case, "multiprocessing:fork", settings=settings, then=then)


@contextlib.asynccontextmanager
async def _gone(broker: Any, how: str) -> AsyncGenerator[None]:
    leave, come_back = {"killed": (broker.kill, broker.resume), "frozen": (broker.pause, broker.unpause)}[how]
    await asyncio.to_thread(leave)
    try:
        yield
    finally:
        await asyncio.to_thread(come_back)


@row(
    "interpreter-exit-through-a-broker",
    about="as interpreter-exit, with a broker: it is there to the end, or killed or frozen while the process records, and stays away beyond its end",
    judge="what the Sink told at the exit: acknowledged and pending are all that its source took, what it called acknowledged was at the broker, "
    "no more is left than it called pending; an adopter sends that; and the common judge",
    off=FORGETFUL,
    resource=own_broker,
    **(_BROKER | {"full": 24}),
)
async def interpreter_exit(case: Case) -> None:
    """What open connections could take is acknowledged, the rest stays, and the report says how many."""
    chance, broker = case.random, case.resource
    way = list(EXITS)[case.number // 2 % len(EXITS)]
    how = chance.choice(("killed", "frozen")) if case.number % 2 else ""
    settings = await _settings(case, broker.bootstrap, kafka_request_timeout_ms=1_000)
    (case.directory / HOLD).touch()
    async with contextlib.AsyncExitStack() as away:

        async def meanwhile(process: Process) -> None:
            await until(lambda: not process.running or _some_acknowledged(case, settings), PATIENT_S)
            if how:
                await away.enter_async_context(_gone(broker, how))
            await _some_more(case, process, chance)
            (case.directory / HOLD).unlink()

        async def then() -> None:
            left = sum(source.backlog_records for source in list_sources(settings.outbox_dir))
            await away.aclose()
            case.note(left_at_the_exit=left, **{f"broker {how or 'there'}": 1})
            if not case.switched_off:
                _judge_told(entries(case), left, await _at_the_broker(settings), away=bool(how))

        await live(
            case, f"leave:{way}", EXITS[way], settings=settings, deaths=1, meanwhile=meanwhile, then=then
        )
    if not case.switched_off:
        told, sent = _told(entries(case)), await _at_the_broker(settings)
        must(told["acknowledged"] + told["pending"] == sent, f"{told} of {sent} records that it took")
        case.note(told_pending=told["pending"], told_acknowledged=told["acknowledged"])


def _some_acknowledged(case: Case, settings: Settings) -> bool:
    return bool(case.switched_off) or any(
        source.acknowledgement.records for source in list_sources(settings.outbox_dir)
    )


async def _some_more(case: Case, process: Process, chance: random.Random) -> None:
    """A moment by chance: so many events later."""
    wanted = len(entries(case)) + chance.randint(1, 400)
    await until(lambda: not process.running or len(entries(case)) >= wanted, PATIENT_S)


def _told(noted: list[dict[str, Any]]) -> dict[str, Any]:
    told = [entry for entry in noted if "pending" in entry]
    assert len(told) == 1, f"the Sink told {len(told)} times at the exit"
    return told[0]


def _judge_told(noted: list[dict[str, Any]], left: int, at_the_broker: int, *, away: bool) -> None:
    told = _told(noted)
    events = sum("begin" in entry or "sha256" in entry or "end" in entry for entry in noted)
    must(events <= told["acknowledged"] + told["pending"], f"{told} of {events} events that were safe")
    must(told["acknowledged"] <= at_the_broker, f"{told}, and {at_the_broker} records are at the broker")
    must(left <= told["pending"], f"{told}, and {left} records are left")
    must(told["pending"] or not away, f"{told}, without a broker")
    must(told["took_s"] <= EXIT_S_MAX, f"the exit took {told['took_s']} s")
