"""How far each partition was consumed, and up to which moment in the broker's time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from operator import attrgetter
from typing import Final

import duckdb

from skillaudit.consumer.changes import Row, write_rows
from skillaudit.consumer.statements import statements
from skillaudit.contract.errors import FencedError
from skillaudit.contract.outbox.layout import unpack_position
from skillaudit.contract.sources import OUTBOX_TOPIC, SourceRecord, StoredPosition

_SQL: Final = statements("lookup.sql")
_PARTITION: Final = attrgetter("partition")


@dataclass(slots=True)
class PartitionBook:
    """One partition, as its row in `store.positions`."""

    partition: str
    cluster: str = ""
    next_offset: int = 0
    last_offset: int = -1
    last_digest: str = ""
    records: int = 0
    received_us: int = 0
    read_to_us: int = 0
    end_offset: int = 0
    ledger_next: int = 0
    """Number of the next row in the partition's ledger."""
    expected: int = 0
    """`next_offset` as the database has it."""
    stored: bool = False

    def stored_position(self) -> StoredPosition:
        """What a source needs to go on."""
        return StoredPosition(self.next_offset, self.last_offset, self.last_digest)


class BrokerClock:
    """A lower bound of the broker's time: its newest stamp seen, plus the time since that was seen here.

    Where records carry no stamp (embedded) it is this machine's wall clock.
    """

    def __init__(self, newest_us: int, steady_us: int) -> None:
        self._newest_us = newest_us
        self._seen_us = steady_us

    def see(self, received_us: int, steady_us: int) -> None:
        """A record's stamp."""
        if received_us > self.now_us(steady_us):
            self._newest_us, self._seen_us = received_us, steady_us

    def now_us(self, steady_us: int) -> int:
        """The broker's time is at least this."""
        return self._newest_us + max(steady_us - self._seen_us, 0)


def load_positions(cursor: duckdb.DuckDBPyConnection) -> dict[str, PartitionBook]:
    """All stored partitions."""
    rows = cursor.execute(_SQL["positions"]).fetchall()
    books = [PartitionBook(*row) for row in rows]
    confirm(books)
    return {book.partition: book for book in books}


def advance(book: PartitionBook, records: Sequence[SourceRecord], cluster: str, received_us: int) -> None:
    """Move past the records of one partition, in order."""
    last = records[-1]
    book.cluster = cluster or book.cluster
    book.next_offset, book.last_offset = last.next_offset, last.offset
    book.last_digest = sha256(last.value or b"").hexdigest()
    book.records += len(records)
    book.received_us = max(book.received_us, received_us)
    book.end_offset = max(book.end_offset, last.next_offset)


def write_positions(cursor: duckdb.DuckDBPyConnection, books: Sequence[PartitionBook]) -> None:
    """Compare and set: raises `FencedError` where a row is not as this writer left it."""
    new = [_row(book) for book in books if not book.stored]
    moved = [_row(book) for book in books if book.stored]
    try:
        write_rows(cursor, "new_positions", new)
    except duckdb.ConstraintException as exc:
        raise FencedError(_fenced_text(books)) from exc
    if write_rows(cursor, "moved_positions", moved) != len(moved):
        raise FencedError(_fenced_text(books))


def confirm(books: Sequence[PartitionBook]) -> None:
    """The transaction is committed."""
    for book in books:
        book.expected, book.stored = book.next_offset, True


def _fenced_text(books: Sequence[PartitionBook]) -> str:
    names = ", ".join(sorted(book.partition for book in books)[:5])
    return f"another consumer moved the stored positions of {names}; end one of the two and start the other again"


def _row(book: PartitionBook) -> Row:
    return (
        book.partition,
        book.expected,
        book.cluster,
        book.next_offset,
        book.last_offset,
        book.last_digest,
        book.records,
        book.received_us,
        book.read_to_us,
        book.end_offset,
        book.ledger_next,
    )


def load_ledger_ends(cursor: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Partition -> number of its next row, of ledgers whose position was given up."""
    return dict(cursor.execute(_SQL["ledger_ends"]).fetchall())


def by_partition(records: Sequence[SourceRecord]) -> Mapping[str, list[SourceRecord]]:
    """The records of each partition, in order."""
    found: dict[str, list[SourceRecord]] = {}
    for partition, part in groupby(records, _PARTITION):  # sources hand them out partition by partition
        found.setdefault(partition, []).extend(part)
    return found


def first_position(record: SourceRecord) -> int:
    """Where the records begin of which this is the first that is left; 0 where none can have been before it. An outbox
    loses whole segments, and its first record does not lie at 0.
    """
    begins = topic_of(record.partition) == OUTBOX_TOPIC and unpack_position(record.offset)[0] == 0
    return 0 if begins else record.offset


def topic_of(partition: str) -> str:
    """The topic of a partition's name; its runs' ids are a namespace of their own."""
    return partition.rpartition("/")[0]
