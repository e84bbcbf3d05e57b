"""Time, identity, the format's smallest parts and the cost of importing them."""

import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillaudit.contract import digests
from skillaudit.contract.clock import ManualClock, SystemClock, from_us, to_us, uuid7
from skillaudit.contract.events import format_ranges, parse_ranges, runtime_us
from skillaudit.contract.records import list_limit
from skillaudit.contract.wire_scan import Part, scan


def test_uuid7_is_a_uuid_of_version_7_with_its_time_in_front():
    """RFC 9562: 48 bits of milliseconds, version, 12 bits of fraction, variant, 62 random bits."""
    text = uuid7(now_ns=0x0192_3456_789A * 1_000_000 + 500_000, random=b"\xff" * 8)
    assert text == "01923456-789a-7800-bfff-ffffffffffff"
    made = uuid.UUID(uuid7())
    assert (made.version, made.variant) == (7, uuid.RFC_4122)


def test_uuid7_sorts_by_time_below_a_microsecond_and_never_repeats():
    """As text; ids of one moment differ by their random bits."""
    moments = [1_763_800_000_123_456_000 + step * 250 for step in range(50)]
    ids = [uuid7(now_ns=moment, random=b"\x00" * 8) for moment in moments]
    assert ids == sorted(ids)
    assert len(set(ids)) == 50
    assert len({uuid7(now_ns=1) for _ in range(100)}) == 100


@settings(max_examples=50)
@given(st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_microseconds_are_exact(at):
    """A float would lose them."""
    assert from_us(to_us(at)) == at


def test_times_of_other_zones_are_the_same_instant():
    """What is kept is UTC."""
    at = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert from_us(to_us(at)) == at
    assert from_us(to_us(at)).tzinfo is UTC


def test_the_clocks():
    """The steady one doesn't run backwards; the manual one stands until it is moved."""
    clock, manual = SystemClock(), ManualClock(5)
    steady = [clock.steady_us() for _ in range(100)]
    assert steady == sorted(steady)
    assert abs(clock.wall_us() - to_us(datetime.now(UTC))) < 10_000_000
    manual.advance(2)
    assert (manual.wall_us(), manual.steady_us()) == (7, 7)


def test_t_counts_bytes():
    """So that no two lists of fields share an encoding."""
    assert digests.T(b"") == b"0:"
    assert digests.T("é1:".encode()) == b"4:\xc3\xa91:"


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=6), max_size=4), st.lists(st.binary(max_size=6), max_size=4))
def test_t_keeps_lists_apart(left, right):
    """Two lists have one encoding only if they are the same."""
    joined = [b"".join(map(digests.T, fields)) for fields in (left, right)]
    assert (joined[0] == joined[1]) == (left == right)


def test_the_run_hash_is_stable():
    """It is stored: the first 8 bytes of the SHA-256, whatever the platform."""
    assert digests.run_hash("abc") == 0xBA7816BF8F01CFEA
    assert digests.run_hash("é") == digests.run_hash("\u00e9") < 2**64


@pytest.mark.parametrize(
    ("ranges", "text"), [((), ""), (((9, 9),), "9"), (((5, 7), (9, 9)), "5-7,9"), (((1, 2),), "1-2")]
)
def test_ranges_as_text(ranges, text):
    """One text for one list of ranges."""
    assert format_ranges(ranges) == text
    assert parse_ranges(text) == ranges


@pytest.mark.parametrize(
    "text", ["-", "7-5", "5-5", "05", " 5", "5,", "+5", "1_0", "\u0665", "5-", "x", "1-2-3", "5;6"]
)
def test_what_is_no_list_of_ranges_is_refused(text):
    """Forms that int() would take too."""
    with pytest.raises(ValueError, match=r"invalid literal|not a list of"):
        parse_ranges(text)


def test_seconds_become_whole_microseconds():
    """No float is hashed."""
    assert [runtime_us(seconds) for seconds in (0.0, 1.5, 0.1 + 0.2, 86_400.000001)] == [
        0,
        1_500_000,
        300_000,
        86_400_000_001,
    ]


def test_list_limits():
    """<= 0 or > 500 becomes 50."""
    assert [list_limit(limit) for limit in (-1, 0, 1, 500, 501)] == [50, 50, 1, 500, 50]


def test_scanning_finds_the_parts_of_any_json():
    """Names decoded, white space trimmed, brackets and commas in strings ignored."""
    text = rb'{ "a\u0062" : [1,"],"] , "":"\\\"{" ,"c":{}}'
    found = scan(text)
    assert [(part.name, text[part.low : part.high]) for part in found.parts] == [
        ("ab", b'[1,"],"]'),
        ("", rb'"\\\"{"'),
        ("c", b"{}"),
    ]
    assert (found.depth, found.repeated()) == (2, None)
    assert scan(b"[ 1 ,[2]]").parts == (Part("", 2, 3), Part("", 5, 8))
    assert scan(b" { } ").parts == ()
    assert scan(rb'{"a":1,"\u0061":2}').repeated() == "a"


def test_what_agents_import_of_the_contract_needs_no_pydantic():
    """Events, digests, the plain-log pattern and settings; the strict parser alone may."""
    code = (
        "import sys\n"
        "from skillaudit.contract import clock, digests, events, records, settings, wire_events, wire_fast\n"
        "print('pydantic' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "False\n"
