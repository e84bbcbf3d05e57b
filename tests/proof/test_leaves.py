"""The bytes of leaves: one encoding per leaf, and nothing else parses."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillaudit.contract.errors import InvalidRecordError
from skillaudit.proof.leaves import (
    LEAF_BYTES_MAX,
    SEAL_PARTITIONS_MAX,
    LedgerLeaf,
    SealedRange,
    SealLeaf,
    encode_act,
    encode_ledger_rows,
    leaf_kind,
    parse_act,
    parse_ledger,
    parse_seal,
    split_seal,
)

NUMBERS = st.integers(0, (1 << 63) - 1)
HASHES = st.binary(min_size=32, max_size=32)
NAMES = st.text(string.ascii_letters + string.digits + "._-/", min_size=1, max_size=60)
LEDGER = st.builds(
    LedgerLeaf,
    kind=st.sampled_from(["start", "progress", "finish", "closed"]),
    run_id=st.text(max_size=40),
    source_id=st.text("0123456789abcdef", min_size=32, max_size=32),
    source_seq=NUMBERS,
    events=NUMBERS,
    head=st.none() | HASHES,
    offset=NUMBERS,
    received_us=NUMBERS,
)
RANGES = st.builds(SealedRange, NAMES, NUMBERS, st.integers(1, 1 << 62), HASHES, NUMBERS)
EXAMPLE = LedgerLeaf(
    kind="finish",
    run_id="r 1",
    source_id="5" * 32,
    source_seq=2,
    events=7,
    head=bytes(32),
    offset=9,
    received_us=0,
)


@settings(deadline=None)
@given(LEDGER)
def test_a_ledger_leaf_is_read_back_as_it_was(row):
    """Whatever the run's name holds, fields of a ledger leaf included."""
    assert parse_ledger(row.encode()) == row
    forged = LedgerLeaf(
        **{name: getattr(row, name) for name in row.__slots__} | {"run_id": row.encode().decode()}
    )
    assert parse_ledger(forged.encode()) == forged


def test_a_ledger_leaf_is_what_the_format_says():
    """Byte for byte; a head that is not there is a dash."""
    assert EXAMPLE.encode() == b"skillaudit finish 1\n3:r 1 " + b"5" * 32 + b" 2 7 " + b"0" * 64 + b" 9 0\n"
    final = LedgerLeaf(
        kind="closed",
        run_id="",
        source_id="a" * 32,
        source_seq=0,
        events=12,
        head=None,
        offset=3,
        received_us=4,
    )
    assert final.encode() == b"skillaudit closed 1\n0: " + b"a" * 32 + b" 0 12 - 3 4\n"


@settings(deadline=None)
@given(st.lists(RANGES, max_size=8, unique_by=lambda part: part.partition), NUMBERS)
def test_a_seal_is_read_back_as_it_was(ranges, at_us):
    """Its partitions in the order of their names; also the empty one of an idle hour."""
    (seal,) = split_seal(at_us, ranges)
    assert parse_seal(seal.encode()) == seal
    assert [part.partition for part in seal.ranges] == sorted(part.partition for part in ranges)


@settings(deadline=None)
@given(LEDGER, st.data())
def test_no_other_bytes_are_a_ledger_leaf(row, data):
    """A byte changed either parses as another row, or not at all: there are no two encodings of one row."""
    leaf = bytearray(row.encode())
    at = data.draw(st.integers(0, len(leaf) - 1))
    leaf[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = parse_ledger(bytes(leaf))
    except InvalidRecordError:
        return
    assert found != row
    assert found.encode() == bytes(leaf)


@pytest.mark.parametrize(
    "change",
    [
        (b"finish 1", b"finish 2"),
        (b"finish", b"event"),
        (b"3:r 1", b"03:r 1"),
        (b"3:r 1", b"4:r 1"),
        (b"3:r 1", b"3:\xff\xff\xff"),
        (b" 2 7 ", b" 02 7 "),
        (b" 2 7 ", b" 2 +7 "),
        (b" 2 7 ", b" 2 9999999999999999999 "),
        (b" 9 0\n", b" 9 0"),
        (b" 9 0\n", b" 9 0\n\n"),
        (b" 9 0\n", b" 9 0 0\n"),
        (b"0" * 64, b"A" * 64),
        (b"0" * 64, b"0" * 63),
        (b"0" * 64, b""),
    ],
)
def test_what_is_nearly_a_ledger_leaf_is_none(change):
    """Leading zeros, other lengths, other cases, other versions."""
    leaf = EXAMPLE.encode()
    assert change[0] in leaf
    with pytest.raises(InvalidRecordError):
        parse_ledger(leaf.replace(*change, 1))


@pytest.mark.parametrize(
    "leaf",
    [
        b"",
        b"skillaudit seal 1\n",
        b"skillaudit seal 1\nat -1\n",
        b"skillaudit seal 1\nat 01\n",
        b"skillaudit seal 1\nat 5\n\n",
        b"skillaudit seal 1\nat 9223372036854775808\n",
        b"skillaudit seal 1\nat 5\nledger p 0 0 " + b"0" * 64 + b" 1\n",
        b"skillaudit seal 1\nat 5\nledger p q 0 1 " + b"0" * 64 + b" 1\n",
        b"skillaudit seal 1\nat 5\nledger p 0 1 " + b"0" * 64 + b" 1",
        b"skillaudit seal 1\nat 5\nledger p 0 1 " + b"0" * 62 + b" 1\n",
        b"skillaudit seal 1\nat 5\n" + 2 * (b"ledger p 0 1 " + b"0" * 64 + b" 1\n"),
        b"skillaudit seal 1\nat 5\nledger q 0 1 " + b"0" * 64 + b" 1\nledger p 0 1 " + b"0" * 64 + b" 1\n",
        b"skillaudit seal 1\nat 5\nledger p 9223372036854775808 1 " + b"0" * 64 + b" 1\n",
    ],
)
def test_what_is_nearly_a_seal_is_none(leaf):
    """Partitions twice or out of order, empty ranges, cut off lines."""
    with pytest.raises(InvalidRecordError):
        parse_seal(leaf)


@pytest.mark.parametrize("name_length", [3, 255])
def test_a_seal_of_many_partitions_becomes_several_leaves(name_length):
    """None with more than 500 partitions or more bytes than an entry may have; together they hold each range once."""
    ranges = [SealedRange(f"{n:0{name_length}d}", n, 1 << 60, bytes(32), 1 << 62) for n in range(1300)]
    seals = split_seal(5, reversed(ranges))
    assert [part for seal in seals for part in seal.ranges] == sorted(ranges, key=lambda part: part.partition)
    for seal in seals:
        assert len(seal.ranges) <= SEAL_PARTITIONS_MAX
        assert len(seal.encode()) <= LEAF_BYTES_MAX
        assert parse_seal(seal.encode()) == seal
    fewest = -(-len(ranges) // min(500, (LEAF_BYTES_MAX - 25) // len(ranges[-1].line())))
    assert len(seals) == fewest


def test_a_seal_too_long_for_a_leaf_is_refused():
    """Nobody writes one by going around the splitting."""
    parts = tuple(SealedRange(f"{n:04}", 0, 1, bytes(32), 1) for n in range(501))
    with pytest.raises(InvalidRecordError, match="split"):
        SealLeaf(5, parts).encode()


def test_an_act_is_its_line_verbatim():
    """Spaces, order and escapes as they were written."""
    line = '{ "kind":"purge" , "reason":"\\u00fc ü"}'.encode()
    assert encode_act(line) == b"skillaudit act 1\n" + line + b"\n"
    assert parse_act(encode_act(line)) == line


@pytest.mark.parametrize(
    "line", [b"", b"[]", b'{"a":1}\n', b'{"a":\n1}', b"{\xff}", b"{" + b" " * 65_520 + b"}"]
)
def test_what_is_no_act_is_refused(line):
    """One line, an object, text, and no longer than a leaf."""
    with pytest.raises(InvalidRecordError):
        encode_act(line)
    with pytest.raises(InvalidRecordError):
        parse_act(b"skillaudit act 1\n" + line + b"\n")


def test_a_journals_leaf_is_a_seal_or_an_act():
    """Any other is refused before it is appended."""
    assert leaf_kind(SealLeaf(1).encode()) == "seal"
    assert leaf_kind(encode_act(b"{}")) == "act"
    with pytest.raises(InvalidRecordError):
        leaf_kind(EXAMPLE.encode())


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "event"},
        {"source_id": "5" * 31},
        {"source_id": "G" * 32},
        {"head": b"short"},
        {"events": -1},
        {"offset": 1 << 63},
    ],
)
def test_a_row_without_an_encoding_is_refused(change):
    """Rather than written so that it can't be read."""
    values = {name: getattr(EXAMPLE, name) for name in EXAMPLE.__slots__} | change
    with pytest.raises(InvalidRecordError):
        LedgerLeaf(**values).encode()
    with pytest.raises(InvalidRecordError):
        encode_ledger_rows([members(EXAMPLE), tuple(values.values()), members(EXAMPLE)])


def members(row):
    return tuple(getattr(row, name) for name in row.__slots__)


@settings(deadline=None)
@given(st.lists(LEDGER, max_size=5))
def test_rows_are_encoded_together_as_one_by_one(rows):
    """A seal's check encodes thousands."""
    assert encode_ledger_rows([members(row) for row in rows]) == [row.encode() for row in rows]


@pytest.mark.parametrize(
    "part",
    [
        SealedRange("a b", 0, 1, bytes(32), 1),
        SealedRange("", 0, 1, bytes(32), 1),
        SealedRange("p", 0, 0, bytes(32), 1),
        SealedRange("p", -1, 1, bytes(32), 1),
        SealedRange("p", 0, 1, b"", 1),
    ],
)
def test_a_range_without_an_encoding_is_refused(part):
    """Names with white space above all."""
    with pytest.raises(InvalidRecordError):
        part.line()
