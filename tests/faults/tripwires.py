"""How a process is made to die at an exact point: it sends SIGKILL to itself there, and nothing of the product knows.

Three kinds of points, each counted, so that a seed names one of them:

    Bytecodes     before the n-th bytecode that the product's own code executes, on whatever thread
    Calls         before or after the n-th call of functions that are named: the product's (`write_acknowledgement`), or
                  built-in ones (`posix_fallocate`, `ftruncate`, `replace`, `fsync`); only those that a function which is
                  named, too, is making: a bare name is met in every import
    Stores        at the n-th store into a mapped segment: before it, in the middle of it, after it (`dying_agent.py`)
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any


def die() -> None:
    """At once, with nothing done any more."""
    os.kill(os.getpid(), signal.SIGKILL)


def say(told: str, place: str) -> None:
    """Where it dies: one line, in the file when this returns; whatever else the process knew goes with it."""
    fd = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.write(fd, f"{place}\n".encode())
    os.close(fd)


def places_of_death(told: Path) -> Counter[str]:
    """How many have said that they die where."""
    return Counter(told.read_text().splitlines() if told.exists() else ())


class Bytecodes:
    """Dies before the n-th bytecode executed in files whose path holds this."""

    def __init__(self, part: str, at: int) -> None:
        self._part = part
        self._at = at
        self._passed = count(1)
        self._known: dict[str, bool] = {}

    def arm(self) -> None:
        """From now on, in this thread and in all that begin later."""
        threading.settrace(self._enter)
        sys.settrace(self._enter)

    def _enter(self, frame: FrameType, event: str, arg: Any) -> Any:
        del event, arg
        name = frame.f_code.co_filename
        watched = self._known.get(name)
        if watched is None:
            watched = self._known[name] = self._part in name
        if not watched:
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return self._step

    def _step(self, frame: FrameType, event: str, arg: Any) -> Any:
        del frame, arg
        if event == "opcode" and next(self._passed) == self._at:
            die()
        return self._step


class Calls:
    """Dies before the n-th call of a function of these names, or after it has returned.

    Where `within` names functions, only calls count that one of them makes, itself or by others, or that are calls of it.
    """

    def __init__(
        self,
        names: Iterable[str],
        at: int,
        *,
        after: bool,
        dies: Callable[[], bool] = lambda: True,
        within: Iterable[str] = (),
    ) -> None:
        """`dies`: asked at that call; a fork returns in two processes."""
        self._dies = dies
        self._names = frozenset(names)
        self._within = frozenset(within)
        self._events = ("return", "c_return") if after else ("call", "c_call")
        self._at = at
        self._passed = count(1)

    def arm(self) -> None:
        """From now on, in this thread and in all that begin later."""
        threading.setprofile(self._see)
        sys.setprofile(self._see)

    def _see(self, frame: FrameType, event: str, arg: Any) -> None:
        if event not in self._events:
            return
        name = arg.__name__ if event[0] == "c" and event != "call" else frame.f_code.co_name
        if name not in self._names or not self._is_within(frame):
            return
        if next(self._passed) == self._at and self._dies():
            die()

    def _is_within(self, frame: FrameType | None) -> bool:
        while self._within and frame is not None:
            if frame.f_code.co_name in self._within:
                return True
            frame = frame.f_back
        return not self._within
