"""Names, positions and lines of the outbox."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from zlib import crc32

SEGMENT_SUFFIX: Final = ".seg"
LINE_OVERHEAD_BYTES: Final = 10
"""TAB, eight hex digits, LF."""
_BYTE_BITS: Final = 32


def segment_name(segment: int) -> str:
    """File name of a segment; segments count from 1."""
    return f"{segment:08d}{SEGMENT_SUFFIX}"


def segment_number(path: Path) -> int:
    """Inverse of `segment_name`; raises `ValueError` for another file."""
    if path.suffix != SEGMENT_SUFFIX:
        raise ValueError(f"not a segment: {path.name}")
    return int(path.stem)


def list_segments(source_dir: Path) -> list[int]:
    """The segments present, ascending."""
    return sorted(segment_number(path) for path in source_dir.glob(f"*{SEGMENT_SUFFIX}"))


def pack_position(segment: int, byte: int) -> int:
    """`segment << 32 | byte`."""
    return segment << _BYTE_BITS | byte


def unpack_position(position: int) -> tuple[int, int]:
    """(segment, byte) of a position."""
    return position >> _BYTE_BITS, position & ((1 << _BYTE_BITS) - 1)


def encode_line(record: bytes) -> bytes:
    """`record TAB crc32 LF`. The record holds no TAB, LF or NUL: JSON escapes them."""
    return b"%b\t%08x\n" % (record, crc32(record))


def header_record(source_id: str, segment: int, first_line: int) -> bytes:
    """What a segment's first line says, before its checksum."""
    return b"skillaudit-segment 1 %b %d %d" % (source_id.encode(), segment, first_line)
