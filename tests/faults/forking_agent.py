"""An agent process that forks while it records; somebody may die at that.

`python -m tests.faults.forking_agent PLAN BIRTHS`. Every process notes in an account of its own, with lines beside the
runs': {"pid": n} when it begins, {"left": n} when it ends by itself, {"failed": text}. All share one lock on a file, so
that it can be seen when the last of them is gone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

from tests.faults.agent import Plan, record
from tests.faults.notes import Notebook, NotedRun
from tests.faults.tripwires import Calls, die
from tests.support.waiting import until

from skillaudit.contract.errors import RunStateError
from skillaudit.contract.settings import Settings
from skillaudit.producer import Sink
from skillaudit.producer.writer import Writer

CHILDREN = 3
ALIVE_S_MAX = 300
ALIVE_OFF_S_MAX = 20
"""Without its mechanism a process may hang: what shares a segment with another waits for what never comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Births:
    """Who is born, and who dies of it."""

    directory: str
    """Of the children's accounts."""
    name: str
    at: int = 0
    """At which fork; 0: nobody dies there."""
    point: str = ""
    after: bool = False
    who: str = ""
    """`parent`, `child`, or whoever it is."""
    outlive: bool = False
    """The parent dies as soon as its children record; they go on for a while."""
    off: str = ""

    @property
    def lock(self) -> Path:
        """Held by all of this family."""
        return Path(self.directory) / f"alive-{self.name}"


@dataclass(slots=True)
class Lives:
    """What became of the processes."""

    left: int = 0
    died: int = 0
    """Children whose parents saw them killed."""
    failed: list[str] = field(default_factory=list[str])


async def all_gone(families: Sequence[Births]) -> None:
    """Wait for the children that their parents have left behind; end those that do not end."""

    def gone() -> bool:
        return all(_is_free(family.lock) for family in families if family.lock.exists())

    try:
        await until(gone, ALIVE_S_MAX)
    except TimeoutError:
        _end_all(Path(families[0].directory))
        raise AssertionError("forked children hang") from None


def _end_all(directory: Path) -> None:
    for entry in _entries(directory.glob("account-*.jsonl")):
        if "pid" in entry:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(entry["pid"]), signal.SIGKILL)


def _is_free(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _entries(paths: Iterable[Path]) -> list[dict[str, object]]:
    lines = [line for path in paths for line in path.read_bytes().splitlines(keepends=True)]
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def read_lives(accounts: Iterable[Path]) -> Lives:
    """From the accounts of parents and children."""
    lives = Lives()
    for entry in _entries(accounts):
        lives.left += "left" in entry
        lives.died += "died" in entry
        if "failed" in entry:
            lives.failed.append(str(entry["failed"]))
    return lives


def child(sink: Sink, inherited: Writer, plan: Plan, births: Births, name: str, parent: int) -> None:
    """One forked child's life; never returns."""
    notes = Notebook(f"{births.directory}/account-{name}.jsonl")
    notes.note(pid=os.getpid())
    signal.alarm(ALIVE_OFF_S_MAX if births.off else ALIVE_S_MAX)
    try:
        if not births.off:
            _check_inert(inherited)
        own = dataclasses.replace(plan, seed=crc32(name.encode()) % 1_000_003 + plan.seed)
        record(sink, own, notes, 0)
        if births.outlive and name.count(".") < 2:
            born(sink, inherited, plan, births, f"{name}.0")
        turn = 0
        while births.outlive and os.getppid() == parent and turn < 1_000:
            turn += 1
            record(sink, dataclasses.replace(own, runs=1, seed=own.seed + 7_000_003 * turn), notes, 0)
            time.sleep(0.005)
        record(sink, dataclasses.replace(own, runs=3, seed=own.seed + 1), notes, 1)
        if len(name) % 2:
            sink.close(0)
        notes.note(left=os.getpid())
    except BaseException:
        notes.note(failed=traceback.format_exc()[-500:])
    os._exit(0)


def _check_inert(run: Writer) -> None:
    """A run begun before the fork takes no events in the child."""
    try:
        run.log("step", {"from": "a child"})
    except RunStateError:
        return
    raise AssertionError("a run begun before the fork takes events in the child")


def born(sink: Sink, inherited: Writer, plan: Plan, births: Births, name: str) -> int:
    """Fork."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        sys.setprofile(None)
        child(sink, inherited, plan, births, name, parent)
    return pid


def make_sink(off: str) -> Sink:
    """As settings say; deaf to forks where that is switched off."""
    if off == "fork-noticed":
        from tests.faults.switched_off import DeafToForks

        settings = Settings.load()
        return Sink(DeafToForks(settings), settings=settings)
    return Sink.from_settings()


def main(plan: Plan, births: Births) -> int:
    """The parent."""
    Path(births.directory).mkdir(exist_ok=True)
    lock = births.lock.open("wb")
    fcntl.flock(lock, fcntl.LOCK_SH)
    notes = Notebook(plan.account)
    signal.alarm(ALIVE_OFF_S_MAX if births.off else 0)
    parent = os.getpid()
    sink = make_sink(births.off)
    inherited = NotedRun(sink.start_run, notes, random.Random(plan.seed), skill_id="inherited").writer
    beside = threading.Thread(
        target=record,
        args=(sink, dataclasses.replace(plan, events_per_s=300.0, runs=30), notes.by("beside"), 9),
    )
    beside.daemon = True
    beside.start()
    if births.at:
        dies = {"parent": lambda: os.getpid() == parent, "child": lambda: os.getpid() != parent}
        wire = Calls([births.point], births.at, after=births.after, dies=dies.get(births.who, lambda: True))
        wire.arm()
    pids = []
    for number in range(CHILDREN):
        record(sink, dataclasses.replace(plan, runs=2), notes, number)
        pids.append(born(sink, inherited, plan, births, f"{births.name}.{number}"))
    record(sink, dataclasses.replace(plan, runs=2), notes, CHILDREN)
    if births.outlive:
        accounts = [Path(f"{births.directory}/account-{births.name}.{n}.jsonl") for n in range(CHILDREN)]
        while not all(path.exists() and path.read_bytes().count(b"\n") > 5 for path in accounts):
            record(sink, dataclasses.replace(plan, runs=1), notes, 100)
        die()
    for pid in pids:
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) < 0:
            notes.note(died=pid)
    beside.join()
    sink.close(1)
    return 0


if __name__ == "__main__":
    sys.exit(main(Plan(**json.loads(sys.argv[1])), Births(**json.loads(sys.argv[2]))))
