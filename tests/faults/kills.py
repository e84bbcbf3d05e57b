"""What rows of killed processes share: workers of other kinds than `agent.py`, and a judge that knows how many died."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.faults.agent import Plan
from tests.faults.oracle import Account, judge, must
from tests.faults.rows import Case
from tests.faults.stage import Agents, consuming, database
from tests.pipeline.support import Process
from tests.support.waiting import until

from skillaudit.contract.outbox.directory import list_source_dirs
from skillaudit.contract.settings import Settings
from skillaudit.producer.forwarder import ForwardReport
from skillaudit.producer.forwarder_host import run_host_forwarder

KILLED = -9
PATIENT_S = 600.0
"""For whatever must happen in the end: long runs go beside other work, at a low priority."""
PATIENT_CASE_S = 1_800.0


class Workers(Agents):
    """Processes of another module than `agent.py`, with a second argument each."""

    def __init__(
        self,
        case: Case,
        settings: Settings,
        plans: Iterable[Plan | dict[str, Any]],
        *,
        module: str,
        arguments: Sequence[Any],
    ) -> None:
        """`arguments`: a dataclass each, handed over as JSON after the plan."""
        super().__init__(case, settings, plans)
        self.processes = [
            Process(
                before.name,
                settings,
                [
                    "-m",
                    module,
                    json.dumps(dataclasses.asdict(plan)),
                    json.dumps(dataclasses.asdict(argument)),
                ],
                before.errors,
            )
            for before, plan, argument in zip(self.processes, self.plans, arguments, strict=True)
        ]

    async def run(self, *, at_once: int = 4) -> int:
        """All of them, some at a time; each dies by itself or ends with 0. Answers how many died. Where a mechanism is
        switched off they may end as they like: what is missing then is for the judge to say.
        """
        turn = asyncio.Semaphore(at_once)

        async def one(process: Process) -> int:
            async with turn:
                await process.start()
                return await ended(process)

        try:
            codes = await asyncio.gather(*(one(process) for process in self.processes))
        finally:
            for process in self.processes:
                if process.running:
                    await process.kill()
        for process, code in zip(self.processes, codes, strict=True):
            told = f"{process.name} ended with {code}: {process.said()}"
            assert self._switched_off or code in (0, KILLED), told
        return sum(code != 0 for code in codes)


async def ended(process: Process, timeout_s: float = PATIENT_S) -> int:
    """Its exit code; an AssertionError where it hangs."""
    try:
        return await process.join(timeout_s)
    except TimeoutError:
        said = process.said()
        await process.kill()
        raise AssertionError(f"{process.name} hangs: {said[-300:]}") from None


def check_deaths(
    case: Case,
    settings: Settings,
    accounts: dict[str, Account],
    *,
    deaths: int,
    threads: int = 0,
    torn_allowed: bool = False,
    alive: Callable[[str], bool] = lambda _: False,
    elsewhere: Collection[str] = (),
) -> None:
    """Everything noted is stored, once, in order; of each thread that recorded in who died at most one call more.

    `threads`: how many these were; 0: one a death. Every run that was not finished reads `abandoned`, because its source is
    closed by then; `torn_allowed`: a line cut off in the middle may be an incident, one a death, and nothing else may be
    one. `alive`: runs whose sources live. `elsewhere`: runs that another judge judges.
    """
    with database(settings) as cursor:
        verdict = judge(
            cursor,
            accounts,
            expected=("incidents",),
            killed_threads=threads or deaths,
            elsewhere=elsewhere,
        )
        kinds = [row[0] for row in cursor.execute("SELECT kind FROM main.incidents").fetchall()]
        stored = dict(cursor.execute("SELECT id, liveness FROM main.runs").fetchall())
    must(verdict, str(verdict))
    torn = [kind for kind in kinds if kind in ("outbox-unfinished", "outbox-hole", "outbox-altered")]
    must(torn_allowed or not kinds, f"incidents without a reason: {kinds}")
    must(kinds == torn, f"other incidents than torn lines: {kinds}")
    must(len(torn) <= deaths, f"{len(torn)} torn lines of {deaths} deaths: {kinds}")
    open_still = [run_id for run_id, reads in stored.items() if reads == "open" and not alive(run_id)]
    must(not open_still, f"{len(open_still)} runs of dead processes read open: {open_still[:3]}")
    case.events += verdict.events
    case.note(runs=verdict.runs, torn_lines=len(torn), unnoted_calls=len(verdict.cut_off))


async def read_to_the_end(
    settings: Settings, timeout_s: float = PATIENT_S, *, sources_end: bool = True
) -> None:
    """A consumer takes everything, until all sources are closed and gone from the outbox: what their runs read is
    judged only when every partition was read beyond that. Then it ends. Not `sources_end`: a source's own last word may
    be among what is lost.
    """
    async with consuming(settings) as (service, running):
        with contextlib.closing(service.cursor()) as cursor:

            def all_closed() -> bool:
                query = "SELECT count(*) FROM main.sources WHERE state <> 'closed'"
                return cursor.execute(query).fetchall() == [(0,)] and not list_source_dirs(
                    settings.outbox_dir
                )

            def done() -> bool:
                return service.caught_up.is_set() and (not sources_end or all_closed())

            await until(lambda: running.done() or done(), timeout_s)


async def forward_to_the_end(
    settings: Settings, timeout_s: float = PATIENT_S, *, or_until: Callable[[], bool] = lambda: False
) -> ForwardReport:
    """A host's forwarder adopts the sources of the dead, sends what is left, closes and removes them. `or_until`: what
    keeps it from that, so that nobody waits for it in vain.
    """
    stop = asyncio.Event()
    running = asyncio.create_task(run_host_forwarder(settings, stop))
    try:
        await until(
            lambda: running.done() or not list_source_dirs(settings.outbox_dir) or or_until(), timeout_s
        )
    finally:
        stop.set()
        report = await running
    return report


def account_files(directory: Path) -> list[Path]:
    """Of worker processes that name their own."""
    return sorted(directory.glob("account-*.jsonl"))
