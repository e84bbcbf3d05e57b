"""An agent on a disk that is full at times: it tries again until its event is taken, and notes every refusal.

`python -m tests.faults.full_disk_agent PLAN [FILES]`: as `agent.py`; `FILES`: on which kind of file system, see `FILES`.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from tests.faults.agent import Plan
from tests.faults.notes import Notebook, NotedRun, payload

from skillaudit.contract.errors import OutboxFullError
from skillaudit.contract.settings import Settings
from skillaudit.producer import Sink
from skillaudit.producer.outbox import OutboxLog
from skillaudit.producer.outbox_files import FileSystem, MappingUnsupportedError

T = TypeVar("T")
TRY_AGAIN_S = 0.005


class SparseFiles(FileSystem):
    """Without preallocation: segments are as long as they should be, and nothing says that there is room for that."""

    def allocate(self, fd: int, size: int) -> None:
        """A hole of that size."""
        os.ftruncate(fd, size)

    def prepare(self, fd: int, byte: int, size: int) -> None:
        """The store itself will bring in the pages."""


class PlainFiles(FileSystem):
    """Can't map: segments are appended to. Notes the lines that the disk took in part, and what became of each: its space
    came back before the next write, which completed it, or it was undone.
    """

    def __init__(self, notes: Notebook) -> None:
        self._notes = notes
        self._short = False

    def allocate(self, fd: int, size: int) -> None:
        """As a file system without preallocation."""
        raise MappingUnsupportedError("no preallocation here")

    def write(self, fd: int, data: bytes, byte: int) -> int:
        """As the system does it."""
        done = super().write(fd, data, byte)
        short, before = done < len(data), self._short
        if short is not before:
            self._short = short
            self._notes.note(**{"short" if short else "completed": 1})
        return done

    def cut(self, fd: int, size: int) -> None:
        """As the system does it."""
        super().cut(fd, size)
        if self._short:
            self._short = False
            self._notes.note(undone=1)


class HalfWritten(PlainFiles):
    """Takes a write for done, however much the disk took."""

    def write(self, fd: int, data: bytes, byte: int) -> int:
        """All of it, it says."""
        super().write(fd, data, byte)
        return len(data)


FILES: dict[str, Callable[[Notebook], FileSystem]] = {
    "": lambda _: FileSystem(),
    "preallocation": lambda _: SparseFiles(),
    "plain": PlainFiles,
    "written-in-full": HalfWritten,
}


def insist(notes: Notebook, call: Callable[[], T], numbers: Callable[[], object]) -> T:
    """Call until there is room; a refusal must take no number."""
    while True:
        before = numbers()
        try:
            return call()
        except OutboxFullError:
            notes.note(full=1)
            if numbers() != before:
                notes.note(broken=f"a refused event took a number: {before}, {numbers()}")
            time.sleep(TRY_AGAIN_S)


def record(sink: Sink, plan: Plan, notes: Notebook) -> None:
    """As `agent.record`, with insistence."""
    chance = random.Random(plan.seed)
    alive: list[tuple[NotedRun, int]] = []
    started = 0
    while started < plan.runs or alive:
        if started < plan.runs and len(alive) < plan.open_at_once:
            alive.append((_begin(sink, notes, chance, started), chance.randint(plan.logs_min, plan.logs_max)))
            started += 1
            continue
        run, left = alive.pop(chance.randrange(len(alive)))
        if left == 0:
            run.finish()
            continue
        run.log(payload(chance, plan.payload_bytes, left))
        alive.append((run, left - 1))
        if plan.events_per_s:
            time.sleep(1 / plan.events_per_s)


def _begin(sink: Sink, notes: Notebook, chance: random.Random, number: int) -> NotedRun:
    begun: list[NotedRun] = []

    def numbers() -> object:
        return begun[0].writer.sequence if begun else None

    begun.append(
        NotedRun(
            sink.start_run,
            notes,
            chance,
            number,
            insist=lambda call: insist(notes, call, numbers),
            skill_id="disk",
        )
    )
    return begun[0]


def main(plan: Plan, kind: str) -> int:
    """Record all of it; exits 0 once everything is in the outbox."""
    notes = Notebook(plan.account)
    settings = Settings.load()
    with Sink(OutboxLog(settings, files=FILES[kind](notes)), settings=settings) as sink:
        record(sink, plan, notes)
        report = sink.flush(timeout_s=plan.flush_s)
    return 0 if report.complete or report.synced else 3


if __name__ == "__main__":
    sys.exit(main(Plan(**json.loads(sys.argv[1])), sys.argv[2] if len(sys.argv) > 2 else ""))
