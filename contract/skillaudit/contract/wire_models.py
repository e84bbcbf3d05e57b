"""The members of each record as pydantic models: strict, frozen, and the source of the published JSON Schema.

They judge scalars at the boundary; `wire.parse_record` judges what a model can't see (bytes, duplicate members, depth)
and makes the events that the rest of the product handles. Members that no model names are ignored, so that a newer
producer may add some within version 1.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from skillaudit.contract import events

INT64_MAX: Final = (1 << 63) - 1
AT_US_MAX: Final = 253_402_300_799_999_999
"""The last microsecond of the year 9999: readers hand times out as datetimes, which end there."""


_LOST_RULE: Final = "should be ascending ranges of event numbers from 1 on, like 5-7,9"


def _run_id(value: str) -> str:
    if len(value) > events.RUN_ID_BYTES_MAX // 4 and len(value.encode()) > events.RUN_ID_BYTES_MAX:
        raise ValueError(f"should have at most {events.RUN_ID_BYTES_MAX} bytes of UTF-8")
    return value


def _lost(value: str) -> str:
    try:
        bounds = [number for pair in events.parse_ranges(value) for number in pair]
    except ValueError:  # from None: its text holds the value
        raise ValueError(_LOST_RULE) from None
    starts, ends = bounds[::2], bounds[1::2]
    if (
        any(low <= end for low, end in zip(starts, [0, *ends], strict=False))
        or max(ends, default=0) > INT64_MAX
    ):
        raise ValueError(_LOST_RULE)
    return value


Count = Annotated[int, Field(ge=0, le=INT64_MAX)]
Ordinal = Annotated[int, Field(ge=1, le=INT64_MAX)]
AtUs = Annotated[int, Field(ge=0, le=AT_US_MAX, description="UTC, microseconds since the epoch")]
RunId = Annotated[
    str,
    Field(
        min_length=1, max_length=events.RUN_ID_BYTES_MAX, description="at most 512 bytes of UTF-8; the key"
    ),
    AfterValidator(_run_id),
]
Tag = Annotated[str, Field(pattern="^[0-9a-f]{16}$", description="first 8 bytes of the event's digest")]
Hex32 = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
Hex64 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
CallId = Annotated[str, Field(min_length=1)]
Lost = Annotated[
    str,
    Field(pattern="^([0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*)?$", description="lost numbers, like 5-7,9"),
    AfterValidator(_lost),
]


class Record(BaseModel):
    """What every record shares."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        strict=True, frozen=True, extra="ignore", hide_input_in_errors=True
    )

    v: Literal[1]


class StartFields(Record):
    """A run's own fields, as its start carries them."""

    type: Literal["run.started"]
    run_id: RunId
    at_us: AtUs
    skill_id: str
    caller_id: str
    channel_id: str
    parent_run_id: str
    inputs: dict[str, Any]
    attributes: dict[str, Any]


class StartedRecord(StartFields):
    """A Writer's `run.started`."""

    seq: Annotated[int, Field(ge=0, le=0)]  # a Literal takes False for 0
    tag: Tag
    salt: Hex32
    source_id: Hex32
    source_seq: Ordinal
    clock: str


class BareStartedRecord(StartFields):
    """A bare Storage's `run.started`."""

    by: Literal["storage"]
    call_id: CallId


class LogRecord(Record):
    """A Writer's `run.log`."""

    type: Literal["run.log"]
    run_id: RunId
    seq: Ordinal
    at_us: AtUs
    tag: Tag
    event_type: str
    lost: Lost = ""
    payload: dict[str, Any]


class BareLogRecord(Record):
    """A bare Storage's `run.log`; `seq` is the caller's sequence."""

    type: Literal["run.log"]
    run_id: RunId
    seq: Count
    at_us: AtUs
    by: Literal["storage"]
    call_id: CallId
    event_type: str
    payload: dict[str, Any]


class FinishFields(Record):
    """A run's terminal state, as its finish carries it."""

    type: Literal["run.finished"]
    run_id: RunId
    at_us: AtUs
    status: str
    output: str
    error: str
    tool_calls: Count
    runtime_us: Count
    input_tokens: Count
    output_tokens: Count
    thinking_tokens: Count


class FinishedRecord(FinishFields):
    """A Writer's `run.finished`; `events` is `seq` + 1."""

    seq: Ordinal
    tag: Tag
    events: Ordinal
    source_id: Hex32
    source_seq: Ordinal
    head: Hex64
    lost: Lost


class BareFinishedRecord(FinishFields):
    """A bare Storage's `run.finished`."""

    by: Literal["storage"]
    call_id: CallId


class RefusedRecord(Record):
    """What takes the place of a record that the broker refused."""

    type: Literal["run.refused"]
    run_id: RunId
    seq: Count
    at_us: AtUs
    tag: Tag
    reason: str
    bytes: Count


class OpenRunEntry(BaseModel):
    """An open run in a source's `open`; `events` counts the start."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        strict=True, frozen=True, extra="ignore", hide_input_in_errors=True
    )

    run_id: RunId
    source_seq: Ordinal
    events: Ordinal
    head: Hex64


class SourceFields(Record):
    """What every record of a source shares."""

    source_id: Hex32
    at_us: AtUs


class SourceOpenedRecord(SourceFields):
    """A `source.opened`."""

    type: Literal["source.opened"]
    host: str
    pid: Count
    boot_id: str
    version: str
    clock: str


class HeartbeatRecord(SourceFields):
    """A `source.heartbeat`."""

    type: Literal["source.heartbeat"]
    beat: Ordinal
    runs_started: Count
    runs_finished: Count
    open: Annotated[list[OpenRunEntry], Field(max_length=events.HEARTBEAT_RUNS_MAX)]
    backlog_records: Count
    backlog_bytes: Count
    oldest_us: Count
    refused: Count
    lost: Count


class SourceClosedRecord(SourceFields):
    """A `source.closed`."""

    type: Literal["source.closed"]
    by: Literal["process", "adopter"]
    runs_started: Count
    runs_finished: Count
    open: list[OpenRunEntry]
