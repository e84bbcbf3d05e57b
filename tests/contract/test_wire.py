"""The strict parser: it accepts version 1 of the format as it stands, and refuses everything else by name."""

import random

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.records import AT, COUNTS, HEX, PAYLOAD, RECORDS, RUN, finished, log

from skillaudit.contract import wire
from skillaudit.contract.errors import InvalidRecordError, UnsupportedVersionError
from skillaudit.contract.events import HEARTBEAT_RUNS_MAX, OpenRun
from skillaudit.contract.wire import NO_SEQ, parse_record

INT64_MAX = 2**63 - 1
SECRET = "s3cr3t-of-the-record"


def changed(name, **members):
    """A record with members replaced; None takes one away."""
    record = orjson.loads(RECORDS[name]) | members
    return orjson.dumps({key: value for key, value in record.items() if value is not None})


def spliced(name, old, new):
    assert old in RECORDS[name]
    return RECORDS[name].replace(old, new, 1)


def refusal(value, error=InvalidRecordError):
    with pytest.raises(InvalidRecordError) as caught:
        parse_record(value)
    assert type(caught.value) is error
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


# What is accepted


def test_a_writers_start():
    """All members arrive, the opaque ones as the record's bytes."""
    assert parse_record(RECORDS["start"]) == wire.RunStarted(
        run_id="run-1",
        seq=0,
        at_us=AT,
        tag=0x0123456789ABCDEF,
        skill_id="support",
        caller_id="u-42",
        channel_id="web",
        parent_run_id="run-0",
        salt=HEX[:32],
        source_id=HEX[:32],
        source_seq=7,
        clock="boottime",
        inputs_json='{"q":"é","n":[1,2.5,null]}'.encode(),
        attributes_json=b'{"inputs":{"attributes":{}}}',
    )


def test_a_writers_log():
    """`lost` is there as text and as ranges; without it both are empty."""
    event = parse_record(RECORDS["log after a loss"])
    assert event == wire.RunLog("run-1", 3, AT, 0x0123456789ABCDEF, "tool_result", PAYLOAD, "1-2", ((1, 2),))
    assert parse_record(RECORDS["log"]) == event._replace(lost="", lost_ranges=())


def test_a_writers_finish():
    """Stats, counts, head and loss."""
    event = parse_record(RECORDS["finish"])
    assert (event.seq, event.events, event.head) == (9, 10, HEX)
    assert (event.status, event.output, event.error) == ("ok", "done", "")
    assert (event.tool_calls, event.runtime_us) == (2, 1_500_000)
    assert (event.input_tokens, event.output_tokens, event.thinking_tokens) == (3, 4, 5)
    assert (event.lost, event.lost_ranges) == ("5-7", ((5, 7),))


def test_a_bare_storages_records():
    """No tag, no salt, no source; start and finish have no number, a log the caller's."""
    start, entry, finish = (parse_record(RECORDS[f"bare {n}"]) for n in ("start", "log", "finish"))
    assert [event.is_bare for event in (start, entry, finish)] == [True] * 3
    assert [(event.by, event.call_id, event.tag) for event in (start, entry, finish)] == [
        ("storage", "call-1", 0)
    ] * 3
    assert [event.seq for event in (start, entry, finish)] == [NO_SEQ, 4, NO_SEQ]
    assert (start.salt, start.source_id, start.source_seq, start.clock) == ("", "", 0, "")
    assert (finish.events, finish.head, finish.lost, finish.lost_ranges) == (0, "", "", ())
    assert not parse_record(RECORDS["start"]).is_bare
    assert parse_record(RECORDS["log"]).call_id == ""


def test_a_refused_record_and_a_sources_records():
    """Members as they are; `open` as open runs."""
    assert parse_record(RECORDS["refused"]) == wire.RunRefused(
        "run-1", 4, AT, 0x0123456789ABCDEF, "too large", 99
    )
    assert parse_record(RECORDS["opened"]) == wire.SourceOpened(
        HEX[:32], AT, "host", 12, "boot", "0.1.0", "boottime"
    )
    beat = parse_record(RECORDS["heartbeat"])
    assert beat.open == tuple(COUNTS.open)
    assert isinstance(beat.open[0], OpenRun)
    assert (beat.beat, beat.backlog_records, beat.backlog_bytes, beat.refused, beat.lost) == (1, 7, 900, 1, 2)
    closed = parse_record(RECORDS["closed"])
    assert (closed.by, closed.runs_started, closed.runs_finished, closed.open) == ("adopter", 3, 1, beat.open)


@pytest.mark.parametrize("name", RECORDS)
def test_foreign_writing_of_the_same_record_means_the_same(name):
    """Another order, white space, escapes and members that version 1 doesn't name change nothing but opaque bytes."""
    record = orjson.loads(RECORDS[name])
    backwards = dict(reversed([*record.items(), ("zz", {"v": 9, "deep": [[1]]})]))
    foreign = (
        b" \r\n" + orjson.dumps(backwards, option=orjson.OPT_INDENT_2).replace(b"run", b"\\u0072un") + b"\t\n"
    )
    ours, theirs = parse_record(RECORDS[name]), parse_record(foreign)
    for field, value in ours._asdict().items():
        other = getattr(theirs, field)
        if field.endswith("_json"):
            assert other in foreign
            assert orjson.loads(other) == orjson.loads(value)
        else:
            assert other == value


def test_opaque_bytes_are_kept_with_only_the_space_around_them_cut():
    """Duplicate members, number forms and space inside of a payload are its own business."""
    odd = b'{ "a" : 1.50 , "a":[ ],\n"payload":{"x":1E+2}, "s":"\\"}," }'
    for value in (
        log(odd),
        log(b" \t" + odd + b"\n "),
        log(odd)[:-1] + b', "later":[{"payload":1}]}',
        spliced("bare log", PAYLOAD, odd),
    ):
        assert parse_record(value).payload_json == odd
    start = spliced("start", b'"inputs":{', b'"inputs"  :  {"attributes":{}, ')
    assert parse_record(start).inputs_json == b'{"attributes":{}, ' + orjson.dumps(RUN.inputs)[1:]
    assert parse_record(start).attributes_json == orjson.dumps(RUN.attributes)


def test_the_widest_values_are_accepted():
    """Bounds are inclusive."""
    assert parse_record(changed("finish", input_tokens=INT64_MAX)).input_tokens == INT64_MAX
    assert parse_record(changed("log", seq=INT64_MAX)).seq == INT64_MAX
    assert parse_record(changed("log", at_us=253_402_300_799_999_999)).at_us == 253_402_300_799_999_999
    assert parse_record(changed("log", run_id="é" * 256)).run_id == "é" * 256
    assert parse_record(changed("log", run_id="\x00")).run_id == "\x00"
    assert parse_record(changed("bare log", seq=0)).seq == 0
    assert parse_record(log(b"{}")).payload_json == b"{}"


# What is refused, and how

WRONG = [
    *[
        (name, "at_us", bad)
        for name in RECORDS
        for bad in (1.5, True, "1", -1, 253_402_300_800_000_000, 2**63)
    ],
    *[("log", "seq", bad) for bad in (0, -1, 2**63, 1.0, True, None, "3", [3])],
    *[("log", "run_id", bad) for bad in ("", "é" * 257, "x" * 513, None, 7, ["run-1"])],
    *[("log", "tag", bad) for bad in ("", "0" * 15, "0" * 17, "A" * 16, "g" * 16, "0" * 15 + "\n", 7)],
    *[
        ("log", "lost", bad)
        for bad in ("x", "3-1", "5,4", "5,5", "1-3,3", "0", "01", "1-", "\u0661", str(2**63), 1)
    ],
    *[("log", "payload", bad) for bad in ([], "{}", 1, None, True)],
    ("log", "event_type", None),
    ("log", "event_type", 1),
    ("start", "seq", 1),
    ("start", "seq", False),
    *[("start", "salt", bad) for bad in ("0" * 31, "A" * 32, None)],
    *[("start", "source_id", bad) for bad in ("0" * 33, "", None)],
    *[("start", "source_seq", bad) for bad in (0, True, 1.0, None)],
    *[("start", field, [SECRET]) for field in ("inputs", "attributes", "skill_id", "caller_id", "clock")],
    ("start", "channel_id", None),
    ("start", "parent_run_id", None),
    *[("finish", "head", bad) for bad in ("0" * 63, "F" * 64, None)],
    *[("finish", "events", bad) for bad in (9, 11, True, None)],
    *[
        ("finish", field, bad)
        for field in ("tool_calls", "runtime_us", "thinking_tokens")
        for bad in (-1, 0.0, 2**63)
    ],
    *[("finish", field, 1) for field in ("status", "output", "error", "lost")],
    ("bare start", "by", "somebody"),
    ("bare start", "call_id", ""),
    ("bare log", "call_id", None),
    ("bare log", "seq", None),
    ("refused", "bytes", -1),
    ("refused", "reason", None),
    ("heartbeat", "beat", 0),
    ("heartbeat", "open", {}),
    ("heartbeat", "open", [1]),
    (
        "heartbeat",
        "open",
        [{"run_id": "r", "source_seq": 1, "events": 1, "head": HEX}] * (HEARTBEAT_RUNS_MAX + 1),
    ),
    ("heartbeat", "open", [{"run_id": "r", "source_seq": 1, "events": 1, "head": "?"}]),
    ("heartbeat", "source_id", "x" * 32),
    ("closed", "by", "storage"),
    ("opened", "pid", "12"),
]


@pytest.mark.parametrize(("name", "field", "bad"), WRONG)
def test_a_wrong_member_is_refused_by_name(name, field, bad):
    """Missing, of another type or out of range: the text names the member and the remedy, not the value."""
    text = refusal(changed(name, **{field: bad}))
    assert f"field {field}" in text
    assert ";" in text
    assert SECRET not in text


@pytest.mark.parametrize("name", RECORDS)
def test_every_member_is_needed(name):
    """Without any of its members, `lost` of a log excepted, a record is refused, and the member is named."""
    for field in orjson.loads(RECORDS[name]):
        if (name, field) != ("log after a loss", "lost"):
            named = "tag" if field == "by" and name.startswith("bare") else field
            assert f"field {named}" in refusal(changed(name, **{field: None}))


@pytest.mark.parametrize("bad", [2**63, 2**64, 10**30])
def test_numbers_beyond_the_serializers_integers_are_refused(bad):
    """What a parser silently turns into a float is no integer."""
    assert "field seq" in refusal(spliced("log", b'"seq":3', b'"seq":%d' % bad))


@pytest.mark.parametrize("text", [b"3.0", b"3e0", b"0.3e1", b"true", b'"3"', b"null"])
def test_only_plain_integers_are_integers(text):
    """1.5 would become 2 and true 1 in laxer hands."""
    assert "field seq" in refusal(spliced("log", b'"seq":3', b'"seq":' + text))


def test_a_record_of_nobody_or_of_two_is_refused():
    """Either a Writer's tag or a bare Storage's by."""
    assert "neither tag nor by" in refusal(changed("log", tag=None))
    assert "both tag and by" in refusal(changed("log", by="storage", call_id="c"))


@pytest.mark.parametrize("name", RECORDS)
def test_a_member_that_stands_twice_is_refused(name):
    """Parsers disagree on which one counts; the same value, another order and escapes don't matter."""
    for field in orjson.loads(RECORDS[name]):
        value = orjson.dumps(orjson.loads(RECORDS[name])[field])
        for key in (field, f"\\u{ord(field[0]):04x}{field[1:]}"):
            twice = b'{"%b":%b,' % (key.encode(), value) + RECORDS[name][1:]
            assert f"field {field} stands twice" in refusal(twice)
    assert SECRET not in refusal(RECORDS[name][:-1] + f',"{SECRET}":1,"{SECRET}":2}}'.encode())


@pytest.mark.parametrize("name", ["heartbeat", "closed"])
def test_a_member_that_stands_twice_in_an_open_run_is_refused(name):
    """The ledger is made of these entries."""
    assert "field open.1.events stands twice" in refusal(
        spliced(name, b'"run-2","source_seq":2,"events":1', b'"run-2","events":2,"source_seq":2,"events":1')
    )


@pytest.mark.parametrize("version", [2, 3, 10**6])
def test_a_newer_version_is_told_apart(version):
    """Upgrading helps there: nothing else of the record is judged."""
    assert "upgrade" in refusal(changed("log", v=version, seq="x"), UnsupportedVersionError)


def test_an_unknown_type_is_told_apart():
    """So does it here."""
    assert "upgrade" in refusal(changed("log", type=SECRET), UnsupportedVersionError)
    assert SECRET not in refusal(changed("log", type=SECRET), UnsupportedVersionError)


@pytest.mark.parametrize("bad", [0, -1, 1.0, True, "1", None, [1]])
def test_a_version_that_is_none_is_invalid(bad):
    """No upgrade helps there."""
    assert "field v " in refusal(changed("log", v=bad))


@pytest.mark.parametrize("bad", [1, None, ["run.log"], {}])
def test_a_type_that_is_none_is_invalid(bad):
    """No upgrade helps there."""
    assert "field type " in refusal(changed("log", type=bad))


NO_JSON = {
    "nothing": b"",
    "space": b" \n",
    "NUL": b"\x00",
    "NUL after": RECORDS["log"] + b"\x00",
    "byte order mark": b"\xef\xbb\xbf" + RECORDS["log"],
    "two records": RECORDS["log"] * 2,
    "UTF-16": RECORDS["log"].decode().encode("utf-16"),
    "Latin-1": log('{"a":"é"}'.encode("latin-1")),
    "encoded surrogate": log(b'{"a":"\xed\xa0\x80"}'),
    "overlong": log(b'{"a":"\xc0\xaf"}'),
    "cut character": log(b'{"a":"\xc3"}'),
    "lone surrogate": log(b'{"a":"\\ud800"}'),
    "lone low surrogate": log(b'{"\\udc00":1}'),
    "surrogate in the run id": spliced("log", b"run-1", b"run\\ud83e"),
    "NaN": log(b'{"a":NaN}'),
    "-Infinity": log(b'{"a":-Infinity}'),
    "inf": log(b'{"a":[1,inf]}'),
    "1e999": log(b'{"a":1e999}'),
    "10^400": log(b'{"a":1%b}' % (b"0" * 400)),
    "trailing comma": log(b'{"a":1,}'),
    "trailing comma in a list": log(b'{"a":[1, ]}'),
    "comment": log(b'{"a":1/*c*/}'),
    "single quotes": log(b"{'a':1}"),
    "bare word": log(b"{a:1}"),
    "leading zero": spliced("log", b'"seq":3', b'"seq":03'),
    "plus": spliced("log", b'"seq":3', b'"seq":+3'),
    "hexadecimal": spliced("log", b'"seq":3', b'"seq":0x3'),
    "control character": log(b'{"a":"\x01"}'),
    "line end in a string": log(b'{"a":"\n"}'),
    "bad escape": log(b'{"a":"\\x41"}'),
    "trailing comma of the record": RECORDS["log"][:-1] + b",}",
}


@pytest.mark.parametrize("name", NO_JSON)
def test_what_is_not_json_is_refused(name):
    """RFC 8259 and UTF-8 without extensions, in opaque members too."""
    assert "not JSON" in refusal(NO_JSON[name])


@pytest.mark.parametrize("value", [b"[]", b"1", b'"{}"', b"null", b"[" + RECORDS["log"] + b"]"])
def test_what_is_no_object_is_refused(value):
    """One object per record."""
    assert "no object" in refusal(value)


def nested(levels):
    """A log whose record is `levels` deep: the record, the payload, lists."""
    return log(b'{"a":%b%b}' % (b"[" * (levels - 2), b"]" * (levels - 2)))


def test_depth_is_bounded_by_the_rule():
    """512 levels and no more; brackets in strings are none."""
    for levels in (3, 254, 255, 256, wire.JSON_DEPTH_MAX):
        assert parse_record(nested(levels)).payload_json in nested(levels)
    for levels in (wire.JSON_DEPTH_MAX + 1, 1000):
        assert "512 levels" in refusal(nested(levels))
    for levels in (1025, 100_000, 2_000_000):
        assert "not JSON" in refusal(nested(levels))
    flat = b'{"s":"%b", "o":[%b]}' % (b"[{" * 5000, b",".join([b'{"\\"[":[]}'] * 5000))
    assert parse_record(log(flat)).payload_json == flat
    assert "512 levels" in refusal(
        changed("start").replace(b'"q":', b'"d":%b%b,"q":' % (b"[" * 600, b"]" * 600))
    )


# Whatever the bytes


def judged(value):
    """Accepted, or refused by the one error that may come, with a text that is bounded."""
    try:
        parse_record(value)
    except InvalidRecordError as exc:
        text = str(exc)
    else:
        text = ""
    assert len(text) < 500


@pytest.mark.parametrize("name", RECORDS)
def test_no_flipped_byte_and_no_truncation_breaks_the_parser(name):
    """Each byte once replaced by a random one, each bit of the first bytes flipped, each prefix."""
    record, rng = RECORDS[name], random.Random(name)
    for at in range(len(record)):
        judged(record[:at] + bytes([rng.randrange(256)]) + record[at + 1 :])
        judged(record[:at] + bytes([record[at] ^ 1 << rng.randrange(8)]) + record[at + 1 :])
        judged(record[:at] + rng.choice(NASTY) + record[at + rng.randrange(9) :])
        refusal(record[:at])


NASTY = [
    b"NaN",
    b"1.5",
    b"true",
    b'"',
    b"\\",
    b"\\ud800",
    b"\x00",
    b"\xff",
    b"{",
    b"]",
    b",",
    b'"v":1,',
    b"1e999",
    b"[" * 600,
]

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65).filter(lambda n: -(2**63) <= n < 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["storage", "run.log", HEX[:16], HEX[:32], HEX, "1-2"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
NAMES = [
    *sorted({name for record in RECORDS.values() for name in orjson.loads(record)}),
    "__proto__",
    "",
    "\x00",
]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(RECORDS)), st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4))
def test_no_value_of_a_member_breaks_the_parser(name, members):
    """Any JSON value in the place of any member."""
    judged(orjson.dumps(orjson.loads(RECORDS[name]) | members))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 400))
def test_no_bytes_break_the_parser(noise, at):
    """Noise alone, and inside of a record."""
    judged(noise)
    judged(finished()[:at] + noise + finished()[at:])
