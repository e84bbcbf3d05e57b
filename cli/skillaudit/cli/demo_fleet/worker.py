"""One process of the fleet: `python -m skillaudit.cli.demo_fleet.worker NUMBER ACCOUNT`, settings from the environment."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from skillaudit.cli.demo_fleet.account import AccountWriter
from skillaudit.cli.demo_fleet.agents import (
    Agent,
    follow_link,
    map_symbols,
    measure_files,
    search_words,
    sub_run,
)
from skillaudit.cli.demo_fleet.tools import Workshop, project_roots
from skillaudit.producer import Sink, Writer

PROCESSES: Final = 4
KILLED_PROCESS: Final = 3
KILLED_SKILL: Final = "watch-files"
FAILING_SKILL: Final = "follow-link"
WATCH_ROUNDS_MAX: Final = 100_000
"""Rounds after which the process that waits to be killed ends by itself."""
PATTERNS: Final = (r"^class ", r"^\s*raise ", r"\basync def\b", r"Final\b", r"^import |^from ", r'"""')


@dataclass
class Fleet:
    """What a process works with."""

    sink: Sink
    account: AccountWriter

    def work(self, skill_id: str, inputs: Mapping[str, Any], task: Callable[[Agent], str]) -> None:
        """One top-level run."""
        with self.opened(self.sink.start_run(sub_run(skill_id, inputs)), skill_id, "") as agent:
            agent.run.finish(output=task(agent))

    def delegate(
        self, parent: Agent, skill_id: str, inputs: Mapping[str, Any], task: Callable[[Agent], str]
    ) -> str:
        """A sub-run; answers its output."""
        child = parent.run.start_child(sub_run(skill_id, inputs))
        with self.opened(child, skill_id, parent.run.run_id) as agent:
            output = task(agent)
            agent.run.finish(output=output)
        return output

    @contextmanager
    def opened(self, run: Writer, skill_id: str, parent: str) -> Generator[Agent]:
        """The run as an agent at work; notes start and end in the account. A failed task ends only its run."""
        self.account.note(run=run.run_id, skill=skill_id, parent=parent)
        status = "ok"
        try:
            with run:
                yield Agent(
                    run,
                    Workshop(project_roots()),
                    lambda: self.account.note(run=run.run_id, event=run.sequence),
                )
        except FileNotFoundError:
            status = "error"
        self.account.note(run=run.run_id, status=status)


def survey(fleet: Fleet, lead: Agent) -> str:
    """A parent run that gives each part of the project to two sub-runs."""
    lead.say("I will list the modules and hand each part to specialists.")
    files: Sequence[str] = lead.use("list_files", pattern="*.py")
    parts = sorted({"/".join(file.split("/")[:3]) for file in files})
    for part in parts:
        mine = [file for file in files if file.startswith(part + "/")][:12]
        sizes = fleet.delegate(lead, "measure-files", {"part": part}, partial(measure_files, files=mine))
        symbols = fleet.delegate(lead, "map-symbols", {"part": part}, partial(map_symbols, files=mine))
        lead.say(f"{part}: {sizes}; {symbols}")
    return f"{len(files)} modules in {len(parts)} parts"


def search_all(fleet: Fleet, patterns: Sequence[str]) -> None:
    """One run per pattern."""
    files = Workshop(project_roots()).list_files()[:15]
    for pattern in patterns:
        fleet.work("search-words", {"pattern": pattern}, partial(search_words, files=files, pattern=pattern))


def watch(agent: Agent) -> str:
    """Goes round and round until the process is killed in the middle of it."""
    files = agent.use("list_files", pattern="*.py")
    for number in range(WATCH_ROUNDS_MAX):
        agent.use("read_file", file=files[number % len(files)])
    return f"{WATCH_ROUNDS_MAX} rounds and nobody came"


def work(number: int, fleet: Fleet) -> None:
    """What process `number` does."""
    if number == 0:
        fleet.work("survey", {"of": "the project"}, lambda lead: survey(fleet, lead))
    elif number == 1:
        search_all(fleet, PATTERNS)
    elif number == KILLED_PROCESS:
        search_all(fleet, PATTERNS[:2])
        fleet.work(KILLED_SKILL, {"every": "file"}, watch)
    else:
        fleet.work(FAILING_SKILL, {"file": "notes/plan.md"}, lambda a: follow_link(a, "notes/plan.md"))
        fleet.work("survey", {"of": "the project, again"}, lambda lead: survey(fleet, lead))


def main() -> None:
    """Run one process of the fleet."""
    number, account = int(sys.argv[1]), Path(sys.argv[2])
    with Sink.from_settings() as sink:
        work(number, Fleet(sink, AccountWriter(account)))


if __name__ == "__main__":
    main()
