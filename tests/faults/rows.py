"""The rows of the fault table: what each injects, how often, and how it is told apart from a test that cannot fail.

A module `rows_*.py` of this directory registers its rows by `@row`. A row's function injects its fault once (or several
times: `case.injections`), lets everything recover and drain, and compares what the agents were told is safe with what is
stored (`oracle.py`). It raises AssertionError for anything lost, duplicated, reordered, altered or not named.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.small_fs import why_not

ResourceFactory = Callable[[], AbstractAsyncContextManager[Any]]


@dataclass(slots=True)
class Case:
    """One run of a row's function. `seed` decides everything that is random in it."""

    number: int
    seed: int
    directory: Path
    """Empty, the case's own; removed when the case passed."""
    switched_off: str = ""
    """The mechanism that the product has to do without; empty: none."""
    with_it_s: float = 0.0
    """How long the same case took just before with the mechanism: what has not come in that time does not come without it."""
    resource: Any = None
    """What the row's `resource` gave, shared by the cases of one command: a broker, a file system."""
    injections: int = 1
    events: int = 0
    facts: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def random(self) -> random.Random:
        """A generator of its own for every caller that asks, always the same for one seed."""
        return random.Random(self.seed)

    def note(self, **facts: Any) -> None:
        """Add to what the result tells; numbers are summed over the cases."""
        for name, value in facts.items():
            if isinstance(value, int | float) and isinstance(self.facts.get(name), int | float):
                self.facts[name] += value
            else:
                self.facts[name] = value


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the table."""

    name: str
    about: str
    """The fault and how it is injected, in one sentence; stands in the published table."""
    inject: Callable[[Case], Awaitable[None]]
    full: int
    """Injections of the full run."""
    share: int
    """Injections of `make faults`, which ends within ten minutes; 0: the row is too long for that."""
    test: int = 1
    """Injections inside `make test`."""
    not_in_tests: str = ""
    """Why `make test` has none of it, where `test` is 0."""
    judge: str = ""
    """What decides in the place of the common judge, or beside it; empty: that one alone. Stands in the published table."""
    synthetic: bool = False
    """Its events are records that the row composes and knows, not ones that agents were told are safe."""
    off: Mapping[str, str] = field(default_factory=dict[str, str])
    """Mechanism -> how it is switched off; the row must then fail."""
    off_by_waiting: Sequence[str] = ()
    """Those whose want shows only in that something never comes: the same case is run before with the mechanism, and
    then waited for, where it ends alone, as long as all of that took. All others fail in a judge's words."""
    off_cases_max: int = 3
    """Cases within which the switched-off mechanism must show; where chance decides, more."""
    off_in_tests: bool = True
    """Whether `make test` shows it; else `make faults` does."""
    off_in_share: bool = True
    """Whether `make faults` shows it, where `make test` does not; else the full run does."""
    resource: ResourceFactory = contextlib.nullcontext
    broker: bool = False
    """Needs a real broker, and so Docker or one that is given."""
    root: str = ""
    """What it needs root for (to mount a small file system); skipped, and said so, where it cannot be had."""
    case_s_max: float = 300.0

    @property
    def skipped_because(self) -> str:
        """Why it can't be injected here; empty where it can. CI has everything, so that nothing is skipped there."""
        return why_not() if self.root and not os.environ.get("CI") else ""


REGISTRY: dict[str, Row] = {}


def row(name: str, **details: Any) -> Callable[[Callable[[Case], Awaitable[None]]], Row]:
    """Register the function as the row `name`; see `Row` for the details."""

    def register(inject: Callable[[Case], Awaitable[None]]) -> Row:
        assert name not in REGISTRY, name
        made = Row(name=name, inject=inject, **details)
        REGISTRY[name] = made
        return made

    return register


def all_rows() -> dict[str, Row]:
    """Every row, by name, after all modules of rows were loaded."""
    for path in sorted(Path(__file__).parent.glob("rows_*.py")):
        importlib.import_module(f"tests.faults.{path.stem}")
    return REGISTRY
