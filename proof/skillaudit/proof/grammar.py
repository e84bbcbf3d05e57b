"""The strict grammar of the records that make ledger rows, format version 1, frozen.

A ledger has to come out the same whoever computes it, whenever: so it does not ask the parser, which learns to accept
more with time, but this module, which never changes once released. A later format version gets a grammar beside it.

`read` takes one record's bytes and gives what the ledger needs of it, or None: for a record that the grammar refuses,
for a bare Storage's, and for types that make no rows. It accepts exactly what `contract.wire.parse_record` accepted in
the first release (a test holds the two together). Most starts and finishes match one pattern; what does not is judged
member by member, with the same answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias, cast

import orjson

from skillaudit.contract.digests import start_header
from skillaudit.contract.wire_scan import Part, scan

INT64_MAX: Final = (1 << 63) - 1
AT_US_MAX: Final = 253_402_300_799_999_999
RUN_ID_BYTES_MAX: Final = 512
HEARTBEAT_RUNS_MAX: Final = 1_000
JSON_DEPTH_MAX: Final = 512


class Start(NamedTuple):
    """A Writer's `run.started`, as far as its head needs it: see `contract.digests`."""

    run_id: str
    source_id: str
    source_seq: int
    salt: bytes
    """32 hex digits."""
    header: bytes
    fields: tuple[bytes, bytes, bytes, bytes]
    """Values of the redactable fields in their order; inputs and attributes as they stand in the record."""


class Finish(NamedTuple):
    """A Writer's `run.finished`."""

    run_id: str
    events: int
    source_id: str
    source_seq: int
    head: str


class Listed(NamedTuple):
    """A run as a heartbeat or a `source.closed` lists it."""

    run_id: str
    source_seq: int
    events: int
    head: str


class Listing(NamedTuple):
    """A `source.heartbeat`; with `closed` a `source.closed`."""

    source_id: str
    runs_started: int
    runs: tuple[Listed, ...]
    closed: bool


Reading: TypeAlias = Start | Finish | Listing

_Members: TypeAlias = Mapping[str, Any]
_Check: TypeAlias = Callable[[Any], bool]

_PLAIN: Final = rb"[ !#-\[\]-~]"
_NUMBER: Final = rb"(?:0|[1-9][0-9]{0,17})"
_START: Final = re.compile(
    rb'\{"v":1,"type":"run\.started","run_id":"(%b{1,512})","seq":0,"at_us":([1-9][0-9]{15}),"tag":"[0-9a-f]{16}",'
    rb'"skill_id":"(%b*)","caller_id":"(%b*)","channel_id":"(%b*)","parent_run_id":"(%b*)","salt":"([0-9a-f]{32})",'
    rb'"source_id":"([0-9a-f]{32})","source_seq":([1-9][0-9]{0,17}),"clock":"%b*",(?="inputs":\{)'
    % ((_PLAIN,) * 6)
)
_FINISH: Final = re.compile(
    rb'\{"v":1,"type":"run\.finished","run_id":"(%b{1,512})","seq":([1-9][0-9]{0,17}),"at_us":[1-9][0-9]{15},'
    rb'"tag":"[0-9a-f]{16}","status":"%b*","output":"%b*","error":"%b*","tool_calls":%b,"runtime_us":%b,'
    rb'"input_tokens":%b,"output_tokens":%b,"thinking_tokens":%b,"events":([1-9][0-9]{0,17}),'
    rb'"source_id":"([0-9a-f]{32})","source_seq":([1-9][0-9]{0,17}),"head":"([0-9a-f]{64})","lost":""\}'
    % ((_PLAIN,) * 4 + (_NUMBER,) * 5)
)
_TYPED: Final = re.compile(rb'\{"v":1,"type":"(run\.(?:log|refused)|source\.opened)"')
"""How records begin that make no rows, whatever follows."""


def read(value: bytes) -> Reading | None:
    """What the ledger needs of a record; None where it makes no rows. Never raises."""
    match = _START.match(value)
    if match is not None:
        return _plain_start(value, match)
    match = _FINISH.fullmatch(value)
    if match is not None:
        run_id, seq, events, source_id, source_seq, head = match.groups()
        if int(events) != int(seq) + 1:
            return None
        return Finish(run_id.decode(), int(events), source_id.decode(), int(source_seq), head.decode())
    return None if _TYPED.match(value) else _read_anyhow(value)


def _plain_start(value: bytes, match: re.Match[bytes]) -> Reading | None:
    run_id, at_us, skill_id, caller_id, channel_id, parent, salt, source_id, source_seq = match.groups()
    rest = b"{" + value[match.end() :]
    opaque = _load(rest)
    found = None if opaque is None else _plain_objects(rest, opaque)
    if found is None:
        return _read_anyhow(value)
    header = b"start 0 %b %d:%b %d:%b %b %b" % (
        at_us,
        len(parent),
        parent,
        len(skill_id),
        skill_id,
        source_id,
        source_seq,
    )
    fields = caller_id, channel_id, *found
    return Start(run_id.decode(), source_id.decode(), int(source_seq), salt, header, fields)


def _plain_objects(rest: bytes, members: _Members) -> tuple[bytes, bytes] | None:
    """Inputs and attributes, if they are all there is and come out of the serializer as they went in."""
    inputs, attributes = members.get("inputs"), members.get("attributes")
    if type(inputs) is not dict or type(attributes) is not dict:
        return None
    try:
        found = orjson.dumps(inputs), orjson.dumps(attributes)
    except orjson.JSONEncodeError:
        return None
    return found if rest == b'{"inputs":%b,"attributes":%b}' % found else None


# Member by member.


def _load(value: bytes) -> dict[str, Any] | None:
    try:
        members: object = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return cast("dict[str, Any]", members) if type(members) is dict else None


def _is_canonical(value: bytes, members: Mapping[str, Any]) -> bool:
    """Whether the object comes out of the serializer as it went in: then nothing in it stands twice, there is no white
    space, and it is no deeper than the serializer goes.
    """
    try:
        return orjson.dumps(members) == value
    except orjson.JSONEncodeError:
        return False


def _read_anyhow(value: bytes) -> Reading | None:
    members = _load(value)
    if members is None or type(members.get("v")) is not int or members["v"] != 1:
        return None
    kind = members.get("type")
    reader = _READERS.get(kind) if type(kind) is str else None
    if reader is None:
        return None
    extents = _extents(value, members)
    return None if extents is None else reader(members, extents)


def _extents(value: bytes, members: _Members) -> Mapping[str, bytes] | None:
    """The exact bytes of inputs and attributes; None where a member stands twice or the record is too deep."""
    wanted = [name for name in ("inputs", "attributes") if name in members]
    if _is_canonical(value, members):
        return {name: orjson.dumps(members[name]) for name in wanted}
    found = scan(value)
    if found.depth > JSON_DEPTH_MAX or found.repeated() is not None:
        return None
    parts = {part.name: part for part in found.parts}
    if "open" in parts and not _entries_once(_cut(value, parts["open"])):
        return None
    return {name: _cut(value, parts[name]) for name in wanted}


def _entries_once(runs: bytes) -> bool:
    if not runs.startswith(b"["):
        return True
    entries = [_cut(runs, part) for part in scan(runs).parts]
    return all(scan(entry).repeated() is None for entry in entries if entry.startswith(b"{"))


def _cut(value: bytes, part: Part) -> bytes:
    return value[part.low : part.high]


def _start(m: _Members, extents: Mapping[str, bytes]) -> Start | None:
    if "by" in m or not _holds(_START_MEMBERS, m):
        return None
    source_id, source_seq = m["source_id"], m["source_seq"]
    header = start_header(m["at_us"], m["parent_run_id"], m["skill_id"], source_id, source_seq)
    fields = m["caller_id"].encode(), m["channel_id"].encode(), extents["inputs"], extents["attributes"]
    return Start(m["run_id"], source_id, source_seq, m["salt"].encode(), header, fields)


def _finish(m: _Members, _: Mapping[str, bytes]) -> Finish | None:
    if "by" in m or not _holds(_FINISH_MEMBERS, m) or m["events"] != m["seq"] + 1:
        return None
    return Finish(m["run_id"], m["events"], m["source_id"], m["source_seq"], m["head"])


def _heartbeat(m: _Members, _: Mapping[str, bytes]) -> Listing | None:
    if not _holds(_HEARTBEAT_MEMBERS, m) or len(m["open"]) > HEARTBEAT_RUNS_MAX:
        return None
    return Listing(m["source_id"], m["runs_started"], _listed(m["open"]), closed=False)


def _closed(m: _Members, _: Mapping[str, bytes]) -> Listing | None:
    if not _holds(_CLOSED_MEMBERS, m):
        return None
    return Listing(m["source_id"], m["runs_started"], _listed(m["open"]), closed=True)


def _listed(entries: list[_Members]) -> tuple[Listed, ...]:
    return tuple(Listed(e["run_id"], e["source_seq"], e["events"], e["head"]) for e in entries)


def _holds(checks: Mapping[str, _Check], members: _Members) -> bool:
    return all(name in members and check(members[name]) for name, check in checks.items())


def _is_text(value: Any) -> bool:
    return type(value) is str


def _is_object(value: Any) -> bool:
    return type(value) is dict


def _is_between(low: int, high: int) -> _Check:
    return lambda value: type(value) is int and low <= value <= high


def _is_hex(digits: int) -> _Check:
    match = re.compile(f"[0-9a-f]{{{digits}}}").fullmatch
    return lambda value: type(value) is str and match(value) is not None


def _is_run_id(value: Any) -> bool:
    return type(value) is str and 0 < len(value) <= RUN_ID_BYTES_MAX >= len(value.encode())


_RANGE: Final = re.compile("[0-9]+(-[0-9]+)?")
_INT64_DIGITS: Final = 19


def _is_lost(value: Any) -> bool:
    """Ascending ranges of numbers from 1 on, as `5-7,9`; empty for none."""
    if type(value) is not str:
        return False
    end = 0
    for part in value.split(",") if value else ():
        low, _, high = part.partition("-")
        if not _RANGE.fullmatch(part) or max(len(low), len(high)) > _INT64_DIGITS:
            return False
        first, last = int(low), int(high or low)
        shown = str(first) if first == last else f"{first}-{last}"
        if part != shown or not end < first <= last <= INT64_MAX:
            return False
        end = last
    return True


def _is_listing(value: Any) -> bool:
    entries: Any = value
    return type(value) is list and all(map(_is_entry, entries))


def _is_entry(value: Any) -> bool:
    return _is_object(value) and _holds(_ENTRY_MEMBERS, value)


_is_count: Final = _is_between(0, INT64_MAX)
_is_ordinal: Final = _is_between(1, INT64_MAX)
_is_time: Final = _is_between(0, AT_US_MAX)
_is_hex16, _is_hex32, _is_hex64 = _is_hex(16), _is_hex(32), _is_hex(64)

_START_MEMBERS: Final[Mapping[str, _Check]] = {
    "run_id": _is_run_id,
    "seq": _is_between(0, 0),
    "at_us": _is_time,
    "tag": _is_hex16,
    "skill_id": _is_text,
    "caller_id": _is_text,
    "channel_id": _is_text,
    "parent_run_id": _is_text,
    "salt": _is_hex32,
    "source_id": _is_hex32,
    "source_seq": _is_ordinal,
    "clock": _is_text,
    "inputs": _is_object,
    "attributes": _is_object,
}
_FINISH_MEMBERS: Final[Mapping[str, _Check]] = {
    "run_id": _is_run_id,
    "seq": _is_ordinal,
    "at_us": _is_time,
    "tag": _is_hex16,
    "status": _is_text,
    "output": _is_text,
    "error": _is_text,
    "tool_calls": _is_count,
    "runtime_us": _is_count,
    "input_tokens": _is_count,
    "output_tokens": _is_count,
    "thinking_tokens": _is_count,
    "events": _is_ordinal,
    "source_id": _is_hex32,
    "source_seq": _is_ordinal,
    "head": _is_hex64,
    "lost": _is_lost,
}
_ENTRY_MEMBERS: Final[Mapping[str, _Check]] = {
    "run_id": _is_run_id,
    "source_seq": _is_ordinal,
    "events": _is_ordinal,
    "head": _is_hex64,
}
_SOURCE_MEMBERS: Final[Mapping[str, _Check]] = {
    "source_id": _is_hex32,
    "at_us": _is_time,
    "runs_started": _is_count,
    "runs_finished": _is_count,
    "open": _is_listing,
}
_HEARTBEAT_MEMBERS: Final[Mapping[str, _Check]] = {
    **_SOURCE_MEMBERS,
    "beat": _is_ordinal,
    "backlog_records": _is_count,
    "backlog_bytes": _is_count,
    "oldest_us": _is_count,
    "refused": _is_count,
    "lost": _is_count,
}
_CLOSED_MEMBERS: Final[Mapping[str, _Check]] = {
    **_SOURCE_MEMBERS,
    "by": lambda value: type(value) is str and value in {"process", "adopter"},
}
_READERS: Final[Mapping[str, Callable[[_Members, Mapping[str, bytes]], Reading | None]]] = {
    "run.started": _start,
    "run.finished": _finish,
    "source.heartbeat": _heartbeat,
    "source.closed": _closed,
}
