"""The records: what agents hand in and what readers get back. Frozen dataclasses, no third-party import but orjson.

Times are timezone-aware UTC with microseconds. `inputs`, `attributes` and `payload` are JSON objects; what the agent's
process serialized is kept byte for byte, beside the parsed object, in the `*_json` members.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, TypeAlias

import orjson

from skillaudit.contract.clock import utc_now, uuid7

JsonObject: TypeAlias = Mapping[str, Any]

MAX_PARENT_CHAIN_DEPTH: Final = 32
"""Runs that `walk_parent_chain` returns at most: corrupted data may hold a cycle."""

LIST_LIMIT_DEFAULT: Final = 50
LIST_LIMIT_MAX: Final = 500


def list_limit(limit: int) -> int:
    """The rule for lists: a limit <= 0 or > 500 becomes 50."""
    return limit if 0 < limit <= LIST_LIMIT_MAX else LIST_LIMIT_DEFAULT


class Status(StrEnum):
    """The statuses a run may say of itself. An open set: unknown terminal statuses are kept as plain strings."""

    RUNNING = "running"
    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    BUDGET_EXCEEDED = "budget_exceeded"
    DRY_RUN = "dry_run"
    PREEMPTED = "preempted"
    LANE_BUSY = "lane_busy"


class EventType(StrEnum):
    """The kinds of events inside a run."""

    STEP = "step"
    TOOL_CALL = "tool_call"
    TOOL_RESULT = "tool_result"
    ERROR = "error"


class Liveness(StrEnum):
    """Whether a run still goes on, judged from its source; never mixed with its status."""

    OPEN = "open"
    ABANDONED = "abandoned"
    FINISHED = "finished"


class Completeness(StrEnum):
    """Whether all of a run's numbers are stored; never mixed with integrity."""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    OPEN = "open"
    DECLARED_LOSS = "declared-loss"
    UNPROVEN = "unproven"
    PURGED = "purged"


class Integrity(StrEnum):
    """Whether a run's tags and head were recomputed and agree."""

    VERIFIED = "verified"
    ALTERED = "altered"
    UNCHECKED = "unchecked"


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillRun:
    """One invocation of a skill.

    To record a run, `skill_id` is enough; `id` becomes a UUIDv7 and `started_at` the current time. The members from
    `finished_at` on are what a reader fills in; a Sink ignores them. An object is one run, since its id is made with it:
    a Sink refuses to start it twice. Of a template, start `dataclasses.replace(run, id=uuid7())`
    (`contract.clock`).
    """

    skill_id: str
    id: str = field(default_factory=uuid7)
    caller_id: str = ""
    channel_id: str = ""
    inputs: JsonObject = field(default_factory=dict[str, Any])
    started_at: datetime = field(default_factory=utc_now)
    parent_run_id: str = ""
    attributes: JsonObject = field(default_factory=dict[str, Any])
    finished_at: datetime | None = None
    status: str = Status.RUNNING
    output: str = ""
    error: str = ""
    tool_calls_count: int = 0
    runtime_seconds: float = 0.0
    total_input_tokens: int = 0
    total_output_tokens: int = 0
    total_thinking_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStats:
    """The terminal state handed to `finish_run`. Counts are 64-bit; `runtime_seconds` is kept to the microsecond."""

    status: str
    output: str = ""
    error: str = ""
    tool_calls: int = 0
    runtime_seconds: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillRunLog:
    """One event of a run. `payload_json` holds the bytes as recorded; where it is empty it is made from `payload`."""

    run_id: str
    sequence: int
    event_type: str
    payload: JsonObject
    created_at: datetime
    payload_json: bytes = field(default=b"", compare=False, repr=False)

    def __post_init__(self) -> None:
        """Fill `payload_json`."""
        if not self.payload_json:
            object.__setattr__(self, "payload_json", orjson.dumps(self.payload))

    @classmethod
    def from_json(
        cls, *, run_id: str, sequence: int, event_type: str, payload_json: bytes, created_at: datetime
    ) -> SkillRunLog:
        """The event of stored payload bytes."""
        return cls(
            run_id=run_id,
            sequence=sequence,
            event_type=event_type,
            payload=orjson.loads(payload_json),
            created_at=created_at,
            payload_json=payload_json,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs a list shows; the empty filter matches everything but dry runs. `status="dry_run"` always matches
    dry runs, whatever `include_dry_run` says. `since` is inclusive, `until` exclusive, both on `started_at`.
    """

    status: str | None = None
    skill_id: str | None = None
    caller_id: str | None = None
    channel_id: str | None = None
    top_level_only: bool = False
    include_dry_run: bool = False
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """What the record itself says about a run, beside what the run said of itself.

    `missing` are inclusive ranges of event numbers known to exist and not stored (numbers of 2.2 in the event format:
    0 is the start, n + 1 the finish); `lost` those the agent declared lost; `events` the stored events of kind log;
    `conflicts` the records kept aside because they claim a number that is taken, with other content.
    """

    run_id: str
    liveness: Liveness
    completeness: Completeness
    integrity: Integrity = Integrity.UNCHECKED
    events: int = 0
    missing: tuple[tuple[int, int], ...] = ()
    lost: tuple[tuple[int, int], ...] = ()
    conflicts: int = 0
    source_id: str = ""
    last_event_at: datetime | None = None
