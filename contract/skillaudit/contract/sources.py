"""What feeds a consumer: records with an origin, in order within a partition, and the sources they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple, Protocol

OUTBOX_TOPIC = "outbox"
"""The topic part of an embedded partition's name, `outbox/<source_id>`."""


class SourceRecord(NamedTuple):
    """One record with its origin. `next_offset` is a name, so that nobody writes `offset + 1`: in an outbox it is not."""

    partition: str
    """`<topic>/<number>`, or `outbox/<source_id>`."""
    offset: int
    next_offset: int
    received_us: int
    """The broker's append time, integer microseconds; 0 where there is none (embedded)."""
    key: bytes | None
    value: bytes | None
    """The bytes; None for a Kafka tombstone, which is malformed here."""


@dataclass(frozen=True, slots=True)
class StoredPosition:
    """How far a partition was consumed, with the identity of the last record, so that another log under the same name
    (a recreated topic, a truncated log) is noticed.
    """

    next_offset: int
    last_offset: int = -1
    last_digest: str = ""
    """SHA-256 of the last consumed record's value, hex; empty where none was consumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about a partition that a person should know: damage its source met. Stored as an incident."""

    partition: str
    offset: int
    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """What one poll gave. `ends` are, per assigned partition, the known end offsets when the poll returned; a partition
    whose stored position reaches its end is read to its end.
    """

    records: Sequence[SourceRecord] = ()
    ends: Mapping[str, int] = field(default_factory=dict[str, int])
    findings: Sequence[Finding] = ()
    closed: Sequence[str] = ()
    """Partitions that are read to their end, in this batch at the latest, and whose writer is gone: an embedded
    source's dead process. Named once per `open`."""
    emptied: Mapping[str, int] = field(default_factory=dict[str, int])
    """Partitions that held records once, none of which is left or was ever consumed: where the next one would come."""


def record_digest(value: bytes | None) -> str:
    """The identity of a consumed record: SHA-256 of its value, hex."""
    return sha256(value or b"").hexdigest()


class RecordSource(Protocol):
    """An ordered source of records that can be read again from any stored position.

    The consumer calls `open` once with what the database holds, then `poll` and, after the batch is committed to the
    database, `commit`, which may come while the next `poll` waits; `close` at the end. One poll, one commit at a time. A source never skips: a partition it knows of
    and the positions do not is read from its beginning. Raises `HistoryLostError` when a stored position no longer
    points at the record it was stored for, `UnreachableError` when the other side does not answer within its bound.
    """

    identity: str
    """Names the other side for as long as it holds this history: Kafka's cluster id, or the outbox's own id."""

    async def open(self, positions: Mapping[str, StoredPosition]) -> None:
        """Start reading after `positions`; partitions that appear later join by themselves."""
        ...

    async def poll(self, records_max: int, timeout_ms: int) -> RecordBatch:
        """The next records, at most `records_max`; an empty batch after `timeout_ms` without any. Cancelling is safe."""
        ...

    async def ends(self) -> Mapping[str, int]:
        """The ends of all partitions there are now, those that `poll` has not met included; asked for anew, so that nothing
        appended before the call lies behind them. A partition that holds nothing may be left out. May raise
        `UnreachableError`.
        """
        ...

    async def commit(self, positions: Mapping[str, int]) -> None:
        """The database holds everything before these offsets. Advisory: Kafka shows it as lag, an outbox frees space."""
        ...

    async def close(self) -> None:
        """Release everything; safe to call again, and after an error."""
        ...
