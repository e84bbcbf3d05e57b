"""What one batch changes, collected as rows and written set-wise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import duckdb
import orjson

from skillaudit.consumer.arrow import Kind, make_table
from skillaudit.consumer.books import Book
from skillaudit.consumer.lookup import KeptRecord
from skillaudit.consumer.sources import SourceBook
from skillaudit.consumer.statements import statements
from skillaudit.contract.events import format_ranges
from skillaudit.contract.records import Liveness, Status
from skillaudit.contract.wire import RunFinished, RunLog, RunStarted

_SQL: Final = statements("writes.sql")

EVENT_TABLES: Final = ("store.events_hot_a", "store.events_hot_b", "store.events_sealed")

_I64, _U64, _TEXT, _BLOB, _BOOL, _TIME = Kind.I64, Kind.U64, Kind.TEXT, Kind.BLOB, Kind.BOOL, Kind.TIME

Columns = Mapping[str, Kind]

_PROGRESS: Final[Columns] = {
    "run_key": _I64,
    "events_stored": _I64,
    "completeness": _TEXT,
    "liveness": _TEXT,
    "missing": _TEXT,
    "lost": _TEXT,
    "conflicts": _I64,
    "last_event_at": _TIME,
    "events_expected": _I64,
    "finish_seq": _I64,
    "finish_tag": _U64,
    "known": _I64,
    "refused": _BOOL,
    "received": _TEXT,
}
_FINISH: Final[Columns] = {
    "finished_at": _TIME,
    "status": _TEXT,
    "output": _TEXT,
    "error": _TEXT,
    "tool_calls_count": _I64,
    "runtime_us": _I64,
    "total_input_tokens": _I64,
    "total_output_tokens": _I64,
    "total_thinking_tokens": _I64,
    "head": _BLOB,
}
_START: Final[Columns] = {
    "run_hash": _U64,
    "id": _TEXT,
    "topic": _TEXT,
    "skill_id": _TEXT,
    "caller_id": _TEXT,
    "channel_id": _TEXT,
    "inputs": _TEXT,
    "started_at": _TIME,
    "parent_run_id": _TEXT,
    "attributes": _TEXT,
    "source_id": _TEXT,
    "source_seq": _I64,
    "received_at": _TIME,
    "by_storage": _BOOL,
    "clock": _TEXT,
    "salt": _BLOB,
    "start_tag": _U64,
    "partition": _TEXT,
    "record_offset": _I64,
    "first_offset": _I64,
    "first_us": _I64,
}
TABLES: Final[Mapping[str, Columns]] = {
    "new_runs": {**_PROGRESS, **_FINISH, **_START},
    "touched_runs": _PROGRESS,
    "finished_runs": {**_PROGRESS, **_FINISH},
    "gone_orphans": {"run_key": _I64},
    "orphans": {
        "run_key": _I64,
        "run_hash": _U64,
        "id": _TEXT,
        "topic": _TEXT,
        "plain": _BOOL,
        "bare": _BOOL,
        "source_id": _TEXT,
        "events_expected": _I64,
        "events_stored": _I64,
        "completeness": _TEXT,
        "liveness": _TEXT,
        "missing": _TEXT,
        "lost": _TEXT,
        "conflicts": _I64,
        "received": _TEXT,
        "known": _TEXT,
        "first_received_at": _TIME,
        "last_event_at": _TIME,
        "partition": _TEXT,
        "record_offset": _I64,
        "first_us": _I64,
    },
    "gone_kept": {"run_key": _I64},
    "kept": {
        "id": _I64,
        "run_key": _I64,
        "record": _BLOB,
        "partition": _TEXT,
        "record_offset": _I64,
        "received_us": _I64,
    },
    "gone_conflicts": {"run_key": _I64},
    "conflicts": {
        "id": _I64,
        "run_key": _I64,
        "run_id": _TEXT,
        "topic": _TEXT,
        "kind": _TEXT,
        "sequence": _I64,
        "tag": _U64,
        "reason": _TEXT,
        "record": _BLOB,
        "partition": _TEXT,
        "record_offset": _I64,
        "received_us": _I64,
    },
    "calls": {"run_key": _I64, "call_id": _TEXT},
    "dropped": {"run_key": _I64, "records": _I64},
    "dead_letters": {
        "id": _I64,
        "partition": _TEXT,
        "record_offset": _I64,
        "next_offset": _I64,
        "key": _BLOB,
        "record": _BLOB,
        "received_us": _I64,
        "stored_at": _TIME,
        "error": _TEXT,
        "state": _TEXT,
        "changed_at": _TIME,
    },
    "incidents": {"id": _I64, "happened_at": _TIME, "kind": _TEXT, "subject": _TEXT, "detail": _TEXT},
    "new_sources": {
        "source_id": _TEXT,
        "topic": _TEXT,
        "partition": _TEXT,
        "host": _TEXT,
        "pid": _I64,
        "boot_id": _TEXT,
        "version": _TEXT,
        "clock": _TEXT,
        "opened_at": _TIME,
        "heard_us": _I64,
        "beat": _I64,
        "beat_at": _TIME,
        "runs_started": _I64,
        "runs_finished": _I64,
        "backlog_records": _I64,
        "backlog_bytes": _I64,
        "oldest_us": _I64,
        "refused": _I64,
        "lost": _I64,
        "closed_by": _TEXT,
        "closed_at": _TIME,
        "state": _TEXT,
        "claimed": _I64,
        "due": _I64,
    },
    "turned_sources": {"source_id": _TEXT, "liveness": _TEXT},
    "removed_logs": {"run_key": _I64, "sequence": _I64},
    "odd_logs": {
        "run_key": _I64,
        "sequence": _I64,
        "event_type": _TEXT,
        "created_at": _TIME,
        "tag": _U64,
        "payload": _BLOB,
    },
    "plain_runs": {"run_id": _TEXT, "run_key": _I64},
    "judged_runs": {"run_id": _TEXT},
    "judged_logs": {"idx": _I64, "run_key": _I64},
    "positions": {
        "partition": _TEXT,
        "expected": _I64,
        "cluster": _TEXT,
        "next_offset": _I64,
        "last_offset": _I64,
        "last_digest": _TEXT,
        "records": _I64,
        "received_us": _I64,
        "read_to_us": _I64,
        "end_offset": _I64,
        "ledger_next": _I64,
    },
    "ledger": {
        "partition": _TEXT,
        "idx": _I64,
        "kind": _TEXT,
        "run_id": _TEXT,
        "source_id": _TEXT,
        "source_seq": _I64,
        "events": _I64,
        "head": _BLOB,
        "received_us": _I64,
        "record_offset": _I64,
        "run_hash": _U64,
    },
}
_ALIASES: Final = {
    "changed_sources": "new_sources",
    "new_positions": "positions",
    "moved_positions": "positions",
}

_INSERTS: Final = ("plain_runs", "judged_logs", "odd_logs")

Row = tuple[Any, ...]
NewRun = tuple[Book, RunStarted, RunFinished | None, str, KeptRecord]
"""Book, start, finish, topic, the start's origin."""


FEW_ROWS: Final = 2
"""Up to so many rows plain parameters are cheaper than an Arrow table: 1.3 ms a row against 4."""


def write_rows(
    cursor: duckdb.DuckDBPyConnection, statement: str, rows: Sequence[Row], table: str = ""
) -> int:
    """Run a statement of `writes.sql` over rows; returns how many rows it changed. Nothing to do for no rows.

    `table`: the events' table, where the statement leaves that open.
    """
    if not rows:
        return 0
    if len(rows) <= FEW_ROWS and statement in _BY_PARAMETERS:
        text = _BY_PARAMETERS[statement].format(table=table)
        return sum(_changed(cursor.execute(text, row)) for row in rows)
    cursor.register(statement, make_table(_columns(statement), rows))
    changed = _changed(cursor.execute(_SQL[statement].format(table=table)))
    cursor.unregister(statement)
    return changed


def _changed(cursor: duckdb.DuckDBPyConnection) -> int:
    row = cursor.fetchone()
    return int(row[0]) if row else 0


def _columns(statement: str) -> Columns:
    return TABLES[_ALIASES.get(statement, statement)]


def _places(statement: str) -> dict[str, str]:
    """Column -> its parameter, by the column's place."""
    form = {_TIME: "make_timestamptz(${}::BIGINT)", _BLOB: "${}::BLOB"}
    return {
        name: form.get(kind, "${}").format(place)
        for place, (name, kind) in enumerate(_columns(statement).items(), 1)
    }


def _insert(statement: str, table: str, **forms: str) -> str:
    places = _places(statement)
    values = [forms.get(name, "{}").format(place) for name, place in places.items()]
    return f"INSERT INTO {table} ({', '.join(places)}) VALUES ({', '.join(values)})"  # noqa: S608  names of ours


def _update(statement: str, table: str, key: str, condition: str = "") -> str:
    places = _places(statement)
    settings = ", ".join(
        f"{name} = {place}" for name, place in places.items() if name not in {key, "expected"}
    )
    return f"UPDATE {table} SET {settings} WHERE {key} = {places[key]}{condition}"  # noqa: S608  names of ours


_BY_PARAMETERS: Final = {
    "new_runs": _insert("new_runs", "store.runs"),
    "touched_runs": _update("touched_runs", "store.runs", "run_key"),
    "finished_runs": _update("finished_runs", "store.runs", "run_key"),
    "orphans": _insert("orphans", "store.orphans"),
    "kept": _insert("kept", "store.kept"),
    "conflicts": _insert("conflicts", "store.conflicts"),
    "dead_letters": _insert("dead_letters", "store.dead_letters"),
    "ledger": _insert("ledger", "store.ledger"),
    "incidents": _insert("incidents", "store.incidents"),
    "new_sources": _insert("new_sources", "store.sources"),
    "changed_sources": _update("new_sources", "store.sources", "source_id"),
    "moved_positions": _update("positions", "store.positions", "partition", " AND next_offset = $2"),
    "odd_logs": _insert("odd_logs", "{table}", payload="decode({})"),
}
"""The statements for few rows; the parameters are a row's values in the order of `TABLES`."""


@dataclass(slots=True)
class Changes:
    """Rows to write, by table; see `writes.sql`. Rows are tuples in the order of `TABLES`."""

    rows: dict[str, list[Row]] = field(default_factory=dict[str, list[Row]])
    touched: dict[int, Book] = field(default_factory=dict[int, Book])
    """Started runs whose bookkeeping changed."""
    new_runs: dict[int, NewRun] = field(default_factory=dict[int, NewRun])
    finishes: dict[int, RunFinished] = field(default_factory=dict[int, RunFinished])
    orphans: dict[int, tuple[Book, str]] = field(default_factory=dict[int, tuple[Book, str]])
    dropped: Counter[int] = field(default_factory=Counter[int])
    sources: dict[str, SourceBook] = field(default_factory=dict[str, SourceBook])

    def add(self, table: str, *row: Any) -> None:
        """One more row."""
        self.rows.setdefault(table, []).append(row)

    def run_keys(self) -> set[int]:
        """The started runs that something is written of."""
        return self.touched.keys() | self.new_runs.keys()

    def add_odd_log(self, run_key: int, log: RunLog) -> None:
        """A log whose payload is in hand."""
        self.add("odd_logs", run_key, log.seq, log.event_type, log.at_us, log.tag, log.payload_json)

    def add_kept(self, run_key: int, record_id: int, kept: KeptRecord) -> None:
        """A record to be kept as it came."""
        self.add("kept", record_id, run_key, kept.record, kept.partition, kept.offset, kept.received_us)

    def write_events(self, cursor: duckdb.DuckDBPyConnection, hot: str) -> int:
        """Write the logs of what `staged` holds now, and before them delete what has to go; returns rows inserted."""
        removed = self.rows.pop("removed_logs", [])
        for table in EVENT_TABLES:
            write_rows(cursor, "removed_logs", removed, table)
        return sum(write_rows(cursor, name, self.rows.pop(name, []), hot) for name in _INSERTS)

    def write_rest(self, cursor: duckdb.DuckDBPyConnection, gone: Iterable[str]) -> None:
        """Write everything else; `gone`: the sources whose open runs count as abandoned."""
        gone = frozenset(gone)
        self._collect_runs(gone)
        self._collect_orphans(gone)
        self._collect_sources()
        self.rows["dropped"] = list(self.dropped.items())
        for table in _ORDER:
            write_rows(cursor, table, self.rows.get(table, ()))

    def _collect_runs(self, gone: frozenset[str]) -> None:
        for book, start, finish, topic, origin in self.new_runs.values():
            row = _progress(book, gone) + _finish_row(finish) + _start_row(book, start, topic, origin)
            self.add("new_runs", *row)
        for run_key, book in self.touched.items():
            if run_key in self.new_runs:
                continue
            finish = self.finishes.get(run_key)
            if finish is None:
                self.add("touched_runs", *_progress(book, gone))
            else:
                self.add("finished_runs", *_progress(book, gone), *_finish_row(finish))

    def _collect_orphans(self, gone: frozenset[str]) -> None:
        for run_key, (book, topic) in self.orphans.items():
            self.add("gone_orphans", run_key)
            self.add("orphans", *_orphan_row(book, topic, gone))

    def _collect_sources(self) -> None:
        for book in self.sources.values():
            self.add("changed_sources" if book.stored else "new_sources", *source_row(book))


_ORDER: Final = (
    "new_runs",
    "touched_runs",
    "finished_runs",
    "gone_orphans",
    "orphans",
    "gone_kept",
    "kept",
    "gone_conflicts",
    "conflicts",
    "calls",
    "dropped",
    "ledger",
    "dead_letters",
    "incidents",
    "new_sources",
    "changed_sources",
    "turned_sources",
)


def _progress(book: Book, gone: frozenset[str]) -> Row:
    completeness, missing = book.verdict()
    return (
        book.run_key,
        book.logs,
        completeness,
        liveness_of(book, gone),
        missing,
        format_ranges(book.declared),
        book.conflicts,
        _time(book.last_us),
        None if book.bare else book.events,
        book.finish_seq,
        book.finish_tag if book.finish_seq is not None else None,
        book.known,
        book.refused,
        None if book.whole else format_ranges(book.received),
    )


def liveness_of(book: Book, gone: frozenset[str]) -> str:
    """The word for it."""
    if book.finished:
        return Liveness.FINISHED
    return Liveness.ABANDONED if book.source_id in gone else Liveness.OPEN


def _finish_row(finish: RunFinished | None) -> Row:
    if finish is None:
        return (None, Status.RUNNING, "", "", 0, 0, 0, 0, 0, None)
    return (
        finish.at_us,
        finish.status,
        finish.output,
        finish.error,
        finish.tool_calls,
        finish.runtime_us,
        finish.input_tokens,
        finish.output_tokens,
        finish.thinking_tokens,
        bytes.fromhex(finish.head) if finish.head else None,
    )


def _start_row(book: Book, start: RunStarted, topic: str, origin: KeptRecord) -> Row:
    waited = 0 <= book.first_offset < origin.offset
    return (
        book.run_hash,
        book.run_id,
        topic,
        start.skill_id,
        start.caller_id,
        start.channel_id,
        start.inputs_json.decode(),
        start.at_us,
        start.parent_run_id,
        start.attributes_json.decode(),
        start.source_id,
        start.source_seq,
        origin.received_us,
        start.is_bare,
        start.clock,
        bytes.fromhex(start.salt) if start.salt else None,
        start.tag,
        origin.partition,
        origin.offset,
        book.first_offset if waited else None,
        book.first_us if waited else None,
    )


def _orphan_row(book: Book, topic: str, gone: frozenset[str]) -> Row:
    completeness, missing = book.verdict()
    return (
        book.run_key,
        book.run_hash,
        book.run_id,
        topic,
        book.plain,
        book.bare,
        book.source_id,
        (book.events or 0) if book.finished else None,
        book.logs,
        completeness,
        liveness_of(book, gone),
        missing,
        format_ranges(book.declared),
        book.conflicts,
        format_ranges(book.received),
        orjson.dumps(book.heard).decode(),
        book.first_received_us,
        _time(book.last_us),
        book.first_partition,
        book.first_offset,
        book.first_us,
    )


def source_row(book: SourceBook) -> Row:
    """The row of `store.sources`."""
    return (
        book.source_id,
        book.topic,
        book.partition,
        book.host,
        book.pid,
        book.boot_id,
        book.version,
        book.clock,
        book.opened_us,
        book.heard_us,
        book.beat,
        book.beat_us,
        book.runs_started,
        book.runs_finished,
        book.backlog_records,
        book.backlog_bytes,
        book.oldest_us,
        book.refused,
        book.lost,
        book.closed_by,
        book.closed_us,
        book.state,
        book.claimed,
        book.due,
    )


def _time(us: int) -> int | None:
    return us if us >= 0 else None
