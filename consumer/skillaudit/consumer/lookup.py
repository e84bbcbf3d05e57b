"""Reading back what the database holds of runs and sources, set-wise."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import duckdb
import orjson

from skillaudit.consumer.arrow import Kind, make_table
from skillaudit.consumer.books import NEVER_US, Book, BookKind
from skillaudit.consumer.hashes import KnownHashes
from skillaudit.consumer.statements import statements
from skillaudit.contract.digests import run_hash
from skillaudit.contract.events import parse_ranges
from skillaudit.contract.wire import RunEvent, RunFinished, RunLog, RunRefused, RunStarted, parse_record

_SQL: Final = statements("lookup.sql")


@dataclass(frozen=True, slots=True)
class KeptRecord:
    """A record as it came, with its origin; `id` is -1 until it is stored."""

    id: int
    record: bytes
    partition: str
    offset: int
    received_us: int

    def run_event(self) -> RunEvent:
        """The record, read. Whatever is kept was readable when it came, and belongs to a run."""
        event = parse_record(self.record)
        if isinstance(event, RunStarted | RunLog | RunFinished | RunRefused):
            return event
        raise TypeError("only records of runs are kept")


@dataclass(frozen=True, slots=True)
class StoredLog:
    """A row of the events, with its payload."""

    sequence: int
    event_type: str
    at_us: int
    tag: int
    payload: str


def find_books(
    cursor: duckdb.DuckDBPyConnection,
    topic: str,
    run_ids: Iterable[str],
    tables: Collection[str],
    known: KnownHashes,
) -> dict[str, Book]:
    """A book for every one of these runs: of what is stored in these tables, else a new one."""
    books = {run_id: Book(run_id, run_hash(run_id)) for run_id in run_ids}
    hashes = {"hashes": [book.run_hash for book in books.values() if known.may_hold(book.run_hash)]}
    for book in books.values():
        known.add(book.run_hash)
    if not hashes["hashes"]:
        return books
    readers = (("tombstones", _purged), ("orphans", _orphan), ("runs", _started))
    for statement, read in readers:
        if statement not in tables:
            continue
        for row in cursor.execute(_SQL[statement], hashes).fetchall():
            if row[1] == topic and row[0] in books:
                books[row[0]] = read(row)
    return books


def _purged(row: Sequence[Any]) -> Book:
    return Book(row[0], row[3], row[2], BookKind.PURGED)


def _orphan(row: Sequence[Any]) -> Book:
    return Book(
        run_id=row[0],
        run_key=row[2],
        run_hash=row[3],
        kind=BookKind.ORPHAN,
        bare=row[4],
        source_id=row[5],
        received=parse_ranges(row[6]),
        declared=parse_ranges(row[7]),
        logs=row[8],
        conflicts=row[9],
        last_us=_us(row[10]),
        finished=row[11],
        events=row[12],
        plain=row[13],
        heard=orjson.loads(row[14]),
        first_received_us=row[15],
        first_partition=row[16],
        first_offset=row[17],
        first_us=row[18],
    )


def _started(row: Sequence[Any]) -> Book:
    return Book(
        run_id=row[0],
        run_key=row[2],
        run_hash=row[3],
        kind=BookKind.STARTED,
        bare=row[4],
        source_id=row[5],
        received=((0, row[12]),) if row[6] is None else parse_ranges(row[6]),
        declared=parse_ranges(row[7]),
        logs=row[8],
        conflicts=row[9],
        last_us=_us(row[10]),
        finished=row[11],
        finish_seq=row[12],
        events=row[13],
        start_tag=row[14],
        finish_tag=row[15] or 0,
        refused=row[16],
        known=row[17],
        first_received_us=row[18],
    )


def _us(value: int | None) -> int:
    return NEVER_US if value is None else value


def find_tags(
    cursor: duckdb.DuckDBPyConnection, wanted: Mapping[int, Iterable[int]]
) -> dict[int, dict[int, int]]:
    """Tags of stored logs: run_key -> number -> tag, of the numbers asked for."""
    pairs = [(run_key, number) for run_key, numbers in wanted.items() for number in numbers]
    found: dict[int, dict[int, int]] = {run_key: {} for run_key in wanted}
    if not pairs:
        return found
    cursor.register("wanted", make_table({"run_key": Kind.I64, "sequence": Kind.I64}, pairs))
    for run_key, number, tag in cursor.execute(_SQL["tags"]).fetchall():
        found[run_key][number] = tag
    cursor.unregister("wanted")
    return found


def find_records(
    cursor: duckdb.DuckDBPyConnection, table: str, run_keys: Sequence[int]
) -> dict[int, list[KeptRecord]]:
    """The records in `kept` or `conflicts` of some runs, in order of arrival."""
    found: dict[int, list[KeptRecord]] = {run_key: [] for run_key in run_keys}
    for row in cursor.execute(_SQL[table], {"run_keys": list(run_keys)}).fetchall():
        found[row[0]].append(KeptRecord(*row[1:]))
    return found


def find_calls(cursor: duckdb.DuckDBPyConnection, run_keys: Sequence[int]) -> dict[int, list[str]]:
    """The finishing calls that were applied to some bare runs."""
    found: dict[int, list[str]] = {run_key: [] for run_key in run_keys}
    for run_key, call_id in cursor.execute(_SQL["calls"], {"run_keys": list(run_keys)}).fetchall():
        found[run_key].append(call_id)
    return found


def logs_of_run(cursor: duckdb.DuckDBPyConnection, run_key: int) -> list[StoredLog]:
    """All stored logs of a run."""
    rows = cursor.execute(_SQL["events_of_run"], {"run_key": run_key}).fetchall()
    return [StoredLog(*row) for row in rows]


def next_number(cursor: duckdb.DuckDBPyConnection, statement: str) -> int:
    """The next free value of a counter, by its statement's name."""
    row = cursor.execute(_SQL[statement]).fetchone()
    return int(row[0]) if row else 0
