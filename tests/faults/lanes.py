"""Several rows at once. A lane is a process with brokers and file systems of its own; it takes the next unit of rows when it
has done one. Most rows wait for something most of the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from multiprocessing.queues import SimpleQueue
from typing import TYPE_CHECKING

from tests.faults.rows import Row, all_rows
from tests.faults.running import Resources

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

UNIT_ROWS_MIN = 3
"""A resource that fewer rows share is opened in one lane only."""
STOP_S_MAX = 30.0
"""For a lane to close its brokers after an interruption, before it is killed."""

RunOne = Callable[[Row, Resources], Awaitable[bool]]
"""Runs a row and tells what came of it; whether it passed."""


def units(rows: Iterable[Row]) -> list[list[str]]:
    """The names of rows that one lane has to run, unit by unit: those first whose resource is a unit's own, since opening
    it takes longest, then by resource, so that a lane opens few.
    """
    by_resource: dict[object, list[str]] = defaultdict(list)
    for row in rows:
        by_resource[row.resource].append(row.name)
    plain = by_resource.pop(contextlib.nullcontext, [])
    own = [names for names in by_resource.values() if len(names) < UNIT_ROWS_MIN]
    shared = [names for names in by_resource.values() if len(names) >= UNIT_ROWS_MIN]
    return [*own, *([name] for names in [*shared, plain] for name in names)]


def run_lanes(rows: Sequence[Row], lanes: int, run_one: RunOne) -> list[str]:
    """Run them; the names of those that did not pass, those included whose lane died. `run_one` has to be picklable."""
    context = multiprocessing.get_context("spawn")
    waiting: SimpleQueue[list[str] | None] = context.SimpleQueue()
    passed: SimpleQueue[str] = context.SimpleQueue()
    processes = [context.Process(target=_lane, args=(waiting, passed, run_one)) for _ in range(lanes)]
    for process in processes:
        process.start()
    try:
        for unit in [*units(rows), *[None] * lanes]:
            waiting.put(unit)
        for process in processes:
            process.join()
    finally:
        _end(processes)
    names = Counter(row.name for row in rows)
    names.subtract(_all_of(passed))
    failed = [name for name, left in names.items() if left > 0]
    if not failed and any(process.exitcode for process in processes):
        raise RuntimeError(
            "a lane ended with an error, though its rows passed: see above what it left behind"
        )
    return failed


def _all_of(queue: SimpleQueue[str]) -> Iterator[str]:
    while not queue.empty():
        yield queue.get()


def _end(processes: Iterable[BaseProcess]) -> None:
    """An interruption reaches the lanes, too, as they are of one terminal; whatever stays behind is killed."""
    for process in processes:
        process.join(STOP_S_MAX)
        if process.is_alive():
            process.kill()
            process.join()


def _lane(waiting: SimpleQueue[list[str] | None], passed: SimpleQueue[str], run_one: RunOne) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run_units(waiting, passed, run_one))


async def _run_units(
    waiting: SimpleQueue[list[str] | None], passed: SimpleQueue[str], run_one: RunOne
) -> None:
    async with Resources() as resources:
        while (unit := waiting.get()) is not None:  # all units wait before the first is taken
            parent = multiprocessing.parent_process()
            if parent is None or not parent.is_alive():
                raise RuntimeError("whoever started this lane is gone")
            async for name in run_unit(unit, resources, run_one):
                passed.put(name)


async def run_unit(names: Iterable[str], resources: Resources, run_one: RunOne) -> AsyncIterator[str]:
    """Run these rows; the names of those that passed. What none of them wants is closed before."""
    rows = all_rows()
    for name in names:
        await resources.leave_others(rows[name])
        if await run_one(rows[name], resources):
            yield name
