"""What agents note of their calls, each after it returned, and the hashes of what they gave; `oracle.py` is who compares.

An agent process appends one JSON line to its own account file, by one `os.write`:

    {"run": ID, "begin": n, "sha256": HEX, "at": AT}             start_run returned; n: which run of this process, from 0
    {"run": ID, "seq": 1.., "sha256": HEX, "at": AT}             a log's call returned
    {"run": ID, "end": n, "sha256": HEX, "at": AT, "took": us}   finish returned, after n logs; took: the runtime, where it gave one
    {"run": ID, "lost": n}                                       a log's call returned and said that the event was dropped and counted
    {"positions": {...}}                                         what its last flush reported

`sha256` is over everything that was given to the call (`start_digest`, `log_digest`, `finish_digest`), computed here and not by
the product. Lines of a process's further threads say besides whose they are: "by": NAME. AT is [us, us]: the agent's own clock before the call, and how much later it was behind it; null where somebody
turns the clock that the product reads, or where the call only says what is to be written when an interrupted one is done.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import orjson

from skillaudit.producer import SkillRun, Writer

T = TypeVar("T")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LETTERS = 'abcdefghijklmnopqrstuvwxyz é"\\\n\t漢'
EVENT_TYPES = ("step", "tool_call", "tool_result", "error", "Überlegung", "考え 1")
STATUSES = ("ok", "ok", "ok", "error", "timeout", "budget_exceeded", "preempted", "zurückgezogen")
CHANNELS = ("", "chat", "канал \U0001f6f0")
RUNTIME_US_MAX = 90_000_000


class Notebook:
    """The account file: a line is one write, so that it is there as a whole or not at all."""

    def __init__(self, path: str, *, timed: bool = True) -> None:
        """`timed`: the product reads this machine's clocks, and nobody turns them."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._timed = timed
        self._by: dict[str, str] = {}

    def note(self, **entry: object) -> None:
        """Append one line; safe from any thread."""
        os.write(self._file, json.dumps(entry | self._by).encode() + b"\n")

    def by(self, thread: str) -> Notebook:
        """The same file, for another thread of this process: what each thread may leave un-noted is counted by itself."""
        other = copy.copy(self)
        other._by = {"by": thread}
        return other

    def untimed(self) -> Notebook:
        """The same file, for calls that are not done when they return."""
        other = copy.copy(self)
        other._timed = False
        return other

    def span(self, from_us: int) -> list[int] | None:
        """From that moment until now."""
        return [from_us, now_us() - from_us] if self._timed else None


class NotedRun:
    """A run whose every call is noted, with what was given to it and when; used by one thread at a time."""

    def __init__(
        self,
        start: Callable[[SkillRun], Writer],
        notes: Notebook,
        chance: random.Random,
        number: int = 0,
        *,
        insist: Callable[[Callable[[], Any]], Any] = lambda call: call(),
        child_of: str = "",
        **members: Any,
    ) -> None:
        """Begin it. `insist`: makes each call, again where it was refused. `child_of`: the run whose `start_child` is `start`.
        `members`: of the SkillRun that chance does not choose.
        """
        self._notes, self._chance, self._insist = notes, chance, insist
        self.logs = 0
        """How many it took a number for."""
        self._sums = [0, 0, 0, 0]
        from_us = now_us()
        given = SkillRun(**(chosen(chance) | members))
        self.writer: Writer = insist(lambda: start(given))
        self.run_id = self.writer.run_id
        digest = start_digest(
            given.skill_id,
            given.caller_id,
            given.channel_id,
            child_of or given.parent_run_id,
            orjson.dumps(given.inputs).decode(),
            orjson.dumps(given.attributes).decode(),
            (given.started_at - EPOCH) // timedelta(microseconds=1),
        )
        notes.note(run=self.run_id, begin=number, sha256=digest, at=notes.span(from_us))

    def log(
        self, content: dict[str, Any], *, plain: bool = False, kept: Callable[[], bool] = lambda: True
    ) -> bool:
        """An event, by one of the ways to record one, `plain` by `log` alone; answers what `kept` then says."""
        way, from_us = 1.0 if plain else self._chance.random(), now_us()
        if way < 0.15:
            event_type, given = self._step(content)
        elif way < 0.3:
            event_type, given = self._tool_call(content)
        else:
            event_type, given = self._chance.choice(EVENT_TYPES), content
            self._insist(lambda: self.writer.log(event_type, content))
        at = self._notes.span(from_us)
        self.logs += 1
        if not kept():
            self._notes.note(run=self.run_id, lost=1, seq_lost=self.logs)
            return False
        digest = log_digest(event_type, orjson.dumps(given))
        self._notes.note(run=self.run_id, seq=self.logs, sha256=digest, at=at)
        return True

    def _step(self, content: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        names = ("input_tokens", "output_tokens", "thinking_tokens")
        tokens = {name: self._chance.randrange(1, 1 << 40) for name in names}
        self._insist(lambda: self.writer.step(content, **tokens))
        self._sums = [before + more for before, more in zip(self._sums, (0, *tokens.values()), strict=True)]
        return "step", {"content": content, **tokens}

    def _tool_call(self, content: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        call_id = f"ruf-{self.logs}"
        self._insist(lambda: self.writer.tool_call("suche", content, call_id))
        self._sums[0] += 1
        return "tool_call", {"name": "suche", "call_id": call_id, "arguments": content}

    def finish(self, **given: Any) -> None:
        """End it as chance has it, apart from what is given; half of the runs leave the sums to the Writer."""
        chance = self._chance
        status = chance.choice(STATUSES)
        said = {
            "status": status,
            "output": some_text(chance),
            "error": "" if status == "ok" else some_text(chance),
        }
        said |= given
        counts, took = self._sums, None
        more: dict[str, Any] = {}
        if chance.random() < 0.5:
            counts = [chance.randrange(1 << 40) for _ in range(4)]
            names = ("tool_calls", "input_tokens", "output_tokens", "thinking_tokens")
            took = chance.randrange(RUNTIME_US_MAX)
            more = dict(zip(names, counts, strict=True)) | {"runtime_seconds": took / 1_000_000}
        from_us = now_us()
        self._insist(lambda: self.writer.finish(**said, **more))
        self._note_finish(from_us, *said.values(), counts=counts, took=took)

    def ended_by(self, exc: BaseException, from_us: int) -> None:
        """Its block was left by an exception, not before that moment."""
        status = "error" if isinstance(exc, Exception) else "preempted"
        if isinstance(exc, TimeoutError):
            status = "timeout"
        self._note_finish(from_us, status, "", f"{type(exc).__name__}: {exc}", counts=self._sums, took=None)

    def _note_finish(
        self, from_us: int, status: str, output: str, error: str, *, counts: list[int], took: int | None
    ) -> None:
        at = self._notes.span(from_us)
        digest = finish_digest(status, output, error, *counts)
        self._notes.note(run=self.run_id, end=self.logs, sha256=digest, at=at, took=took)


def now_us() -> int:
    """This machine's wall clock."""
    return time.time_ns() // 1_000


def chosen(chance: random.Random) -> dict[str, Any]:
    """Members of a run, small, and not ASCII alone."""
    inputs = {
        "frage": some_text(chance),
        "größe": chance.getrandbits(40),
        "liste": [None, chance.random(), {"é": True}],
    }
    attributes = {"model": chance.choice(("m-1", "模型")), "prompt": some_text(chance)}
    return {
        "skill_id": f"skill-{chance.randrange(7)}",
        "caller_id": some_text(chance),
        "channel_id": chance.choice(CHANNELS),
        "inputs": inputs,
        "attributes": attributes,
    }


def some_text(chance: random.Random) -> str:
    """A few characters."""
    return "".join(chance.choices(LETTERS, k=chance.randrange(16)))


def payload(chance: random.Random, size_bytes: int, number: int) -> dict[str, object]:
    """A payload whose bytes nobody else makes."""
    length = max(1, int(size_bytes * chance.uniform(0.5, 1.5)))
    text = "".join(chance.choices(LETTERS, k=min(length, 64)))
    return {"n": number, "mark": chance.getrandbits(64), "text": (text * (length // len(text) + 1))[:length]}


def start_digest(*given: object) -> str:
    """Of skill, caller, channel, parent, the JSON texts of inputs and attributes, and the time given for the start."""
    return _digest(given)


def finish_digest(*given: object) -> str:
    """Of status, output, error, tool calls, and input, output and thinking tokens."""
    return _digest(given)


def log_digest(event_type: str, payload_json: bytes) -> str:
    """Of an event's type and its payload's bytes."""
    return hashlib.sha256(event_type.encode() + b"\n" + payload_json).hexdigest()


LOG_DIGEST_SQL = "sha256(event_type || chr(10) || payload)"
"""The same of a row of the view `events`."""


def _digest(given: tuple[object, ...]) -> str:
    return hashlib.sha256(json.dumps(given).encode()).hexdigest()
