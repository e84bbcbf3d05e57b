"""Reading events: the strict parser. What it accepts is version 1 of the format; everything else is refused, named.

`parse_record` takes the bytes of one record and gives one of the seven events, or raises `InvalidRecordError`
(`UnsupportedVersionError` for a version or type that a newer release may know). It raises nothing else, whatever the
bytes; its texts name the member and the remedy and never hold what the record says. The rules, beside the members of
`contract.events` and their ranges in `contract.wire_models`:

* valid UTF-8 without a byte order mark, one JSON object (RFC 8259, no extensions), white space allowed around values;
* no member twice, neither of the record nor of an entry of `open`; members that version 1 doesn't name are ignored;
* numbers are integers as they stand: 1.0, 1e3 and true are none;
* nested at most `JSON_DEPTH_MAX` levels deep, the record's own object counted;
* a run's record carries either `tag` (a Writer's) or `by` and `call_id` (a bare Storage's), never both;
* `inputs`, `attributes` and `payload` are JSON objects and otherwise opaque: their bytes are kept as they stand.

Most logs need none of this: `contract.wire_fast` recognizes them by one pattern, in Python and in SQL.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar, cast

import orjson
from pydantic import ValidationError

from skillaudit.contract import events, wire_models
from skillaudit.contract.errors import InvalidRecordError, UnsupportedVersionError
from skillaudit.contract.events import OpenRun, parse_ranges
from skillaudit.contract.wire_events import (
    NO_SEQ,
    Event,
    RunEvent,
    RunFinished,
    RunLog,
    RunRefused,
    RunStarted,
    SourceClosed,
    SourceEvent,
    SourceHeartbeat,
    SourceOpened,
)
from skillaudit.contract.wire_fast import JSON_DEPTH_MAX, LOG_PREFIX_PATTERN, fast_log, fast_logs_sql
from skillaudit.contract.wire_models import Record
from skillaudit.contract.wire_scan import Part, Scan, scan

__all__ = [
    "JSON_DEPTH_MAX",
    "LOG_PREFIX_PATTERN",
    "NO_SEQ",
    "Event",
    "RunEvent",
    "RunFinished",
    "RunLog",
    "RunRefused",
    "RunStarted",
    "SourceClosed",
    "SourceEvent",
    "SourceHeartbeat",
    "SourceOpened",
    "fast_log",
    "fast_logs_sql",
    "parse_record",
]

_R = TypeVar("_R", bound=Record)
_Slice: TypeAlias = Callable[[str], bytes]

_REMEDY: Final = "correct the producer: contract/schema/event-v1.schema.json says what each member holds"
_BRACE: Final = ord("{")


def parse_record(value: bytes) -> Event:
    """Return the event of one record's bytes; raise `InvalidRecordError` for anything that is not exactly one."""
    record = _load(value)
    parse = _parser(record)
    return parse(record, _slices(value, record))


def _load(value: bytes) -> dict[str, Any]:
    try:
        record: object = orjson.loads(value)
    except (
        orjson.JSONDecodeError
    ) as exc:  # from None: the exception holds the document, a traceback would show it
        raise InvalidRecordError(
            f"the record is not JSON ({exc.msg}, at character {exc.pos} of {len(value)} bytes); "
            "send one JSON object in UTF-8 per record"
        ) from None
    if type(record) is not dict:
        raise InvalidRecordError("the record is JSON but no object; send one JSON object per record")
    return cast("dict[str, Any]", record)


def _parser(record: Mapping[str, Any]) -> Callable[[dict[str, Any], _Slice], Event]:
    version = record.get("v")
    if type(version) is not int or version < events.FORMAT_VERSION:
        raise InvalidRecordError(
            f"field v is missing or no format version; this format's is {events.FORMAT_VERSION}"
        )
    if version > events.FORMAT_VERSION:
        raise UnsupportedVersionError(
            f"field v: this release reads format version {events.FORMAT_VERSION} only and the record is newer; "
            "upgrade the consumer, then replay the record"
        )
    kind = record.get("type")
    if type(kind) is not str:
        raise InvalidRecordError(
            f"field type is missing or no string; it is one of {', '.join(sorted(_PARSERS))}"
        )
    parser = _PARSERS.get(kind)
    if parser is None:
        raise UnsupportedVersionError(
            f"field type: this release knows {', '.join(sorted(_PARSERS))} and the record has another; "
            "if a newer producer sends it, upgrade the consumer, then replay the record"
        )
    return parser


def _slices(value: bytes, record: dict[str, Any]) -> _Slice:
    """How to get the exact bytes of a member, once no member is known to stand twice and the depth is bounded.

    A record that comes out of the serializer as it went in (every record of ours does) has nothing twice, no white
    space and the serializer's own bound on depth, and so have its parts. Others are scanned.
    """
    try:
        canonical = orjson.dumps(record) == value
    except orjson.JSONEncodeError:  # deeper than the serializer goes: the scan judges
        canonical = False
    if canonical:
        return lambda name: orjson.dumps(record[name])
    found = scan(value)
    if found.depth > JSON_DEPTH_MAX:
        raise InvalidRecordError(
            f"the record is nested more than {JSON_DEPTH_MAX} levels deep; flatten its payload"
        )
    _refuse_repeated(found, "")
    extents = {part.name: part for part in found.parts}
    if "open" in extents:
        _check_entries(_cut(value, extents["open"]))
    return lambda name: _cut(value, extents[name])


def _cut(value: bytes, part: Part) -> bytes:
    return value[part.low : part.high]


def _check_entries(runs: bytes) -> None:
    if runs[:1] == b"[":
        for index, entry in enumerate(scan(runs).parts):
            if runs[entry.low] == _BRACE:
                _refuse_repeated(scan(_cut(runs, entry)), f"open.{index}.")


def _refuse_repeated(found: Scan, path: str) -> None:
    name = found.repeated()
    if name is not None:
        shown = name if re.fullmatch("[a-z_]{1,40}", name) else "(not one of ours)"
        raise InvalidRecordError(f"field {path}{shown} stands twice in the record; send each member once")


def _validate(model: type[_R], record: dict[str, Any]) -> _R:
    try:
        return model.model_validate(record)
    except ValidationError as exc:  # from None: the exception holds the record, a traceback would show it
        problem = exc.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(step) for step in problem["loc"])
        reason = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
        raise InvalidRecordError(f"field {field} of a {record['type']} record: {reason}; {_REMEDY}") from None


def _is_bare(record: dict[str, Any]) -> bool:
    bare = "by" in record
    if bare == ("tag" in record):
        both = "both tag and by" if bare else "neither tag nor by"
        raise InvalidRecordError(
            f"field tag: the record carries {both}; a Writer sends tag, a bare Storage by and call_id"
        )
    return bare


def _started(record: dict[str, Any], cut: _Slice) -> RunStarted:
    if _is_bare(record):
        return _bare_started(record, cut)
    m = _validate(wire_models.StartedRecord, record)
    return RunStarted(
        m.run_id,
        m.seq,
        m.at_us,
        int(m.tag, 16),
        m.skill_id,
        m.caller_id,
        m.channel_id,
        m.parent_run_id,
        m.salt,
        m.source_id,
        m.source_seq,
        m.clock,
        cut("inputs"),
        cut("attributes"),
    )


def _bare_started(record: dict[str, Any], cut: _Slice) -> RunStarted:
    m = _validate(wire_models.BareStartedRecord, record)
    return RunStarted(
        m.run_id,
        NO_SEQ,
        m.at_us,
        0,
        m.skill_id,
        m.caller_id,
        m.channel_id,
        m.parent_run_id,
        "",
        "",
        0,
        "",
        cut("inputs"),
        cut("attributes"),
        m.by,
        m.call_id,
    )


def _log(record: dict[str, Any], cut: _Slice) -> RunLog:
    if _is_bare(record):
        b = _validate(wire_models.BareLogRecord, record)
        return RunLog(b.run_id, b.seq, b.at_us, 0, b.event_type, cut("payload"), "", (), b.by, b.call_id)
    m = _validate(wire_models.LogRecord, record)
    return RunLog(
        m.run_id,
        m.seq,
        m.at_us,
        int(m.tag, 16),
        m.event_type,
        cut("payload"),
        m.lost,
        parse_ranges(m.lost) if m.lost else (),
    )


def _finished(record: dict[str, Any], _: _Slice) -> RunFinished:
    if _is_bare(record):
        b = _validate(wire_models.BareFinishedRecord, record)
        return RunFinished(b.run_id, NO_SEQ, b.at_us, 0, *_stats(b), 0, "", 0, "", "", (), b.by, b.call_id)
    m = _validate(wire_models.FinishedRecord, record)
    if m.events != m.seq + 1:
        raise InvalidRecordError(
            "field events of a run.finished record: should be seq + 1, for it counts the start, every log and the "
            f"finish; {_REMEDY}"
        )
    return RunFinished(
        m.run_id,
        m.seq,
        m.at_us,
        int(m.tag, 16),
        *_stats(m),
        m.events,
        m.source_id,
        m.source_seq,
        m.head,
        m.lost,
        parse_ranges(m.lost) if m.lost else (),
    )


def _stats(m: wire_models.FinishFields) -> tuple[str, str, str, int, int, int, int, int]:
    return (
        m.status,
        m.output,
        m.error,
        m.tool_calls,
        m.runtime_us,
        m.input_tokens,
        m.output_tokens,
        m.thinking_tokens,
    )


def _refused(record: dict[str, Any], _: _Slice) -> RunRefused:
    m = _validate(wire_models.RefusedRecord, record)
    return RunRefused(m.run_id, m.seq, m.at_us, int(m.tag, 16), m.reason, m.bytes)


def _source_opened(record: dict[str, Any], _: _Slice) -> SourceOpened:
    m = _validate(wire_models.SourceOpenedRecord, record)
    return SourceOpened(m.source_id, m.at_us, m.host, m.pid, m.boot_id, m.version, m.clock)


def _heartbeat(record: dict[str, Any], _: _Slice) -> SourceHeartbeat:
    m = _validate(wire_models.HeartbeatRecord, record)
    return SourceHeartbeat(
        m.source_id,
        m.at_us,
        m.beat,
        m.runs_started,
        m.runs_finished,
        _open(m.open),
        m.backlog_records,
        m.backlog_bytes,
        m.oldest_us,
        m.refused,
        m.lost,
    )


def _source_closed(record: dict[str, Any], _: _Slice) -> SourceClosed:
    m = _validate(wire_models.SourceClosedRecord, record)
    return SourceClosed(m.source_id, m.at_us, m.by, m.runs_started, m.runs_finished, _open(m.open))


def _open(entries: Sequence[wire_models.OpenRunEntry]) -> tuple[OpenRun, ...]:
    return tuple(
        OpenRun(run_id=e.run_id, source_seq=e.source_seq, events=e.events, head=e.head) for e in entries
    )


_PARSERS: Final[Mapping[str, Callable[[dict[str, Any], _Slice], Event]]] = {
    events.STARTED: _started,
    events.LOG: _log,
    events.FINISHED: _finished,
    events.REFUSED: _refused,
    events.SOURCE_OPENED: _source_opened,
    events.SOURCE_HEARTBEAT: _heartbeat,
    events.SOURCE_CLOSED: _source_closed,
}
