"""Decoding a batch: plain logs in the engine, set-wise and off the interpreter's lock; the rest by the strict parser.

A record that is not valid, in whatever way, costs itself only. Both ways agree, byte for byte, on what they accept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import duckdb
import pyarrow as pa

from skillaudit.consumer.statements import statements
from skillaudit.contract.errors import InvalidRecordError
from skillaudit.contract.events import RUN_ID_BYTES_MAX
from skillaudit.contract.sources import SourceRecord
from skillaudit.contract.wire import JSON_DEPTH_MAX, Event, parse_record

_TEXT: Final = r"[ !#-\[\]-~]"
_PIECES: Final = (
    r"^\{{\"v\":1,\"type\":\"run\.log\",\"run_id\":\"({text}+)\",\"seq\":([1-9][0-9]{{0,17}}),"
    r"\"at_us\":(0|[1-9][0-9]{{0,16}}),\"tag\":\"([0-9a-f]{{16}}\",\"event_type\":\"{text}*)\",\"payload\":\{{"
)
PLAIN_LOG: Final = _PIECES.format(text=_TEXT).replace('\\"', '"')
"""`contract.wire.LOG_PREFIX_PATTERN` of a log without `lost`, its tag and event type in one group."""

_FIXED: Final = '{"v":1,"type":"run.log","run_id":"","seq":,"at_us":,"tag":"","payload":'
_KIND_BEFORE_TYPE: Final = '0123456789abcdef","event_type":"'
_LITERAL: Final = r"-?(?:(?i:nan|inf|infinity)\s*[,}\]]|[0-9][0-9.]*[eE]\+?[0-9]{3}|[0-9]{300})"

_SQL: Final = statements("staging.sql")
_GUARD: Final = _SQL["guard"].format(
    literal=_LITERAL, run_id_bytes_max=RUN_ID_BYTES_MAX, depth_max=JSON_DEPTH_MAX - 1
)
_STAGE: Final = _SQL["stage"].format(
    pattern=PLAIN_LOG, fixed_bytes=len(_FIXED) + 1, event_type_from=len(_KIND_BEFORE_TYPE) + 1, guard=_GUARD
)
_REFUSED: Final = _SQL["refused"]
_BY_RUN: Final = _SQL["by_run"]


@dataclass(frozen=True, slots=True)
class PlainLogs:
    """The plain logs of one run in a batch; their rows wait in the temporary table `staged`."""

    run_id: str
    numbers: Sequence[int]
    """In no particular order, with repetitions."""
    last_us: int
    first_index: int


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a batch holds. An index counts the batch's records from 0."""

    logs: Sequence[PlainLogs] = ()
    events: Sequence[tuple[int, Event]] = ()
    failures: Sequence[tuple[int, str]] = field(default=())


def decode(cursor: duckdb.DuckDBPyConnection, records: Sequence[SourceRecord]) -> Decoded:
    """Decode a batch. The rows of its plain logs stay in `staged` until the next call on this cursor."""
    cursor.register("incoming", _incoming([record.value for record in records]))
    cursor.execute(_STAGE)
    refused = cursor.execute(_REFUSED).fetchall()
    logs = [PlainLogs(*row) for row in cursor.execute(_BY_RUN).fetchall()]
    cursor.unregister("incoming")
    events: list[tuple[int, Event]] = []
    failures: list[tuple[int, str]] = []
    for (index,) in refused:
        try:
            events.append((index, parse_value(records[index].value)))
        except InvalidRecordError as exc:
            failures.append((index, str(exc)))
    return Decoded(logs, events, failures)


def parse_value(value: bytes | None) -> Event:
    """The strict parser; a record without a value is malformed too."""
    if value is None:
        raise InvalidRecordError("the record has no value; send one JSON object per record")
    return parse_record(value)


def _incoming(values: Sequence[bytes | None]) -> Any:
    """The batch as the engine takes it: the same buffers as bytes and as text. Text that is none is left out."""
    raw = pa.array(values, pa.large_binary())
    try:
        text = raw.cast(pa.large_string())
    except pa.ArrowInvalid:  # one bad record must not cost the others
        text = pa.array([_text(value) for value in values], pa.large_string())
    return pa.table({"idx": pa.array(range(len(values)), pa.int64()), "record": text, "bytes": raw})


def _text(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None
