"""More than one consumer: on one file (refused, fenced, restored), and each on a file of its own (the documented high availability)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.faults import stream
from tests.faults.fuse import open_fused
from tests.faults.oracle import must
from tests.faults.rows import Case, row
from tests.faults.rows_consumer import SERVICE, broker_and_zygote
from tests.faults.service_worker import CommitOnPoll
from tests.faults.serving import HalfOfThePartitions, as_it_is, consume_through
from tests.faults.stage import (
    QUIET_SMALL,
    Agents,
    check,
    database,
    embedded,
    forward_all,
    shared_broker,
    through_kafka,
)
from tests.faults.switches import cursor_kind
from tests.faults.zygote import KILLED, Worker, Zygote, zygote
from tests.pipeline.account import content
from tests.pipeline.support import environment
from tests.support.waiting import until

from skillaudit.consumer.backup import back_up
from skillaudit.consumer.database import open_database
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.service import ConsumerService
from skillaudit.contract.errors import FencedError, LockedError
from skillaudit.contract.owner import read_owner
from skillaudit.contract.settings import Settings

TAKEN_OVER_S_MAX = 10.0
AGENT = {"runs": 40, "open_at_once": 6, "events_per_s": 400, "payload_bytes": 300}


async def _holder(case: Case, settings: Settings) -> Worker:
    """A consumer in a process of its own, once it owns the file."""
    forking: Zygote = case.resource
    worker = await forking.fork(SERVICE, environment=environment(settings), switched_off=case.switched_off)

    def owns() -> bool:
        owner = read_owner(settings.database)
        return owner is not None and owner.pid == worker.pid and settings.database.exists()

    await until(owns, 60)
    return worker


async def _refused(settings: Settings, pid: int) -> None:
    """Another consumer, and another owner of the file alone, are told who holds it."""
    with _names(pid):
        await ConsumerService(settings).start()
    with _names(pid):
        open_database(settings.database).close()


@contextlib.contextmanager
def _names(pid: int) -> Generator[None]:
    told = "nothing: it was let in"
    try:
        yield
    except LockedError as exc:
        told = str(exc)
    must(f"process {pid}" in told, f"beside process {pid} a second one was told {told}")


@row(
    "second-consumer-refused",
    about="A second consumer on one file beside a live or a stopped holder: refused with its process named; takes over within seconds of its death",
    full=40,
    share=2,
    test=2,
    off={"owner-lock": "the holder has lost its locks, as by closing another descriptor of the file"},
    resource=zygote,
)
async def refused(case: Case) -> None:
    """The engine's lock and the outbox's; whoever holds them may be stopped for an hour."""
    settings = embedded(case, **QUIET_SMALL)
    async with Agents(case, settings, [AGENT]) as agents:
        worker = await _holder(case, settings)
        try:
            await _refused(settings, worker.pid)
            if case.number % 2:
                os.kill(worker.pid, signal.SIGSTOP)
                await _refused(settings, worker.pid)
                if case.number % 4 == 3:
                    os.kill(worker.pid, signal.SIGCONT)
                    await agents.until_noted(agents.noted_lines() + 50)
                    await _refused(settings, worker.pid)
        finally:
            worker.kill()
            assert await worker.ended() == KILLED
        died_s = time.monotonic()
        service = ConsumerService(settings)
        await service.start()
        took_s = time.monotonic() - died_s
        await service.close()
        must(took_s < TAKEN_OVER_S_MAX, f"taken over only after {took_s:.1f} s")
        await agents.join()
    await consume_through(settings)
    case.note(taken_over_s=round(took_s, 2))
    check(case, settings, agents.noted())


ROUNDS = 3


@row(
    "two-materializers",
    about="Two materializers in one process on one file, taking the same batches one after the other and at once: the slower one is fenced",
    judge="the database holds exactly a prefix of the stream, once; one of the two is fenced",
    synthetic=True,
    full=40,
    share=2,
    test=2,
    off={"compare-and-set": "a position is overwritten whoever moved it"},
)
async def two_materializers(case: Case) -> None:
    """The loser raises FencedError, and nothing is stored twice."""
    await asyncio.to_thread(_two, case)


def _two(case: Case) -> None:
    path, chance = case.directory / "audit.duckdb", case.random
    opened = open_fused(path, kind=cursor_kind(case.switched_off))
    with contextlib.closing(opened):
        first = Materializer(opened)
        first.apply(stream.records(0, 1))
        first.close()
        first, second = Materializer(opened), Materializer(opened)
        for _ in range(ROUNDS):
            stored = first.positions().get(stream.PARTITION)
            offset = stored.next_offset if stored else 0
            batch = stream.records(offset, chance.choice((1, 3, 16)))
            if chance.random() < 0.5:
                fenced = _at_once([first, second], batch)
            else:
                first.apply(batch)
                fenced = _fenced(second, batch)
            must(fenced == 1, f"{fenced} of two were fenced")
            for loser in (first, second):
                loser.close()
            with contextlib.closing(opened.cursor()) as cursor:
                position = stream.assert_holds(cursor)
            must(
                position == batch[-1].next_offset,
                f"a batch up to {batch[-1].next_offset} was taken, and the position is {position}",
            )
            first, second = Materializer(opened), Materializer(opened)
        case.events += position
        first.close()
        second.close()


def _fenced(materializer: Materializer, batch: Any) -> int:
    try:
        materializer.apply(batch)
    except FencedError:
        return 1
    return 0


def _at_once(materializers: list[Materializer], batch: Any) -> int:
    """So many of them lost."""
    lost: list[int] = []
    start = threading.Barrier(len(materializers))

    def run(materializer: Materializer) -> None:
        start.wait()
        lost.append(_fenced(materializer, batch))

    threads = [threading.Thread(target=run, args=(each,)) for each in materializers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    must(len(lost) == len(materializers), "one ended with another error than FencedError")
    return sum(lost)


@contextlib.asynccontextmanager
async def _backed_up(settings: Settings, target: Path):
    """A copy of what is stored now."""

    def copy() -> None:
        with open_database(settings.database) as opened:
            back_up(opened, target)

    await asyncio.to_thread(copy)
    yield


def _restore(settings: Settings, backup: Path) -> None:
    """The older file takes the place of the newer one, as after a failed disk."""
    for path in (settings.database, settings.database.with_name(settings.database.name + ".wal")):
        path.unlink(missing_ok=True)
    shutil.copy(backup, settings.database)


async def _record(case: Case, settings: Settings, plans: int) -> Agents:
    async with Agents(case, settings, [{**AGENT, "events_per_s": 0}] * plans) as agents:
        await agents.join()
    if settings.uses_kafka:
        await forward_all(settings)
    return agents


async def _restored(case: Case, settings: Settings, wrap: Any = as_it_is) -> None:
    first = await _record(case, settings, 2)
    await consume_through(settings, wrap)
    backup = case.directory / "backup.duckdb"
    async with _backed_up(settings, backup):
        second = await _record(case, settings, 2)
        await consume_through(settings, wrap)
    with database(settings) as cursor:
        before = content(cursor)
    _restore(settings, backup)
    # Agents go on meanwhile: whoever begins behind what the lost file had reads these, and never what is before them.
    later = await _record(case, settings, 2)
    await consume_through(settings, wrap)
    new = later.noted()
    check(case, settings, first.noted() | second.noted() | new)
    with database(settings) as cursor:
        again = [run for run in content(cursor) if run[0] not in new]
    must(again == before, "the restored file holds something else than the lost one")


@row(
    "restored-file-embedded",
    about="A backup takes the place of the file: what was consumed since is read again from the archive of the outbox",
    full=10,
    share=1,
    test=1,
    off={"archive": "outbox_keep_days=0: consumed segments are deleted"},
    off_in_tests=False,
)
async def restored_embedded(case: Case) -> None:
    """The same runs and events as before."""
    keep = {"outbox_keep_days": 0} if case.switched_off == "archive" else {}
    await _restored(case, embedded(case, **QUIET_SMALL, **keep))


@row(
    "restored-file-kafka",
    about="The same through a broker: the topic is read again from the backup's positions",
    full=10,
    share=1,
    test=0,
    off={"positions-in-database": "positions are kept beside the database, as automatic commits do it"},
    off_in_tests=False,
    resource=shared_broker,
    broker=True,
    off_in_share=False,
    not_in_tests="long; its twin without a broker is in",
)
async def restored_kafka(case: Case) -> None:
    """The positions are in the file, so an older file has older ones."""
    settings = await through_kafka(case, case.resource, **QUIET_SMALL)
    offsets = case.directory / "offsets.json"
    apart = case.switched_off == "positions-in-database"
    wrap = (lambda source: CommitOnPoll(source, offsets)) if apart else as_it_is
    await _restored(case, settings, wrap)


@row(
    "two-consumers-two-files",
    about="Two consumers of one topic with a file each and no group, killed now and then under load: both hold the same runs and events in the end",
    full=10,
    share=1,
    test=0,
    off={"all-partitions": "each takes half of the partitions, as members of a consumer group do"},
    off_in_tests=False,
    resource=broker_and_zygote,
    broker=True,
    off_in_share=False,
    not_in_tests="long: four consumers die, two read everything",
)
async def two_files(case: Case) -> None:
    """The documented way to high availability."""
    bootstrap, forking = case.resource
    settings = await through_kafka(case, bootstrap, **QUIET_SMALL)
    files = [settings, replace(settings, db_file=case.directory / "second.duckdb")]
    chance, apart = case.random, case.switched_off == "all-partitions"
    async with Agents(case, settings, [{**AGENT, "runs": 120}] * 3) as agents:
        for number in range(0 if apart else 4):
            worker = await forking.fork(SERVICE, environment=environment(files[number % 2]))
            await asyncio.sleep(chance.uniform(0.5, 1.5))  # the moment is what varies; nothing waits on it
            worker.kill()
            assert await worker.ended() == KILLED
        await agents.join()
    await forward_all(settings)
    for half, own in enumerate(files):
        wrap = (lambda source, half=half: HalfOfThePartitions(source, half)) if apart else as_it_is
        await consume_through(own, wrap)
    found = []
    for own in files:
        check(case, own, agents.noted())
        with database(own) as cursor:
            found.append(content(cursor))
    must(found[0] == found[1], "the two files hold different runs or events")
