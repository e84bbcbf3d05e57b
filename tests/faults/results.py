"""The results file: one line per command and row, {row, first, count, seed, versions, result, ...}; the published table is made from it."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

PASSED, FAILED = "passed", "failed"
JUDGE = "2"
"""Since 2 the common judge compares starts, finishes, event types, sums and times; before, of each event its payload alone."""
_PLACES = (
    # What a process said is told from its end: the first slash may be cut off.
    (f"(?<![A-Za-z0-9])/?{re.escape(str(Path(__file__).parents[2]).lstrip('/'))}/", ""),
    (rf"{re.escape(tempfile.gettempdir())}/skillaudit-[a-z0-9-]+-[a-z0-9_]{{8}}", "CASE"),
    (re.escape(f"{sys.base_prefix}/"), "PYTHON/"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a stretch of cases of one row gave."""

    row: str
    off: str = ""
    """The mechanism that was switched off; the cases had to fail, and `result` is `passed` if they did."""
    seed: int
    first: int
    """Number of the first case."""
    cases: int
    count: int
    """Injections."""
    events: int
    seconds: float
    result: str
    error: str = ""
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    versions: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def numbers(self) -> set[int]:
        """Of its cases; where it tells a failure, of the one that failed."""
        end = self.first + self.cases
        return set(range(self.first if self.result == PASSED else end - 1, end))


@cache
def versions() -> dict[str, str]:
    """What took part, as far as it can be asked here: of the project the commit, with `+` where files differ from it. A
    process asks once, at its beginning: later commits are not what it has loaded.
    """
    names = ("skillaudit", "aiokafka", "duckdb", "orjson")
    found = {"python": platform.python_version(), "linux": platform.release().partition("-")[0]}
    return found | {name: version(name) for name in names} | {"commit": _commit(), "judge": JUDGE}


def _commit() -> str:
    git = ["git", "-C", str(Path(__file__).parents[2])]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", "*.py", "*.sql"], capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("+" if changed.stdout else "")


def without_places(text: str) -> str:
    """The text without where this machine keeps the project, the interpreter and the cases' directories: it is published."""
    for place, name in _PLACES:
        text = re.sub(place, name, text)
    return text


def _cut_torn_line(file: BinaryIO) -> None:
    """A command that was killed while it wrote left a line without its end: the next takes its place."""
    file.seek(0)
    content = file.read()
    file.truncate(content.rfind(b"\n") + 1)


def append(path: Path, result: Result) -> None:
    """One more line, in the file for good."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # rows may run side by side
        _cut_torn_line(file)
        told = replace(result, error=without_places(result.error))
        file.write(json.dumps(asdict(told), ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> Iterator[Result]:
    """All lines; a torn last one is left out."""
    if path.exists():
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                yield Result(**json.loads(line))


@dataclass(frozen=True, slots=True)
class Counted:
    """A line that tells of cases that passed, as far as it is the newest that tells of them."""

    result: Result
    cases: int
    """Of its cases those that no later line holds; at least one."""

    def share(self, whole: float) -> Fraction:
        """Of what the line tells of all its cases together, what falls to the counted ones: as much to each."""
        return Fraction(whole) * self.cases / self.result.cases


def counted(results: Iterable[Result]) -> list[Counted]:
    """The lines that count, in their order: of each (row, seed, case) the newest line that holds it, where it passed there.
    What was run again with a later release counts once, and a case that failed last does not count.
    """
    told: set[tuple[str, int, int]] = set()
    found: list[Counted] = []
    for result in reversed([result for result in results if not result.off]):
        new = {(result.row, result.seed, number) for number in result.numbers} - told
        told |= new
        if new and result.result == PASSED:
            found.append(Counted(result, len(new)))
    return found[::-1]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a row goes on under a seed."""

    failed: tuple[int, ...]
    """Numbers of the cases whose last result is a failure, in order: they are run again before new ones."""
    next: int
    """Number of the first case that was never run."""
    passed: int
    """Injections that passed so far, each case counted once."""


def is_fully_judged(result: Result) -> bool:
    """Whether the judge of today passed it."""
    return result.versions.get("judge") == JUDGE


def progress(path: Path, row: str, seed: int, *, any_judge: bool = True) -> Progress:
    """From the results file; `any_judge`: what an earlier common judge passed counts, too."""
    results = [
        found
        for found in read(path)
        if (found.row, found.off, found.seed) == (row, "", seed) and (any_judge or is_fully_judged(found))
    ]
    first = 0
    failed: set[int] = set()
    for result in results:
        first = max(first, result.first + result.cases)
        if result.result == PASSED:
            failed -= result.numbers
        else:
            failed |= result.numbers
    passed = sum(line.share(line.result.count) for line in counted(results))
    return Progress(tuple(sorted(failed)), first, int(passed))
