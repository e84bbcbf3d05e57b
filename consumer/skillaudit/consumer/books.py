"""What the materializer remembers of a run between batches, and the rules for the common case.

A book is bookkeeping only: which numbers are stored, which are declared lost, what the verdict is. Everything in it is
in the database too, so books are a cache: a run that has none is looked up before it counts as new.

The common case is decided here, for a whole run and batch at once: a Writer's run whose numbers in this batch are new
and distinct. Then the order of arrival changes nothing, and the engine moves the rows in bulk. Anything else (a number
seen before, a bare Storage's record, an orphan with a finish, a declared loss ...) goes to `judging`, record by record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from skillaudit.consumer.staging import PlainLogs
from skillaudit.contract import ranges
from skillaudit.contract.completeness import RunNumbers, completeness, missing
from skillaudit.contract.events import format_ranges
from skillaudit.contract.ranges import Ranges
from skillaudit.contract.records import Completeness
from skillaudit.contract.wire import RunEvent, RunFinished, RunStarted

NEVER_US = -1


class BookKind(Enum):
    """Where a run stands.

    NEW becomes ORPHAN or STARTED with its first record, ORPHAN becomes STARTED with its start, both become PURGED by a
    purge. There is no other way.
    """

    NEW = "new"
    ORPHAN = "orphan"
    STARTED = "started"
    PURGED = "purged"


@dataclass(slots=True)
class Book:
    """One run's bookkeeping. Changed in place; after a failed transaction all books are thrown away."""

    run_id: str
    run_hash: int
    run_key: int = -1
    kind: BookKind = BookKind.NEW
    plain: bool = True
    """Of an orphan: it has only plain logs of a Writer, so that its start can simply be put before them."""
    bare: bool = False
    source_id: str = ""
    received: Ranges = ()
    declared: Ranges = ()
    logs: int = 0
    conflicts: int = 0
    last_us: int = NEVER_US
    finished: bool = False
    finish_seq: int | None = None
    events: int | None = None
    start_tag: int = 0
    finish_tag: int = 0
    refused: bool = False
    known: int = 0
    heard: dict[str, int] = field(default_factory=dict[str, int])
    """Of an orphan: source -> how many events it said the run has."""
    first_received_us: int = 0
    first_partition: str = ""
    """Of the run's first record, whatever it is: this and the next two matter while it has no start."""
    first_offset: int = -1
    first_us: int = 0
    """When that arrived, by the broker's time; where there is none, when it was made, by its own. A rebuild finds the same."""

    def numbers(self) -> RunNumbers:
        """The run's numbers, for judging them."""
        return RunNumbers(
            received=self.received,
            declared=self.declared,
            events=None if self.bare else self.events,
            known=self._known(),
            bare=self.bare,
        )

    def _known(self) -> int:
        if self.kind is BookKind.STARTED:
            return self.known
        said = [self.heard.get(self.source_id, 0)] if self.source_id else self.heard.values()
        return max(said, default=0)

    def verdict(self) -> tuple[Completeness, str]:
        """Completeness, and the missing numbers as text."""
        numbers = self.numbers()
        return completeness(numbers), format_ranges(missing(numbers))

    def hear(self, source_id: str, events: int) -> bool:
        """Note what a source says of this run; whether that changes anything."""
        if self.kind is BookKind.STARTED:
            if source_id != self.source_id or events <= self.known:
                return False
            self.known = events
            return events > ranges.highest(self.received) + 1
        if events <= self.heard.get(source_id, 0):
            return False
        self.heard[source_id] = events
        return True

    @property
    def whole(self) -> bool:
        """Finished, with every number stored: nothing of it needs to be remembered."""
        return (
            self.finish_seq is not None
            and self.received == ((0, self.finish_seq),)
            and self.events == self.finish_seq + 1
        )


@dataclass(slots=True)
class RunBatch:
    """What a batch holds of one run."""

    run_id: str
    first_index: int
    logs: PlainLogs | None = None
    events: list[tuple[int, RunEvent]] = field(default_factory=list[tuple[int, RunEvent]])
    heard: list[tuple[int, str, int]] = field(default_factory=list[tuple[int, str, int]])
    """(index, source, number of events) of heartbeats that list it."""

    @property
    def first_own_index(self) -> int:
        """Of the run's own records, of which there is one; a heartbeat that lists it may come before."""
        own = [index for index, _ in self.events[:1]]
        return min(own if self.logs is None else [*own, self.logs.first_index])


@dataclass(frozen=True, slots=True)
class PlainStep:
    """A run's batch in the common case: what there is to write."""

    start: tuple[int, RunStarted] | None
    finish: tuple[int, RunFinished] | None


def take_plainly(book: Book, batch: RunBatch) -> PlainStep | None:
    """Bring the book up to date if the common case holds; None, and nothing is changed, if it does not."""
    step = _plain_step(batch.events)
    if step is None or not _admits(book, batch, step):
        return None
    numbers = _new_numbers(batch, step)
    if numbers is None or ranges.subtract(numbers, book.received) != numbers:
        return None
    book.received = ranges.union(book.received, numbers)
    if batch.logs is not None:
        book.logs += len(batch.logs.numbers)
        book.last_us = max(book.last_us, batch.logs.last_us)
    if step.start is not None:
        _begin(book, step.start[1])
    elif book.kind is BookKind.NEW:
        book.kind = BookKind.ORPHAN
    if step.finish is not None:
        _end(book, step.finish[1])
    for _, source_id, events in batch.heard:
        book.hear(source_id, events)
    return step


def _plain_step(events: Sequence[tuple[int, RunEvent]]) -> PlainStep | None:
    start: tuple[int, RunStarted] | None = None
    finish: tuple[int, RunFinished] | None = None
    for index, event in events:
        if isinstance(event, RunStarted) and start is None and not event.is_bare:
            start = (index, event)
        elif isinstance(event, RunFinished) and finish is None and not event.is_bare:
            finish = (index, event)
        else:
            return None
    return PlainStep(start, finish)


def _admits(book: Book, batch: RunBatch, step: PlainStep) -> bool:
    """Whether the run is such that only its numbers are left to compare."""
    if book.bare or book.refused or book.kind is BookKind.PURGED or not book.plain:
        return False
    if book.kind is BookKind.NEW and batch.heard:
        return False
    if book.kind is BookKind.STARTED and step.start is not None:
        return False
    if step.finish is None:
        return True
    source_id = step.start[1].source_id if step.start else book.source_id
    begun = step.start is not None or book.kind is BookKind.STARTED
    return begun and not book.finished and step.finish[1].source_id == source_id


def _new_numbers(batch: RunBatch, step: PlainStep) -> Ranges | None:
    """The batch's numbers; None where one of them comes twice."""
    found: Ranges = ()
    expected = 0
    if batch.logs is not None:
        numbers = batch.logs.numbers
        low, high, expected = min(numbers), max(numbers), len(numbers)
        if high - low + 1 == expected and len(set(numbers)) == expected:
            found = ((low, high),)
        else:
            found = ranges.of(numbers)
    for event in (step.start, step.finish):
        if event is not None:
            found = ranges.add(found, event[1].seq)
            expected += 1
    return found if ranges.count(found) == expected else None


def _begin(book: Book, start: RunStarted) -> None:
    book.known = book.heard.get(start.source_id, 0)
    book.heard = {}
    book.kind = BookKind.STARTED
    book.source_id = start.source_id
    book.start_tag = start.tag
    book.last_us = max(book.last_us, start.at_us)


def _end(book: Book, finish: RunFinished) -> None:
    book.finished = True
    book.finish_seq = finish.seq
    book.finish_tag = finish.tag
    book.events = finish.events
    book.declared = ranges.union(book.declared, finish.lost_ranges)
    book.last_us = max(book.last_us, finish.at_us)
