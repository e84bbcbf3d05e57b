r"""The exact bytes of leaves: ledger rows, seals, acts. Text, UTF-8, LF.

    T(x)    <bytes of x>:<x>
    ledger  "skillaudit " kind " 1\n" T(run_id) " " source_id " " source_seq " " events " " head " " offset " " received_us "\n"
            kind: start, progress, finish, closed; head: 64 hex digits, or - where there is none
    seal    "skillaudit seal 1\nat " us "\n", then per partition that moved, in the order of the names' bytes,
            "ledger " partition " " first " " count " " root " " next_offset "\n"
    act     "skillaudit act 1\n" line "\n"      the act's one line of JSON, as it was written

Encoding is the inverse of strict parsing: what parses has exactly one encoding. A leaf is hashed behind a byte 0x00
(`merkle.leaf_hash`). `next_offset`: every record of the partition below it has its rows in this seal or an earlier one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from skillaudit.contract.errors import InvalidRecordError

LEDGER_KINDS: Final = ("start", "progress", "finish", "closed")
LEAF_BYTES_MAX: Final = 65_535
"""The longest entry of a tlog-tiles bundle: its length has 16 bits."""
SEAL_PARTITIONS_MAX: Final = 500
INTEGER_MAX: Final = (1 << 63) - 1

_NUMBER: Final = rb"(0|[1-9][0-9]{0,18})"
_LEDGER_TEXT: Final = b"skillaudit %b 1\n%d:%b %b %d %d %b %d %d\n"
_LEDGER: Final = re.compile(
    rb"skillaudit (start|progress|finish|closed) 1\n" + _NUMBER + rb":(.*) ([0-9a-f]{32}) " + _NUMBER + rb" "
    + _NUMBER + rb" (-|[0-9a-f]{64}) " + _NUMBER + rb" " + _NUMBER + rb"\n",
    re.DOTALL,
)  # fmt: skip
_SEAL_HEAD: Final = re.compile(rb"skillaudit seal 1\nat " + _NUMBER + rb"\n")
_SEAL_LINE: Final = re.compile(
    rb"ledger ([!-~]+) " + _NUMBER + rb" ([1-9][0-9]{0,18}) ([0-9a-f]{64}) " + _NUMBER + rb"\n"
)
_ACT: Final = re.compile(rb"skillaudit act 1\n(\{[^\n]*\})\n")
_PARTITION: Final = re.compile(r"[!-~]+")
_SOURCE: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerLeaf:
    """What one row of the ledger says. Its partition and index are its place, not part of its bytes."""

    kind: str
    run_id: str
    """Empty: the final count of a source (kind closed)."""
    source_id: str
    """32 hex digits."""
    source_seq: int
    """0 where the record doesn't say it."""
    events: int
    """Start and finish included; of a source's final count the runs it started."""
    head: bytes | None
    """32 bytes, through these events."""
    offset: int
    received_us: int
    """The broker's append time; 0 where there is none."""

    def encode(self) -> bytes:
        """The leaf's bytes. `InvalidRecordError` where a value has no encoding."""
        return encode_ledger(
            self.kind,
            self.run_id,
            self.source_id,
            self.source_seq,
            self.events,
            self.head,
            self.offset,
            self.received_us,
        )


def encode_ledger(
    kind: str,
    run_id: str,
    source_id: str,
    source_seq: int,
    events: int,
    head: bytes | None,
    offset: int,
    received_us: int,
) -> bytes:
    """What `LedgerLeaf.encode` gives, without the object."""
    head_fits = head is None or len(head) == 32  # noqa: PLR2004  bytes of SHA-256
    if kind not in LEDGER_KINDS or not _SOURCE.fullmatch(source_id) or not head_fits:
        raise InvalidRecordError(f"no ledger leaf: kind {kind!r}, source {source_id!r}, or its head")
    numbers = (source_seq, events, offset, received_us)
    if min(numbers) < 0 or max(numbers) > INTEGER_MAX:
        raise InvalidRecordError(f"no ledger leaf: {numbers} are not all numbers from 0 to 2^63 - 1")
    text = run_id.encode()
    said = b"-" if head is None else head.hex().encode()
    return _LEDGER_TEXT % (
        kind.encode(),
        len(text),
        text,
        source_id.encode(),
        source_seq,
        events,
        said,
        offset,
        received_us,
    )


LedgerRow = tuple[str, str, str, int, int, bytes | None, int, int]
"""The members of a `LedgerLeaf`, in their order."""


def encode_ledger_rows(rows: Sequence[LedgerRow]) -> list[bytes]:
    """`encode_ledger` of each, in a third of the time: what has no encoding is looked for column by column.

    `InvalidRecordError` where one has none, naming it.
    """
    if not rows:
        return []
    kinds, _, sources, source_seqs, events, heads, offsets, received = zip(*rows, strict=True)
    numbers = (source_seqs, events, offsets, received)
    sound = (
        {*kinds}.issubset(LEDGER_KINDS)
        and all(map(_SOURCE.fullmatch, {*sources}))
        and {len(head) for head in heads if head is not None} <= {32}
        and min(map(min, numbers)) >= 0
        and max(map(max, numbers)) <= INTEGER_MAX
    )
    if not sound:
        return [encode_ledger(*row) for row in rows]
    encoded = {text: text.encode() for text in {*kinds, *sources}}
    return [
        _LEDGER_TEXT
        % (
            encoded[kind],
            len(text := run_id.encode()),
            text,
            encoded[source_id],
            source_seq,
            count,
            b"-" if head is None else head.hex().encode(),
            offset,
            received_us,
        )
        for kind, run_id, source_id, source_seq, count, head, offset, received_us in rows
    ]


@dataclass(frozen=True, slots=True)
class SealedRange:
    """The rows `[first, first + count)` of one partition's ledger, and the root of their tree."""

    partition: str
    first: int
    count: int
    root: bytes
    next_offset: int

    @property
    def end(self) -> int:
        """The first row that is not in it."""
        return self.first + self.count

    def line(self) -> bytes:
        """Its line in the seal's leaf. `InvalidRecordError` for what has no encoding."""
        numbers = (self.first, self.count, self.next_offset)
        if not _PARTITION.fullmatch(self.partition) or len(self.root) != 32:  # noqa: PLR2004  bytes of SHA-256
            raise InvalidRecordError(f"can't be sealed: partition {self.partition!r}, or its root")
        if self.count < 1 or not all(0 <= number <= INTEGER_MAX for number in numbers):
            raise InvalidRecordError(f"can't be sealed: rows {self.first} + {self.count} of {self.partition}")
        root = self.root.hex().encode()
        return b"ledger %b %d %d %b %d\n" % (
            self.partition.encode(),
            self.first,
            self.count,
            root,
            self.next_offset,
        )


@dataclass(frozen=True, slots=True)
class SealLeaf:
    """One seal: the ranges that came since the previous one, of each partition that moved."""

    at_us: int
    ranges: tuple[SealedRange, ...] = ()
    """In the order of the partitions' names; none: nothing had arrived."""

    def encode(self) -> bytes:
        """The leaf's bytes. `InvalidRecordError` where it has no encoding, or is too long: see `split_seal`."""
        names = [part.partition for part in self.ranges]
        if names != sorted(set(names)) or not 0 <= self.at_us <= INTEGER_MAX:
            raise InvalidRecordError(
                "a seal names each partition once, in order, and its time is not negative"
            )
        leaf = b"skillaudit seal 1\nat %d\n" % self.at_us + b"".join(part.line() for part in self.ranges)
        if len(leaf) > LEAF_BYTES_MAX or len(self.ranges) > SEAL_PARTITIONS_MAX:
            raise InvalidRecordError(f"a seal of {len(names)} partitions is too long for one leaf; split it")
        return leaf


def split_seal(at_us: int, ranges: Iterable[SealedRange]) -> tuple[SealLeaf, ...]:
    """As few seals as hold all the ranges within a leaf's limits; one without ranges where there are none."""
    seals: list[SealLeaf] = []
    part: list[SealedRange] = []
    length = header = len(SealLeaf(at_us).encode())
    for found in sorted(ranges, key=lambda found: found.partition):
        line = len(found.line())
        if part and (len(part) == SEAL_PARTITIONS_MAX or length + line > LEAF_BYTES_MAX):
            seals.append(SealLeaf(at_us, tuple(part)))
            part, length = [], header
        part.append(found)
        length += line
    return (*seals, SealLeaf(at_us, tuple(part)))


def encode_act(line: bytes) -> bytes:
    """The leaf of an act, from its one line of JSON (an object, without its line end).

    `InvalidRecordError` for a text of several lines, of no object's form, or too long for a leaf.
    """
    leaf = b"skillaudit act 1\n%b\n" % line
    if not _ACT.fullmatch(leaf) or len(leaf) > LEAF_BYTES_MAX or not _is_text(line):
        raise InvalidRecordError(
            f"an act is one line of JSON, an object of at most {LEAF_BYTES_MAX - 18} bytes; this has {len(line)}"
        )
    return leaf


def parse_ledger(leaf: bytes) -> LedgerLeaf:
    """The inverse of `LedgerLeaf.encode`; `InvalidRecordError` for any other bytes."""
    found = _LEDGER.fullmatch(leaf)
    if found is None or int(found[2]) != len(found[3]) or not _is_text(found[3]):
        raise InvalidRecordError("not a ledger leaf of format 1")
    row = LedgerLeaf(
        kind=found[1].decode(),
        run_id=found[3].decode(),
        source_id=found[4].decode(),
        source_seq=int(found[5]),
        events=int(found[6]),
        head=None if found[7] == b"-" else bytes.fromhex(found[7].decode()),
        offset=int(found[8]),
        received_us=int(found[9]),
    )
    row.encode()  # integers of nineteen digits may still be too large
    return row


def parse_seal(leaf: bytes) -> SealLeaf:
    """The inverse of `SealLeaf.encode`; `InvalidRecordError` for any other bytes."""
    head = _SEAL_HEAD.match(leaf)
    if head is None:
        raise InvalidRecordError("not a seal of format 1")
    at, ranges = head.end(), list[SealedRange]()
    while at < len(leaf):
        line = _SEAL_LINE.match(leaf, at)
        if line is None:
            raise InvalidRecordError(
                f"not a seal of format 1: line {len(ranges) + 3} is no range of a ledger"
            )
        numbers = int(line[2]), int(line[3])
        root = bytes.fromhex(line[4].decode())
        ranges.append(SealedRange(line[1].decode(), *numbers, root, int(line[5])))
        at = line.end()
    seal = SealLeaf(int(head[1]), tuple(ranges))
    seal.encode()
    return seal


def parse_act(leaf: bytes) -> bytes:
    """The act's line of JSON, without its line end; `InvalidRecordError` for any other bytes. The JSON isn't parsed."""
    found = _ACT.fullmatch(leaf)
    if found is None or not _is_text(found[1]) or len(leaf) > LEAF_BYTES_MAX:
        raise InvalidRecordError("not an act of format 1")
    return found[1]


def leaf_kind(leaf: bytes) -> str:
    """`seal` or `act` by the leaf's first line; `InvalidRecordError` for another."""
    for kind in ("seal", "act"):
        if leaf.startswith(b"skillaudit %b 1\n" % kind.encode()):
            return kind
    raise InvalidRecordError("a journal's leaf begins with `skillaudit seal 1` or `skillaudit act 1`")


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
