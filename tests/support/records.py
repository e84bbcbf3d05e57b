"""A topic in memory as `Records`: what retention took, whose cluster it is, and what happens while it is read."""

from collections.abc import Callable, Collection, Iterator, Mapping

from skillaudit.contract.errors import UnreachableError
from skillaudit.contract.sources import SourceRecord
from skillaudit.proof.verify.records import Bounds, Portion


class MemoryRecords:
    """Of records that grow, maybe, while they are read: `records` and `ends` are the caller's."""

    def __init__(
        self,
        records: list[SourceRecord],
        ends: Mapping[str, int],
        *,
        begins: Mapping[str, int] | None = None,
        cluster: str = "attacks",
        portion: int = 7,
    ) -> None:
        self.by = "a test"
        self.cluster = cluster
        self.topics = tuple(sorted({name.rpartition("/")[0] for name in ends}))
        self.begins = dict(begins or {})
        self.asked: list[tuple[str, int, int]] = []
        """What was read."""
        self.away = False
        self.meanwhile: Callable[[], None] | None = None
        """Called once, when the first portion has been handed over."""
        self.closed = False
        self._records = records
        self._ends = ends
        self._portion = portion

    def bounds(self, partitions: Collection[str]) -> Mapping[str, Bounds]:
        if self.away:
            raise UnreachableError("nobody answers; start the broker")
        return {
            name: Bounds(self.begins.get(name, 0), self._ends[name])
            for name in partitions
            if name in self._ends
        }

    def at(self, partition: str, at_us: int) -> int:
        later = (it.offset for it in self._of(partition) if it.received_us >= at_us)
        return next(later, self._ends[partition])

    def read(self, partition: str, first: int, end: int) -> Iterator[Portion]:
        self.asked.append((partition, first, end))
        at = first
        while at < end:
            begin = max(at, self.begins.get(partition, 0))
            stop = max(min(begin + self._portion, end), begin)
            found = [it for it in self._of(partition) if begin <= it.offset < stop]
            yield Portion(begin, stop, found)
            at = stop
            if self.meanwhile is not None:
                then, self.meanwhile = self.meanwhile, None
                then()

    def close(self) -> None:
        self.closed = True

    def _of(self, partition: str) -> list[SourceRecord]:
        return [it for it in self._records if it.partition == partition]
