"""Builders and small helpers of the suites; useful in tests of one's own as well.

Times are fixed (`at`), names are fresh (`unique`), so that a case neither reads a clock nor meets another case's runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

import orjson

from skillaudit.contract.clock import uuid7
from skillaudit.contract.records import (
    Completeness,
    EventType,
    Liveness,
    RunFilter,
    RunStats,
    SkillRun,
    SkillRunLog,
    Status,
)
from skillaudit.contract.storage import AuditReader, StorageReader, StorageWriter

BASE: Final = datetime(2025, 6, 1, 12, 0, 0, tzinfo=UTC)
"""Around this every case's runs start, but for those that purge."""

PURGE_BASE: Final = datetime(1990, 1, 1, tzinfo=UTC)
PURGE_END: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""Between these the runs of the cases that purge start; no other case uses that time."""

US: Final = timedelta(microseconds=1)
PAGE_MAX: Final = 500
PAGES_MAX: Final = 2_000
EVERYTHING: Final = 1_000_000_000
"""A limit that the one list without an upper bound takes."""


def at(seconds: float = 0, *, us: int = 0) -> datetime:
    """A fixed time."""
    return BASE + timedelta(seconds=seconds, microseconds=us)


def unique(word: str = "x") -> str:
    """A name nobody else has."""
    return f"{word}-{uuid7()}"


@dataclass(slots=True)
class Scope:
    """The fresh names of one case, and runs that carry them, a second apart unless told otherwise."""

    skill: str = field(default_factory=lambda: unique("skill"))
    caller: str = field(default_factory=lambda: unique("caller"))
    channel: str = field(default_factory=lambda: unique("channel"))
    made: int = 0

    def run(self, **members: Any) -> SkillRun:
        """A run of this case; `members` go over what it would have."""
        self.made += 1
        own: dict[str, Any] = {
            "skill_id": self.skill,
            "caller_id": self.caller,
            "channel_id": self.channel,
            "started_at": at(self.made),
        }
        return SkillRun(**(own | members))

    def filter(self, **members: Any) -> RunFilter:
        """A filter on this case's runs by their channel."""
        own: dict[str, Any] = {"channel_id": self.channel}
        return RunFilter(**(own | members))


def stats(status: str = Status.OK, **members: Any) -> RunStats:
    """A terminal state."""
    return RunStats(status=status, **members)


def log(run_id: str, sequence: int, **members: Any) -> SkillRunLog:
    """An event of a run."""
    own: dict[str, Any] = {
        "event_type": EventType.STEP,
        "payload": {"n": sequence},
        "created_at": at(sequence % 1_000_000),
    }
    return SkillRunLog(run_id=run_id, sequence=sequence, **(own | members))


async def record(storage: StorageWriter, *runs: SkillRun, status: str | None = None) -> None:
    """Start runs, and finish them where a status is given."""
    for run in runs:
        await storage.start_run(run)
        if status is not None:
            await storage.finish_run(run.id, stats(status))


async def record_as_given(storage: StorageWriter, runs: Iterable[SkillRun]) -> None:
    """Start runs, and finish those whose `status` is not `running` with it."""
    for run in runs:
        await record(storage, run, status=None if run.status == Status.RUNNING else run.status)


def stored(run: SkillRun) -> SkillRun:
    """The run as a reader gets it before it is finished, whatever terminal members it was given."""
    return SkillRun(
        id=run.id,
        skill_id=run.skill_id,
        caller_id=run.caller_id,
        channel_id=run.channel_id,
        inputs=run.inputs,
        started_at=run.started_at,
        parent_run_id=run.parent_run_id,
        attributes=run.attributes,
    )


def finished(run: SkillRun, end: RunStats, finished_at: datetime | None) -> SkillRun:
    """The run as a reader gets it once it is finished; `finished_at` from the reader's own answer."""
    return replace(
        stored(run),
        finished_at=finished_at,
        status=end.status,
        output=end.output,
        error=end.error,
        tool_calls_count=end.tool_calls,
        runtime_seconds=end.runtime_seconds,
        total_input_tokens=end.input_tokens,
        total_output_tokens=end.output_tokens,
        total_thinking_tokens=end.thinking_tokens,
    )


def ids(runs: Iterable[SkillRun]) -> list[str]:
    """The runs' ids in their order."""
    return [run.id for run in runs]


def newest_first(runs: Iterable[SkillRun]) -> list[SkillRun]:
    """By `started_at`, then `id` in code point order, both descending."""
    return sorted(runs, key=lambda run: (run.started_at, run.id), reverse=True)


async def in_pages(fetch: Callable[[int, int], Awaitable[Sequence[SkillRun]]], size: int) -> list[SkillRun]:
    """Everything a paginated list holds, fetched `size` at a time until a page comes back empty."""
    found: list[SkillRun] = []
    for _ in range(PAGES_MAX):
        page = await fetch(len(found), size)
        if not page:
            return found
        assert len(page) <= size, f"a page of {size} holds {len(page)} runs"
        found += page
    raise AssertionError(f"more than {PAGES_MAX} pages")


async def everything(storage: StorageReader, wanted: RunFilter) -> list[SkillRun]:
    """All runs that match, page by page."""
    return await in_pages(
        lambda offset, limit: storage.list_runs_filtered(wanted, offset, limit), size=PAGE_MAX
    )


def exact_json(value: Any) -> bytes:
    """Bytes that differ where values differ in anything: 1 and 1.0, the order of members, -0.0."""
    return orjson.dumps(value)


Recorder: TypeAlias = tuple[Any, AuditReader]
"""A Sink, and what reads behind it."""


async def events_of(reader: StorageReader, run_id: str) -> list[SkillRunLog]:
    """The events of a run."""
    return await reader.list_logs_by_run(run_id)


async def assert_complete(reader: AuditReader, run_id: str, events: int) -> None:
    """A Writer's run is finished and whole, with so many events."""
    state = await reader.get_run_state(run_id)
    assert (state.completeness, state.liveness) == (Completeness.COMPLETE, Liveness.FINISHED)
    assert (state.events, state.missing, state.lost, state.conflicts) == (events, (), (), 0)


def is_utc(value: datetime | None) -> bool:
    """Whether it is a timezone-aware time in UTC."""
    return value is not None and value.utcoffset() == timedelta(0)
