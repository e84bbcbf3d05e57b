"""The events as the product handles them once a record is read: frozen, named as the record's members.

`inputs_json`, `attributes_json` and `payload_json` are the exact bytes of the record; `tag` is the record's 16 digits as
a number; `lost_ranges` is `lost`, parsed. Named tuples, because a frozen dataclass of 14 members takes 2 us longer to
make, of 10 in all; tell them apart by their class, for tuples of different classes may compare equal.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

from skillaudit.contract.events import OpenRun

NO_SEQ: Final = -1
"""`seq` of a bare Storage's start and finish: they take no number."""

Ranges: TypeAlias = tuple[tuple[int, int], ...]


class RunStarted(NamedTuple):
    """A start. Of a bare Storage's, `seq` is `NO_SEQ` and what only a Writer knows is 0 or empty."""

    run_id: str
    seq: int
    at_us: int
    tag: int
    skill_id: str
    caller_id: str
    channel_id: str
    parent_run_id: str
    salt: str
    source_id: str
    source_seq: int
    clock: str
    inputs_json: bytes
    attributes_json: bytes
    by: str = ""
    call_id: str = ""

    @property
    def is_bare(self) -> bool:
        """Whether a bare Storage wrote it, not a Writer."""
        return self.by != ""


class RunLog(NamedTuple):
    """A log. Of a bare Storage's, `seq` is the caller's sequence."""

    run_id: str
    seq: int
    at_us: int
    tag: int
    event_type: str
    payload_json: bytes
    lost: str = ""
    lost_ranges: Ranges = ()
    by: str = ""
    call_id: str = ""

    @property
    def is_bare(self) -> bool:
        """Whether a bare Storage wrote it, not a Writer."""
        return self.by != ""


class RunFinished(NamedTuple):
    """A finish. Of a bare Storage's, `seq` is `NO_SEQ` and what only a Writer knows is 0 or empty."""

    run_id: str
    seq: int
    at_us: int
    tag: int
    status: str
    output: str
    error: str
    tool_calls: int
    runtime_us: int
    input_tokens: int
    output_tokens: int
    thinking_tokens: int
    events: int
    source_id: str
    source_seq: int
    head: str
    lost: str
    lost_ranges: Ranges
    by: str = ""
    call_id: str = ""

    @property
    def is_bare(self) -> bool:
        """Whether a bare Storage wrote it, not a Writer."""
        return self.by != ""


class RunRefused(NamedTuple):
    """What stands in the place of a record that the broker refused: its number and tag, `bytes` its size."""

    run_id: str
    seq: int
    at_us: int
    tag: int
    reason: str
    bytes: int


class SourceOpened(NamedTuple):
    """A source's first record."""

    source_id: str
    at_us: int
    host: str
    pid: int
    boot_id: str
    version: str
    clock: str


class SourceHeartbeat(NamedTuple):
    """What a source says of itself from time to time; `lost` counts its lost logs."""

    source_id: str
    at_us: int
    beat: int
    runs_started: int
    runs_finished: int
    open: tuple[OpenRun, ...]
    backlog_records: int
    backlog_bytes: int
    oldest_us: int
    refused: int
    lost: int


class SourceClosed(NamedTuple):
    """A source's last record; `by` is `process` or `adopter`."""

    source_id: str
    at_us: int
    by: str
    runs_started: int
    runs_finished: int
    open: tuple[OpenRun, ...]


RunEvent: TypeAlias = RunStarted | RunLog | RunFinished | RunRefused
SourceEvent: TypeAlias = SourceOpened | SourceHeartbeat | SourceClosed
Event: TypeAlias = RunEvent | SourceEvent
