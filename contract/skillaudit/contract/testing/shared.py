"""Runs that several cases read and none changes: written once per storage."""

from __future__ import annotations

from typing import Final

from skillaudit.contract.records import SkillRun
from skillaudit.contract.storage import Storage
from skillaudit.contract.testing.support import US, Scope, at, record, record_as_given, unique

CROWD: Final = 53
"""More than the default limit."""

STATUSES: Final = ("running", "ok", "error", "dry_run")


class Matrix:
    """Runs of two skills, two callers, two channels and each status, half of them children, half of them later."""

    def __init__(self) -> None:
        self.own = {name: unique(name) for name in ("skill_id", "caller_id", "channel_id")}
        self.middle = at(us=500)
        self.runs: list[SkillRun] = []
        for number in range(32):
            bits = [bool(number >> place & 1) for place in range(5)]
            self.runs.append(
                SkillRun(
                    skill_id=self.own["skill_id"] if bits[0] else unique("skill"),
                    caller_id=self.own["caller_id"] if bits[1] else unique("caller"),
                    channel_id=self.own["channel_id"] if bits[2] else unique("channel"),
                    parent_run_id="" if bits[3] else unique("parent"),
                    started_at=self.middle + (US * (number // 7) if bits[4] else -US * (number // 7 + 1)),
                    status=STATUSES[(number // 3) % 4],
                )
            )


class Shared:
    """What was written so far to the storage that the cases at hand use."""

    def __init__(self) -> None:
        self._storage: Storage | None = None
        self._crowd: Scope | None = None
        self._matrix: Matrix | None = None

    async def crowd(self, storage: Storage) -> Scope:
        """`CROWD` runs of one skill, caller and channel, some started in the same microsecond."""
        self._meet(storage)
        if self._crowd is None:
            scope = Scope()
            await record(storage, *(scope.run(started_at=at(number // 2)) for number in range(CROWD)))
            self._crowd = scope
        return self._crowd

    async def matrix(self, storage: Storage) -> Matrix:
        """The runs that filters are tried on."""
        self._meet(storage)
        if self._matrix is None:
            matrix = Matrix()
            await record_as_given(storage, matrix.runs)
            self._matrix = matrix
        return self._matrix

    def _meet(self, storage: Storage) -> None:
        if storage is not self._storage:
            self._storage, self._crowd, self._matrix = storage, None, None
