"""The exact way: a run's records of a batch judged one by one, by the very rules of `contract.runrecord`.

A `RunRecord` is set up from what is stored, takes the new records in order, and what it makes of them is compared with
what was stored. Of a run whose start is stored nothing is ever judged again, so only the tags of the numbers in question
are loaded. Of an orphan everything is: its start, or a Writer's first record among bare ones, changes how all of it is
to be judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from skillaudit.consumer.books import Book, BookKind, RunBatch
from skillaudit.consumer.lookup import KeptRecord, StoredLog
from skillaudit.consumer.staging import plain_bytes
from skillaudit.contract.runrecord import Outcome, RunRecord
from skillaudit.contract.wire import NO_SEQ, RunEvent, RunFinished, RunLog, RunRefused, RunStarted

_BARE = "storage"


@dataclass(frozen=True, slots=True)
class Item:
    """A record in hand, and where its content lies."""

    event: RunEvent
    kept: KeptRecord | None = None
    """The record as it came, with its origin; None for a row of the events, of which only the content is left."""
    index: int = -1
    """Place in the batch; -1 of what was stored before."""
    staged: bool = False
    """A plain log of the batch: its payload waits in the table `staged`."""
    row: bool = False
    """It has a row among the events now."""


@dataclass(slots=True)
class Judgement:
    """What to write for one run."""

    book: Book
    staged_logs: list[int] = field(default_factory=list[int])
    """Indexes of plain logs to be inserted."""
    logs: list[RunLog] = field(default_factory=list[RunLog])
    """Other logs to be inserted, payload in hand."""
    removed: list[int] = field(default_factory=list[int])
    """Numbers whose rows are to be deleted, before anything is inserted."""
    start: tuple[int, RunStarted] | None = None
    finish: RunFinished | None = None
    conflicts: list[Item] = field(default_factory=list[Item])
    kept: list[Item] = field(default_factory=list[Item])
    calls: list[str] = field(default_factory=list[str])
    rewritten: bool = False
    """`conflicts` and `kept` replace what was stored; else they come on top of it."""
    outcomes: list[Outcome] = field(default_factory=list[Outcome])
    """Of the batch's records, in order."""
    new_conflicts: int = 0


Origin = Callable[[int], KeptRecord]
"""The record at an index of the batch, as it came."""


def batch_items(batch: RunBatch, staged: Iterable[tuple[int, RunLog]], origin: Origin) -> list[Item]:
    """All of a run's records in a batch, in order of arrival."""
    items = [Item(event, origin(index), index) for index, event in batch.events]
    items.extend(Item(log, origin(index), index, staged=True) for index, log in staged)
    return sorted(items, key=lambda item: item.index)


@dataclass(frozen=True, slots=True)
class StoredStart:
    """What is loaded of a run whose start is stored: enough to tell duplicates from conflicts."""

    tags: Mapping[int, int]
    refused: Sequence[KeptRecord] = ()
    conflicts: Sequence[KeptRecord] = ()
    calls: Sequence[str] = ()


def judge_started(book: Book, stored: StoredStart, batch: RunBatch, items: Sequence[Item]) -> Judgement:
    """Judge the records of a run whose start is stored."""
    record = _record_of(book, stored)
    logs_before = len(record.logs)
    verdict = Judgement(book)
    for item in items:
        outcome = record.apply(item.event)
        verdict.outcomes.append(outcome)
        if outcome is Outcome.CONFLICT:
            verdict.conflicts.append(item)
        elif outcome is Outcome.STORED:
            _store(verdict, item)
    for _, source_id, events in batch.heard:
        book.hear(source_id, events)
    verdict.new_conflicts = len(verdict.conflicts)
    _copy_numbers(book, record, book.logs + len(record.logs) - logs_before)
    book.refused = book.refused or bool(verdict.kept)
    return verdict


def _store(verdict: Judgement, item: Item) -> None:
    match item.event:
        case RunLog():
            if item.staged:
                verdict.staged_logs.append(item.index)
            else:
                verdict.logs.append(item.event)
        case RunFinished():
            verdict.finish = item.event
            if item.event.call_id:
                verdict.calls.append(item.event.call_id)
        case RunRefused():
            verdict.kept.append(item)
        case RunStarted():
            raise AssertionError("a second start is never stored")


def _record_of(book: Book, stored: StoredStart) -> RunRecord:
    """The run as far as it matters; sums and ranges, which it can't know, are set."""
    by, source = (_BARE if book.bare else ""), book.source_id
    record = RunRecord(book.run_id)
    first = NO_SEQ if book.bare else 0
    record.apply(
        RunStarted(book.run_id, first, 0, book.start_tag, "", "", "", "", "", source, 0, "", b"", b"", by)
    )
    for number, tag in stored.tags.items():
        record.apply(RunLog(book.run_id, number, 0, tag, "", b"", by=by, call_id=f"\0{number}" if by else ""))
    for call_id in stored.calls:
        record.apply(_finish_of(book, by, call_id))
    if book.finished and not book.bare:
        record.apply(_finish_of(book, by, ""))
    for kept in (*stored.refused, *stored.conflicts):
        record.apply(kept.run_event())
    record.received, record.declared = book.received, book.declared
    record.conflicts, record.last_event_us = book.conflicts, book.last_us
    return record


def _finish_of(book: Book, by: str, call_id: str) -> RunFinished:
    number = NO_SEQ if book.finish_seq is None else book.finish_seq
    counts = (0, 0, 0, 0, 0, book.events or 0)
    return RunFinished(
        book.run_id,
        number,
        0,
        book.finish_tag,
        "",
        "",
        "",
        *counts,
        book.source_id,
        0,
        "",
        "",
        (),
        by,
        call_id,
    )


def _copy_numbers(book: Book, record: RunRecord, logs: int) -> None:
    book.bare, book.source_id = record.bare, record.source_id
    book.received, book.declared = record.received, record.declared
    book.conflicts, book.last_us, book.logs = record.conflicts, record.last_event_us, logs
    finish = record.finish
    book.finished = finish is not None
    if finish is None or record.bare:
        book.finish_seq, book.finish_tag, book.events = None, 0, None
    else:
        book.finish_seq, book.finish_tag, book.events = finish.seq, finish.tag, finish.events


@dataclass(frozen=True, slots=True)
class StoredOrphan:
    """All that is stored of an orphan; empty for a new run."""

    logs: Sequence[StoredLog] = ()
    kept: Sequence[KeptRecord] = ()
    conflicts: Sequence[KeptRecord] = ()


def judge_orphan(book: Book, stored: StoredOrphan, batch: RunBatch, items: Sequence[Item]) -> Judgement:
    """Judge the records of a run without a start, or a new one; the start may be among them."""
    record = RunRecord(book.run_id)
    record.known = dict(book.heard)
    old = _orphan_items(book, stored)
    for item in old:
        record.apply(item.event)
    arrived = list(old)
    verdict = Judgement(book, rewritten=True)
    heard = list(batch.heard)
    for item in items:
        _hear_before(record, heard, item.index, bool(arrived))
        verdict.outcomes.append(record.apply(item.event))
        if record.arrived[-1] is item.event:  # else it was delivered before
            arrived.append(item)
    _hear_before(record, heard, -1, bool(arrived))
    _compare(verdict, record, old, arrived)
    return verdict


def _hear_before(record: RunRecord, heard: list[tuple[int, str, int]], index: int, stored: bool) -> None:
    """Take what sources said before this index (-1: all of it); it counts only if anything of the run is stored."""
    while heard and (index < 0 or heard[0][0] < index):
        _, source_id, events = heard.pop(0)
        if stored:
            record.known[source_id] = max(events, record.known.get(source_id, 0))


def _orphan_items(book: Book, stored: StoredOrphan) -> list[Item]:
    """What is stored, in the order of arrival as far as it matters: of records that claim one number, the row first."""
    rows = {log.sequence for log in stored.logs}
    kept: list[Item] = []
    own_rows: set[int] = set()
    for record in stored.kept:
        event = record.run_event()
        owns = isinstance(event, RunLog) and event.seq in rows - own_rows
        own_rows |= {event.seq} if owns else set()
        kept.append(Item(event, record, row=owns))
    plain = [
        Item(
            RunLog(book.run_id, log.sequence, log.at_us, log.tag, log.event_type, log.payload.encode()),
            row=True,
        )
        for log in stored.logs
        if log.sequence not in own_rows
    ]
    conflicts = [Item(k.run_event(), k) for k in stored.conflicts]
    return plain + sorted(kept + conflicts, key=_by_id)


def _by_id(item: Item) -> int:
    return item.kept.id if item.kept else -1


def _compare(verdict: Judgement, record: RunRecord, old: Sequence[Item], arrived: Sequence[Item]) -> None:
    """What has to be written so that the tables hold what the record holds."""
    book, start = verdict.book, record.start
    found = _outcomes(record, arrived)
    stored, verdict.conflicts = found[Outcome.STORED], found[Outcome.CONFLICT]
    logs = [item for item in stored if isinstance(item.event, RunLog)]
    staying = {id(item) for item in logs}
    verdict.removed = [
        item.event.seq
        for item in old
        if item.row and isinstance(item.event, RunLog) and id(item) not in staying
    ]
    for item in logs:
        if item.staged:
            verdict.staged_logs.append(item.index)
        elif not item.row and isinstance(item.event, RunLog):
            verdict.logs.append(item.event)
    others = [item for item in stored if isinstance(item.event, RunFinished | RunRefused)]
    if start is None:
        beaten = found[Outcome.DUPLICATE]
        verdict.kept = [*others, *beaten, *(item for item in logs if item.kept and not item.staged)]
    else:
        verdict.kept = [item for item in others if isinstance(item.event, RunRefused)]
        verdict.start = next((i.index, start) for i in arrived if i.event is start)
        verdict.finish = record.finish
        verdict.calls = [
            i.event.call_id for i in others if isinstance(i.event, RunFinished) and i.event.call_id
        ]
    verdict.new_conflicts = sum(item.index >= 0 for item in verdict.conflicts)
    _turn(book, verdict, record)


def _turn(book: Book, verdict: Judgement, record: RunRecord) -> None:
    _copy_numbers(book, record, len(record.logs))
    book.refused = any(isinstance(item.event, RunRefused) for item in verdict.kept)
    if record.start is None:
        book.kind, book.heard = BookKind.ORPHAN, record.known
        book.plain = not (record.bare or verdict.kept or verdict.conflicts)
    else:
        book.kind, book.heard, book.plain = BookKind.STARTED, {}, True
        book.known = record.known.get(record.source_id, 0)
        book.start_tag = record.start.tag


def _outcomes(record: RunRecord, arrived: Sequence[Item]) -> dict[Outcome, list[Item]]:
    """All records as the run's final kind and start judge them: stored, conflicts, and those that lost against others.

    They are applied to a fresh record in an order that needs no judging again: the start first, or the records of the
    orphan's kind first.
    """
    if record.start is not None:
        ordered = sorted(arrived, key=lambda item: item.event is not record.start)
    else:
        ordered = sorted(arrived, key=lambda item: _is_bare(item.event) is not record.bare)
    probe = RunRecord(record.run_id)
    found: dict[Outcome, list[Item]] = {outcome: [] for outcome in Outcome}
    for item in ordered:
        found[probe.apply(item.event)].append(item)
    return found


def _is_bare(event: RunEvent) -> bool:
    return not isinstance(event, RunRefused) and event.is_bare


def record_bytes(item: Item, partition: str) -> KeptRecord:
    """The record as it came; of a stored plain log, which is kept as a row only, made again from its parts.

    Only canonical records become plain logs, so the bytes are the same; the offset is not known any more.
    """
    if item.kept is not None:
        return item.kept
    if not isinstance(item.event, RunLog):
        raise TypeError("only logs are kept as rows")
    return KeptRecord(-1, plain_bytes(item.event), partition, -1, 0)
