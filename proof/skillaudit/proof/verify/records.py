"""The second copy that events are held against: the records that brought them, as Kafka still holds them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias

from skillaudit.contract.sources import SourceRecord

PORTION_RECORDS_MAX: Final = 10_000
"""Records that are handed over at once, at most."""


class Bounds(NamedTuple):
    """What a partition holds now: offsets from `begin` on, below `end`."""

    begin: int
    end: int


class Portion(NamedTuple):
    """Everything that a partition holds of the offsets from `first` on, below `end`."""

    first: int
    """Higher than where the one before ended where retention took what lies between meanwhile."""
    end: int
    records: Sequence[SourceRecord]


class Records(Protocol):
    """A reader of the topics' records. Blocking, bounded in time; one thread at a time.

    What can't be asked now raises `UnreachableError`, with cause and remedy.
    """

    by: str
    """Who reads, for the report."""
    cluster: str
    """Whose records they are, as `RecordSource.identity` says it; known once `bounds` was asked."""
    topics: tuple[str, ...]
    """Of which topics."""

    def bounds(self, partitions: Collection[str]) -> Mapping[str, Bounds]:
        """What these partitions hold; one that the cluster does not have is left out."""
        ...

    def at(self, partition: str, at_us: int) -> int:
        """The first offset that the broker took at this time or later; the partition's end where there is none."""
        ...

    def read(self, partition: str, first: int, end: int) -> Iterator[Portion]:
        """The records of these offsets, in portions that follow each other."""
        ...

    def close(self) -> None:
        """Release everything; safe to call again."""
        ...


OpenRecords: TypeAlias = Callable[[], Records]
"""Makes a reader for one check; connects to nobody yet. Raises `SettingsError` where no Kafka is configured."""
