"""Which run hashes are stored, in memory: so that a new run costs no look-up.

Finding a run by its hash scans 8 bytes of every run: 6 ms a million. Redeliveries may cost that, but new runs come with
every batch, and each must be known to be new. 8 bytes a run, sorted by the engine once, answer that in 2 us.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import Final

import duckdb

from skillaudit.consumer.arrow import numbers_of
from skillaudit.consumer.statements import statements

_SQL: Final = statements("lookup.sql")

RUNS_MIN: Final = 100_000
"""Below so many runs a look-up is cheap, and nothing is kept here."""
RECENT_MAX: Final = 500_000
"""Hashes kept unsorted; then all are read anew (5M runs: about a second)."""


class KnownHashes:
    """Answers whether a hash may be stored. It may say yes for one that is not any more, never no for one that is."""

    def __init__(self, *, runs_min: int = RUNS_MIN, recent_max: int = RECENT_MAX) -> None:
        """The bounds are for tests."""
        self._runs_min = runs_min
        self._recent_max = recent_max
        self._sorted: array[int] | None = None
        self._recent: set[int] = set()

    def __repr__(self) -> str:
        """How many it holds."""
        kept = "not kept" if self._sorted is None else f"{len(self._sorted)} sorted"
        return f"KnownHashes({kept}, {len(self._recent)} recent)"

    def prepare(self, cursor: duckdb.DuckDBPyConnection, runs: int) -> None:
        """Read the hashes if that is worth it for so many runs, or due again.

        To be called between transactions: a run that a transaction has added and not stored yet would be lost here.
        """
        due = runs >= self._runs_min if self._sorted is None else len(self._recent) >= self._recent_max
        if due:
            self._sorted = numbers_of(cursor, _SQL["hashes"])
            self._recent.clear()

    def may_hold(self, run_hash: int) -> bool:
        """Whether a run of this hash may be stored."""
        if self._sorted is None or run_hash in self._recent:
            return True
        place = bisect_left(self._sorted, run_hash)
        return place < len(self._sorted) and self._sorted[place] == run_hash

    def add(self, run_hash: int) -> None:
        """A run of this hash will be stored."""
        if self._sorted is not None:
            self._recent.add(run_hash)
