"""When something that may happen a million times is said in the log: at once the first time, then now and then, with the count."""

from __future__ import annotations

from typing import Final

TELL_INTERVAL_S: Final = 60.0
"""Between two lines about the same thing."""


class Untold:
    """Counts what is not said yet. Not safe for threads; adding costs nothing worth to think of."""

    __slots__ = ("_interval_us", "_next_us", "_number")

    def __init__(self, interval_s: float = TELL_INTERVAL_S) -> None:
        self._interval_us = int(interval_s * 1_000_000)
        self._next_us: int | None = None
        self._number = 0

    def add(self, number: int, now_us: int) -> int:
        """So many more, at this time of a steady clock; how many are to be said now, 0 where it is not time."""
        self._number += number
        return self.due(now_us)

    def due(self, now_us: int, *, last: bool = False) -> int:
        """How many are to be said now, which then are; with `last` whether it is time or not."""
        if not self._number or (not last and self._next_us is not None and now_us < self._next_us):
            return 0
        number, self._number = self._number, 0
        self._next_us = now_us + self._interval_us
        return number
