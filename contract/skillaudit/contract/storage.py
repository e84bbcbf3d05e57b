"""The Storage protocols. What each method means is the conformance suite's (`skillaudit.contract.testing`) to test.

"Newest first" is `started_at` descending, ties broken by `id` descending (code point order), so that pages never
overlap. In every list a limit <= 0 or > 500 becomes 50 unless the method says otherwise. A result is complete as of
one consistent snapshot. All methods are `async`; one object may be used by many tasks of one event loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol, Self, runtime_checkable

from skillaudit.contract.records import RunFilter, RunState, RunStats, SkillRun, SkillRunLog

Positions = Mapping[str, int]
"""Partition name -> next offset: how far a log is written, or a database has consumed.

A partition is named `<topic>/<number>` for Kafka and `outbox/<source_id>` for an embedded outbox."""


@runtime_checkable
class StorageWriter(Protocol):
    """The write half. Raises `OutboxFullError`, `RecordTooLargeError` or `UnreachableError`, and has then done nothing."""

    async def initialize(self) -> None:
        """Create or migrate the schema; safe to call again."""
        ...

    async def start_run(self, run: SkillRun) -> None:
        """Record the run with status `running`, whatever status it was given. A second start of a known run changes
        nothing. A run that is never finished stays `running`: that is how a crash in mid-run shows.
        """
        ...

    async def append_log(self, log: SkillRunLog) -> None:
        """Add one event. The caller owns the sequence; a repeated `(run_id, sequence)` changes nothing. A log whose
        start is not known yet is kept and joins its run when the start arrives.
        """
        ...

    async def finish_run(self, run_id: str, stats: RunStats) -> None:
        """Set the terminal status, output, error, counts and `finished_at`. The last call wins. A finish whose start is
        not known yet is kept and joins its run when the start arrives.
        """
        ...


@runtime_checkable
class StorageReader(Protocol):
    """The read half. Raises `UnreachableError` or `LockedError` where the database can't be asked."""

    async def get_run(self, run_id: str) -> SkillRun:
        """Return the run, or raise `RunNotFoundError`."""
        ...

    async def list_logs_by_run(self, run_id: str) -> list[SkillRunLog]:
        """All events of the run in sequence order; empty where it has none."""
        ...

    async def list_runs_by_skill(self, skill_id: str, limit: int) -> list[SkillRun]:
        """Newest first, without dry runs."""
        ...

    async def list_runs_by_skill_paginated(
        self, skill_id: str, offset: int, limit: int, include_dry_run: bool = False
    ) -> list[SkillRun]:
        """Newest first."""
        ...

    async def count_runs_by_skill(self, skill_id: str, include_dry_run: bool = False) -> int:
        """How many the paginated list of the same flags holds in all."""
        ...

    async def list_runs_by_caller(self, caller_id: str, limit: int) -> list[SkillRun]:
        """Newest first, every status."""
        ...

    async def list_runs_filtered(self, filter: RunFilter, offset: int, limit: int) -> list[SkillRun]:  # noqa: A002
        """Newest first, over every skill and caller."""
        ...

    async def count_runs_filtered(self, filter: RunFilter) -> int:  # noqa: A002
        """All rows that match, whatever the page."""
        ...

    async def list_children_by_parent(self, parent_run_id: str) -> list[SkillRun]:
        """Oldest first (`started_at`, then `id`, ascending), all of them; the empty string never matches anything."""
        ...

    async def walk_parent_chain(self, run_id: str) -> list[SkillRun]:
        """The run and its ancestors, root first, the run itself last; at most `MAX_PARENT_CHAIN_DEPTH`, nearest to the
        run. A parent that is not there ends the walk; an unknown `run_id` is `RunNotFoundError`.
        """
        ...

    async def list_finished_runs_before(self, cutoff: datetime, limit: int) -> list[SkillRun]:
        """`finished_at` strictly before the cutoff, oldest first (`finished_at`, then `id`); running runs never;
        `limit` <= 0 gives no rows, and there is no upper bound on it.
        """
        ...

    async def last_run_by_skills(
        self, skill_ids: Sequence[str], include_failed: bool = True
    ) -> dict[str, datetime]:
        """Skill id -> newest `started_at`. A skill that never ran has no key. `include_failed=True`: every status but
        `dry_run`; `False`: only `ok`. An empty list answers `{}` without touching the database.
        """
        ...


@runtime_checkable
class StorageAdmin(Protocol):
    """The administrative half."""

    async def purge_older_than(self, t: datetime) -> int:
        """Delete the runs with `started_at` strictly before `t` and all their logs; answers how many runs."""
        ...


@runtime_checkable
class Storage(StorageWriter, StorageReader, StorageAdmin, Protocol):
    """All seventeen methods."""


@runtime_checkable
class AuditReader(StorageReader, Protocol):
    """The read half and what the record says about itself; every reader of this project implements it."""

    async def get_run_state(self, run_id: str) -> RunState:
        """Completeness, liveness and integrity of one run, or `RunNotFoundError`."""
        ...

    async def list_run_states(self, run_ids: Sequence[str]) -> dict[str, RunState]:
        """The same for many, without those that are not stored."""
        ...

    async def list_orphans(self, limit: int) -> list[RunState]:
        """Runs of which events are stored but no start, oldest first by arrival."""
        ...

    async def positions(self) -> dict[str, int]:
        """How far the database has consumed, as of now."""
        ...

    async def wait_for(self, positions: Positions, timeout_s: float) -> None:
        """Return once the database has consumed up to `positions`; raise `NotYetMaterializedError` after `timeout_s`."""
        ...

    async def aclose(self) -> None:
        """Release what the reader holds; safe to call again."""
        ...

    async def __aenter__(self) -> Self:
        """Enter; leaving closes."""
        ...

    async def __aexit__(self, *exc: object) -> None:
        """Close."""
        ...
