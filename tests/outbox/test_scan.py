"""Finding lines in bytes, against a list of the lines that were put there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillaudit.contract.outbox.layout import encode_line
from skillaudit.contract.outbox.scan import Front, front, next_line, take_line, take_records, used_end


def clean(raw: bytes) -> bytes:
    return raw.replace(b"\n", b"").replace(b"\0", b"").replace(b"\t", b"")


records = st.binary(max_size=60).map(lambda raw: b'{"v":1,' + clean(raw))


@given(st.lists(records, max_size=20), st.integers(1, 30), st.integers(1, 400))
def test_lines_are_taken_in_order_within_both_bounds(items: list[bytes], records_max: int, bytes_max: int):
    """At most `records_max`, and no further one once `bytes_max` is reached, but always the first."""
    buffer = b"".join(map(encode_line, items))
    taken = take_records(buffer, 0, records_max, bytes_max)
    assert taken == items[: len(taken)]
    assert len(taken) <= records_max
    assert len(taken) <= 1 or len(b"".join(map(encode_line, taken))) <= bytes_max
    if len(taken) < min(records_max, len(items)):
        assert not taken or len(b"".join(map(encode_line, items[: len(taken) + 1]))) > bytes_max


@given(st.lists(records, min_size=1, max_size=8), st.data())
def test_behind_any_damage_every_untouched_line_is_found(items: list[bytes], data: st.DataObject):
    """Overwriting any stretch of bytes costs the lines it touches and no other."""
    lines = [encode_line(record) for record in items]
    buffer = b"".join(lines)
    begin = data.draw(st.integers(0, len(buffer) - 1))
    size = data.draw(st.integers(1, len(buffer) - begin))
    filler = data.draw(st.sampled_from([b"\0", b"\n", b"x", b"\t", b"\xff"]))
    damaged = buffer[:begin] + filler * size + buffer[begin + size :]
    found, at = [], 0
    while at >= 0:
        while line := take_line(damaged, at):
            found.append((line.start, line.record))
            at = line.end
        at = next_line(damaged, at)
    starts = [sum(map(len, lines[:n])) for n in range(len(lines))]
    untouched = [
        (start, record)
        for start, record, line in zip(starts, items, lines, strict=True)
        if damaged[start : start + len(line)] == line
    ]
    assert [pair for pair in untouched if pair not in found] == []


@pytest.mark.parametrize(
    ("buffer", "expected"),
    [
        (b"", Front.NOTHING),
        (b"\0\0\0", Front.NOTHING),
        (b"abc", Front.BEGINNING),
        (b"abc\0\0", Front.BEGINNING),
        (b"\0\0abc\n", Front.BEGINNING),
        (b"ab\0c\n", Front.BEGINNING),
        (b"abc\n\0", Front.ALTERED),
    ],
)
def test_what_stands_where_no_line_does(buffer: bytes, expected: Front):
    """A LF before any NUL makes bytes final; without one they may still be written."""
    assert front(buffer, 0) is expected


@pytest.mark.parametrize("checksum", [b"00000000", b"0000000g", b"0x000000", b" 0000000", b"0000_000"])
def test_a_checksum_is_eight_lower_case_digits(checksum: bytes):
    """What a lenient number parser would take is not taken: crc32 of nothing is 0, written in one way only."""
    line = b"\t" + checksum + b"\n"
    assert (take_line(line, 0) is not None) == (checksum == b"00000000")


def test_crafted_bytes_do_not_cost_hours():
    """A segment full of places where a line could begin is passed in bounded time."""
    crafted = b"\t" * (1 << 18) + b"\t00000000\n" + encode_line(b"{}")
    assert crafted[next_line(crafted, 0) :] == encode_line(b"{}")


def test_used_end_is_behind_the_last_written_byte():
    """NULs at the end are unused space."""
    assert used_end(b"abc\0\0", 0) == 3
    assert used_end(b"\0\0", 1) == 1
