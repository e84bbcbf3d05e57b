"""Records that were events before somebody got at them, and a judge of JSON that knows nothing of the product's parser."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

from tests.consumer import streams
from tests.faults import stream

Fuzz = Callable[[random.Random, bytes], bytes]

TOKENS = (
    b"1.5", b"true", b"false", b"null", b"1e3", b"1.0", b"-1", b"-0", b"01", b"0x1", b"+1", b"NaN", b"Infinity",
    b"-Infinity", b'"1"', b"[]", b"{}", b"9" * 19, b"9" * 40, b"9" * 5_000, b"1" + b"0" * 400, b"1e999", b"-9223372036854775809",
    b"18446744073709551616", b"", b"undefined", b"'1'", b"1,", b"1 2",
)  # fmt: skip
TEXTS = (
    b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"', b'"\x00"', b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\xaf"', b'"\xf5\x80\x80\x80"',
    b'"' + b"k" * 600 + b'"', b'""', b'"\'; DROP TABLE store.runs; --"', b'"%s{}$1\\\\"', b'"\\u202e\\uffff"', b'"\n"', b'"\x7f\x1b[2J"',
    b'"a\\/b\\b"', b'"\xe6\xbc\xa2"', b'"\\ud83d\\ude00"', b'"' + b"\xc3\xa9" * 300 + b'"',
)  # fmt: skip
KEYS = (
    b'"__proto__":{}', b'"":1', b'"\\u0000":1', b'"seq":7', b'"\\u0073eq":7', b'"v":2', b'"payload":{"a":1}', b'"payload":1', b'"type":"run.log"',
    b'"by":"storage"', b'"call_id":"x"', b'"tag":"0123456789abcdef"', b'"at_us":1', b'"lost":"5-3"', b'"lost":"1-2,4"', b'"open":[{}]',
    b'"' + b"x" * 3_000 + b'":1', b'"a":NaN', b'"a":1e400', b'"\xff":1', b'"\\ud800":1', b'"run_id":"other"', b'"toString":null',
)  # fmt: skip
VERSIONS = (b"0", b"2", b"3", b"1.0", b"true", b'"1"', b"-1", b"99999999999999999999", b"null", b"[1]")
TYPES = (
    b'"run.paused"',
    b'"source.moved"',
    b'"RUN.LOG"',
    b'""',
    b"1",
    b"null",
    b'"run.log "',
    b'"run.log\\u0000"',
)
_MEMBER = re.compile(rb'"[a-z_]{1,20}":')
_NUMBER = re.compile(rb'(?<=":)-?[0-9]+')
_STRING = re.compile(rb'(?<=":)"[^"\\]*"')


def _flip(chance: random.Random, value: bytes) -> bytes:
    changed = bytearray(value)
    for _ in range(chance.choice((1, 1, 1, 2, 5, 40))):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _overwrite(chance: random.Random, value: bytes) -> bytes:
    at = chance.randrange(len(value))
    return value[:at] + chance.randbytes(chance.choice((1, 2, 8, 64))) + value[at + chance.randrange(9) :]


def _cut(chance: random.Random, value: bytes) -> bytes:
    return (
        value[: chance.randrange(len(value))] if chance.random() < 0.7 else value[chance.randrange(1, 40) :]
    )


def _put(pattern: re.Pattern[bytes], tokens: tuple[bytes, ...]) -> Fuzz:
    def put(chance: random.Random, value: bytes) -> bytes:
        places = list(pattern.finditer(value))
        if not places:
            return _flip(chance, value)
        place = chance.choice(places)
        return value[: place.start()] + chance.choice(tokens) + value[place.end() :]

    return put


def _member(chance: random.Random, value: bytes) -> bytes:
    """One more member, anywhere where one may stand."""
    places = [match.start() for match in _MEMBER.finditer(value)]
    if not places:
        return _flip(chance, value)
    at = chance.choice(places)
    return value[:at] + chance.choice(KEYS) + b"," + value[at:]


def _behind(chance: random.Random, value: bytes) -> bytes:
    if value.endswith(b"}") and chance.random() < 0.5:
        return value[:-1] + b"," + chance.choice(KEYS) + b"}"
    return value + chance.choice((b"\n", b" ", b"\x00", b"}", b"{}", b"\n{}", b",", b"\xef\xbb\xbf", value))


def _before(chance: random.Random, value: bytes) -> bytes:
    return chance.choice((b"\xef\xbb\xbf", b"\x00", b" ", b"\n\t", b"[", b"\xff\xfe", b"//\n")) + value


def _nest(chance: random.Random, value: bytes) -> bytes:
    levels = chance.choice((100, 509, 510, 511, 512, 513, 1_100, 20_000))
    opening, closing = chance.choice(((b"[", b"]"), (b'{"a":', b"}")))
    end = b"1" if opening == b'{"a":' else b""
    nested = opening * levels + end + closing * (levels if chance.random() < 0.8 else levels - 1)
    at = value.find(b'"payload":{')
    if at < 0:
        return value[:-1] + b',"extra":' + nested + b"}"
    return value[:at] + b'"payload":{"deep":' + nested + b"}}"


def _version(chance: random.Random, value: bytes) -> bytes:
    return value.replace(b'"v":1', b'"v":' + chance.choice(VERSIONS), 1)


def _type(chance: random.Random, value: bytes) -> bytes:
    return re.sub(rb'"type":"[^"]*"', lambda _: b'"type":' + chance.choice(TYPES), value, count=1)


def _spaces(chance: random.Random, value: bytes) -> bytes:
    place = chance.choice((b":", b","))
    return value.replace(
        place, place + chance.choice((b" ", b"\n", b"\t ", b"\x0b", b"\xa0", b"/**/")), chance.randint(1, 4)
    )


def _mixed(chance: random.Random, value: bytes) -> bytes:
    other = chance.choice(TEMPLATES)
    return value[: chance.randrange(len(value))] + other[chance.randrange(len(other)) :]


def _other(chance: random.Random, value: bytes) -> bytes:
    del value
    return chance.choice(
        (b"", b"{}", b"null", b"[]", b"1", b'"x"', b"\x00" * 100, chance.randbytes(50), b"{" * 50, b"<xml/>")
    )


MUTATIONS: tuple[Fuzz, ...] = (
    _flip, _flip, _overwrite, _cut, _put(_NUMBER, TOKENS), _put(_NUMBER, TOKENS), _put(_STRING, TEXTS), _put(_STRING, TOKENS),
    _member, _behind, _before, _nest, _version, _type, _spaces, _mixed, _other,
)  # fmt: skip


def _templates() -> tuple[bytes, ...]:
    world = streams.World(0xF00D)
    return (
        *streams.honest_run(world, 0, 4),
        *streams.honest_run(world, 1, 3),
        streams._bare_start(world, 2, 1),
        streams._bare_log(world, 2, 1, 1),
        streams._bare_finish(world, 2, 1),
        streams._refused(world, 0, 2, 1),
        *(streams._source(world, 0, kind, 2, [(0, 3), (1, 2)]) for kind in ("opened", "beat", "closed")),
    )


TEMPLATES = _templates()


def fuzzed(chance: random.Random) -> bytes | None:
    """One record; None is Kafka's tombstone. Most are no events any more, some still are."""
    if chance.random() < 0.005:
        return None
    value = _named_anew(chance, chance.choice(TEMPLATES))
    for _ in range(chance.choice((1, 1, 1, 2))):
        value = chance.choice(MUTATIONS)(chance, value) or b"{"
    return value


def _named_anew(chance: random.Random, value: bytes) -> bytes:
    """Of many runs and sources, none of which the good records belong to."""
    number = b"%04d" % chance.randrange(10_000)
    return value.replace(b"r61453", b"victim-" + number).replace(
        b'"source_id":"0000', b'"source_id":"' + number
    )


RECORD_KEYS = (
    b"", b"\xff\xfe\x00", b"\xed\xa0\x80", b"\x00" * 16, b"'; DROP TABLE store.dead_letters; --", "run-é漢".encode(), b"null",
    b'{"run_id":"run-000000000"}',
)  # fmt: skip
LARGE_KEY = b"k" * (1 << 20)


def record_key(chance: random.Random, runs: int) -> bytes | None:
    """A record's key as anybody may choose it: none, empty, 1 MiB, no text, another run's id. Nothing may depend on it."""
    way = chance.random()
    if way < 0.0005:
        return LARGE_KEY
    if way < 0.2:
        return None
    if way < 0.5:
        return b"run-%09d" % chance.randrange(max(runs, 1))
    return chance.choice(RECORD_KEYS) if way < 0.9 else chance.randbytes(chance.randrange(1, 40))


COUNTS = {
    "run.started": ("seq", "at_us", "source_seq"),
    "run.log": ("seq", "at_us"),
    "run.finished": ("seq", "at_us", "events", "source_seq"),
    "run.refused": ("seq", "at_us", "bytes"),
    "source.opened": ("at_us", "pid"),
    "source.heartbeat": ("at_us", "beat", "runs_started", "runs_finished"),
    "source.closed": ("at_us", "runs_started", "runs_finished"),
}
"""Members that count, by type. A member that its type does not have says nothing, whatever it is named."""


BARE_COUNTS = {"run.started": ("at_us",), "run.log": ("seq", "at_us"), "run.finished": ("at_us",)}
"""The same of a bare storage's records."""


class _RefusedError(Exception):
    """No JSON, or twice the same member, or a number that is none."""


def is_sound(value: bytes | None) -> bool:
    """Whether a record is JSON by another parser's judgement, an object with no member twice, of version 1, and counts in
    whole numbers. What the product accepts must be; it refuses more.
    """
    try:
        record = json.loads(
            (value or b"").decode(), parse_constant=_refuse, parse_int=_whole, object_pairs_hook=_Pairs
        )
    except (_RefusedError, ValueError, RecursionError):
        return False
    if not isinstance(record, _Pairs) or record.repeats:
        return False
    version, kind = record.get("v"), record.get("type")
    if type(version) is not int or version != 1 or not isinstance(kind, str):
        return False
    counts = BARE_COUNTS.get(kind, ()) if record.get("by") == "storage" else COUNTS.get(kind, ())
    return all(type(record.get(name, 0)) is int for name in counts)


class _Pairs(dict[str, Any]):
    """An object that knows whether a member stood twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeats = len(self) != len(pairs)


def _refuse(token: str) -> None:
    raise _RefusedError(token)


def _whole(token: str) -> int:
    return int(token) if len(token) < 1_000 else 0


def good(run: int) -> tuple[bytes, ...]:
    """A run between them."""
    return stream.run_records(run)
