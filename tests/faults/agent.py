"""An agent process under faults: records runs and notes, outside the product, what it was told is safe.

`python -m tests.faults.agent PLAN`, settings from the environment. PLAN is a JSON object, see `Plan`. The form of the account is
described in `notes.py`. By its end the process has flushed; it exits 0 if everything is acknowledged or, where nobody consumes,
synced, 3 if something is pending, and tells which on standard error.
"""

from __future__ import annotations

import dataclasses
import json
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.notes import Notebook, NotedRun, payload

from skillaudit.producer import Sink

CHILDREN_SHARE = 0.15
"""Of the runs that could be another's child."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the process records."""

    account: str
    seed: int = 0
    runs: int = 10
    open_at_once: int = 4
    logs_min: int = 1
    logs_max: int = 12
    payload_bytes: int = 200
    """About so many, by chance between half and one and a half of it; the text is not ASCII alone."""
    events_per_s: float = 0.0
    """0: as fast as it goes."""
    burst: int = 0
    """So many more at its beginning, as fast as it goes."""
    threads: int = 1
    flush_s: float = 60.0
    begun_file: str = ""
    """Made once the first event is noted."""
    stop_file: str = ""
    """Once it is there no more runs are begun; those that are open go on to their ends."""
    leave_unfinished: int = 0
    """So many runs are never finished."""


def record(sink: Sink, plan: Plan, notes: Notebook, thread: int) -> None:
    """One thread's runs, interleaved."""
    chance = random.Random(f"{plan.seed} {thread}")
    alive: list[tuple[NotedRun, int, bool]] = []
    started, events = 0, 0
    began_s = time.monotonic()
    wanted = plan.runs
    while started < wanted or alive:
        if plan.stop_file and Path(plan.stop_file).exists():
            wanted = started
        if plan.events_per_s:
            ahead_s = (events - plan.burst) / plan.events_per_s - (time.monotonic() - began_s)
            if ahead_s > 0:
                time.sleep(ahead_s)
        events += 1
        if started < wanted and len(alive) < plan.open_at_once:
            run = _begin(sink, plan, notes, chance, [run for run, _, _ in alive], started)
            alive.append(
                (run, chance.randint(plan.logs_min, plan.logs_max), started >= plan.leave_unfinished)
            )
            started += 1
            if plan.begun_file and started == 1:
                Path(plan.begun_file).touch()
            continue
        if not alive:  # told to stop when all it had begun was finished
            break
        run, left, finishes = alive.pop(chance.randrange(len(alive)))
        if left == 0:
            if finishes:
                run.finish()
            continue
        run.log(payload(chance, plan.payload_bytes, left))
        alive.append((run, left - 1, finishes))


def _begin(
    sink: Sink, plan: Plan, notes: Notebook, chance: random.Random, alive: list[NotedRun], number: int
) -> NotedRun:
    """Now and then the child of another."""
    given = {"skill_id": f"skill-{number % 7}", "caller_id": f"agent-{plan.seed}"}
    if alive and chance.random() < CHILDREN_SHARE:
        parent = chance.choice(alive)
        return NotedRun(parent.writer.start_child, notes, chance, number, child_of=parent.run_id, **given)
    return NotedRun(sink.start_run, notes, chance, number, **given)


def main(plan: Plan, make_sink: Callable[[], Sink] = Sink.from_settings) -> int:
    """Record, flush, close."""
    notes = Notebook(plan.account)
    with make_sink() as sink:
        threads = [
            threading.Thread(target=record, args=(sink, plan, notes.by(f"{n}"), n), name=f"recorder {n}")
            for n in range(1, plan.threads)
        ]
        for thread in threads:
            thread.start()
        record(sink, plan, notes, 0)
        for thread in threads:
            thread.join()
        report = sink.flush(timeout_s=plan.flush_s)
    notes.note(positions=dict(report.positions))
    if report.complete or report.synced:
        return 0
    print(report, file=sys.stderr)
    return 3


if __name__ == "__main__":
    sys.exit(main(Plan(**json.loads(sys.argv[1]))))
