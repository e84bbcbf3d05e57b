"""Disks that are full, and space that comes back at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from tests.conformance.compositions import settings_at
from tests.faults.oracle import BrokenError, must
from tests.faults.rows import Case, row
from tests.faults.stage import DRAIN_S, Agents, check, consume_all, consuming, database, is_drained
from tests.support.small_fs import MIB, SmallFs, small_fs
from tests.support.waiting import until

from skillaudit.consumer.database import Database
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.service import ConsumerService
from skillaudit.consumer.status import ServiceState
from skillaudit.consumer.writing import WriterThread
from skillaudit.contract.errors import DiskFullError
from skillaudit.contract.settings import Settings

OUTBOX_BYTES = 8 * MIB
DATABASE_BYTES = 48 * MIB
ROUNDS = 3
"""How often the disk of one case is full."""
RUNS = 24
NEEDS_ROOT = "a small file system"
T = TypeVar("T")


def _plan(runs: int = RUNS, payload_bytes: int = 900, events_per_s: float = 0) -> dict[str, object]:
    return {
        "runs": runs,
        "open_at_once": 6,
        "logs_min": 20,
        "logs_max": 60,
        "payload_bytes": payload_bytes,
        "events_per_s": events_per_s,
    }


@contextlib.contextmanager
def _disk(case: Case, size_bytes: int) -> Generator[SmallFs]:
    kind = ("ext4", "tmpfs")[case.number % 2]
    case.note(**{kind: 1})
    with small_fs(case.directory, size_bytes, kind=kind) as disk:
        yield disk


@row(
    "disk-full-outbox",
    about="The outbox's file system (ext4 or tmpfs of 8 MiB) is filled three times under two agents and, in half of the "
    "cases, a consumer; its space comes back in pieces at random moments",
    full=20,
    share=2,
    off={
        "preallocation": "segments are files with holes: the store into the mapping is what finds that there is no room"
    },
    root=NEEDS_ROOT,
)
async def disk_full_outbox(case: Case) -> None:
    """A refused event takes no number, nobody is killed by a signal, and everything that was taken arrives."""
    await _outbox_full(case, case.switched_off, _plan())


@row(
    "disk-full-outbox-plain",
    about="As disk-full-outbox, on file systems that can't map: segments are appended to, and the disk does some of the writes in part; lines of one to three blocks",
    full=20,
    share=1,
    test=0,
    not_in_tests="as its twin",
    off={"written-in-full": "a write counts as done, however much of it the disk took"},
    off_in_tests=False,
    off_in_share=False,
    root=NEEDS_ROOT,
)
async def disk_full_outbox_plain(case: Case) -> None:
    """As there; what was written in part is completed where space comes back, or undone."""
    # So large that it is the write which meets the end of the disk, and not the look at it before a new segment.
    plan = _plan(runs=6, payload_bytes=8_000) | {"logs_min": 10, "logs_max": 30}
    agents = await _outbox_full(case, case.switched_off or "plain", plan, 4 * MIB)
    short, completed, undone = (len(_entries(agents, name)) for name in ("short", "completed", "undone"))
    must(short == completed + undone, f"{short} lines in part, {completed} completed, {undone} undone")
    case.injections = min(short, 1)  # where the disk was full between lines only, nothing was injected
    case.note(in_part_and_completed=completed, in_part_and_undone=undone)


async def _outbox_full(
    case: Case, files: str, plan: dict[str, object], segment_bytes: int = 64 * 1024
) -> Agents:
    """`files`: on which the agents write."""
    chance = case.random
    with _disk(case, OUTBOX_BYTES) as disk:
        settings = settings_at(
            disk.path,
            db_file=case.directory / "audit.duckdb",
            segment_bytes=segment_bytes,
            outbox_block_ms_max=chance.choice((0, 20)),
            outbox_keep_days=0,
        )
        disk.fill(chance.randrange(300 * 1024))
        agents = Agents(
            case,
            settings,
            [plan, plan],
            module="tests.faults.full_disk_agent",
            words=[files] if files else [],
        )
        # It meets the full disk, too: when it acknowledges and archives, and perhaps at its beginning.
        beside = consuming(settings, begin_s=0) if chance.random() < 0.5 else contextlib.nullcontext()
        async with agents, beside:
            await _rounds(disk, agents, chance)
            codes = await agents.ended()
        must(codes == [0, 0], f"agents ended with {codes} ({-signal.SIGBUS} is SIGBUS): {_said(agents)}")
        disk.free()
        await consume_all(settings)
        case.note(refusals=_refusals(agents))
        check(case, settings, agents.noted())
        _no_number_taken(settings)
    return agents


async def _rounds(disk: SmallFs, agents: Agents, chance: random.Random) -> None:
    """Full, some space, full again, and in the end all of it."""
    for _ in range(ROUNDS):
        before = _refusals(agents)
        await until(lambda before=before: _refusals(agents) > before or not _running(agents), DRAIN_S)
        for _ in range(chance.randrange(4)):
            disk.free(chance.randrange(4_096, 256 * 1024))
            await asyncio.sleep(chance.uniform(0, 0.02))
        disk.fill(chance.randrange(64 * 1024))
    disk.free()


def _running(agents: Agents) -> bool:
    return all(process.running for process in agents.processes)


def _said(agents: Agents) -> str:
    return "; ".join(process.said()[-300:] for process in agents.processes)


def _entries(agents: Agents, name: str) -> list[object]:
    lines = [
        line for path in agents.account_files if path.exists() for line in path.read_bytes().splitlines()
    ]
    return [entry[name] for entry in map(json.loads, lines) if name in entry]


def _refusals(agents: Agents) -> int:
    broken = _entries(agents, "broken")
    if broken:
        raise BrokenError(broken[0])
    return len(_entries(agents, "full"))


def _no_number_taken(settings: Settings) -> None:
    """Refused starts left no gap in the source's numbers either."""
    with database(settings) as cursor:
        gaps = cursor.execute("SELECT * FROM main.source_gaps").fetchall()
    must(not gaps, f"numbers of runs that never began: {gaps}")


class CountingService(ConsumerService):
    """Counts how often it opens the file."""

    opened = 0

    def make_materializer(self, database: Database) -> Materializer:
        self.opened += 1
        return super().make_materializer(database)


class ImpatientWriter(WriterThread):
    """Does everything once."""

    async def retry(self, work: Callable[[Materializer], T]) -> T:
        return await self.run(work)


class ImpatientService(CountingService):
    """Gives up at a full disk."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        super().__init__(settings, **options)
        self._writer.__class__ = ImpatientWriter


@row(
    "disk-full-database",
    about="The database's file system (ext4 or tmpfs of 48 MiB) is filled three times while a consumer writes its log, seals "
    "and makes checkpoints; its space comes back at random moments",
    full=20,
    share=2,
    off_in_tests=False,
    off={"waiting-for-space": "the consumer gives up at the first error that a full disk gives"},
    root=NEEDS_ROOT,
)
async def disk_full_database(case: Case) -> None:
    """The consumer names the disk, reads go on, nothing of a batch is stored or acknowledged in part, and it goes on by itself."""
    chance = case.random
    with _disk(case, DATABASE_BYTES) as disk:
        settings = settings_at(
            case.directory / "data",
            db_file=disk.path / "audit.duckdb",
            seal_rows=chance.choice((1_000, 1_500, 400_000)),
            batch_records_max=chance.choice((100, 1_000)),
        )
        kind = ImpatientService if case.switched_off else CountingService
        plans = [_plan(runs=60, events_per_s=600), _plan(runs=60, events_per_s=600)]
        agents = Agents(case, settings, plans)
        try:
            async with agents, consuming(settings, kind) as (service, _):
                met = 0
                for _ in range(ROUNDS):
                    met += await _full_once(disk, service, agents, chance)
                disk.free()
                assert met, "the disk was never full while something was written"
                await agents.join()
                await until(lambda: is_drained(settings) or _stopped(service), DRAIN_S)
        finally:
            disk.free()
        case.note(opened_again=service.opened - 1, full=met)
        await _start_on_full(disk, settings)
        await consume_all(settings)
        check(case, settings, agents.noted())


async def _start_on_full(disk: SmallFs, settings: Settings) -> None:
    """Another consumer starts while there is no space at all: it serves what is stored, or says why not."""
    disk.fill()
    service = ConsumerService(settings)
    try:
        with contextlib.suppress(DiskFullError):
            await service.open()
    finally:
        await service.close()
        disk.free()


async def _full_once(disk: SmallFs, service: ConsumerService, agents: Agents, chance: random.Random) -> bool:
    """Some batches, then no space until the consumer says so; whether it did before all was written."""

    def at_rest() -> bool:
        return _stopped(service) or (
            not any(p.running for p in agents.processes) and is_drained(service.settings)
        )

    before, more = service.status.batches, chance.randrange(5)
    await until(lambda: service.status.batches > before + more or at_rest(), DRAIN_S)
    disk.fill(chance.randrange(chance.choice((200 * 1024, 3 * MIB))))
    await until(lambda: service.status.state is not ServiceState.RUNNING or at_rest(), DRAIN_S)
    told = service.status.last_error
    full = service.status.state is not ServiceState.RUNNING
    must(not full or "disk is full" in told, f"{service.status.state.value}: {told}")
    await asyncio.sleep(chance.uniform(0, 0.3))
    disk.free(chance.randrange(8_192))
    await asyncio.sleep(chance.uniform(0, 0.1))
    disk.free()
    return full


def _stopped(service: ConsumerService) -> bool:
    return service.status.state in {ServiceState.FAILED, ServiceState.STOPPED}
