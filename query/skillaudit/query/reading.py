"""`DuckDBReader`: the read half of Storage on the views, in the process that has the database open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Self, TypeVar

from skillaudit.contract.clock import from_us
from skillaudit.contract.errors import NotYetMaterializedError, RunNotFoundError
from skillaudit.contract.records import (
    MAX_PARENT_CHAIN_DEPTH,
    RunFilter,
    RunState,
    SkillRun,
    SkillRunLog,
    list_limit,
)
from skillaudit.contract.settings import Settings
from skillaudit.contract.storage import Positions
from skillaudit.query.execution import READERS_MAX, CursorFactory, Query, QueryRunner
from skillaudit.query.paging import EventsPage, cut_page
from skillaudit.query.rows import (
    INT64_MAX,
    filter_parameters,
    hash_of,
    instant_us,
    log_of,
    run_of,
    state_of,
    storable,
)

T = TypeVar("T")

PositionsWait = Callable[[Positions, float], Awaitable[None]]
"""`wait_for` of whoever consumes in this process: woken by commits, it need not ask the database."""

_POLL_S: Final = 0.01
_POLL_MAX_S: Final = 0.1


class DuckDBReader:
    """Implements `AuditReader`. Every call is one snapshot, on a cursor of its own, in a thread, bounded in time.

    `cursor_factory` makes a cursor of the open database (`connection.cursor`); it is called in worker threads.
    `settings` gives `query_timeout_ms`. `on_close` is called once, after the last read has ended. Besides the errors
    of the protocol: `QueryTimeoutError`, `DatabaseError`. Belongs to one event loop.
    """

    def __init__(
        self,
        cursor_factory: CursorFactory,
        *,
        settings: Settings | None = None,
        positions_wait: PositionsWait | None = None,
        on_close: Callable[[], None] | None = None,
        readers_max: int = READERS_MAX,
    ) -> None:
        settings = settings or Settings()
        self._runner = QueryRunner(
            cursor_factory, timeout_s=settings.query_timeout_ms / 1000, readers_max=readers_max
        )
        self._positions_wait = positions_wait
        self._on_close = on_close

    async def get_run(self, run_id: str) -> SkillRun:
        """Return the run, or raise `RunNotFoundError`."""
        return found(run_id, await self._runner.run(lambda query: _find(query, run_id)))

    async def list_logs_by_run(self, run_id: str) -> list[SkillRunLog]:
        """All its events in sequence order, an orphan's too; empty where it has none."""

        def work(query: Query) -> list[SkillRunLog]:
            key = _key(query, run_id)
            if key is None:
                return []
            chunks = query.chunks("events_of_run", {"run_key": key})
            return [log_of(run_id, row) for chunk in chunks for row in chunk]

        return await self._runner.run(work)

    async def page_logs_by_run(
        self, run_id: str, first: int | None, limit: int, bytes_max: int
    ) -> EventsPage:
        """A page of the events from number `first` on, ended early where its payloads exceed `bytes_max`."""

        def work(query: Query) -> EventsPage:
            key = _key(query, run_id)
            if key is None:
                return EventsPage()
            start = {"run_key": key, "first": -INT64_MAX - 1 if first is None else first}
            preceding = 0 if first is None else int(query.rows("events_before", start)[0][0])
            after = query.rows("event_after_page", {**start, "limit": limit})
            last = after[0][0] if after else INT64_MAX
            rows = query.rows("events_between", {**start, "last": last})
            return cut_page((log_of(run_id, row) for row in rows), preceding, limit, bytes_max)

        return await self._runner.run(work)

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
        return await self.list_runs_filtered(RunFilter(caller_id=caller_id, include_dry_run=True), 0, limit)

    async def list_runs_filtered(self, filter: RunFilter, offset: int, limit: int) -> list[SkillRun]:  # noqa: A002
        """Newest first; an offset below 0 counts as 0."""
        page = {"limit": list_limit(limit), "offset": min(max(offset, 0), INT64_MAX)}
        return await self._runs("list_runs", {**filter_parameters(filter), **page})

    async def count_runs_filtered(self, filter: RunFilter) -> int:  # noqa: A002
        """All rows that match, whatever the page."""
        wanted = filter_parameters(filter)
        return await self._runner.run(lambda query: _count(query, "count_runs", wanted))

    async def list_children_by_parent(self, parent_run_id: str) -> list[SkillRun]:
        """Oldest first, all of them; the empty string never matches anything."""
        if not parent_run_id or hash_of(parent_run_id) is None:
            return []
        return await self._runs("children", {"parent_run_id": parent_run_id})

    async def walk_parent_chain(self, run_id: str) -> list[SkillRun]:
        """Root first, the run last: at most `MAX_PARENT_CHAIN_DEPTH`, those nearest to the run, none of them twice."""
        chain = await self._runner.run(lambda query: _chain(query, run_id))
        found(run_id, chain[-1] if chain else None)
        return chain

    async def list_finished_runs_before(self, cutoff: datetime, limit: int) -> list[SkillRun]:
        """`finished_at` strictly before the cutoff, oldest first; `limit` <= 0 gives no rows."""
        if limit <= 0:
            return []
        parameters = {"cutoff_us": instant_us("cutoff", cutoff), "limit": min(limit, INT64_MAX)}
        return await self._runs("finished_before", parameters)

    async def last_run_by_skills(
        self, skill_ids: Sequence[str], include_failed: bool = True
    ) -> dict[str, datetime]:
        """Skill id -> newest `started_at` of any status but `dry_run`, or of `ok` only."""
        wanted = storable(skill_ids)
        if not wanted:
            return {}
        parameters = {"skill_ids": wanted, "include_failed": include_failed}
        rows = await self._runner.run(lambda query: query.rows("last_run_by_skills", parameters))
        return {skill_id: from_us(started_us) for skill_id, started_us in rows}

    async def get_run_state(self, run_id: str) -> RunState:
        """As `list_run_states` for one; `RunNotFoundError` where nothing of it is or was stored."""
        return found(run_id, (await self.list_run_states([run_id])).get(run_id))

    async def list_run_states(self, run_ids: Sequence[str]) -> dict[str, RunState]:
        """The states of runs, orphans and purged runs among these ids; the others have no key."""
        wanted = set(storable(run_ids))
        if not wanted:
            return {}
        return await self._runner.run(lambda query: _states(query, wanted))

    async def list_orphans(self, limit: int) -> list[RunState]:
        """Runs of which events are stored but no start, oldest first by arrival."""
        page = {"limit": list_limit(limit)}
        return await self._runner.run(lambda query: [state_of(row) for row in query.rows("orphans", page)])

    async def positions(self) -> dict[str, int]:
        """How far the database has consumed, as of now."""
        return await self._runner.run(lambda query: dict(query.rows("positions")))

    async def wait_for(self, positions: Positions, timeout_s: float) -> None:
        """Return once the database has consumed up to `positions`; raise `NotYetMaterializedError` after `timeout_s`."""
        if self._positions_wait is not None:
            await self._positions_wait(positions, timeout_s)
        else:
            await self._poll_positions(positions, timeout_s)

    async def _poll_positions(self, positions: Positions, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        pause_s = _POLL_S
        while lagging := behind(await self.positions(), positions):
            remaining_s = deadline_s - time.monotonic()
            if remaining_s <= 0:
                raise not_yet(lagging, timeout_s)
            await asyncio.sleep(min(pause_s, remaining_s))
            pause_s = min(pause_s * 2, _POLL_MAX_S)

    async def _runs(self, statement: str, parameters: Mapping[str, Any]) -> list[SkillRun]:
        return await self._runner.run(
            lambda query: [run_of(row) for chunk in query.chunks(statement, parameters) for row in chunk]
        )

    async def aclose(self) -> None:
        """Interrupt what runs, end the threads, then call `on_close`; safe to call again."""
        await self._runner.aclose()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()

    async def __aenter__(self) -> Self:
        """Enter; leaving closes."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close."""
        await self.aclose()


def found(run_id: str, it: T | None) -> T:
    """What was looked for, or `RunNotFoundError`."""
    if it is None:
        raise RunNotFoundError(run_id)
    return it


def behind(here: Positions, wanted: Positions) -> list[str]:
    """The partitions of `wanted` that `here` has not reached."""
    return sorted(name for name, offset in wanted.items() if here.get(name, 0) < offset)


def not_yet(lagging: Sequence[str], timeout_s: float) -> NotYetMaterializedError:
    """The error for partitions that were not reached in time."""
    return NotYetMaterializedError(
        f"not consumed so far within {timeout_s:g} s: {', '.join(lagging)}; does a consumer run?"
    )


def _find(query: Query, run_id: str) -> SkillRun | None:
    number = hash_of(run_id)
    if number is None:
        return None
    rows = query.rows("runs_of_hash", {"run_hash": number})
    return next((run_of(row) for row in rows if row[0] == run_id), None)


def _key(query: Query, run_id: str) -> int | None:
    number = hash_of(run_id)
    if number is None:
        return None
    rows = query.rows("run_keys_of_hash", {"run_hash": number})
    return next((int(row[1]) for row in rows if row[0] == run_id), None)


def _chain(query: Query, run_id: str) -> list[SkillRun]:
    chain: list[SkillRun] = []
    seen = {""}
    wanted = run_id
    while len(chain) < MAX_PARENT_CHAIN_DEPTH and wanted not in seen:
        seen.add(wanted)
        run = _find(query, wanted)
        if run is None:
            break
        chain.append(run)
        wanted = run.parent_run_id
    return chain[::-1]


def _states(query: Query, run_ids: set[str]) -> dict[str, RunState]:
    hashes = {"run_hashes": [hash_of(run_id) for run_id in run_ids]}
    states: dict[str, RunState] = {}
    for statement in _STATES:
        rows = query.rows(statement, hashes)
        states.update({row[0]: state_of(row) for row in rows if row[0] in run_ids})
    return states


_STATES: Final = ("purged_of_hashes", "orphans_of_hashes", "states_of_hashes")
"""In this order: what is stored speaks louder than what once was."""


def _count(query: Query, statement: str, parameters: Mapping[str, Any]) -> int:
    return int(query.rows(statement, parameters)[0][0])
