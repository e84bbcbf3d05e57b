"""Which runs a source has begun, so that one run object started twice is refused and not recorded as a contradiction.

No lock: claims come from any thread and from signal handlers, and each is one operation of a dict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from skillaudit.contract.errors import RunStateError

BEGUN_RUNS_MAX: Final = 10_000
"""The newest runs that are remembered, beside all open ones. Up to twice as many are there between two sweeps."""


class BegunRuns:
    """Ids of the open runs and of the newest others."""

    def __init__(self, runs_max: int = BEGUN_RUNS_MAX) -> None:
        self._runs_max = runs_max
        self._claims: dict[str, object] = {}
        self._sweep_at = 2 * runs_max

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._claims)

    def claim(self, run_id: str, open_ids: Callable[[], Iterable[str]]) -> None:
        """Note that the run begins; raise `RunStateError` if it is known. `open_ids` is asked now and then."""
        mine = object()
        if self._claims.setdefault(run_id, mine) is not mine:
            raise RunStateError(
                f"run {run_id!r} was begun already: a SkillRun is one run, its id is made with it. Build a new SkillRun "
                "for each run, or give a template's copy its own: dataclasses.replace(run, id=uuid7()), uuid7 being "
                "skillaudit.contract.clock's"
            )
        if len(self._claims) > self._sweep_at:
            self._sweep(set(open_ids()))

    def forget(self, run_id: str) -> None:
        """It never began: the same object may be started again."""
        self._claims.pop(run_id, None)

    def _sweep(self, open_ids: set[str]) -> None:
        for run_id in list(self._claims)[: -self._runs_max]:
            if run_id not in open_ids:
                self._claims.pop(run_id, None)
        self._sweep_at = len(self._claims) + self._runs_max
