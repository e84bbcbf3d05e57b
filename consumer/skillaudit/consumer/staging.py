"""Decoding a batch: plain logs in the engine, set-wise and off the interpreter's lock; the rest by the strict parser.

A record that is not valid, in whatever way, costs itself only. Both ways agree, byte for byte, on what they accept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import duckdb

from skillaudit.consumer.arrow import make_incoming
from skillaudit.consumer.statements import statements
from skillaudit.contract.errors import InvalidRecordError
from skillaudit.contract.events import encode_log, json_string
from skillaudit.contract.sources import SourceRecord
from skillaudit.contract.wire import Event, RunLog, fast_log, fast_logs_sql, parse_record

_SQL: Final = statements("staging.sql")
_STAGE: Final = _SQL["stage"].format(logs=fast_logs_sql("(SELECT idx, record FROM incoming)", "record"))
_REFUSED: Final = _SQL["refused"]
_BY_RUN: Final = _SQL["by_run"]


SMALL_BATCH_RECORDS: Final = 1_500
"""Up to so many records are decoded here: the engine's way costs 14 ms however few they are, this one 5 us a record."""


Parse: TypeAlias = Callable[[bytes | None], Event]
"""The event of a record's bytes; raises `InvalidRecordError`."""


@dataclass(frozen=True, slots=True)
class PlainLogs:
    """The plain logs of one run in a batch."""

    run_id: str
    numbers: Sequence[int]
    """In no particular order, with repetitions."""
    last_us: int
    first_index: int
    rows: Sequence[tuple[int, RunLog]] = ()
    """(index, log) of a small batch; else their rows wait in the temporary table `staged`."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a batch holds. An index counts the batch's records from 0."""

    logs: Sequence[PlainLogs] = ()
    events: Sequence[tuple[int, Event]] = ()
    failures: Sequence[tuple[int, str]] = ()
    size_bytes: int = 0


def parse_value(value: bytes | None) -> Event:
    """The strict parser; a record without a value is malformed too."""
    if value is None:
        raise InvalidRecordError("the record has no value; send one JSON object per record")
    return parse_record(value)


def decode(
    cursor: duckdb.DuckDBPyConnection,
    records: Sequence[SourceRecord],
    small: int = SMALL_BATCH_RECORDS,
    parse: Parse = parse_value,
) -> Decoded:
    """Decode a batch. Unless it is small, the rows of its plain logs stay in `staged` until the next call."""
    if len(records) <= small:
        return _decode_small(records, parse)
    incoming = make_incoming([record.value for record in records])
    cursor.register("incoming", incoming)
    cursor.execute(_STAGE)
    refused = [row[0] for row in cursor.execute(_REFUSED).fetchall()]
    logs = [PlainLogs(*row) for row in cursor.execute(_BY_RUN).fetchall()]
    cursor.unregister("incoming")
    return Decoded(logs, *_parse(records, refused, parse), size_bytes=incoming.nbytes // 2)


def _decode_small(records: Sequence[SourceRecord], parse: Parse) -> Decoded:
    plain: dict[str, list[tuple[int, RunLog]]] = {}
    others: list[int] = []
    for index, record in enumerate(records):
        log = None if record.value is None else fast_log(record.value)
        if log is None:
            others.append(index)
        else:
            plain.setdefault(log.run_id, []).append((index, log))
    logs = [
        PlainLogs(run_id, [log.seq for _, log in rows], max(log.at_us for _, log in rows), rows[0][0], rows)
        for run_id, rows in plain.items()
    ]
    return Decoded(
        logs, *_parse(records, others, parse), size_bytes=sum(len(r.value or b"") for r in records)
    )


def plain_bytes(log: RunLog) -> bytes:
    """A plain log's record, made again from its parts."""
    run_id, event_type = json_string(log.run_id), json_string(log.event_type)
    return encode_log(run_id, log.seq, log.at_us, f"{log.tag:016x}", event_type, log.payload_json)


def _parse(
    records: Sequence[SourceRecord], indexes: Iterable[int], parse: Parse
) -> tuple[list[tuple[int, Event]], list[tuple[int, str]]]:
    """(events, failures) of the strict parser."""
    events: list[tuple[int, Event]] = []
    failures: list[tuple[int, str]] = []
    for index in indexes:
        try:
            events.append((index, parse(records[index].value)))
        except InvalidRecordError as exc:
            failures.append((index, str(exc)))
    return events, failures
