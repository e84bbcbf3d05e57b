"""Finding lines in bytes: the pure half of reading a segment.

What stands at a place of a segment is one of these, and a byte only ever goes from NUL to its final value:

* a line: everything up to the next LF, with a right checksum;
* nothing or a beginning: a NUL comes before the next LF, or no LF comes at all. A writer that lives may be about to
  fill it; once nobody writes there any more it is an unfinished line, or bytes that were zeroed;
* an altered line: a LF comes before any NUL, so every byte of it is final, and the checksum is wrong.

Behind the last two, `next_line` finds the next valid line wherever its beginning could be: after a LF, where NULs end,
and after a checksum whose LF was altered (records hold no raw TAB), and where a record's first member stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import Final, NamedTuple
from zlib import crc32

from skillaudit.contract.outbox.layout import LINE_OVERHEAD_BYTES

_TRAILER: Final = LINE_OVERHEAD_BYTES - 1
"""TAB and eight hex digits, before the LF."""
_BEGINNINGS: Final = re.compile(rb'\n|\x00(?=[^\x00])|\t(?=.{9})|(?=\{"v":)', re.DOTALL)
_TRIED_BYTES_MAX: Final = 256 << 20
"""Bytes that checksums are computed over in one search at most, so that crafted bytes can't keep a reader for hours;
beyond it only places behind a LF are tried, which costs one pass."""


class Line(NamedTuple):
    """A valid line: `start` and `end` are offsets in the buffer, `end` the next line's first byte."""

    start: int
    end: int
    record: bytes


class Front(Enum):
    """What stands where no valid line does."""

    NOTHING = "nothing"
    """NUL up to the buffer's end, or the buffer's end itself."""
    BEGINNING = "beginning"
    """A NUL comes before the next LF, or no LF comes: a line that is not, or not yet, written to its end."""
    ALTERED = "altered"
    """Final bytes that are no valid line."""


def take_line(buffer: bytes, start: int) -> Line | None:
    """The valid line that begins at `start`, or None."""
    lf = buffer.find(b"\n", start)
    tail = lf - _TRAILER
    if tail < start:
        return None
    record = buffer[start:tail]
    return Line(start, lf + 1, record) if buffer[tail:lf] == b"\t%08x" % crc32(record) else None


def take_records(buffer: bytes, start: int, records_max: int, bytes_max: int) -> list[bytes]:
    """The records of the valid lines from `start` on, without a gap: at most `records_max`, and no further one once
    their lines hold `bytes_max` bytes. The first is given whatever its size. Each line is `LINE_OVERHEAD_BYTES` longer.
    """
    records: list[bytes] = []
    find, take, stop = buffer.find, records.append, start + bytes_max
    while len(records) < records_max:
        lf = find(b"\n", start)
        tail = lf - _TRAILER
        if tail < start or (lf >= stop and records):
            break
        record = buffer[start:tail]
        if buffer[tail:lf] != b"\t%08x" % crc32(record):
            break
        take(record)
        start = lf + 1
    return records


def front(buffer: bytes, start: int) -> Front:
    """What stands at `start`, given that `take_line` found none there."""
    lf = buffer.find(b"\n", start)
    nul = buffer.find(b"\0", start, lf if lf >= 0 else len(buffer))
    if lf >= 0 and nul < 0:
        return Front.ALTERED
    return Front.BEGINNING if lf >= 0 or used_end(buffer, start) > start else Front.NOTHING


def next_line(buffer: bytes, start: int) -> int:
    """Offset of the first valid line that begins after `start`, or -1."""
    lf, tried = -1, 0
    for beginning, behind_lf in _beginnings(buffer, start):
        if beginning > lf:
            lf = buffer.find(b"\n", beginning)
            if lf < 0:
                return -1
        if tried < _TRIED_BYTES_MAX or behind_lf:
            tried += lf - beginning
            if take_line(buffer, beginning) is not None:
                return beginning
    return -1


def used_end(buffer: bytes, start: int) -> int:
    """Offset after the last byte that is not NUL, at least `start`."""
    return max(start, len(buffer.rstrip(b"\0")))


def _beginnings(buffer: bytes, start: int) -> Iterator[tuple[int, bool]]:
    for match in _BEGINNINGS.finditer(buffer, start):
        at = match.end() + (_TRAILER if match[0] == b"\t" else 0)
        if start < at < len(buffer):
            yield at, match[0] == b"\n"
