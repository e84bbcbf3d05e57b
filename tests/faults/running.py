"""Running rows: case after case, each in a directory of its own, until the wanted injections passed or one failed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

from tests.faults.oracle import BrokenError
from tests.faults.results import FAILED, PASSED, Progress, Result, append, progress, versions
from tests.faults.rows import Case, ResourceFactory, Row

SAVE_EVERY_S = 30.0
IN_VAIN_MAX = 20
"""Cases without an injection after which a row fails, instead of going on for ever."""
ERROR_CHARS_MAX = 600


class RowFailedError(AssertionError):
    """A case did not pass; its directory is left for a look."""


class _Stretch:
    """Cases that passed and are not in the results file yet."""

    def __init__(self, row: Row, seed: int, results: Path | None) -> None:
        self.row, self.seed, self.results = row, seed, results
        self._begin(0)

    def _begin(self, first: int) -> None:
        self.first, self.cases, self.count, self.events = first, 0, 0, 0
        self.facts: dict[str, object] = {}
        self.began_s = time.monotonic()

    def add(self, case: Case) -> None:
        if case.number != self.first + self.cases:
            self.save()
            self._begin(case.number)
        self.cases += 1
        self.count += case.injections
        self.events += case.events
        for name, value in case.facts.items():
            before = self.facts.get(name)
            both = isinstance(value, int | float) and isinstance(before, int | float)
            self.facts[name] = before + value if both else value  # type: ignore[operator]
        if time.monotonic() - self.began_s > SAVE_EVERY_S:
            self.save()

    def save(self, result: str = PASSED, error: str = "") -> None:
        if self.results is not None and (self.cases or error):
            append(self.results, self._result(result, error))
        self._begin(self.first + self.cases)

    def _result(self, result: str, error: str) -> Result:
        return Result(
            row=self.row.name,
            seed=self.seed,
            first=self.first,
            cases=self.cases,
            count=self.count,
            events=self.events,
            seconds=round(time.monotonic() - self.began_s, 1),
            result=result,
            error=error[:ERROR_CHARS_MAX],
            facts=self.facts,
            versions=versions(),
        )


async def run_row(
    row: Row, resources: Resources, *, count: int, seed: int, results: Path | None, first: int | None = None
) -> int:
    """Cases until `count` injections passed in all, those in the results file included; answers how many were made now.

    Those that failed are run again before new ones. Raises `RowFailedError` at the first that fails, after it is
    written down.
    """
    resumes = results is not None and first is None
    before = Progress((), first or 0, 0)
    if results and resumes:
        before = progress(results, row.name, seed, any_judge=row.synthetic)
    if before.passed >= count and not before.failed:
        return 0
    shared = await resources.of(row)
    stretch = _Stretch(row, seed, results)
    made = in_vain = 0
    numbers = itertools.count(before.next)
    again = list(before.failed)
    try:
        while again or before.passed + made < count:
            number = again.pop(0) if again else next(numbers)
            case = await run_case(row, number, seed, shared)
            stretch.add(case)
            made += case.injections
            in_vain = 0 if case.injections else in_vain + 1
            if in_vain >= IN_VAIN_MAX:
                raise RuntimeError(f"in {in_vain} cases one after the other the fault never came about")  # noqa: TRY301
            _say(f"{row.name}: {before.passed + made}/{count}")
    except Exception as exc:
        stretch.save()
        stretch.add(Case(number, seed, Path()))
        stretch.save(FAILED, f"case {number}: {exc!r}")
        raise RowFailedError(f"{row.name}, case {number}, seed {seed}: {exc!r}") from exc
    finally:
        stretch.save()
    return made


async def run_off(row: Row, resources: Resources, mechanism: str, *, seed: int, results: Path | None) -> str:
    """The row without the mechanism: it must fail within `off_cases_max` cases, by what a judge says; answers how. AssertionError
    if it does not; what else keeps a case from its end is raised as it is.

    Where that shows by waiting in vain, each case is run with the mechanism before, and has to pass: that is how long
    what comes with it may take.
    """
    began_s = time.monotonic()
    shared = await resources.of(row)
    facts: dict[str, object] = {}
    for number in range(row.off_cases_max):
        with_it_s = 0.0
        if mechanism in row.off_by_waiting:
            with_it_s = await _timed(row, number, seed, shared)
            facts = {"with_it_s": round(with_it_s, 1)}
        try:
            await run_case(row, number, seed, shared, mechanism, with_it_s=with_it_s, keep=False)
        except BrokenError as exc:
            error = str(exc)
            break
    else:
        raise AssertionError(f"{row.name} passes without {mechanism}: it tests nothing of that")
    if results is not None:
        told = Result(
            row=row.name,
            off=mechanism,
            seed=seed,
            first=0,
            cases=number + 1,
            count=number + 1,
            events=0,
            seconds=round(time.monotonic() - began_s, 1),
            result=PASSED,
            error=error[:ERROR_CHARS_MAX],
            facts=facts,
            versions=versions(),
        )
        append(results, told)
    return error


async def _timed(row: Row, number: int, seed: int, shared: object) -> float:
    """How long a case takes that has to pass; what fails in it is no AssertionError, which would look as if it was wanted."""
    began_s = time.monotonic()
    try:
        await run_case(row, number, seed, shared)
    except AssertionError as exc:
        raise RuntimeError(f"{row.name} fails with all its mechanisms: {exc}") from exc
    return time.monotonic() - began_s


async def run_case(
    row: Row,
    number: int,
    seed: int,
    resource: object,
    switched_off: str = "",
    *,
    with_it_s: float = 0.0,
    keep: bool = True,
) -> Case:
    """One case, bounded by `case_s_max`."""
    directory = Path(tempfile.mkdtemp(prefix=f"skillaudit-{row.name}-"))
    case = Case(number, seed * 1_000_003 + number, directory, switched_off, with_it_s, resource)
    passed = False
    limit = asyncio.timeout(row.case_s_max)
    try:
        async with limit:
            await row.inject(case)
        passed = True
    except TimeoutError as exc:
        if limit.expired():
            raise TimeoutError(f"the case has not ended within {row.case_s_max:g} s") from exc
        raise
    finally:
        if passed or not keep:
            shutil.rmtree(directory, ignore_errors=True)
        else:
            _say(f"{row.name}: case {number} failed; left for a look: {directory}", end="\n")
    return case


class Resources:
    """What rows share: opened when a row first wants it, and once for all rows that name the same factory."""

    def __init__(self) -> None:
        self._opened: dict[ResourceFactory, tuple[contextlib.AsyncExitStack, object]] = {}

    async def __aenter__(self) -> Self:
        versions()  # asked now, before the first row: what is committed while it runs is not what was loaded
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.leave_others(None)

    async def of(self, row: Row) -> object:
        """The row's; raises what opening it raises, for every row that wants it."""
        if row.resource not in self._opened:
            async with contextlib.AsyncExitStack() as stack:
                resource = await stack.enter_async_context(row.resource())
                self._opened[row.resource] = stack.pop_all(), resource
        return self._opened[row.resource][1]

    async def leave_others(self, row: Row | None) -> None:
        """Close what this row does not want: a broker that nobody asks anything takes time from the others all the same."""
        async with contextlib.AsyncExitStack() as closing:
            for factory in [factory for factory in self._opened if row is None or factory != row.resource]:
                stack, _ = self._opened.pop(factory)
                closing.push_async_callback(stack.aclose)


def _say(text: str, end: str = "") -> None:
    if sys.stderr.isatty() or end:
        sys.stderr.write(f"\r\x1b[K{text}{end}" if sys.stderr.isatty() else f"{text}\n")
        sys.stderr.flush()
