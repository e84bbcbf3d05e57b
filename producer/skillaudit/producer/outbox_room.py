"""How much a source may still take: what is unacknowledged, what is free on the disk, what is held in reserve."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from skillaudit.contract.errors import OutboxCorruptError
from skillaudit.contract.eventlog import RecordKind
from skillaudit.contract.outbox.acknowledgement import (
    ACKNOWLEDGEMENT_NAME,
    Acknowledgement,
    read_acknowledgement,
)
from skillaudit.contract.outbox.layout import unpack_position
from skillaudit.contract.settings import Settings
from skillaudit.producer.outbox_files import FileSystem
from skillaudit.producer.outbox_segment import OutboxSegment

FIRST_SEGMENT_BYTES: Final = 64 * 1024
"""The first segment's size; each further one has twice the last one's, up to `segment_bytes`: many short processes
should not take 8 MiB each."""
PLAIN_CHECK_BYTES: Final = 1 << 20
"""Where segments grow by appends, the free space is looked at again after so many bytes."""


class NoRoom(Exception):  # noqa: N818  an answer, not an error: the caller decides whether to wait
    """There is no room now; says why."""


class RoomKeeper:
    """Counts one source's unacknowledged bytes and judges whether a record may be taken.

    Counting happens under the log's lock; what does input or output (`read_...`, `check_disk...`) is called without it,
    one thread at a time.
    """

    def __init__(self, settings: Settings, files: FileSystem, source_dir: Path) -> None:
        """For the source in `source_dir`."""
        self._settings = settings
        self._files = files
        self._source_dir = source_dir
        self._offsets: dict[int, int] = {}  # segment -> bytes of this source before it
        self._ack_stamp = (0, 0)
        self._checked_at = 0
        self.ack = Acknowledgement()

    def opened(self, segment: OutboxSegment, before: OutboxSegment) -> None:
        """`segment` follows `before`."""
        self._offsets[segment.number] = self._offsets.get(before.number, 0) + before.used

    def acknowledge(self, ack: Acknowledgement) -> None:
        """Take note of an acknowledgement; an older one changes nothing."""
        if ack.position <= self.ack.position:
            return
        self.ack = ack
        acknowledged, _ = unpack_position(ack.position)
        for number in [n for n in self._offsets if n < acknowledged]:
            del self._offsets[number]

    def read_acknowledgement(self) -> Acknowledgement | None:
        """The acknowledgement if its file changed since the last look, else None. Input only: nothing is noted yet."""
        try:
            stat = (self._source_dir / ACKNOWLEDGEMENT_NAME).stat()
        except OSError:
            return None
        stamp = (stat.st_mtime_ns, stat.st_ino)
        if stamp == self._ack_stamp:
            return None
        try:
            ack = read_acknowledgement(self._source_dir)
        except OutboxCorruptError:
            return None  # the reader reports it and begins again; until then nothing counts as acknowledged
        except OSError:
            return None  # no descriptor left, say: no reason to refuse a record; the next look may see more
        self._ack_stamp = stamp
        return ack

    def unacknowledged_bytes(self, segment: OutboxSegment) -> int:
        """Bytes written and not acknowledged, `segment` being the current one."""
        number, byte = unpack_position(self.ack.position)
        written = self._offsets.get(segment.number, 0) + segment.used
        oldest = min(self._offsets.values(), default=0)
        return written - max(oldest, self._offsets.get(number, oldest - byte) + byte)

    def set_limits(self, segment: OutboxSegment) -> None:
        """Up to where the short way may write in `segment` before the long way looks at everything again."""
        if segment.mapping is None or segment.frozen:
            segment.limit = segment.limit_reserved = 0
            return
        spare = self._settings.outbox_bytes_max - self.unacknowledged_bytes(segment)
        reserve = self._settings.outbox_reserve_bytes
        segment.limit = min(segment.ready, segment.used + spare)
        segment.limit_reserved = min(segment.ready, segment.used + spare + reserve)

    def check_bytes(self, segment: OutboxSegment, size: int, kind: RecordKind) -> None:
        """Raise `NoRoom` where `size` bytes more would pass the limit. An empty outbox takes a record of any size."""
        held = self.unacknowledged_bytes(segment)
        reserve = self._settings.outbox_reserve_bytes if kind is RecordKind.RESERVED else 0
        limit = self._settings.outbox_bytes_max + reserve
        if held + size > limit and held > 0:
            raise NoRoom(
                f"{held} bytes wait to be acknowledged, and outbox_bytes_max allows {limit} here; is the forwarder or "
                "consumer running? `skillaudit outbox status` shows what waits"
            )

    def check_disk(self, size: int, kind: RecordKind) -> None:
        """Raise `NoRoom` where taking `size` bytes from the file system would leave less than the minimum."""
        if kind is RecordKind.RESERVED:
            return
        free = self._files.free_bytes(self._source_dir.parent)
        if free - size < self._settings.outbox_free_bytes_min:
            raise NoRoom(
                f"the file system of {self._source_dir.parent} has {free} bytes free and outbox_free_bytes_min is "
                f"{self._settings.outbox_free_bytes_min}; free some space"
            )

    def check_disk_of_plain(self, segment: OutboxSegment, size: int, kind: RecordKind) -> None:
        """As `check_disk`, for a segment that grows: at its beginning and after every `PLAIN_CHECK_BYTES`."""
        at = self._offsets.get(segment.number, 0) + segment.used
        if not self._checked_at or at - self._checked_at >= PLAIN_CHECK_BYTES:
            self.check_disk(size, kind)
            self._checked_at = max(at, 1)

    def check_disk_ahead(self, segment: OutboxSegment, size: int) -> None:
        """As `check_disk`, for a log of `size` bytes that may come: where `segment` has its space already, nothing."""
        if segment.mapping is None:
            self.check_disk(size, RecordKind.LOG)
        elif segment.used + size > segment.size:
            self.check_disk(max(size, self.next_segment_bytes(segment)), RecordKind.LOG)

    def next_segment_bytes(self, before: OutboxSegment) -> int:
        """Size of the segment after `before`, unless a record needs more."""
        doubled = max(FIRST_SEGMENT_BYTES, 2 * before.size)
        return min(doubled, self._settings.segment_bytes)
