"""What Python processes do to an agent: children of all kinds, exits of all kinds, calls in the midst of calls.

`python -m tests.faults.python_lives LIFE DIRECTORY SEED [OFF [HANG_S]]`, settings from the environment. Accounts lie in the
directory, one a process. HANG_S: after how long a process that is still there hangs.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import faulthandler
import gc
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import orjson
from tests.faults.agent import Plan, record
from tests.faults.notes import Notebook, NotedRun, log_digest, now_us, payload

from skillaudit.contract.errors import OutboxFullError, RunStateError
from skillaudit.contract.eventlog import EventLog
from skillaudit.contract.settings import Settings
from skillaudit.producer import Sink
from skillaudit.producer._state import State
from skillaudit.producer.outbox import OutboxLog

HANG_S_MAX = 300
HANGS = 70
"""Exit code of a process that was ended because it hung."""


class Life:
    """One process: its Sink, its account, its chance."""

    def __init__(self, directory: str, seed: int, off: str, name: str = "main") -> None:
        self.directory, self.seed, self.off = directory, seed, off
        self.chance = random.Random(f"{seed} {name}")
        self.notes = Notebook(f"{directory}/account-{name}-{os.getpid()}.jsonl")
        self.sink = self._make_sink()

    def _make_sink(self) -> Sink:
        settings = Settings.load()
        if not self.off:
            return Sink.from_settings(settings)
        log: EventLog = OutboxLog(settings)
        if self.off in ("stored-before-return", "fork-noticed", "call-stores"):
            from tests.faults import switched_off

            kinds: dict[str, Callable[[], EventLog]] = {
                "stored-before-return": lambda: switched_off.ForgetfulQueue(OutboxLog(settings)),  # type: ignore[return-value]
                "fork-noticed": lambda: switched_off.DeafToForks(settings),
                "call-stores": lambda: switched_off.StoredByATask(OutboxLog(settings)),  # type: ignore[return-value]
            }
            log = kinds[self.off]()
        return Sink(log, settings=settings)

    def in_child(self, name: str) -> None:
        """This is a child now: the same Sink, an account of its own."""
        self.chance = random.Random(f"{self.seed} {name}")
        self.notes = Notebook(f"{self.directory}/account-{name}-{os.getpid()}.jsonl")

    def begin(self, skill: str, number: int = 0, **options: Any) -> NotedRun:
        """A run, noted."""
        return NotedRun(self.sink.start_run, self.notes, self.chance, number, skill_id=skill, **options)

    def log(self, run: NotedRun, number: int = 0) -> None:
        """An event, noted; of a run that nobody else writes."""
        run.log(payload(self.chance, 300, number))

    def runs(self, count: int, logs_max: int = 6) -> None:
        """Whole runs."""
        plan = Plan(account="", seed=self.chance.getrandbits(30), runs=count, logs_max=logs_max)
        record(self.sink, plan, self.notes, 0)


# --- children -------------------------------------------------------------------------------------------------------

_LIFE: Life | None = None
"""Of this process; inherited by forked ones."""


def _in_pool(task: tuple[str, int, str, str]) -> int:
    """A task of a pool: goes on with the inherited Sink, or makes one where none was inherited."""
    global _LIFE  # noqa: PLW0603  a pool's tasks have nothing else in common
    directory, seed, off, name = task
    if _LIFE is None:
        _LIFE = Life(directory, seed, off, name)
    _LIFE.in_child(name)
    _LIFE.runs(3)
    _LIFE.log(_LIFE.begin("left open in a pool"))
    return os.getpid()


def _alone(directory: str, seed: int, off: str, name: str) -> None:
    """A process of its own, which ends in its own way."""
    _in_pool((directory, seed, off, name))
    way = int(name.rpartition("-")[2]) % 4
    if way == 1:
        sys.exit(3)
    if way == 2:
        os._exit(0)
    if way == 3:
        os.kill(os.getpid(), signal.SIGKILL)


def children(life: Life, context: BaseContext) -> None:
    """A pool that is terminated, and processes that end in four ways; the parent records on."""
    global _LIFE  # noqa: PLW0603  what a fork inherits
    forks = context.get_start_method() == "fork"
    _LIFE = life if forks else None
    run = life.begin("parent")
    life.log(run)
    given = (life.directory, life.seed, life.off)
    with context.Pool(2) as pool:
        tasks = [(*given, f"pool-{n}") for n in range(6)]
        done = pool.map_async(_in_pool, tasks, chunksize=1)
        life.log(run)
        done.get(HANG_S_MAX)
    alone = [context.Process(target=_alone, args=(*given, f"alone-{n}")) for n in range(4)]
    for process in alone:
        process.start()
        life.log(run)
    for process in alone:
        process.join()
    run.finish()
    life.sink.close()


def exit_in_a_child(life: Life) -> None:
    """`sys.exit` in forked children, out of the blocks of runs that the parent has begun."""
    pids = []
    outer = life.begin("outer")
    with outer.writer:
        for number in range(4):
            inner = life.begin("inner")
            with inner.writer:
                life.log(inner)
                pid = os.fork()
                if pid == 0:
                    life.in_child(f"child-{number}")
                    if number % 2:
                        life.runs(3)
                        life.log(life.begin("left open"))
                    sys.exit(number)
                pids.append(pid)
                life.log(inner)
                inner.finish()
                life.log(outer)
        for number, pid in enumerate(pids):
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == number
        outer.finish()
    life.sink.close()


# --- exits ----------------------------------------------------------------------------------------------------------


HOLD = "hold"
"""While a file of this name is in the directory, nobody leaves."""


def leave(life: Life, way: str) -> None:
    """With runs open and the Sink not closed; a thread records to the last moment. What the Sink tells when the interpreter
    closes it is noted: what is registered first is called last.
    """
    left_s = [0.0]

    def told() -> None:
        report = life.sink.close()
        took_s = round(time.monotonic() - left_s[0], 3)
        life.notes.note(acknowledged=report.acknowledged, pending=report.pending, took_s=took_s)

    atexit.register(told)
    life.runs(5)
    for _ in range(3):
        run = life.begin("never finished")
        for number in range(life.chance.randrange(1, 60)):
            life.log(run, number)
    beside = Life.__new__(Life)
    beside.__dict__.update(life.__dict__)
    beside.in_child("thread")

    def on_and_on() -> None:
        with contextlib.suppress(RunStateError):  # the Sink closes at exit
            run = beside.begin("to the last moment")
            while True:
                beside.log(run)

    threading.Thread(target=on_and_on, daemon=True).start()
    life.log(life.begin("the last one"))
    while (Path(life.directory) / HOLD).exists():
        time.sleep(0.01)
    left_s[0] = time.monotonic()
    _end_by(way)


def _end_by(way: str) -> None:
    """Or return: that is a way, too."""
    if way == "os-exit":
        os._exit(0)
    if way == "raise":
        raise RuntimeError("nobody catches this")
    if way == "sys-exit":
        sys.exit(7)
    if way == "terminated":
        os.kill(os.getpid(), signal.SIGTERM)
    if way == "interrupted":
        os.kill(os.getpid(), signal.SIGINT)


# --- cancellation ---------------------------------------------------------------------------------------------------


ROOM = "waiting for room"


def _awaits(life: Life, run: NotedRun, chance: random.Random) -> dict[str, Callable[[], Awaitable[object]]]:
    return {
        "giving way": lambda: asyncio.sleep(0),
        "sleeping": lambda: asyncio.sleep(chance.random() * 0.1),
        "drain": run.writer.drain,
        "flushing": lambda: life.sink.aflush(0.05),
        "in a time-out": _time_out,
    }


async def _time_out() -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.sleep(1), 0.02)


async def _record_on(life: Life, run: NotedRun, number: int, size_bytes: int) -> None:
    """Until it is cancelled; where it is then is noted."""
    chance = random.Random(f"{life.seed} {number}")
    awaits, at = _awaits(life, run, chance), ""
    has_room: Callable[[], bool] = life.sink.log.has_room  # type: ignore[union-attr]
    try:
        while True:
            at = chance.choice(list(awaits))
            try:
                run.log(payload(life.chance, size_bytes, number))
            except OutboxFullError:
                at = "drain"
            wait = awaits[at]
            at = ROOM if at == "drain" and not has_room() else at
            await wait()
    except asyncio.CancelledError:
        life.notes.note(cancelled_at=at)
        raise


async def cancelled_tasks(life: Life, *, full: bool, tasks: int = 150) -> None:
    """Tasks that record, each cancelled somewhere. `full`: so much that the log has no room most of the time."""
    size_bytes, pause_s = (12_000, 0.03) if full else (300, 0.002)

    async def task(number: int) -> None:
        from_us, run = now_us(), life.begin("task", number)
        try:
            async with run.writer:
                await _record_on(life, run, number, size_bytes)
        except BaseException as exc:
            if run.writer.state is State.FINISHED:
                run.ended_by(exc, from_us)
            raise

    running = [asyncio.create_task(task(number)) for number in range(tasks)]
    for one in life.chance.sample(running, k=len(running)):
        if life.chance.random() < 0.5:
            await asyncio.sleep(life.chance.random() * 2 * pause_s)
        one.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await life.sink.aclose()


# --- calls in the midst of calls --------------------------------------------------------------------------------------


class SharedNotes(Notebook):
    """Of a run whose events nobody can number: its lines are not for the common judge."""

    def __init__(self, notes: Notebook) -> None:
        self.__dict__.update(notes.__dict__)

    def note(self, **entry: object) -> None:
        """As any line, of a `shared` run."""
        super().note(shared=entry.pop("run"), **entry)


class Shared:
    """One run that the main program and what interrupts it write: two streams, each in its order."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._chance = {"main": random.Random(f"{life.seed} m"), "inner": random.Random(f"{life.seed} i")}
        self.run = NotedRun(life.sink.start_run, SharedNotes(life.notes), life.chance, skill_id="shared")

    def log(self, stream: str, number: int, just_before: Callable[[], None] = lambda: None) -> None:
        """An event of one of them."""
        content = payload(self._chance[stream], 3_000, number) | {"stream": stream}
        just_before()
        self.run.writer.log("step", content)
        digest = log_digest("step", orjson.dumps(content))
        self._life.notes.note(shared=self.run.run_id, stream=stream, sha256=digest)


class Inner:
    """What a signal handler or a finalizer does: an event of the shared run, of a run of its own, whole runs."""

    def __init__(self, life: Life, shared: Shared) -> None:
        self._life, self._shared = life, shared
        self._inside = False
        self._chance = random.Random(f"{life.seed} inner")
        self._own = self._begin()
        self.calls = 0

    def _begin(self) -> NotedRun:
        # What is called in the midst of a call is written when that one is done, whenever this is.
        return NotedRun(self._life.sink.start_run, self._life.notes.untimed(), self._chance, skill_id="inner")

    def __call__(self) -> None:
        """Once."""
        if self._inside:
            return
        self._inside = True
        try:
            self.calls += 1
            self._shared.log("inner", self.calls)
            self._own.log(payload(self._chance, 300, self.calls))
            if self.calls % 5 == 0:
                self._own.finish()
                self._own = self._begin()
        finally:
            self._inside = False


def _whole_run(life: Life, just_before: Callable[[], None]) -> None:
    """Start and finish make more objects than an event: more moments at which the collector may run."""

    def interrupted_call(call: Callable[[], Any]) -> Any:
        just_before()
        return call()

    life.begin("interrupted", insist=interrupted_call).finish()


def interrupted(life: Life, way: str) -> None:
    """By signals, or by finalizers, until that has happened often enough."""
    shared = Shared(life)
    inner = Inner(life, shared)

    class Ends:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            inner()

    def collect_soon() -> None:
        Ends()
        gc.set_threshold(gc.get_count()[0] + life.chance.randrange(1, 60))
        gc.enable()

    number, finalizes = 0, way == "finalizer"
    gc.disable()
    if not finalizes:
        signal.signal(signal.SIGALRM, lambda *_: inner())
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        while inner.calls < 300 and number < 20_000:
            number += 1
            shared.log("main", number, collect_soon if finalizes else lambda: None)
            if finalizes:
                _whole_run(life, collect_soon)
            gc.disable()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    life.notes.note(interruptions=inner.calls)
    shared.run.finish()
    life.sink.close()


def watch(timeout_s: float) -> None:
    """End a process that hangs, and say where; a forked child is not watched."""

    def end() -> None:
        faulthandler.dump_traceback()
        os._exit(HANGS)

    watcher = threading.Timer(timeout_s, end)
    watcher.daemon = True
    watcher.start()


def main(words: Sequence[str]) -> None:
    """See the module's docstring."""
    life_name, directory, seed, *rest = words
    off = rest[0] if rest else ""
    watch(float(rest[1]) if rest[1:] else HANG_S_MAX)
    Path(directory).mkdir(exist_ok=True)
    life = Life(directory, int(seed), off)
    kind, _, way = life_name.partition(":")
    lives: dict[str, Callable[[], object]] = {
        "multiprocessing": lambda: children(life, multiprocessing.get_context(way)),
        "exit-in-child": lambda: exit_in_a_child(life),
        "leave": lambda: leave(life, way),
        "cancelled": lambda: asyncio.run(cancelled_tasks(life, full=way == "full")),
        "interrupted": lambda: interrupted(life, way),
    }
    lives[kind]()


if __name__ == "__main__":
    main(sys.argv[1:])
