"""When a seal is due, and of what: pure, `now` is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SealPolicy:
    """The bounds of sealing."""

    interval_ms: int = 60_000
    """A seal at least this long after the last one, when something has arrived."""
    idle_interval_ms: int = 3_600_000
    """And after this long even when nothing has: it says that the sealer lives."""
    rows_max: int = 262_144
    """Rows of one seal, of all partitions together; what is left comes in the next one, at once. A partition's share is
    rounded up to whole records.
    """
    partitions_max: int = 2_000
    """Partitions of one seal: some 4 leaves."""


@dataclass(frozen=True, slots=True)
class RowRange:
    """Rows `[first, end)` of a partition's ledger."""

    partition: str
    first: int
    end: int

    @property
    def rows(self) -> int:
        """How many."""
        return self.end - self.first


def pending(ends: Mapping[str, int], sealed: Mapping[str, int]) -> list[RowRange]:
    """What is not sealed yet, from the ledger's end and the sealed end per partition; in the order of names."""
    return [
        RowRange(partition, sealed.get(partition, 0), end)
        for partition, end in sorted(ends.items())
        if end > sealed.get(partition, 0)
    ]


def seal_due(policy: SealPolicy, now_us: int, last_us: int | None, waiting: Sequence[RowRange]) -> bool:
    """Whether to seal now; `last_us`: when the newest seal was made, None where there is none.

    A clock that was set back makes no seal wait.
    """
    if last_us is None:
        return bool(waiting)
    since_ms = (now_us - last_us) / 1000
    if waiting:
        full = sum(part.rows for part in waiting) >= policy.rows_max or len(waiting) > policy.partitions_max
        return full or not 0 <= since_ms < policy.interval_ms
    return not 0 <= since_ms < policy.idle_interval_ms


def choose(policy: SealPolicy, waiting: Sequence[RowRange]) -> list[RowRange]:
    """What goes into the next seal: all of it where that is within the bounds, else as much of each of the partitions
    with the most rows waiting, so that none starves.
    """
    if sum(part.rows for part in waiting) <= policy.rows_max and len(waiting) <= policy.partitions_max:
        return list(waiting)
    chosen = sorted(waiting, key=lambda part: -part.rows)[: policy.partitions_max]
    share = max(1, policy.rows_max // len(chosen))
    return sorted(
        (RowRange(part.partition, part.first, min(part.end, part.first + share)) for part in chosen),
        key=lambda part: part.partition,
    )
