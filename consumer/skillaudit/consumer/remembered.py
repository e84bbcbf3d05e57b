"""What the materializer remembers between batches. A cache: everything in it can be read from the database again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Final

import duckdb

from skillaudit.consumer.books import Book
from skillaudit.consumer.hashes import KnownHashes
from skillaudit.consumer.lookup import find_books, next_number
from skillaudit.consumer.poison import PoisonState, load_state
from skillaudit.consumer.positions import PartitionBook, first_position, load_ledger_ends, load_positions
from skillaudit.consumer.sources import SourceBook, find_claims, find_sources
from skillaudit.consumer.statements import statements
from skillaudit.contract.sources import SourceRecord
from skillaudit.proof.cuts import Cut, Trial, begin, trials
from skillaudit.proof.decided import CutState, decide

BOOKS_MAX: Final = 200_000
"""Runs remembered at once; past it all are forgotten, and looked up when they are met again."""
SOURCES_MAX: Final = 100_000
_STATE: Final = statements("state.sql")
_PARTITION: Final = attrgetter("partition")


class Remembered:
    """Books of runs by topic and id, of sources and partitions, and the next free numbers."""

    def __init__(
        self,
        cursor: duckdb.DuckDBPyConnection,
        known: KnownHashes | None = None,
        decided: CutState | None = None,
    ) -> None:
        """`known`: of an earlier one over the same database, to be gone on with. `decided`: where cuts are kept for the
        sealer; None where nothing is signed, and no cut can be decided.
        """
        self.decided = decided
        self.known = known or KnownHashes()
        self.books: dict[str, dict[str, Book]] = {}
        self.sources: dict[str, SourceBook] = {}
        self.gone: set[str] = {row[0] for row in cursor.execute(_STATE["gone_sources"]).fetchall()}
        """Sources whose open runs count as abandoned."""
        self.claims = find_claims(cursor)
        self.partitions: dict[str, PartitionBook] = load_positions(cursor)
        self._ledger_ends = load_ledger_ends(cursor)
        self.trials: dict[str, Trial] = trials(cursor)
        """Partitions of which it is still open with which row their ledger begins; see `proof.cuts`."""
        self.tables = {"runs", *(name for name in ("orphans", "tombstones") if _any(cursor, name))}
        """Tables in which an unknown run may be found: orphans and tombstones are rare, and each look-up a scan."""
        self.poison: PoisonState = _poison(cursor)
        self.next_run_key = next_number(cursor, "next_run_key")
        self.next_record_id = next_number(cursor, "next_record_id")
        self.next_dead_letter_id = next_number(cursor, "next_dead_letter_id")
        self.next_incident_id = next_number(cursor, "next_incident_id")

    def recall(
        self, cursor: duckdb.DuckDBPyConnection, topic: str, run_ids: Iterable[str]
    ) -> dict[str, Book]:
        """The books of these runs, in this order; those not remembered are looked up, all at once."""
        books = self.books.setdefault(topic, {})
        wanted = list(run_ids)
        unknown = [run_id for run_id in wanted if run_id not in books]
        if unknown:
            books.update(find_books(cursor, topic, unknown, self.tables, self.known))
        return {run_id: books[run_id] for run_id in wanted}

    def recall_sources(self, cursor: duckdb.DuckDBPyConnection, source_ids: Iterable[str]) -> None:
        """Have the books of these sources, as far as they are stored."""
        unknown = {source_id for source_id in source_ids if source_id not in self.sources}
        if unknown:
            self.sources.update(find_sources(cursor, unknown))

    def source(self, source_id: str, topic: str, partition: str) -> SourceBook:
        """The book of a source; a new one where it is not stored. After `recall_sources`."""
        book = self.sources.get(source_id)
        if book is None:
            book = self.sources[source_id] = SourceBook(source_id, topic, partition)
        return book

    def partition(self, name: str) -> PartitionBook:
        """The book of a partition; a new one where it has no stored position. Its ledger goes on where it ended."""
        book = self.partitions.get(name)
        if book is None:
            book = PartitionBook(name, ledger_next=self._ledger_ends.get(name, 0))
            self.partitions[name] = book
        return book

    def begin(self, cursor: duckdb.DuckDBPyConnection, records: Sequence[SourceRecord]) -> list[Cut]:
        """Books of the partitions that these records are the first of. In a rebuild their ledgers may not begin at row 0;
        returns what is known to be missing of them.
        """
        new = {name for name in set(map(_PARTITION, records)) if name not in self.partitions}
        if not new:
            return []
        firsts: dict[str, int] = {}
        for record in records:
            if record.partition in new:
                firsts.setdefault(record.partition, first_position(record))
        books = {name: self.partition(name) for name in firsts}
        cuts = begin(cursor, firsts, {name: book.ledger_next for name, book in books.items()})
        decide(self.decided, cuts)
        for cut in cuts:
            books[cut.partition].ledger_next = cut.first_row
            if cut.trial is not None:
                self.trials[cut.partition] = cut.trial
        return [cut for cut in cuts if cut.trial is None]

    def forget(self, topic: str, run_ids: Iterable[str]) -> None:
        """Drop what nobody is likely to ask for, and everything where it grows too large."""
        books = self.books.get(topic, {})
        for run_id in run_ids:
            book = books.get(run_id)
            if book is not None and (book.whole or book.run_key < 0):
                del books[run_id]
        if len(books) > BOOKS_MAX:
            books.clear()
        if len(self.sources) > SOURCES_MAX:
            self.sources.clear()

    def take_run_key(self) -> int:
        """The next run_key: they are given in order of arrival."""
        self.next_run_key += 1
        return self.next_run_key - 1

    def take_record_id(self) -> int:
        """The next id of a kept or conflicting record."""
        self.next_record_id += 1
        return self.next_record_id - 1

    def take_dead_letter_id(self) -> int:
        """The next id of a dead letter."""
        self.next_dead_letter_id += 1
        return self.next_dead_letter_id - 1

    def take_incident_id(self) -> int:
        """The next id of an incident."""
        self.next_incident_id += 1
        return self.next_incident_id - 1


def _any(cursor: duckdb.DuckDBPyConnection, table: str) -> bool:
    return bool(cursor.execute(_STATE[f"any_{table}"]).fetchall())


def _poison(cursor: duckdb.DuckDBPyConnection) -> PoisonState:
    row = cursor.execute(_STATE["poison"]).fetchone()
    return load_state(str(row[0]) if row else "")
