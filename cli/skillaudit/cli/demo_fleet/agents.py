"""The agents: rule-based planners that think aloud in steps, call tools, and start sub-runs. Recorded by the Writer."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from skillaudit.cli.demo_fleet.tools import Workshop
from skillaudit.contract.records import SkillRun
from skillaudit.contract.words import counted

MODEL: Final = "rules"
AGENT: Final[Mapping[str, Any]] = {"agent": "demo-fleet", "model": MODEL}
_TOOL_ERRORS: Final = (OSError, SyntaxError, ValueError, KeyError, sqlite3.Error)


@dataclass
class Agent:
    """One run at work: says what it does, uses its tools, records both."""

    run: Any
    shop: Workshop
    recorded: Callable[[], None]
    """Called after each event the Writer took: the fleet's own account of what was recorded."""

    def say(self, text: str) -> None:
        """A step."""
        self.run.step(text, model=MODEL)
        self.recorded()

    def use(self, name: str, **arguments: Any) -> Any:
        """Call a tool; record the call and its result; raise what the tool raised."""
        call_id = self.run.tool_call(name, arguments)
        self.recorded()
        try:
            result = self.shop.tools[name](**arguments)
        except _TOOL_ERRORS as exc:
            self.run.tool_result(name, f"{type(exc).__name__}: {exc}", call_id=call_id, is_error=True)
            self.recorded()
            raise
        self.run.tool_result(name, result, call_id=call_id)
        self.recorded()
        return result


def measure_files(agent: Agent, files: list[str]) -> str:
    """Size up files."""
    agent.say(f"I will read {counted(len(files), 'file')} and note their sizes.")
    rows: list[list[Any]] = []
    for file in files:
        found = agent.use("read_file", file=file)
        rows.append([file, found["bytes"], found["lines"]])
    agent.use("remember", table="files", rows=rows)
    answer = agent.use("query", sql="SELECT count(*), sum(bytes), sum(lines) FROM files")
    count, size, lines = answer["rows"][0]
    agent.say(f"{counted(count, 'file')}, {counted(size, 'byte')}, {counted(lines, 'line')}.")
    return f"{counted(count, 'file')}, {counted(size, 'byte')}, {counted(lines, 'line')}"


def map_symbols(agent: Agent, files: list[str]) -> str:
    """Find out what modules define."""
    agent.say("I will parse each module and count what it defines.")
    for file in files:
        symbols = agent.use("parse_module", file=file)
        agent.use(
            "remember", table="symbols", rows=[[file, s["kind"], s["name"], s["lines"]] for s in symbols]
        )
    answer = agent.use(
        "query", sql="SELECT kind, count(*) AS n, max(lines) FROM symbols GROUP BY kind ORDER BY n DESC"
    )
    agent.say(f"By kind: {answer['rows']}")
    return "; ".join(
        f"{n} of kind {kind}, the longest has {counted(longest, 'line')}"
        for kind, n, longest in answer["rows"]
    )


def search_words(agent: Agent, files: list[str], pattern: str) -> str:
    """Look for a pattern."""
    agent.say(f"I will search {counted(len(files), 'file')} for {pattern!r}.")
    hits = {file: len(agent.use("search", file=file, pattern=pattern)) for file in files}
    best = max(hits, key=lambda file: hits[file], default="")
    agent.say(f"{sum(hits.values())} hits, most in {best}.")
    return f"{sum(hits.values())} hits for {pattern!r}, most in {best}"


def follow_link(agent: Agent, file: str) -> str:
    """Read a file that a document promised; it may not exist."""
    agent.say(f"The notes mention {file}; I will read it.")
    return str(agent.use("read_file", file=file)["bytes"])


def sub_run(skill_id: str, inputs: Mapping[str, Any]) -> SkillRun:
    """The record of a run to start."""
    return SkillRun(skill_id=skill_id, caller_id="demo", channel_id="fleet", inputs=inputs, attributes=AGENT)
