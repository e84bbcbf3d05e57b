"""One segment as its writer has it open: preallocated and mapped, or appended to where that can't be had."""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
from pathlib import Path
from typing import Final

from skillaudit.contract.outbox.layout import encode_line, header_record, pack_position, segment_name
from skillaudit.producer.outbox_files import FileSystem, MappingUnsupportedError

PAGE_BYTES: Final = 4096
HEADER_BYTES_MAX: Final = 128
PREPARE_BYTES: Final = 256 * 1024
"""How much of a segment's pages is brought in at a time, half of it ahead of need: bounds what one append waits for."""

_log = logging.getLogger("skillaudit.outbox")


class OutboxSegment:
    """The segment that is written to. Stores into a mapping happen under the log's lock; nothing here takes it.

    `limit` and `limit_reserved` are offsets up to which the short way may write logs, or starts, finishes and
    heartbeats; both are 0 where every record has to take the long way (a plain segment, none open).
    """

    __slots__ = (
        "base",
        "fd",
        "first_line",
        "frozen",
        "limit",
        "limit_reserved",
        "lines",
        "mapping",
        "number",
        "path",
        "prepared",
        "ready",
        "size",
        "used",
    )

    def __init__(self, number: int, path: Path, fd: int, size: int, mapping: mmap.mmap | None) -> None:
        self.number = number
        self.path = path
        self.fd = fd
        self.size = size
        """Bytes it may hold."""
        self.mapping = mapping
        self.base = pack_position(number, 0)
        self.used = 0
        self.prepared = 0
        """Offset up to which the pages are in the cache: the short way goes no further."""
        self.ready = 0
        """Offset at which the next pages should be brought in; `prepared` while that is being done."""
        self.frozen = False
        """Its successor is being made: nothing is stored here meanwhile."""
        self.limit = 0
        self.limit_reserved = 0
        self.first_line = 1
        self.lines = 0
        """Records taken in this segment."""

    @property
    def position(self) -> int:
        """Position after the last line."""
        return self.base + self.used

    def __repr__(self) -> str:
        """Where it stands."""
        kind = "plain" if self.mapping is None else "mapped"
        return f"OutboxSegment({self.number}, {self.used} of {self.size} bytes, {kind})"

    def __del__(self) -> None:
        """A thread that still waits for the disk holds a reference: the descriptor lives as long as that."""
        self.release()

    def release(self) -> None:
        """Close descriptor and mapping; safe to call again."""
        if self.mapping is not None:
            with contextlib.suppress(BufferError):
                self.mapping.close()
            self.mapping = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def store(self, files: FileSystem, lines: bytes) -> int:
        """Write `lines` behind what is there and return their offset. They fit, and the pages are prepared.

        A plain write that comes out short is undone; where not even that works, the segment takes nothing more
        (`size` becomes `used`), and the reader reports the rest.
        """
        start = self.used
        end = start + len(lines)
        if self.mapping is None:
            self._append(files, lines)
        else:
            self.mapping[start:end] = lines
        self.used = end
        return start

    def prepare(self, files: FileSystem, end: int) -> None:
        """Bring in the pages up to `end` and some more. Touches nothing that may be stored to meanwhile."""
        if self.mapping is None or end <= self.prepared == self.size:
            return
        size = min(self.size, max(end, self.prepared) + PREPARE_BYTES) - self.prepared
        files.prepare(self.fd, self.prepared, size)
        self.prepared += size
        self.ready = self.size if self.prepared == self.size else self.prepared - PREPARE_BYTES // 2

    def _append(self, files: FileSystem, lines: bytes) -> None:
        """The first byte last where there are several lines: a reader must not take one that may yet be undone."""
        first = 1 if lines.find(b"\n") < len(lines) - 1 else 0
        try:
            self._write(files, lines[first:], self.used + first)
            self._write(files, lines[:first], self.used)
        except BaseException:
            try:
                files.cut(self.fd, self.used)
            except OSError:
                _log.exception("can't undo a short write in %s; going on in a new segment", self.path)
                self.size = self.used
            raise

    def _write(self, files: FileSystem, data: bytes, byte: int) -> None:
        done = 0
        while done < len(data):
            done += files.write(self.fd, data[done:], byte + done)

    def finish(self, files: FileSystem) -> None:
        """Cut it to what is used; nothing is written to it any more."""
        self.frozen = True
        self.limit = self.limit_reserved = 0
        if self.mapping is None:
            return
        try:
            files.cut(self.fd, self.used)
        except OSError:
            _log.exception(
                "can't cut %s to its used length; the space stays taken until it is read", self.path
            )

    def epitaph(self) -> OutboxSegment:
        """What is left of it when the log is closed: its counts, and no file."""
        left = OutboxSegment(self.number, self.path, -1, 0, None)
        left.used, left.first_line, left.lines = self.used, self.first_line, self.lines
        return left


def no_segment() -> OutboxSegment:
    """Stands where none is open: everything takes the long way."""
    return OutboxSegment(0, Path(), -1, 0, None)


def create_segment(
    files: FileSystem,
    source_dir: Path,
    source_id: str,
    number: int,
    first_line: int,
    size: int,
    *,
    mapped: bool,
) -> OutboxSegment:
    """Make a segment under a temporary name, write its header, and give it its name: readers see it with its header.

    Raises `OSError` where there is no room, and `MappingUnsupportedError`; nothing is left behind then.
    """
    path = source_dir / segment_name(number)
    temporary = path.with_name(path.name + ".tmp")
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    segment = OutboxSegment(number, path, fd, size, None)
    try:
        if mapped:
            files.allocate(fd, size)
            segment.mapping = files.map(fd, size)
            segment.prepare(files, HEADER_BYTES_MAX)
        segment.store(files, encode_line(header_record(source_id, number, first_line)))
        segment.first_line = first_line
        temporary.replace(path)
    except (OSError, MappingUnsupportedError):
        segment.release()
        temporary.unlink(missing_ok=True)
        raise
    return segment


def round_to_pages(size: int) -> int:
    """The next multiple of a page."""
    return -(-size // PAGE_BYTES) * PAGE_BYTES
