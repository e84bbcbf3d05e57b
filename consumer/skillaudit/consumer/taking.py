"""One topic's share of a batch, from decoded records to rows to write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import duckdb

from skillaudit.consumer.arrow import Kind, make_table
from skillaudit.consumer.books import Book, BookKind, PlainStep, RunBatch, take_plainly
from skillaudit.consumer.changes import Changes
from skillaudit.consumer.judging import (
    Item,
    Judgement,
    StoredOrphan,
    StoredStart,
    batch_items,
    judge_orphan,
    judge_started,
    record_bytes,
)
from skillaudit.consumer.lookup import KeptRecord, find_calls, find_records, find_tags, logs_of_run
from skillaudit.consumer.losses import Told
from skillaudit.consumer.positions import PartitionBook
from skillaudit.consumer.remembered import Remembered
from skillaudit.consumer.sources import SourceBook
from skillaudit.consumer.staging import Decoded, Parse, decode
from skillaudit.consumer.statements import statements
from skillaudit.contract import events as wire_events
from skillaudit.contract.digests import run_hash
from skillaudit.contract.records import Liveness
from skillaudit.contract.runrecord import Outcome
from skillaudit.contract.sources import SourceRecord
from skillaudit.contract.wire import (
    RunEvent,
    RunFinished,
    RunLog,
    RunRefused,
    RunStarted,
    SourceClosed,
    SourceHeartbeat,
)
from skillaudit.contract.words import counted
from skillaudit.proof.cuts import CUT_INCIDENT, Cut, Trial, settle
from skillaudit.proof.decided import decide_trial
from skillaudit.proof.ledger import rows_of

_STAGING: Final = statements("staging.sql")

_KINDS: Final = {
    RunStarted: wire_events.STARTED,
    RunLog: wire_events.LOG,
    RunFinished: wire_events.FINISHED,
    RunRefused: wire_events.REFUSED,
}


@dataclass(slots=True)
class Tally:
    """What became of a batch's records."""

    outcomes: Counter[Outcome] = field(default_factory=Counter[Outcome])
    told: Told = field(default_factory=Told)
    """What sources say that was lost."""
    runs_started: int = 0
    runs_finished: int = 0
    malformed: list[int] = field(default_factory=list[int])
    """Places of malformed records in the batch, ascending within a topic."""
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a batch is taken."""

    now_us: int
    small_batch_records: int
    """Batches of so many records at most are not worth the engine's way of decoding."""
    parse: Parse
    """What judges the records that the engine does not decode."""
    ledger: bool
    """Whether the records make ledger rows: those that are applied again made theirs, or none, in their place."""


class TopicTaker:
    """Takes the records of one topic in one batch. Lives as long as that."""

    def __init__(
        self,
        cursor: duckdb.DuckDBPyConnection,
        remembered: Remembered,
        changes: Changes,
        tally: Tally,
        terms: Terms,
    ) -> None:
        self._cursor = cursor
        self._remembered = remembered
        self._changes = changes
        self._tally = tally
        self._terms = terms
        self._now_us = terms.now_us
        self._topic = ""
        self._records: Sequence[SourceRecord] = ()
        self._rows: dict[int, RunLog] = {}

    def take(self, topic: str, records: Sequence[SourceRecord], places: Sequence[int]) -> None:
        """Take all records of the topic; `places` are theirs in the whole batch. Rows of plain logs stay in `staged`."""
        self._topic, self._records = topic, records
        decoded = decode(self._cursor, records, self._terms.small_batch_records, self._terms.parse)
        self._tally.size_bytes += decoded.size_bytes
        if self._terms.ledger:
            self._tell_cuts(self._remembered.begin(self._cursor, records))
            self._enter(decoded)
            self._settle_trials()
        self._bury(decoded, places)
        batches = self._by_run(decoded)
        books = self._remembered.recall(self._cursor, topic, batches)
        self._remembered.recall_sources(self._cursor, _sources_of(decoded))
        self._take_runs(batches, books)
        self._take_sources(decoded)
        self._remembered.forget(topic, batches)

    # Records to the ledger.

    def _enter(self, decoded: Decoded) -> None:
        """Rows of all records that can make some, in order, whatever becomes of the records. What the parser said of them
        does not count: it learns to accept more, and the ledger stays what it was.
        """
        indexes = [index for index, event in decoded.events if not isinstance(event, RunLog | RunRefused)]
        if decoded.failures:
            indexes = sorted([*indexes, *(index for index, _ in decoded.failures)])
        rows, trials = self._changes.rows.setdefault("ledger", []), self._remembered.trials
        for index in indexes:
            record = self._records[index]
            entries = rows_of(record.value)
            if entries:
                partition = self._remembered.partition(record.partition)
                trial = trials.get(record.partition) if trials else None
                if trial is not None and record.offset >= trial.offset:
                    self._settle(partition, trial)
                first, partition.ledger_next = partition.ledger_next, partition.ledger_next + len(entries)
                origin = (record.received_us, record.offset)
                rows += [
                    (record.partition, n, *entry, *origin, run_hash(entry.run_id))
                    for n, entry in enumerate(entries, first)
                ]

    def _settle_trials(self) -> None:
        """Of partitions whose records reach, with this batch, the end of the seal in which their ledger begins again."""
        trials = self._remembered.trials
        if not trials:
            return
        ends = {r.partition: r.next_offset for r in self._records if r.partition in trials}
        for name, end in ends.items():
            if end >= trials[name].offset:
                self._settle(self._remembered.partition(name), trials[name])

    def _settle(self, book: PartitionBook, trial: Trial) -> None:
        del self._remembered.trials[book.partition]
        keep = partial(decide_trial, self._remembered.decided)
        dropped, cut = settle(self._cursor, book.partition, trial, book.ledger_next, keep)
        if cut is not None:
            self._tell_cuts([cut])
        if dropped is not None and cut is not None:
            rows = self._changes.rows["ledger"]
            rows[:] = [row for row in rows if row[0] != book.partition or row[1] < dropped]
            book.ledger_next = cut.first_row

    def _tell_cuts(self, cuts: Sequence[Cut]) -> None:
        for cut in cuts:
            number = self._remembered.take_incident_id()
            self._changes.add("incidents", number, self._now_us, CUT_INCIDENT, cut.partition, str(cut))

    # Records to runs.

    def _bury(self, decoded: Decoded, places: Sequence[int]) -> None:
        """Malformed records go to the dead letters, with bytes and origin."""
        for index, error in decoded.failures:
            r = self._records[index]
            number = self._remembered.take_dead_letter_id()
            origin = (r.partition, r.offset, r.next_offset, r.key, r.value, r.received_us)
            self._changes.add("dead_letters", number, *origin, self._now_us, error, "waiting", self._now_us)
            self._tally.malformed.append(places[index])
        self._tally.outcomes[Outcome.DEAD_LETTER] += len(decoded.failures)

    def _by_run(self, decoded: Decoded) -> dict[str, RunBatch]:
        """What the batch holds of each run, in order of its first record."""
        batches = {logs.run_id: RunBatch(logs.run_id, logs.first_index, logs) for logs in decoded.logs}
        for index, event in decoded.events:
            if isinstance(event, SourceHeartbeat | SourceClosed):
                for said in event.open:
                    batch = batches.setdefault(said.run_id, RunBatch(said.run_id, index))
                    batch.heard.append((index, event.source_id, said.events))
            elif isinstance(event, RunStarted | RunLog | RunFinished | RunRefused):
                batch = batches.setdefault(event.run_id, RunBatch(event.run_id, index))
                batch.first_index = min(batch.first_index, index)
                batch.events.append((index, event))
        return dict(sorted(batches.items(), key=lambda item: item[1].first_index))

    def _take_runs(self, batches: dict[str, RunBatch], books: dict[str, Book]) -> None:
        doubtful: list[tuple[Book, RunBatch]] = []
        for run_id, batch in batches.items():
            book = books[run_id]
            if batch.logs is None and not batch.events:
                self._hear(book, batch)
            elif book.kind is BookKind.PURGED:
                self._drop(book, batch)
            else:
                self._number(book, batch)
                kind_before = book.kind
                step = take_plainly(book, batch)
                if step is None:
                    doubtful.append((book, batch))
                else:
                    self._write_plain(book, batch, step, kind_before)
        if doubtful:
            self._judge(doubtful)

    def _number(self, book: Book, batch: RunBatch) -> None:
        if book.kind is BookKind.NEW:
            first = batch.first_own_index
            record = self._records[first]
            book.run_key = self._remembered.take_run_key()
            book.first_received_us = self._received_us(first)
            book.first_partition, book.first_offset = record.partition, record.offset
            book.first_us = record.received_us or self._made_us(batch, first)

    def _made_us(self, batch: RunBatch, index: int) -> int:
        """When a record of the run was made, as it says itself."""
        rows = batch.logs.rows[:1] if batch.logs is not None else ()
        said = next((event.at_us for at, event in (*batch.events[:1], *rows) if at == index), None)
        if said is None:  # a plain log of a large batch
            said = int(self._cursor.execute(_STAGING["made"], {"idx": index}).fetchall()[0][0])
        return said

    def _hear(self, book: Book, batch: RunBatch) -> None:
        """A heartbeat lists a run of which this batch holds nothing; it counts if anything of it is stored."""
        if book.kind not in (BookKind.ORPHAN, BookKind.STARTED):
            return
        changed = [book.hear(source_id, events) for _, source_id, events in batch.heard]
        if any(changed):
            self._touch(book)

    def _drop(self, book: Book, batch: RunBatch) -> None:
        records = len(batch.events) + (len(batch.logs.numbers) if batch.logs else 0)
        self._changes.dropped[book.run_key] += records
        self._tally.outcomes[Outcome.PURGED] += records

    def _touch(self, book: Book) -> None:
        if book.kind is BookKind.ORPHAN:
            self._remembered.tables.add("orphans")
            self._changes.orphans[book.run_key] = (book, self._topic)
        else:
            self._changes.touched[book.run_key] = book

    # The common case.

    def _write_plain(self, book: Book, batch: RunBatch, step: PlainStep, kind_before: BookKind) -> None:
        if batch.logs is not None:
            for _, log in batch.logs.rows:
                self._changes.add_odd_log(book.run_key, log)
            if not batch.logs.rows:
                self._changes.add("plain_runs", book.run_id, book.run_key)
            self._tally.outcomes[Outcome.STORED] += len(batch.logs.numbers)
        self._tally.outcomes[Outcome.STORED] += len(batch.events)
        finish = step.finish[1] if step.finish else None
        if step.start is not None:
            self._begin(book, step.start, finish, kind_before)
        elif finish is not None:
            self._changes.finishes[book.run_key] = finish
        self._tally.runs_finished += finish is not None
        self._touch(book)

    def _begin(
        self, book: Book, start: tuple[int, RunStarted], finish: RunFinished | None, kind_before: BookKind
    ) -> None:
        origin = self._origin(start[0])
        self._changes.new_runs[book.run_key] = (book, start[1], finish, self._topic, origin)
        self._tally.runs_started += 1
        if kind_before is BookKind.ORPHAN:
            self._changes.add("gone_orphans", book.run_key)

    # Record by record.

    def _judge(self, doubtful: Sequence[tuple[Book, RunBatch]]) -> None:
        staged = self._staged_logs([batch for _, batch in doubtful])
        started = [pair for pair in doubtful if pair[0].kind is BookKind.STARTED]
        stored = self._load_started(started, staged)
        for book, batch in doubtful:
            items = batch_items(batch, staged.get(book.run_id, ()), self._origin)
            kind_before, was_finished = book.kind, book.finished
            if kind_before is BookKind.STARTED:
                verdict = judge_started(book, stored[book.run_key], batch, items)
            else:
                verdict = judge_orphan(book, self._load_orphan(book), batch, items)
            self._write_judged(verdict, kind_before, was_finished)

    def _staged_logs(self, batches: Sequence[RunBatch]) -> dict[str, list[tuple[int, RunLog]]]:
        """The plain logs of these runs, in order of arrival; those in `staged` without their payloads."""
        found = {b.run_id: list(b.logs.rows) for b in batches if b.logs is not None}
        self._rows = {index: log for rows in found.values() for index, log in rows}
        in_table = [run_id for run_id, rows in found.items() if not rows]
        for index, run_id, number, at_us, event_type, tag in _read_staged(self._cursor, in_table):
            found[run_id].append((index, RunLog(run_id, number, at_us, tag, event_type, b"")))
        return found

    def _load_started(
        self,
        started: Sequence[tuple[Book, RunBatch]],
        staged: dict[str, list[tuple[int, RunLog]]],
    ) -> dict[int, StoredStart]:
        """What tells duplicates from conflicts, for all runs at once."""
        if not started:
            return {}
        refused = find_records(self._cursor, "kept", [b.run_key for b, _ in started if b.refused])
        conflicts = find_records(self._cursor, "conflicts", [b.run_key for b, _ in started if b.conflicts])
        calls = find_calls(self._cursor, [b.run_key for b, _ in started if b.bare])
        wanted = {
            book.run_key: {log.seq for _, log in staged.get(book.run_id, ())}
            | {event.seq for _, event in batch.events}
            | {kept.run_event().seq for kept in conflicts.get(book.run_key, ())}
            for book, batch in started
        }
        tags = find_tags(self._cursor, wanted)
        return {
            key: StoredStart(tags[key], refused.get(key, ()), conflicts.get(key, ()), calls.get(key, ()))
            for key in wanted
        }

    def _load_orphan(self, book: Book) -> StoredOrphan:
        if book.kind is BookKind.NEW:
            return StoredOrphan()
        key = book.run_key
        return StoredOrphan(
            logs_of_run(self._cursor, key),
            find_records(self._cursor, "kept", [key])[key],
            find_records(self._cursor, "conflicts", [key])[key],
        )

    def _write_judged(self, verdict: Judgement, kind_before: BookKind, was_finished: bool) -> None:
        book, changes = verdict.book, self._changes
        key = book.run_key
        self._tally.outcomes.update(verdict.outcomes)
        self._tally.runs_finished += book.finished and not was_finished
        self._write_judged_logs(verdict)
        if verdict.rewritten and kind_before is BookKind.ORPHAN:
            changes.add("gone_kept", key)
            changes.add("gone_conflicts", key)
        for item in verdict.kept:
            changes.add_kept(key, *self._with_id(item))
        for item in verdict.conflicts:
            self._write_conflict(book, item)
        for call_id in verdict.calls:
            changes.add("calls", key, call_id)
        if verdict.start is not None:
            self._begin(book, verdict.start, verdict.finish, kind_before)
        elif verdict.finish is not None:
            changes.finishes[key] = verdict.finish
        if verdict.new_conflicts:
            self._report_conflicts(book, verdict.new_conflicts)
        self._touch(book)

    def _write_judged_logs(self, verdict: Judgement) -> None:
        key = verdict.book.run_key
        for index in verdict.staged_logs:
            if index in self._rows:
                self._changes.add_odd_log(key, self._rows[index])
            else:
                self._changes.add("judged_logs", index, key)
        for log in verdict.logs:
            self._changes.add_odd_log(key, log)
        for number in verdict.removed:
            self._changes.add("removed_logs", key, number)

    def _with_id(self, item: Item) -> tuple[int, KeptRecord]:
        kept = record_bytes(item, self._topic)
        return (kept.id if kept.id >= 0 else self._remembered.take_record_id()), kept

    def _write_conflict(self, book: Book, item: Item) -> None:
        number, kept = self._with_id(item)
        event = item.event
        what = (book.run_key, book.run_id, self._topic, _KINDS[type(event)], event.seq, event.tag)
        origin = (kept.record, kept.partition, kept.offset, kept.received_us)
        self._changes.add("conflicts", number, *what, conflict_reason(book, event), *origin)

    def _report_conflicts(self, book: Book, count: int) -> None:
        """One incident a run and batch: the records themselves are in the conflicts."""
        self._changes.add(
            "incidents",
            self._remembered.take_incident_id(),
            self._now_us,
            "conflict",
            book.run_id,
            f"{counted(count, 'record')} for a place that another record of the run holds; see conflicts",
        )

    def _origin(self, index: int) -> KeptRecord:
        r = self._records[index]
        return KeptRecord(-1, r.value or b"", r.partition, r.offset, self._received_us(index))

    def _received_us(self, index: int) -> int:
        return self._records[index].received_us or self._now_us

    # Sources.

    def _take_sources(self, decoded: Decoded) -> None:
        """What sources say, and the signs of life in starts and finishes."""
        for index, event in decoded.events:
            record = self._records[index]
            if isinstance(event, RunStarted | RunFinished):
                if event.source_id:
                    book = self._remembered.source(event.source_id, self._topic, record.partition)
                    if book.hear(self._received_us(index)) or not book.stored:
                        self._changes.sources[book.source_id] = book
            elif not isinstance(event, RunLog | RunRefused):
                book = self._remembered.source(event.source_id, self._topic, record.partition)
                refused, lost = book.refused, book.lost
                book.take(event, record.partition, self._received_us(index))
                self._tally.told.add(book.host, book.refused - refused, book.lost - lost)
                self._changes.sources[book.source_id] = book
                claim = book.claim
                if claim is not None:
                    self._remembered.claims.waiting[book.source_id] = claim
                self._tally.outcomes[Outcome.STORED] += 1
        for book in list(self._changes.sources.values()):
            if book.gone != (book.source_id in self._remembered.gone):
                turn_source(self._remembered, self._changes, book)


def turn_source(remembered: Remembered, changes: Changes, book: SourceBook) -> None:
    """The source went, or came back: so do the runs it left open."""
    if book.gone:
        remembered.gone.add(book.source_id)
    else:
        remembered.gone.discard(book.source_id)
    changes.sources[book.source_id] = book
    changes.add("turned_sources", book.source_id, Liveness.ABANDONED if book.gone else Liveness.OPEN)


def conflict_reason(book: Book, event: RunEvent) -> str:
    """Why a record was kept aside."""
    bare = not isinstance(event, RunRefused) and event.is_bare
    if bare and not book.bare:
        return "written through a bare Storage, the run is a Writer's"
    if book.bare and not bare:
        return "sent by a Writer, the run was written through a bare Storage"
    if isinstance(event, RunStarted):
        return "another start of the same run id"
    if isinstance(event, RunFinished) and event.source_id != book.source_id:
        return "the finish comes from another source than the start"
    return f"number {event.seq} is taken by another record"


def _sources_of(decoded: Decoded) -> set[str]:
    return {
        event.source_id
        for _, event in decoded.events
        if not isinstance(event, RunLog | RunRefused) and event.source_id
    }


def _read_staged(cursor: duckdb.DuckDBPyConnection, run_ids: Sequence[str]) -> list[tuple[Any, ...]]:
    """(index, run_id, number, at_us, event_type, tag) of the plain logs of some runs, in order of arrival."""
    if not run_ids:
        return []
    cursor.register("judged_runs", make_table({"run_id": Kind.TEXT}, [(run_id,) for run_id in run_ids]))
    rows = cursor.execute(_STAGING["logs_of_runs"]).fetchall()
    cursor.unregister("judged_runs")
    return rows
