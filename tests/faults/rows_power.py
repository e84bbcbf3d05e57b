"""Power losses: what a disk holds at a random moment, without what was still in memory, is mounted again."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import duckdb
from tests.conformance.compositions import settings_at
from tests.faults.oracle import LOGS_SQL, Account, BrokenError, altered, must, read_accounts
from tests.faults.rows import Case, row
from tests.faults.stage import Agents, consume_all, database
from tests.pipeline.support import Process
from tests.support.small_fs import MIB, LosableDisk, losable_disk, small_fs
from tests.support.waiting import until

from skillaudit.contract.errors import StopError
from skillaudit.contract.owner import read_owner
from skillaudit.contract.settings import Settings

DISK_BYTES = 40 * MIB
SNAPSHOTS = 5
"""Power losses of one case."""
PAUSE_S_MAX = 0.3
"""Between two of them."""
MOUNTS = (
    ("data=ordered", "commit=1"),
    ("data=ordered", "noauto_da_alloc", "commit=1"),
    ("data=writeback", "noauto_da_alloc", "commit=1"),
    ("data=writeback", "noauto_da_alloc", "commit=30"),
)
"""How much the file system does by itself for files that nobody synced: from what is usual to nearly nothing."""
NEEDS_ROOT = "a disk that can be looked at while it is written"
WITHOUT_SYNC = ("tests.support.syscalls", "no-sync")
_PLAN = {"runs": 1_000_000, "logs_min": 3, "logs_max": 30, "payload_bytes": 600}


@dataclasses.dataclass(frozen=True, slots=True)
class Loss:
    """One power loss: the disk's content, and what was promised before it."""

    image: Path
    promised: Mapping[str, Account]


def _noted(agents: Agents, case: Case, *, flushed: bool) -> Mapping[str, Account]:
    """What is promised now: all that is noted, or what was noted before the last flush."""
    cut: list[Path] = []
    for number, path in enumerate(agents.account_files):
        content = path.read_bytes() if path.exists() else b""
        if flushed:
            content = content[: max(content.rfind(b'{"flushed"'), 0)]
        cut.append(case.directory / f"cut-{number}.jsonl")
        cut[-1].write_bytes(content)
    return read_accounts(cut)


async def _lose(case: Case, disk: LosableDisk, agents: Agents, *, flushed: bool) -> list[Loss]:
    chance = case.random
    losses: list[Loss] = []
    await agents.until_noted(20)
    for number in range(SNAPSHOTS):
        await asyncio.sleep(chance.uniform(0, PAUSE_S_MAX))
        promised = _noted(agents, case, flushed=flushed)
        image = await asyncio.to_thread(disk.snapshot, case.directory / f"loss-{number}")
        losses.append(Loss(image, promised))
    assert all(process.running for process in agents.processes), [p.said()[-500:] for p in agents.processes]
    return losses


async def _judge(
    case: Case, settings: Settings, data: str, losses: list[Loss], accounts: dict[str, Account]
) -> None:
    """Mount what each left, let a consumer take everything there is, and compare."""
    for loss in losses:
        with small_fs(case.directory, 0, image=loss.image) as left:
            after = dataclasses.replace(settings, data=left.path / data, db_file=None)
            try:
                await consume_all(after)
            except StopError as exc:
                raise BrokenError(f"no consumer starts on what is left: {exc}") from exc
            with database(after) as cursor:
                wrong = judge_cut(cursor, loss.promised, accounts)
        must(not wrong, f"{len(wrong)} wrong: " + "; ".join(wrong[:5]))
        loss.image.unlink()
        case.events += sum(1 + len(a.logs) + (a.end is not None) for a in loss.promised.values())
    case.injections = len(losses)


_STORED = f"SELECT r.id, r.completeness, r.liveness, e.logs FROM main.runs r LEFT JOIN ({LOGS_SQL}) e USING (run_key)"


def judge_cut(
    cursor: duckdb.DuckDBPyConnection, promised: Mapping[str, Account], known: Mapping[str, Account]
) -> list[str]:
    """Everything promised is there; what is there beyond that is what the agents recorded, and reads as it is."""
    stored = {found[0]: found[1:] for found in cursor.execute(_STORED).fetchall()}
    wrong = [f"run {run_id} is lost" for run_id in promised.keys() - stored.keys()] + altered(cursor, known)
    for run_id, (completeness, liveness, logs) in stored.items():
        account = known.get(run_id, Account(run_id))
        wrong += [
            f"{run_id}: {text}"
            for text in _judge_run(account, promised.get(run_id), completeness, liveness, logs)
        ]
    for name in ("conflicts", "dead_letters"):
        wrong += [
            f"{name}: {found}"
            for found in cursor.execute(f"SELECT COLUMNS(*)::VARCHAR FROM main.{name}").fetchall()
        ]
    return wrong


def _judge_run(
    account: Account,
    promised: Account | None,
    completeness: str,
    liveness: str,
    logs: list[dict[str, Any]] | None,
) -> list[str]:
    found = {log["n"]: log["h"] for log in logs or ()}
    wrong = ["events are there twice"] if len(found) < len(logs or ()) else []
    finished = liveness == "finished"
    if promised is not None:
        wrong += [f"event {n} is lost" for n in sorted(promised.logs.keys() - found.keys())]
        if promised.end is not None and not finished:
            wrong.append("its finish is lost")
    gaps = sorted(set(range(1, max(found, default=0) + 1)) - found.keys())
    if finished and account.end is not None and len(found) < account.end:
        gaps = gaps or [account.end]
    if (completeness == "incomplete") != bool(gaps) or (completeness == "complete" and not finished):
        wrong.append(f"reads {completeness}, {liveness}, without {gaps}")
    return wrong


@row(
    "power-loss-outbox",
    about="Power lost at random moments under two agents with fsync=always: what the disk (ext4 in four modes, loop device) "
    "held without the page cache is mounted again",
    judge="everything promised before the loss is stored; what is stored beyond that is what agents recorded, once, and reads as it is",
    full=200,
    share=5,
    test=5,
    off={"fsync": "outbox_fsync=never"},
    root=NEEDS_ROOT,
    off_in_tests=False,  # chance decides whether it shows within a few cases
)
async def power_loss_outbox(case: Case) -> None:
    """Every event whose call had returned is there."""
    options = MOUNTS[case.number % len(MOUNTS)]
    with losable_disk(case.directory, DISK_BYTES, options=options) as disk:
        settings = settings_at(
            disk.path / "data",
            outbox_fsync="never" if case.switched_off else "always",
            segment_bytes=64 * 1024,
            outbox_bytes_max=16 * MIB,
        )
        agents = Agents(case, settings, [_PLAN, _PLAN], module="tests.faults.power_agent")
        async with agents:
            losses = await _lose(case, disk, agents, flushed=False)
    await _judge(case, settings, "data", losses, agents.noted())


@row(
    "power-loss-flushed",
    about="The same with fsync=never, for what a flush reported: committed to the database of a consumer beside the agents, "
    "or synced where nobody consumes",
    judge="everything promised before the loss is stored; what is stored beyond that is what agents recorded, once, and reads as it is",
    full=200,
    share=10,
    test=5,
    off_in_tests=False,
    off={
        "agents-fsync": "fsync and its like do nothing in the agents, where nobody consumes (seccomp)",
        "consumer-fsync": "fsync and its like do nothing in the consumer beside the agents (seccomp)",
    },
    off_cases_max=4,
    root=NEEDS_ROOT,
)
async def power_loss_flushed(case: Case) -> None:
    """What was flushed is there, in the database, the archive or the outbox: nothing is deleted before it is elsewhere."""
    chance = case.random
    without = case.switched_off
    # Without a mechanism first where the file system does the least by itself.
    options = MOUNTS[(-1 - case.number if without else case.number // 2) % len(MOUNTS)]
    beside = without == "consumer-fsync" if without else case.number % 2 == 0
    with losable_disk(case.directory, DISK_BYTES, options=options) as disk:
        settings = settings_at(
            disk.path / "data",
            segment_bytes=64 * 1024,
            outbox_bytes_max=16 * MIB,
            seal_rows=1_000,
            batch_records_max=chance.choice((50, 1_000)),
        )
        consumer = _consumer(case, settings) if beside else contextlib.nullcontext()
        agents = Agents(
            case,
            settings,
            [_PLAN, _PLAN],
            module="tests.faults.power_agent",
            under=WITHOUT_SYNC if without == "agents-fsync" else (),
        )
        async with consumer, agents:
            await until(lambda: _any_flushed(agents), 60)
            losses = await _lose(case, disk, agents, flushed=True)
    await _judge(case, settings, "data", losses, agents.noted())


def _any_flushed(agents: Agents) -> bool:
    return any(b"flushed" in path.read_bytes() for path in agents.account_files if path.exists())


@contextlib.asynccontextmanager
async def _consumer(case: Case, settings: Settings) -> AsyncGenerator[None]:
    arguments = [
        "-m",
        *(WITHOUT_SYNC if case.switched_off == "consumer-fsync" else ()),
        "skillaudit.cli",
        "consume",
    ]
    async with Process("consume", settings, arguments, case.directory / "consume.log") as process:
        await until(lambda: _serves(settings, process), 60)
        yield


def _serves(settings: Settings, process: Process) -> bool:
    assert process.running, process.said()
    owner = read_owner(settings.database)
    return owner is not None and owner.pid == process.pid and bool(owner.url)
