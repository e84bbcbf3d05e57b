"""What requests may hold, and the shapes of answers for the published description. Answers are not made of these:
they are written by `codec`, so that recorded JSON stays byte for byte.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from skillaudit.contract.records import LIST_LIMIT_DEFAULT, RunFilter
from skillaudit.query.codec import parse_time
from skillaudit.query.paging import EVENTS_LIMIT_DEFAULT, EVENTS_LIMIT_MAX

INT64_MAX: Final = (1 << 63) - 1
IDS_MAX: Final = 1_000

Instant = Annotated[datetime, BeforeValidator(parse_time)]
Int64 = Annotated[int, Field(ge=-INT64_MAX - 1, le=INT64_MAX)]
Ids = Annotated[list[str], Field(max_length=IDS_MAX)]
Ranges = list[tuple[int, int]]


class Strict(BaseModel):
    """A misspelt parameter is refused: ignoring it would answer another question."""

    model_config = ConfigDict(extra="forbid")


class RunsQuery(Strict):
    """Which runs, and which of them. A filter that is there and empty matches the empty string."""

    status: str | None = None
    skill: str | None = None
    caller: str | None = None
    channel: str | None = None
    top_level: bool = False
    include_dry_run: bool = False
    since: Instant | None = None
    until: Instant | None = None
    offset: Int64 = 0
    limit: Int64 = Field(LIST_LIMIT_DEFAULT, description="1 to 500; anything else becomes 50")
    cursor: str | None = Field(None, max_length=1024, description="`next` of the page before; opaque")
    count: Literal["none", "exact", "only"] = "none"

    def filter(self) -> RunFilter:
        """The filter it names."""
        return RunFilter(
            status=self.status,
            skill_id=self.skill,
            caller_id=self.caller,
            channel_id=self.channel,
            top_level_only=self.top_level,
            include_dry_run=self.include_dry_run,
            since=self.since,
            until=self.until,
        )


class EventsQuery(Strict):
    """Which events of a run. `run_id` is the id where it can't be a segment of the path."""

    run_id: str | None = None
    first: Int64 | None = Field(None, alias="from", description="the lowest number of the page")
    limit: int = Field(EVENTS_LIMIT_DEFAULT, ge=1, le=EVENTS_LIMIT_MAX)
    payload: Literal["object", "text"] = Field(
        "object",
        description="text: as the JSON string `payload_json`, from which a client gets the exact bytes",
    )


class FinishedBeforeQuery(Strict):
    """Runs that finished strictly before `cutoff`."""

    cutoff: Instant
    limit: Int64 = LIST_LIMIT_DEFAULT


class OrphansQuery(Strict):
    """How many."""

    limit: Int64 = Field(LIST_LIMIT_DEFAULT, description="1 to 500; anything else becomes 50")


class LastRunsBody(Strict):
    """Of which skills."""

    skill_ids: Ids
    include_failed: bool = True


class RunStatesBody(Strict):
    """Of which runs."""

    run_ids: Ids


class WaitBody(Strict):
    """For which positions, and how long."""

    positions: dict[str, Int64]
    timeout_ms: int = Field(0, ge=0, le=600_000)


class PurgeBody(Strict):
    """Everything that started strictly before this goes."""

    older_than: Instant


class Run(BaseModel):
    """One invocation of a skill."""

    id: str
    skill_id: str
    caller_id: str
    channel_id: str
    inputs: dict[str, Any]
    started_at: datetime
    finished_at: datetime | None
    status: str
    output: str
    error: str
    tool_calls_count: int
    runtime_seconds: float
    parent_run_id: str
    total_input_tokens: int
    total_output_tokens: int
    total_thinking_tokens: int
    attributes: dict[str, Any]


class Runs(BaseModel):
    """Some runs. `next` is null on the last page; `total` is there where `count` asked for it."""

    next: str | None = None
    total: int | None = None
    runs: list[Run]


class RunEvent(BaseModel):
    """One event; `payload`, or `payload_json` where text was asked for."""

    run_id: str
    sequence: int
    event_type: str
    created_at: datetime
    payload: dict[str, Any] | None = None
    payload_json: str | None = None


class RunEvents(BaseModel):
    """Some events in order; `preceding` counts the stored events before them, `next` is where to go on."""

    preceding: int
    next: int | None
    events: list[RunEvent]


class RunState(BaseModel):
    """What the record says about a run."""

    run_id: str
    liveness: Literal["open", "abandoned", "finished"]
    completeness: Literal["complete", "incomplete", "open", "declared-loss", "unproven", "purged"]
    integrity: Literal["verified", "altered", "unchecked"]
    events: int
    missing: Ranges
    lost: Ranges
    conflicts: int
    source_id: str
    last_event_at: datetime | None


class RunStates(BaseModel):
    """Some states."""

    states: list[RunState]


class LastRuns(BaseModel):
    """Skill id -> newest start."""

    last_runs: dict[str, datetime]


class Positions(BaseModel):
    """Partition -> next offset to consume."""

    positions: dict[str, int]


class Purged(BaseModel):
    """How many runs were deleted."""

    purged: int


class Order(Strict):
    """Who wants an act, and why; both are kept for ever. `force` goes over holds and the minimum age, recorded."""

    actor: Annotated[str, Field(min_length=1, max_length=200)]
    reason: Annotated[str, Field(max_length=1_000)] = ""
    force: bool = False


class PurgeOrder(Order):
    """Either runs, or a time before which they started."""

    before: Instant | None = None
    runs: Ids = []


class RedactOrder(Order):
    """One place of a run: an event's payload, or one field of its start (0) or finish."""

    run: str
    seq: Annotated[int, Field(ge=0, le=INT64_MAX)]
    field: str | None = None


class EraseOrder(Order):
    """Runs whose content goes."""

    runs: Annotated[list[str], Field(min_length=1, max_length=IDS_MAX)]


class HoldOrder(Order):
    """Exactly one of these is given."""

    runs: Ids = []
    skill_id: str | None = None
    everything: bool = False


class ReleaseOrder(Order):
    """The act that placed the hold."""

    hold: str


class KeyOrder(Order):
    """A verifier's key, and the origin that it signs for."""

    origin: str
    key: str


class ActReport(BaseModel):
    """What became of an order: the acts that were written, and what they did to what is stored here."""

    acts: list[str]
    runs: int
    events: int
    held: int
    young: int
    holds: list[str]


class Act(BaseModel):
    """An act, as it was applied here."""

    act_id: str
    kind: str
    actor: str
    at: datetime
    reason: str
    scope: dict[str, Any]
    policy: dict[str, Any]
    applied_at: datetime
    journal_idx: int | None
    pending: bool


class Acts(BaseModel):
    """Some acts, newest first."""

    acts: list[Act]


class Hold(BaseModel):
    """A hold; `released_by` is the act that ended it."""

    act_id: str
    scope: dict[str, Any]
    placed_at: datetime
    actor: str
    reason: str
    released_by: str | None


class Holds(BaseModel):
    """Holds, oldest first."""

    holds: list[Hold]


DeadLetterState: TypeAlias = Literal["waiting", "replayed", "discarded", "erased"]


class DeadLetterSummary(BaseModel):
    """A malformed record, without its bytes."""

    id: int
    partition: str
    offset: int
    received_at: datetime | None
    stored_at: datetime
    error: str
    state: DeadLetterState
    bytes: int | None


class DeadLetter(DeadLetterSummary):
    """A malformed record; key and record in base64."""

    key: str | None
    record: str | None


class DeadLetters(BaseModel):
    """Some malformed records, oldest first."""

    dead_letters: list[DeadLetterSummary]


class DeadLetterIds(Strict):
    """Which malformed records an act is about."""

    ids: Annotated[list[int], Field(min_length=1, max_length=10_000)]


class Replayed(BaseModel):
    """What became of them."""

    replayed: int
    still_malformed: list[int]


class Discarded(BaseModel):
    """How many no longer wait."""

    discarded: int


class VerifyProgress(BaseModel):
    """How far a check is; `of` is 0 where that is not known."""

    what: str
    done: int
    of: int


class VerifyLine(BaseModel):
    """One line of a check's answer: exactly one of these."""

    progress: VerifyProgress | None = None
    report: dict[str, Any] | None = None
    problem: dict[str, Any] | None = None


class Alive(BaseModel):
    """The process answers; `database` is the id of what it serves."""

    status: Literal["alive"]
    database: str


class Ready(BaseModel):
    """The process does its work."""

    status: Literal["ready"]


class Problem(BaseModel):
    """A problem (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str = ""
