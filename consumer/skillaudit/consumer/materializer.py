"""From batches of records to rows: one transaction a batch, set-wise, exactly once.

A batch goes through these steps, all in one transaction:

1. Records below the stored positions were consumed before and are skipped.
2. The engine decodes plain logs (`staging`); everything else goes through the strict parser.
3. Runs that are not remembered are looked up, all at once, before they count as new (`lookup`).
4. A run whose numbers are new and distinct is taken as a whole (`books`), any other record by record (`judging`).
5. Every record that can makes its ledger rows, whatever became of it (`taking`).
6. Logs are inserted by joins with what the batch decoded; everything else as rows (`changes`).
7. Positions move by compare-and-set (`positions`), which fences a second writer off.

What is remembered between batches is a cache of the database; after a failed transaction it is thrown away.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

import duckdb

from skillaudit.consumer.acting import Acting, ActResult
from skillaudit.consumer.changes import Changes
from skillaudit.consumer.claims import Claim
from skillaudit.consumer.database import Database
from skillaudit.consumer.losses import Told
from skillaudit.consumer.poison import PoisonPolicy, exceeded
from skillaudit.consumer.positions import (
    BrokerClock,
    PartitionBook,
    advance,
    by_partition,
    confirm,
    topic_of,
    write_positions,
)
from skillaudit.consumer.redaction import Moment
from skillaudit.consumer.remembered import Remembered
from skillaudit.consumer.sealing import Sealer, SealState
from skillaudit.consumer.sources import SourceState
from skillaudit.consumer.staging import SMALL_BATCH_RECORDS, Parse, parse_value
from skillaudit.consumer.statements import statements
from skillaudit.consumer.taking import Tally, Terms, TopicTaker, turn_source
from skillaudit.contract.clock import Clock, SystemClock
from skillaudit.contract.engine import engine_errors
from skillaudit.contract.errors import PoisonLimitError
from skillaudit.contract.runrecord import Outcome
from skillaudit.contract.sources import SourceRecord, StoredPosition
from skillaudit.proof.decided import CutState

_STATE: Final = statements("state.sql")
_PARTITION: Final = attrgetter("partition")
_RECEIVED_US: Final = attrgetter("received_us")


@dataclass(slots=True)
class ApplyReport:
    """What became of a batch's records."""

    records: int = 0
    skipped: int = 0
    """Below the stored positions: consumed before."""
    outcomes: Counter[Outcome] = field(default_factory=Counter[Outcome])
    told: Told = field(default_factory=Told)
    """What sources say that was lost."""
    runs_started: int = 0
    runs_finished: int = 0
    positions: dict[str, int] = field(default_factory=dict[str, int])
    """The positions that moved, as committed."""

    def add(self, other: ApplyReport) -> None:
        """Count a further portion of the same batch."""
        self.records += other.records
        self.skipped += other.skipped
        self.outcomes.update(other.outcomes)
        self.told.update(other.told)
        self.runs_started += other.runs_started
        self.runs_finished += other.runs_finished
        self.positions |= other.positions


@dataclass(frozen=True, slots=True)
class MaterializerPolicy:
    """Bounds; see the settings of the same names."""

    poison: PoisonPolicy = field(default_factory=PoisonPolicy)
    seal_rows: int = 400_000
    abandon_after_ms: int = 300_000
    small_batch_records: int = SMALL_BATCH_RECORDS
    journal_acts: bool = True
    """Whether acts go into the journal at once; see `Acting`."""


class _SealInFlightError(Exception):
    """The batch has to delete rows of events, and a seal is copying them."""


class Materializer:
    """Writes one database. Safe from any thread: it holds the writer's lock itself.

    `identity` names where the records come from (Kafka's cluster id, an outbox's id); it is stored with the positions.
    """

    def __init__(
        self,
        database: Database,
        *,
        identity: str = "",
        policy: MaterializerPolicy | None = None,
        clock: Clock | None = None,
        parse: Parse = parse_value,
        cuts: CutState | None = None,
    ) -> None:
        """`parse`: what judges the records that the engine does not decode. `cuts`: as `Remembered`'s `decided`."""
        self.database = database
        self.parse = parse
        self.identity = identity
        self.policy = policy or MaterializerPolicy()
        self.clock = clock or SystemClock()
        self.sealer = Sealer(database, seal_rows=self.policy.seal_rows)
        if self.sealer.state is SealState.MOVING:
            self.sealer.move()
        self._cursor = database.cursor()
        with engine_errors("read what is stored"):
            self.remembered = Remembered(self._cursor, decided=cuts)
            self.acting = Acting(self._cursor, journal=self.policy.journal_acts)
        newest_us = max((book.received_us for book in self.remembered.partitions.values()), default=0)
        self._broker_clock = BrokerClock(newest_us, self.clock.steady_us())

    def __repr__(self) -> str:
        """How far it is."""
        return f"<Materializer {self.database.path.name} next_run_key={self.remembered.next_run_key}>"

    def positions(self) -> dict[str, StoredPosition]:
        """How far each partition was consumed, as committed."""
        books = self.remembered.partitions
        return {name: book.stored_position() for name, book in books.items() if book.stored}

    def clusters(self) -> dict[str, str]:
        """The identity that each partition's position was stored with."""
        return {name: book.cluster for name, book in self.remembered.partitions.items() if book.stored}

    def apply(self, records: Sequence[SourceRecord], ends: Mapping[str, int] | None = None) -> ApplyReport:
        """Take a batch: all of it is committed, or nothing is.

        `ends`: known ends of partitions; one whose position reaches its end has been read up to now. Raises
        `PoisonLimitError` and `FencedError`, `DatabaseError` where the engine refuses.
        """
        with self.sealer.writing:
            if not self.acting.pending:
                return self._apply_patiently(records, ends or {})
            return self._apply_in_steps(records, ends or {})

    def _apply_patiently(
        self,
        records: Sequence[SourceRecord],
        ends: Mapping[str, int],
        beyond: Mapping[str, int] | None = None,
    ) -> ApplyReport:
        try:
            return self._apply(records, ends, beyond or {})
        except _SealInFlightError:
            self.sealer.wait_moved()  # no other can begin: a swap needs the writer's lock
            return self._apply(records, ends, beyond or {})

    def _apply_in_steps(self, records: Sequence[SourceRecord], ends: Mapping[str, int]) -> ApplyReport:
        """Acts are pending: each is applied where the events have reached its position, in the transaction of those before
        it, so that nobody sees them without it, and before anything behind it.
        """
        report = ApplyReport()
        self.settle_acts({record.partition: record.offset for record in reversed(records)})
        steps = self.acting.steps(records)
        for number, step in enumerate(steps, 1):
            beyond = {r.partition: r.offset for later in reversed(steps[number:]) for r in reversed(later)}
            report.add(self._apply_patiently(step, ends, beyond))
        return report

    def settle_acts(self, next_offsets: Mapping[str, int]) -> None:
        """Apply the pending acts that are due without anything being taken: the log goes on behind their positions.
        `next_offsets`: of partitions whose next record is known.
        """
        if not self.acting.due(self._reached(next_offsets)):
            return
        with self.sealer.quiet():
            with self.transaction("apply pending acts") as cursor:
                result = self.acting.settle(cursor, self._reached(next_offsets), self.moment())
            self._note_settled(result)
            self.sealer.note(result.rows, 0)

    def _settle_within(self, cursor: duckdb.DuckDBPyConnection, beyond: Mapping[str, int]) -> ActResult:
        """The same in a batch's transaction, when its positions are moved."""
        reached = self._reached(beyond)
        if not self.acting.due(reached):
            return ActResult()
        if self.sealer.state is SealState.MOVING:
            raise _SealInFlightError
        return self.acting.settle(cursor, reached, self.moment())

    def _note_settled(self, result: ActResult) -> None:
        if result.runs:
            self.forget()  # the books of these runs are no longer what the database says

    def _reached(self, next_offsets: Mapping[str, int]) -> dict[str, int]:
        """How far each partition is read; up to its next record, where that is known."""
        reached = {name: book.next_offset for name, book in self.remembered.partitions.items()}
        return reached | {name: max(at, reached.get(name, 0)) for name, at in next_offsets.items()}

    def moment(self) -> Moment:
        """What an act depends on; under the writer's lock."""
        return Moment(self.sealer.hot, self.clock.wall_us())

    def apply_again(
        self, records: Sequence[SourceRecord], settle: Callable[[duckdb.DuckDBPyConnection], None]
    ) -> ApplyReport:
        """Take records that were passed over before (dead letters): no position moves. `settle` is in the transaction."""
        with self.sealer.quiet():
            tally, changes = Tally(), Changes()
            with self.transaction(f"apply {len(records)} records again") as cursor:
                rows = self._take(cursor, records, changes, tally, ledger=False)
                changes.write_rest(cursor, self.remembered.gone)
                rows += self.acting.after_batch(cursor, changes.run_keys(), self.moment())
                settle(cursor)
            for book in changes.sources.values():
                book.stored = True
            self.sealer.note(rows, tally.size_bytes)
        return ApplyReport(
            records=len(records),
            outcomes=tally.outcomes,
            runs_started=tally.runs_started,
            runs_finished=tally.runs_finished,
        )

    def to_ask(self) -> Mapping[str, Claim]:
        """What sources said that is not due before all partitions are read as far as they reach now; see `look`."""
        with self.sealer.writing:
            return self.remembered.claims.to_ask()

    def look(self, ends: Mapping[str, int], asked: Mapping[str, Claim]) -> None:
        """Take `ends` as the ends of all partitions there are, asked for after `asked` was."""
        with self.sealer.writing:
            self.remembered.claims.look(ends, asked)

    def tick(self, ends: Mapping[str, int] | None = None) -> int:
        """Let time pass where nothing arrives: partitions read to their ends are read up to now, what sources said and
        what has been read to since is due, and sources silent beyond the limit are gone. Returns how many went. To be
        called every few seconds.
        """
        with self.transaction("judge the silence of sources") as cursor:
            self._settle_claims(cursor)
            for book in self.remembered.partitions.values():
                if book.stored and self._read_on(book, ends or {}):
                    parameters = {"partition": book.partition, "read_to_us": book.read_to_us}
                    cursor.execute(_STATE["read_to"], parameters)
            return self._judge_silence(cursor)

    def record_incident(
        self,
        kind: str,
        subject: str,
        detail: str,
        settle: Callable[[duckdb.DuckDBPyConnection], object] = lambda _: None,
    ) -> None:
        """Keep what a person has to know, in a transaction of its own; `settle` is in it."""
        with self.transaction("record an incident") as cursor:
            settle(cursor)
            changes = Changes()
            number = self.remembered.take_incident_id()
            changes.add("incidents", number, self.clock.wall_us(), kind, subject, detail)
            changes.write_rest(cursor, ())

    @contextlib.contextmanager
    def transaction(self, doing: str) -> Generator[duckdb.DuckDBPyConnection]:
        """A transaction on the writer's cursor, under its lock. What is remembered is thrown away if it fails."""
        with self.sealer.writing, engine_errors(doing):
            self._cursor.execute("BEGIN")
            try:
                yield self._cursor
                self._cursor.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(duckdb.Error):  # the first error is the one to tell
                    self._cursor.execute("ROLLBACK")
                self.forget()
                raise

    def forget(self) -> None:
        """Throw away what is remembered; it is read again."""
        self.remembered = Remembered(self._cursor, self.remembered.known, self.remembered.decided)
        self.acting.load(self._cursor)

    def close(self) -> None:
        """Let go of the cursor. Nothing is pending between batches."""
        self._cursor.close()

    def _apply(
        self, records: Sequence[SourceRecord], ends: Mapping[str, int], beyond: Mapping[str, int]
    ) -> ApplyReport:
        fresh, parts = self._fresh(records)
        if not fresh:
            return ApplyReport(len(records), len(records))
        tally, changes = Tally(), Changes()
        with engine_errors("read what is stored"):
            self.remembered.known.prepare(self._cursor, self.remembered.next_run_key)
        with self.transaction(f"apply {len(fresh)} records") as cursor:
            rows = self._take(cursor, fresh, changes, tally, ledger=True)
            self._judge_poison(cursor, fresh, sorted(tally.malformed))
            moved = self._move(parts, ends)
            changes.write_rest(cursor, self.remembered.gone)
            rows += self.acting.after_batch(cursor, changes.run_keys(), self.moment())
            self.acting.after_dead_letters(cursor, [fresh[at] for at in tally.malformed], self.moment())
            settled = self._settle_within(cursor, beyond)
            write_positions(cursor, moved)
        confirm(moved)
        for book in changes.sources.values():
            book.stored = True
        self.sealer.note(rows + settled.rows, tally.size_bytes)
        self._note_settled(settled)
        return ApplyReport(
            records=len(records),
            skipped=len(records) - len(fresh),
            outcomes=tally.outcomes,
            told=tally.told,
            runs_started=tally.runs_started,
            runs_finished=tally.runs_finished,
            positions={book.partition: book.next_offset for book in moved},
        )

    def _fresh(
        self, records: Sequence[SourceRecord]
    ) -> tuple[Sequence[SourceRecord], Mapping[str, Sequence[SourceRecord]]]:
        """Those that were not consumed before, and the same by partition. Offsets ascend within a partition."""
        parts = by_partition(records)
        books = self.remembered.partitions
        behind = {
            name: books[name].next_offset
            for name, part in parts.items()
            if name in books and part[0].offset < books[name].next_offset
        }
        if not behind:
            return records, parts
        fresh = [r for r in records if r.offset >= behind.get(r.partition, 0)]
        return fresh, by_partition(fresh)

    def _take(
        self,
        cursor: duckdb.DuckDBPyConnection,
        records: Sequence[SourceRecord],
        changes: Changes,
        tally: Tally,
        *,
        ledger: bool,
    ) -> int:
        terms = Terms(
            now_us=self.clock.wall_us(),
            small_batch_records=self.policy.small_batch_records,
            parse=self.parse,
            ledger=ledger,
        )
        taker = TopicTaker(cursor, self.remembered, changes, tally, terms)
        rows = 0
        for topic, places in _by_topic(records).items():
            part = records if len(places) == len(records) else [records[place] for place in places]
            taker.take(topic, part, places)
            if "removed_logs" in changes.rows and self.sealer.state is SealState.MOVING:
                raise _SealInFlightError
            rows += changes.write_events(cursor, self.sealer.hot)
        return rows

    def _judge_poison(
        self, cursor: duckdb.DuckDBPyConnection, records: Sequence[SourceRecord], malformed: Sequence[int]
    ) -> None:
        before = self.remembered.poison
        reason = exceeded(self.policy.poison, before, len(records), malformed)
        if reason:
            first = records[malformed[0]]
            raise PoisonLimitError(
                f"{reason}: a deployment that sends something else, rather than single bad records. This batch was "
                "not taken. Mend the sender and raise the limit to get past, or upgrade the consumer",
                f"{first.partition}#{first.offset}",
                {record.partition: record.next_offset for record in records},
            )
        self.remembered.poison = before.after(len(records), malformed)
        if malformed or before.in_a_row:
            cursor.execute(_STATE["set_poison"], {"value": self.remembered.poison.dump()})

    def _move(
        self, parts: Mapping[str, Sequence[SourceRecord]], ends: Mapping[str, int]
    ) -> list[PartitionBook]:
        """Move the positions, in memory."""
        moved: list[PartitionBook] = []
        steady_us = self.clock.steady_us()
        for partition, part in parts.items():
            book = self.remembered.partition(partition)
            received_us = max(map(_RECEIVED_US, part))
            advance(book, part, self.identity, received_us)
            self._broker_clock.see(received_us, steady_us)
            book.read_to_us = max(book.read_to_us, received_us)
            self._read_on(book, ends)
            moved.append(book)
        return moved

    def _read_on(self, book: PartitionBook, ends: Mapping[str, int]) -> bool:
        """A partition that was read to its end was read up to now; whether that moved anything."""
        end = ends.get(book.partition)
        if end is None:
            return False
        book.end_offset = max(book.end_offset, end)
        if book.next_offset < end:
            return False
        stamped = book.received_us > 0
        now_us = self._broker_clock.now_us(self.clock.steady_us()) if stamped else self.clock.wall_us()
        if now_us <= book.read_to_us:
            return False
        book.read_to_us = now_us
        return True

    def _settle_claims(self, cursor: duckdb.DuckDBPyConnection) -> None:
        positions = {name: book.next_offset for name, book in self.remembered.partitions.items()}
        due = self.remembered.claims.take_due(positions)
        if not due:
            return
        self.remembered.recall_sources(cursor, due)
        changes = Changes()
        for source_id, claim in due.items():
            book = self.remembered.sources[source_id]
            was_gone = book.gone
            book.settle(claim)
            changes.sources[source_id] = book
            if book.gone and not was_gone:
                turn_source(self.remembered, changes, book)
        changes.write_rest(cursor, self.remembered.gone)

    def _judge_silence(self, cursor: duckdb.DuckDBPyConnection) -> int:
        limit = {"limit_us": self.policy.abandon_after_ms * 1_000}
        source_ids = [row[0] for row in cursor.execute(_STATE["quiet_sources"], limit).fetchall()]
        if not source_ids:
            return 0
        self.remembered.recall_sources(cursor, source_ids)
        changes = Changes()
        for source_id in source_ids:
            book = self.remembered.sources[source_id]
            book.state = SourceState.SILENT
            turn_source(self.remembered, changes, book)
        changes.write_rest(cursor, self.remembered.gone)
        return len(source_ids)


def _by_topic(records: Sequence[SourceRecord]) -> Mapping[str, Sequence[int]]:
    """Places of the records of each topic."""
    topics = {partition: topic_of(partition) for partition in set(map(_PARTITION, records))}
    if len(set(topics.values())) == 1:
        return {next(iter(topics.values())): range(len(records))}
    found: dict[str, list[int]] = {}
    for place, record in enumerate(records):
        found.setdefault(topics[record.partition], []).append(place)
    return found
