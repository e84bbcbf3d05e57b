"""What a Sink writes to: a durable, ordered log of encoded events. The outbox and MemoryStorage implement it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol


class RecordKind(Enum):
    """What may be done with a record when room is short."""

    LOG = "log"
    """May be refused (`OutboxFullError`), or counted as lost in best-effort mode."""
    RESERVED = "reserved"
    """Starts, finishes and heartbeats: written from the reserve, so that a run can always end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedRecord:
    """A record the broker refused for good; its bytes are kept in the source's `refused/` directory."""

    run_id: str
    seq: int
    reason: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FlushReport:
    """What became of everything that was appended before `flush` was called; counts of records.

    `acknowledged + pending + refused + lost` is what this source ever took; `lost` were dropped in best-effort mode
    and are declared in the record, or were a signal handler's that had found no room when the log closed. `positions` is the token for reading one's own writes.
    """

    acknowledged: int
    pending: int
    refused: tuple[RefusedRecord, ...] = ()
    lost: int = 0
    positions: Mapping[str, int] = field(default_factory=dict[str, int])
    synced: bool = False
    """Embedded and nobody consumes: everything pending is on the disk (fsync returned)."""

    @property
    def complete(self) -> bool:
        """Whether all of it was acknowledged."""
        return self.pending == 0 and not self.refused and self.lost == 0


class EventLog(Protocol):
    """A log of encoded events. `append` and `flush` are plain functions, safe from any thread."""

    @property
    def source_id(self) -> str:
        """This process's life in this log, 32 hex digits; begins with the first append. Another one after a fork."""
        ...

    def append(self, key: str, record: bytes, kind: RecordKind, *, wait_ms: int) -> int:
        """Take one record; returns its position once it would survive the death of this process.

        Waits at most `wait_ms` for room, then raises `OutboxFullError`; `RecordTooLargeError` at once. When it raises,
        nothing was taken, unless `taken_at(error)` says so. Records appended one after the other by one thread keep
        their order.
        """
        ...

    def append_many(self, items: Sequence[tuple[str, bytes, RecordKind]], *, wait_ms: int) -> int:
        """As `append` for several, all or none in order; returns the last position."""
        ...

    def flush(self, timeout_s: float) -> FlushReport:
        """Wait, at most `timeout_s`, until all appended so far is acknowledged; report, never drop."""
        ...

    def close(self, timeout_s: float) -> FlushReport:
        """Flush, then release what is held; what is pending stays for the next adopter. Safe to call again."""
        ...


_TAKEN: Final = "skillaudit_position"


def taken_at(error: BaseException) -> int | None:
    """Position of the record that was taken although `append` raised `error`; None where nothing was taken.

    Two kinds of errors can come out when it is too late to take a record back: one that a signal handler raises
    (KeyboardInterrupt), and the disk's while waiting for an fsync. The caller then counts the record as appended.
    """
    position = getattr(error, _TAKEN, None)
    return position if isinstance(position, int) else None


def mark_taken(error: BaseException, position: int) -> None:
    """For implementations: `error` comes out although the record at `position` was taken."""
    setattr(error, _TAKEN, position)
