"""A source's segment files, where they are: in its directory, or compressed in the archive."""

from __future__ import annotations

import os
import re
import zlib
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, Protocol

from skillaudit.contract.errors import OutboxCorruptError
from skillaudit.contract.outbox.layout import list_segments, segment_name
from skillaudit.contract.outbox.scan import Front, front, take_line

ARCHIVE_SUFFIX: Final = ".gz"
_HEADER: Final = re.compile(rb"skillaudit-segment 1 ([0-9a-f]{32}) (\d{1,9}) (\d{1,18})")
_HEADER_BYTES_MAX: Final = 256


class Segment(Protocol):
    """The bytes of one segment."""

    number: int

    def size(self) -> int:
        """Bytes in it now; a live segment may be cut meanwhile."""
        ...

    def read(self, byte: int, size: int) -> bytes:
        """At most `size` bytes from `byte` on, as they are now."""
        ...

    def close(self) -> None:
        """Let go of it; safe to call again."""
        ...


class HeaderState(Enum):
    """What a segment's first line is."""

    GOOD = "good"
    ABSENT = "absent"
    """Not written (yet)."""
    DAMAGED = "damaged"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Header:
    """A segment's first line. `first_line` is the number of the record line after it, 0 where it is unknown."""

    state: HeaderState
    end: int = 0
    """Offset of the first record line."""
    first_line: int = 0


def read_header(segment: Segment, source_id: str) -> Header:
    """Read and judge the first line of a segment that should be `source_id`'s."""
    buffer = segment.read(0, _HEADER_BYTES_MAX)
    line = take_line(buffer, 0)
    if line is not None:
        match = _HEADER.fullmatch(line.record)
        if match is None:
            return Header(HeaderState.DAMAGED)  # a record where the header should be: it is read as one
        if match[1].decode() != source_id or int(match[2]) != segment.number:
            return Header(HeaderState.FOREIGN, line.end)
        return Header(HeaderState.GOOD, line.end, int(match[3]))
    return Header(HeaderState.DAMAGED if front(buffer, 0) is Front.ALTERED else HeaderState.ABSENT)


class SegmentFiles:
    """The segments of one source: those in its directory and, for a rebuild, those in the archive."""

    def __init__(self, source_dir: Path, archive_dir: Path | None = None) -> None:
        """`archive_dir`: the directory that holds `<source_id>/`, searched where a segment is gone from the source."""
        self._source_dir = source_dir
        self._archive_dir = None if archive_dir is None else archive_dir / source_dir.name

    def numbers(self) -> list[int]:
        """The segments present, ascending."""
        archived = [] if self._archive_dir is None else archived_segments(self._archive_dir)
        return sorted({*list_segments(self._source_dir), *archived})

    def exists(self, number: int) -> bool:
        """Whether that segment is present."""
        return (self._source_dir / segment_name(number)).exists() or (
            self._archive_dir is not None and archived_path(self._archive_dir, number).exists()
        )

    def open(self, number: int) -> Segment | None:
        """The segment, or None where it is gone. Raises `OutboxCorruptError` for an archived one that won't unpack."""
        try:
            return _LiveSegment(number, self._source_dir / segment_name(number))
        except (FileNotFoundError, NotADirectoryError):
            if self._archive_dir is None:
                return None
        try:
            return _ArchivedSegment(number, archived_path(self._archive_dir, number))
        except FileNotFoundError:
            return None


def archived_path(archive_of_source: Path, number: int) -> Path:
    """Where a segment goes in `archive/<source_id>/`."""
    return archive_of_source / f"{segment_name(number)}{ARCHIVE_SUFFIX}"


def archived_segments(archive_of_source: Path) -> list[int]:
    """The segments in `archive/<source_id>/`, ascending."""
    suffix = segment_name(0)[8:] + ARCHIVE_SUFFIX
    names = [path.name for path in archive_of_source.glob(f"*{suffix}")]
    return sorted(int(name.removesuffix(suffix)) for name in names)


class _NoSegment:
    """Nothing to read, where no segment is open."""

    number = 0

    def size(self) -> int:
        return 0

    def read(self, byte: int, size: int) -> bytes:
        del byte, size
        return b""

    def close(self) -> None:
        return None


NO_SEGMENT: Final[Segment] = _NoSegment()


class _LiveSegment:
    """Reads by `pread`, not through a mapping: the writer cuts closed segments, and a mapping would then fault."""

    def __init__(self, number: int, path: Path) -> None:
        self.number = number
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def read(self, byte: int, size: int) -> bytes:
        return os.pread(self._fd, size, byte)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _ArchivedSegment:
    def __init__(self, number: int, path: Path) -> None:
        import gzip

        self.number = number
        try:
            self._content = gzip.decompress(path.read_bytes())
        except (EOFError, OSError, zlib.error) as exc:
            if isinstance(exc, FileNotFoundError):
                raise
            raise OutboxCorruptError(
                f"the archived segment {path} does not unpack ({exc}); restore it from a backup, or remove it to go on "
                "without its records"
            ) from exc

    def size(self) -> int:
        return len(self._content)

    def read(self, byte: int, size: int) -> bytes:
        return self._content[byte : byte + size]

    def close(self) -> None:
        self._content = b""
