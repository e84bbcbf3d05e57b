"""`MemoryStorage`: the whole of skillaudit in one object, for tests, notebooks and agents that need no more.

It is a complete `Storage` and `AuditReader`, and an `EventLog`, so that `Sink(MemoryStorage())` works. What a Sink
appends is read by the same strict parser as in the consumer (which needs pydantic; the methods of `Storage` don't) and
can be read back at once. It is the model that the other implementations are tested against: `apply` does with one
record what the consumer does with it, by the rules of `contract.runrecord`.

Nothing is bounded but the size of a record, nothing is written anywhere, everything ends with the object. Safe for
threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, Self

from skillaudit.contract.clock import to_us
from skillaudit.contract.errors import NotYetMaterializedError, RunNotFoundError
from skillaudit.contract.memory_log import MemoryLog, Tombstone
from skillaudit.contract.records import (
    MAX_PARENT_CHAIN_DEPTH,
    Completeness,
    RunFilter,
    RunState,
    SkillRun,
    SkillRunLog,
    Status,
    list_limit,
)
from skillaudit.contract.runrecord import Outcome, RunRecord
from skillaudit.contract.storage import Positions
from skillaudit.contract.wire_events import RunStarted

__all__ = ["MemoryStorage", "Outcome", "Tombstone"]

_POLL_S: Final = 0.002


class MemoryStorage(MemoryLog):
    """A complete store in this process.

    `clock` stamps the finishes of bare writes; `source_id` names this log to a Sink (32 hex digits).
    """

    # StorageReader.

    async def get_run(self, run_id: str) -> SkillRun:
        """Return the run, or raise `RunNotFoundError`."""
        with self._lock:
            return self._started(run_id).run()

    async def list_logs_by_run(self, run_id: str) -> list[SkillRunLog]:
        """All its events in sequence order, an orphan's too; empty where it has none."""
        with self._lock:
            record = self._runs.get(run_id)
            return record.skill_logs() if record else []

    async def list_runs_by_skill(self, skill_id: str, limit: int) -> list[SkillRun]:
        """Newest first, without dry runs."""
        return await self.list_runs_filtered(RunFilter(skill_id=skill_id), 0, limit)

    async def list_runs_by_skill_paginated(
        self, skill_id: str, offset: int, limit: int, include_dry_run: bool = False
    ) -> list[SkillRun]:
        """Newest first."""
        wanted = RunFilter(skill_id=skill_id, include_dry_run=include_dry_run)
        return await self.list_runs_filtered(wanted, offset, limit)

    async def count_runs_by_skill(self, skill_id: str, include_dry_run: bool = False) -> int:
        """How many the paginated list of the same flags holds in all."""
        return await self.count_runs_filtered(RunFilter(skill_id=skill_id, include_dry_run=include_dry_run))

    async def list_runs_by_caller(self, caller_id: str, limit: int) -> list[SkillRun]:
        """Newest first, every status."""
        wanted = RunFilter(caller_id=caller_id, include_dry_run=True)
        return await self.list_runs_filtered(wanted, 0, limit)

    async def list_runs_filtered(self, filter: RunFilter, offset: int, limit: int) -> list[SkillRun]:  # noqa: A002
        """Newest first; an offset below 0 counts as 0."""
        with self._lock:
            found = sorted(self._matching(filter), key=_by_start, reverse=True)
            first = max(offset, 0)
            return [record.run() for record in found[first : first + list_limit(limit)]]

    async def count_runs_filtered(self, filter: RunFilter) -> int:  # noqa: A002
        """All rows that match, whatever the page."""
        with self._lock:
            return len(self._matching(filter))

    async def list_children_by_parent(self, parent_run_id: str) -> list[SkillRun]:
        """Oldest first, all of them; the empty string never matches anything."""
        with self._lock:
            found = self._where(
                lambda start: bool(parent_run_id) and start.parent_run_id == parent_run_id,
                lambda _: True,
            )
            return [record.run() for record in sorted(found, key=_by_start)]

    async def walk_parent_chain(self, run_id: str) -> list[SkillRun]:
        """Root first, the run last: at most `MAX_PARENT_CHAIN_DEPTH`, those nearest to the run, none of them twice."""
        with self._lock:
            chain = [self._started(run_id).run()]
            seen = {run_id, ""}
            while len(chain) < MAX_PARENT_CHAIN_DEPTH and chain[-1].parent_run_id not in seen:
                parent = self._runs.get(chain[-1].parent_run_id)
                if parent is None or parent.start is None:
                    break
                seen.add(parent.run_id)
                chain.append(parent.run())
            return chain[::-1]

    async def list_finished_runs_before(self, cutoff: datetime, limit: int) -> list[SkillRun]:
        """`finished_at` strictly before the cutoff, oldest first; `limit` <= 0 gives no rows."""
        before_us = to_us(cutoff)
        with self._lock:
            found = [r for r in self._all() if r.finish is not None and r.finish.at_us < before_us]
            return [record.run() for record in sorted(found, key=_by_finish)[: max(limit, 0)]]

    async def last_run_by_skills(
        self, skill_ids: Sequence[str], include_failed: bool = True
    ) -> dict[str, datetime]:
        """Skill id -> newest `started_at` of any status but `dry_run`, or of `ok` only."""
        last: dict[str, datetime] = {}
        for skill_id in skill_ids:
            wanted = RunFilter(skill_id=skill_id, status=None if include_failed else Status.OK)
            for run in await self.list_runs_filtered(wanted, 0, 1):
                last[skill_id] = run.started_at
        return last

    def _started(self, run_id: str) -> RunRecord:
        record = self._runs.get(run_id)
        if record is None or record.start is None:
            raise RunNotFoundError(run_id)
        return record

    def _all(self) -> list[RunRecord]:
        return [record for record in self._runs.values() if record.start is not None]

    def _where(
        self, start_matches: Callable[[RunStarted], bool], run_matches: Callable[[RunRecord], bool]
    ) -> list[RunRecord]:
        return [r for r in self._all() if r.start is not None and start_matches(r.start) and run_matches(r)]

    def _matching(self, wanted: RunFilter) -> list[RunRecord]:
        since_us = None if wanted.since is None else to_us(wanted.since)
        until_us = None if wanted.until is None else to_us(wanted.until)

        def start_matches(start: RunStarted) -> bool:
            return (
                wanted.skill_id in (None, start.skill_id)
                and wanted.caller_id in (None, start.caller_id)
                and wanted.channel_id in (None, start.channel_id)
                and not (wanted.top_level_only and start.parent_run_id)
                and (since_us is None or start.at_us >= since_us)
                and (until_us is None or start.at_us < until_us)
            )

        def run_matches(record: RunRecord) -> bool:
            if wanted.status is not None:
                return record.status == wanted.status
            return wanted.include_dry_run or record.status != Status.DRY_RUN

        return self._where(start_matches, run_matches)

    # StorageAdmin.

    async def purge_older_than(self, t: datetime) -> int:
        """Delete the runs with `started_at` strictly before `t`, their logs and conflicts; leave tombstones."""
        before_us = to_us(t)
        with self._lock:
            old = self._where(lambda start: start.at_us < before_us, lambda _: True)
            for record in old:
                self.purged[record.run_id] = Tombstone(last=self._judged(record))
                del self._runs[record.run_id]
            return len(old)

    # AuditReader.

    async def get_run_state(self, run_id: str) -> RunState:
        """As `list_run_states` for one; `RunNotFoundError` where nothing of the run is or was stored."""
        states = await self.list_run_states([run_id])
        if run_id not in states:
            raise RunNotFoundError(run_id)
        return states[run_id]

    async def list_run_states(self, run_ids: Sequence[str]) -> dict[str, RunState]:
        """The states of runs, orphans and purged runs among these ids; the others have no key."""
        with self._lock:
            known = (self._state(run_id) for run_id in run_ids)
            return {state.run_id: state for state in known if state is not None}

    async def list_orphans(self, limit: int) -> list[RunState]:
        """Runs of which events are stored but no start, oldest first by arrival."""
        with self._lock:
            orphans = [record for record in self._runs.values() if record.start is None]
            return [self._judged(record) for record in orphans[: list_limit(limit)]]

    async def positions(self) -> dict[str, int]:
        """How many records were appended; there is one partition."""
        with self._lock:
            return self._positions()

    async def wait_for(self, positions: Positions, timeout_s: float) -> None:
        """Return once as much was appended; raise `NotYetMaterializedError` after `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            here = await self.positions()
            behind = sorted(name for name, offset in positions.items() if here.get(name, 0) < offset)
            if not behind:
                return
            if time.monotonic() >= deadline_s:
                raise NotYetMaterializedError(
                    f"not consumed so far within {timeout_s} s: {', '.join(behind)}"
                )
            await asyncio.sleep(_POLL_S)

    async def aclose(self) -> None:
        """Nothing is held; what is stored stays readable."""

    async def __aenter__(self) -> Self:
        """Enter."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Leave; what is stored stays readable."""
        await self.aclose()

    def _state(self, run_id: str) -> RunState | None:
        if run_id in self.purged:
            return replace(self.purged[run_id].last, completeness=Completeness.PURGED, events=0)
        record = self._runs.get(run_id)
        return self._judged(record) if record else None

    def _judged(self, record: RunRecord) -> RunState:
        return record.state(source_gone=record.source_id in self._closed)


def _by_start(record: RunRecord) -> tuple[int, str]:
    return (record.start.at_us if record.start else 0, record.run_id)


def _by_finish(record: RunRecord) -> tuple[int, str]:
    return (record.finish.at_us if record.finish else 0, record.run_id)
