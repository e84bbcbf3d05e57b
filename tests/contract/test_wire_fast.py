"""The fast path: what it recognizes, in Python or in the engine, the strict parser accepts with the same bytes."""

import random
import re
from collections.abc import Iterator

import duckdb
import orjson
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.contract.records import AT, HEX, PAYLOAD, RECORDS, log

from skillaudit.contract.errors import InvalidRecordError
from skillaudit.contract.wire import LOG_PREFIX_PATTERN, RunLog, fast_log, fast_logs_sql, parse_record
from skillaudit.contract.wire_fast import JSON_DEPTH_MAX, LOG_SUSPECT_PATTERNS

MODEST = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1}) as connection:
        yield connection


def by_engine(engine, values):
    """What the query gives for each record: an event, or None for the parser to judge."""
    texts = [value.decode("utf-8", "replace") for value in values]
    engine.register("incoming", pa.table({"idx": range(len(texts)), "value": pa.array(texts, pa.string())}))
    rows = engine.execute(f"SELECT * FROM ({fast_logs_sql('incoming')}) ORDER BY idx").fetchall()
    engine.unregister("incoming")
    assert [row[:2] for row in rows] == list(enumerate(texts))
    for row in rows:
        assert None not in row[2:] or row[2:] == (None,) * 6
    return [None if row[2] is None else RunLog(*row[2:-1], row[-1].encode()) for row in rows]


def by_parser(value):
    try:
        return parse_record(value)
    except InvalidRecordError:
        return None


def check(engine, values):
    """Both fast ways against the parser; gives what the engine recognized."""
    values = [value for value in values if is_text(value)]  # other bytes never get into a VARCHAR
    found = by_engine(engine, values)
    for value, event in zip(values, found, strict=True):
        strict = by_parser(value)
        assert event is None or event == strict, value
        assert fast_log(value) in {None, strict}, value
        if event is not None:
            assert value.endswith(event.payload_json + b"}")
    return found


def is_text(value):
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


# What is recognized


def test_a_writers_plain_log_is_recognized(engine):
    """With ASCII names, any text in the payload, and every width of numbers that the pattern has."""
    values = [
        log(),
        log(b"{}"),
        log(run_id="x" * 512, event_type=""),
        log(seq=10**18 - 1),
        log(event_type="a:b {}~ "),
        log('{"a":"日本, ,\\u0000\\"}}", "b" : [ 1 , -2.5e-7, 1e99, null, true ] }'.encode()),
        log(b'{"payload":{"payload":{}},"a":1,"a":2}'),
    ]
    assert check(engine, values) == [parse_record(value) for value in values]
    assert [fast_log(value) for value in values] == [parse_record(value) for value in values]


@pytest.mark.parametrize("name", sorted(RECORDS.keys() - {"log"}))
def test_no_other_record_is_recognized(engine, name):
    """The parser's business."""
    assert fast_log(RECORDS[name]) is None
    assert check(engine, [RECORDS[name]]) == [None]


def test_the_pattern_serves_python_and_the_engine(engine):
    """`LOG_PREFIX_PATTERN` gives the same groups on bytes, on text and in RE2."""
    names = ["run_id", "seq", "at_us", "tag", "event_type", "payload"]
    expected = ["run-1", "3", str(AT), HEX[:16], "tool_result", "{"]
    assert list(re.match(LOG_PREFIX_PATTERN, log().decode()).groupdict().items()) == list(
        zip(names, expected, strict=True)
    )
    assert re.match(LOG_PREFIX_PATTERN.encode(), log()).start("payload") == log().index(PAYLOAD)
    query = f"SELECT regexp_extract(?, $${LOG_PREFIX_PATTERN}$$, {names})"
    assert list(engine.execute(query, [log().decode()]).fetchall()[0][0].values()) == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"seq":3', b'"seq":03'),
        (b'"seq":3', b'"seq":0'),
        (b'"seq":3', b'"seq":-3'),
        (b'"seq":3', b'"seq":3.0'),
        (b'"seq":3', b'"seq":true'),
        (b'"seq":3', b'"seq":1000000000000000000'),
        (b'"seq":3', b'"seq":9223372036854775808'),
        (b'"at_us":1', b'"at_us":01'),
        (b'"at_us":1', b'"at_us":11'),
        (b'"at_us":17', b'"at_us":7'),
        (b'"tag":"0', b'"tag":"A'),
        (b'"tag":"0', b'"tag":"'),
        (b'"run_id":"run-1"', b'"run_id":""'),
        (b'"run_id":"run-1"', b'"run_id":"%b"' % (b"x" * 513)),
        (b'"run_id":"run-1"', '"run_id":"é"'.encode()),
        (b'"run_id":"run-1"', b'"run_id":"\\u0041"'),
        (b'"run_id":"run-1"', b'"run_id":"\x7f"'),
        (b'"v":1', b'"v":2'),
        (b'"v":1', b'"v":1,"v":1'),
        (b'{"v"', b' {"v"'),
        (b'"payload":{', b'"payload": {'),
        (b'"payload":{', b'"payload":[{'),
        (b'"payload":', b'"lost":"2","payload":'),
        (b"false}}", b"false} }"),
        (b"false}}", b"false}}\n"),
        (b"false}}", b"false}}}"),
        (b"false}}", b"false}"),
        (b"false}}", b'false},"x":{}}'),
        (b"false}}", b'false},"payload":{}}'),
    ],
)
def test_whatever_else_is_left_to_the_parser(engine, old, new):
    """Numbers out of form or range, escapes, other orders, members after the payload."""
    value = log().replace(old, new, 1)
    assert value != log()
    assert fast_log(value) is None
    assert check(engine, [value]) == [None]


LAX = [b"NaN", b"nan", b"-nAn", b"Infinity", b"-INFINITY", b"inf", b"-Inf", b"1e999", b"-1E+999", b"1.5e308"]
LAX += [b"1e0400", b"9" * 309, b"0." + b"1" * 400 + b"e400", b"1" * 29 + b"e299", b"1" * 250 + b"e99"]
SPACE = [b"", b" ", b"\n\t\r  "]


def test_what_json_valid_takes_and_json_does_not_is_never_recognized(engine):
    """NaN, infinities, numbers beyond a double and trailing commas, after and before any white space."""
    values = []
    for space in SPACE:
        for number in LAX:
            body = space + number + space
            values += [
                b'{"a":%b}' % body,
                b'{"a":[%b]}' % body,
                b'{"a":[0,%b,{}]}' % body,
                b'{"a":%b,"b":0}' % body,
            ]
        values += [
            b'{"a":1,%b}' % space,
            b'{"a":[1%b,%b],"b":2}' % (space, space),
            b'{"a":[{"b":[],%b}]}' % space,
        ]
    accepted = [event for event in check(engine, [log(value) for value in values]) if event is not None]
    assert all(
        b"NaN" not in event.payload_json and parse_record(log(event.payload_json)) for event in accepted
    )
    texts = [b'{"a":"%b"}' % number for number in LAX]
    assert None not in check(engine, [log(text) for text in texts]), "in a string alone they mean nothing"


def test_depth_is_the_parsers_rule(engine):
    """At the bound both ways still take it, or leave it; past it neither does, however the brackets stand."""
    for levels in (2, 254, 255, JSON_DEPTH_MAX - 2, JSON_DEPTH_MAX - 1, JSON_DEPTH_MAX, 1000, 1030, 100_000):
        inner = levels - 1
        values = [
            log(b'{"a":%b%b}' % (b"[" * inner, b"]" * inner)),
            log(b'{"a":%b1%b}' % (b'{"":' * inner, b"}" * inner)),
            log(b'{"s":"%b","a":%b%b}' % (b"x" * 3000, b"[ " * inner, b"]" * inner)),
        ]
        found = check(engine, values)
        if levels > JSON_DEPTH_MAX - 1:
            assert found == [None] * 3
            assert [fast_log(value) for value in values] == [None] * 3
    wide = log(b'{"a":[%b]}' % b",".join([b"[]"] * 2000))
    assert check(engine, [wide]) == [None], "many brackets: left to the parser"
    assert fast_log(wide) == parse_record(wide)


def test_suspicion_is_rare_in_ordinary_text():
    """Prose, code, lists and identifiers don't look like what JSON lacks."""
    ordinary = orjson.dumps(
        {
            "content": "Please, information on: nan bread, inf (short), infants, and the rest; commit 4e1234, id:9f8e777a.",
            "code": "def f(a, b):\n    return {'x': [1, 2], 'y': math.nan}\n",
            "result": '{"flights": [{"id": "HAT001", "price": 1.5e3, "seats": []}, {"id": "HAT002"}]}',
            "ids": ["01890a5d-ac96-774b-bcce-b302099a8057", "deadbeef" * 8, 2**63 - 1, 3.14e-20, 12e10],
        }
    ).decode()
    assert not any(re.search(pattern, ordinary) for pattern in LOG_SUSPECT_PATTERNS)


# Whatever the bytes

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | st.sampled_from(["nan", ", inf]", "NaN", ":1e999", ",}", ', ]"', "}}", '{"payload":{', "\\"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
PAYLOADS = st.dictionaries(st.text(max_size=5), JSON, max_size=4).map(orjson.dumps)
PIECES = [
    *LAX,
    *SPACE,
    b",",
    b":",
    b"[",
    b"]",
    b"{",
    b"}",
    b'"',
    b"\\",
    b"\\u",
    b"\\ud800",
    b"\x00",
    b"0",
    b"-",
    b"e",
]
PIECES += [
    b".",
    b"}}",
    b"null",
    b"\xc3\xa9",
    b"\xff",
    b'"payload":{',
    b'"lost":"1",',
    b"/**/",
    b"'",
    b"1e5",
    b",}",
]
EDIT = st.tuples(st.floats(0, 1), st.integers(0, 3), st.sampled_from(PIECES))


@MODEST
@given(st.lists(PAYLOADS, min_size=1, max_size=3), st.text(min_size=1, max_size=5), st.integers(1, 2**63 - 1))
def test_generated_logs_are_read_alike(engine, payloads, run_id, seq):
    """Of any payload, run id and number."""
    values = [log(payload, run_id=run_id, seq=seq) for payload in payloads] + [
        log(payload) for payload in payloads
    ]
    check(engine, values)
    assert all(fast_log(value) == parse_record(value) for value in values[len(payloads) :])


@MODEST
@given(PAYLOADS, st.lists(EDIT, min_size=1, max_size=3), st.integers(0, 2**32))
@example(b'{"a":[1]}', [(0.0, 0, b"\x00")], 0)
def test_mutated_logs_are_read_alike(engine, payload, edits, seed):
    """Wherever bytes are put in or taken away, before the payload and inside of it: one verdict, the same bytes."""
    rng, values = random.Random(seed), []
    for _ in range(20):
        value = log(payload)
        for where, cut, piece in edits:
            at = (int(where * len(value)) + rng.randrange(len(value))) % len(value)
            value = value[:at] + piece + value[at + cut :]
        values.append(value)
    check(engine, values)


def test_each_byte_changed_is_read_alike(engine):
    """Every byte of a record by every byte that means something in JSON."""
    value = log(b'{"a":[1,-2.5e3,{"b":null}],"c":"x\\n, ]"}')
    marks = b'"\\{}[],:0123456789eE+-.nNaAiIfFtu \n\x00'
    check(
        engine, [value[:at] + bytes([mark]) + value[at + 1 :] for at in range(len(value)) for mark in marks]
    )
    check(engine, [value[:at] + bytes([mark]) + value[at:] for at in range(len(value)) for mark in marks])
    check(engine, [value[:at] + value[at + 1 :] for at in range(len(value))])


def test_no_value_is_left_to_the_parser(engine):
    """A tombstone."""
    engine.register("incoming", pa.table({"value": pa.array([None], pa.string())}))
    assert engine.execute(fast_logs_sql("incoming")).fetchall() == [(None,) * 7]
    engine.unregister("incoming")
