"""One Storage of three halves, session-consistent: a read sees everything this object wrote before."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Literal, Protocol, Self, TypeVar

from skillaudit.contract.errors import NotYetMaterializedError
from skillaudit.contract.records import RunFilter, RunState, RunStats, SkillRun, SkillRunLog
from skillaudit.contract.storage import AuditReader, Positions
from skillaudit.contract.words import counted
from skillaudit.storage.writing import LogWriter

T = TypeVar("T")

Consistency = Literal["session", "eventual"]


class Purger(Protocol):
    """What `purge_older_than` is handed to."""

    async def purge_older_than(self, t: datetime) -> int:
        """As `StorageAdmin.purge_older_than`."""
        ...


class SessionStorage:
    """The whole `Storage` over a log that is written, a reader behind it and an administrator.

    In `session` consistency a read first flushes what this object wrote and waits until the database has consumed it,
    at most `session_wait_ms_max` in all, else raises `NotYetMaterializedError`; in `eventual` it reads at once.
    """

    def __init__(
        self,
        writer: LogWriter,
        reader: AuditReader,
        admin: Purger,
        *,
        consistency: Consistency,
        session_wait_ms_max: int,
        resources: AsyncExitStack,
    ) -> None:
        """`resources` is closed with this object: whatever was opened for it, in order."""
        self._writer = writer
        self._reader = reader
        self._admin = admin
        self._consistency = consistency
        self._wait_s = session_wait_ms_max / 1000
        self._resources = resources
        self._reached: Positions = writer.positions
        """What the reader is known to have consumed; the writer makes a new mapping with every flush."""

    async def __aenter__(self) -> Self:
        """The storage, already open."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close."""
        await self.aclose()

    async def aclose(self) -> None:
        """Flush what was written, bounded, and release everything; safe to call again."""
        await self._resources.aclose()

    # the write half

    async def initialize(self) -> None:
        """As `StorageWriter.initialize`."""
        await self._writer.initialize()

    async def start_run(self, run: SkillRun) -> None:
        """As `StorageWriter.start_run`."""
        await self._writer.start_run(run)

    async def append_log(self, log: SkillRunLog) -> None:
        """As `StorageWriter.append_log`."""
        await self._writer.append_log(log)

    async def finish_run(self, run_id: str, stats: RunStats) -> None:
        """As `StorageWriter.finish_run`."""
        await self._writer.finish_run(run_id, stats)

    # the read half

    async def get_run(self, run_id: str) -> SkillRun:
        """As `StorageReader.get_run`."""
        return await self._read(lambda r: r.get_run(run_id))

    async def list_logs_by_run(self, run_id: str) -> list[SkillRunLog]:
        """As `StorageReader.list_logs_by_run`."""
        return await self._read(lambda r: r.list_logs_by_run(run_id))

    async def list_runs_by_skill(self, skill_id: str, limit: int) -> list[SkillRun]:
        """As `StorageReader.list_runs_by_skill`."""
        return await self._read(lambda r: r.list_runs_by_skill(skill_id, limit))

    async def list_runs_by_skill_paginated(
        self, skill_id: str, offset: int, limit: int, include_dry_run: bool = False
    ) -> list[SkillRun]:
        """As `StorageReader.list_runs_by_skill_paginated`."""
        return await self._read(
            lambda r: r.list_runs_by_skill_paginated(skill_id, offset, limit, include_dry_run)
        )

    async def count_runs_by_skill(self, skill_id: str, include_dry_run: bool = False) -> int:
        """As `StorageReader.count_runs_by_skill`."""
        return await self._read(lambda r: r.count_runs_by_skill(skill_id, include_dry_run))

    async def list_runs_by_caller(self, caller_id: str, limit: int) -> list[SkillRun]:
        """As `StorageReader.list_runs_by_caller`."""
        return await self._read(lambda r: r.list_runs_by_caller(caller_id, limit))

    async def list_runs_filtered(self, filter: RunFilter, offset: int, limit: int) -> list[SkillRun]:  # noqa: A002
        """As `StorageReader.list_runs_filtered`."""
        return await self._read(lambda r: r.list_runs_filtered(filter, offset, limit))

    async def count_runs_filtered(self, filter: RunFilter) -> int:  # noqa: A002
        """As `StorageReader.count_runs_filtered`."""
        return await self._read(lambda r: r.count_runs_filtered(filter))

    async def list_children_by_parent(self, parent_run_id: str) -> list[SkillRun]:
        """As `StorageReader.list_children_by_parent`."""
        return await self._read(lambda r: r.list_children_by_parent(parent_run_id))

    async def walk_parent_chain(self, run_id: str) -> list[SkillRun]:
        """As `StorageReader.walk_parent_chain`."""
        return await self._read(lambda r: r.walk_parent_chain(run_id))

    async def list_finished_runs_before(self, cutoff: datetime, limit: int) -> list[SkillRun]:
        """As `StorageReader.list_finished_runs_before`."""
        return await self._read(lambda r: r.list_finished_runs_before(cutoff, limit))

    async def last_run_by_skills(
        self, skill_ids: Sequence[str], include_failed: bool = True
    ) -> dict[str, datetime]:
        """As `StorageReader.last_run_by_skills`."""
        if not skill_ids:
            return {}
        return await self._read(lambda r: r.last_run_by_skills(skill_ids, include_failed))

    # what the record says of itself

    async def get_run_state(self, run_id: str) -> RunState:
        """As `AuditReader.get_run_state`."""
        return await self._read(lambda r: r.get_run_state(run_id))

    async def list_run_states(self, run_ids: Sequence[str]) -> dict[str, RunState]:
        """As `AuditReader.list_run_states`."""
        return await self._read(lambda r: r.list_run_states(run_ids))

    async def list_orphans(self, limit: int) -> list[RunState]:
        """As `AuditReader.list_orphans`."""
        return await self._read(lambda r: r.list_orphans(limit))

    async def positions(self) -> dict[str, int]:
        """As `AuditReader.positions`."""
        return await self._reader.positions()

    async def wait_for(self, positions: Positions, timeout_s: float) -> None:
        """As `AuditReader.wait_for`."""
        await self._reader.wait_for(positions, timeout_s)

    # the administrative half

    async def purge_older_than(self, t: datetime) -> int:
        """As `StorageAdmin.purge_older_than`; covers what this object wrote before."""
        await self._catch_up()
        return await self._admin.purge_older_than(t)

    async def _read(self, call: Callable[[AuditReader], Awaitable[T]]) -> T:
        await self._catch_up()
        return await call(self._reader)

    async def _catch_up(self) -> None:
        if self._consistency == "eventual":
            return
        deadline_s = time.monotonic() + self._wait_s
        report = await self._writer.flush(self._wait_s)
        if report is not None and report.pending:
            raise NotYetMaterializedError(
                f"of what was written here {counted(report.pending, 'record')} not acknowledged within {self._wait_s:g} s; they are kept, "
                "read again later or raise session_wait_ms_max"
            )
        positions = self._writer.positions
        if positions is not self._reached:
            await self._reader.wait_for(positions, max(deadline_s - time.monotonic(), 0))
            self._reached = positions
