"""The fleet's own account of what it recorded: the demonstration checks the database against it.

Each process appends a line to a file of its own after each call to the Writer returned. Nothing of the product is used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self


class AccountWriter:
    """Appends lines; each is in the operating system's hands when the call returns."""

    def __init__(self, path: Path) -> None:
        """`path`: this process's file."""
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, **entry: Any) -> None:
        """One line."""
        os.write(self._fd, json.dumps(entry).encode() + b"\n")


@dataclass(slots=True)
class RunAccount:
    """What one run's process says of it."""

    run_id: str
    skill_id: str
    parent_run_id: str
    events: int = 0
    status: str = ""
    """Empty: never finished."""


@dataclass(frozen=True, slots=True)
class Account:
    """What the whole fleet says."""

    runs: dict[str, RunAccount]

    @classmethod
    def read(cls, paths: Iterable[Path]) -> Self:
        """All processes' files; a torn last line of a killed process is left out."""
        runs: dict[str, RunAccount] = {}
        for path in paths:
            for line in path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    _apply(runs, json.loads(line))
        return cls(runs)

    @property
    def events(self) -> int:
        """Events of all runs, starts and finishes not counted."""
        return sum(run.events for run in self.runs.values())


def _apply(runs: dict[str, RunAccount], entry: dict[str, Any]) -> None:
    if "skill" in entry:
        runs[entry["run"]] = RunAccount(entry["run"], entry["skill"], entry["parent"])
    elif "event" in entry:
        runs[entry["run"]].events = entry["event"]
    else:
        runs[entry["run"]].status = entry["status"]
