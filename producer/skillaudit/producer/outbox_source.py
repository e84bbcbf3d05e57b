"""The files of the source that this process writes: making them, changing segments, getting them onto the disk.

Everything here does input or output and takes no lock; `outbox.OutboxLog` calls it one thread at a time.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from skillaudit.contract.clock import Clock
from skillaudit.contract.errors import LockedError, StopError
from skillaudit.contract.eventlog import RecordKind
from skillaudit.contract.outbox.directory import outbox_id
from skillaudit.contract.outbox.files import FULL_ERRNOS, sync_directory
from skillaudit.contract.outbox.identity import describe_source, write_source
from skillaudit.contract.outbox.layout import encode_line, list_segments, segment_name, unpack_position
from skillaudit.contract.outbox.locks import FileLock
from skillaudit.contract.outbox.reader import WRITER_LOCK_NAME, SourceReader, iter_lines
from skillaudit.contract.settings import Settings
from skillaudit.producer._version import VERSION
from skillaudit.producer.outbox_files import (
    FileSystem,
    MappingUnsupportedError,
    volatile_kind,
)
from skillaudit.producer.outbox_room import NoRoom, RoomKeeper
from skillaudit.producer.outbox_segment import (
    HEADER_BYTES_MAX,
    OutboxSegment,
    create_segment,
    no_segment,
    round_to_pages,
)

_log = logging.getLogger("skillaudit.outbox")
_warned: set[Path] = set()
"""Outboxes whose file system was warned about."""


class OutboxSource:
    """The files of one source, from its directory's making on."""

    def __init__(
        self, settings: Settings, clock: Clock, files: FileSystem, source_id: str, *, continued: bool
    ) -> None:
        """Touches nothing. `continued`: the source may have been written before (an import)."""
        self._settings = settings
        self._clock = clock
        self._files = files
        self._outbox_dir = settings.outbox_dir
        self._source_id = source_id
        self._continued = continued
        self._mapped = True
        self._synced_number = 0
        self._syncs = settings.outbox_fsync != "never"
        self.directory = self._outbox_dir / source_id
        self._lock = FileLock(self.directory / WRITER_LOCK_NAME)

    def open(self, keeper: RoomKeeper, on_open: Callable[[str], bytes] | None) -> OutboxSegment:
        """Make the source: directory, lock, first segment, then `source.json`, with which it is there for readers.

        Raises `NoRoom` or `OSError` with nothing left behind, `LockedError` where another process writes it.
        """
        self._outbox_dir.mkdir(parents=True, exist_ok=True)
        outbox_id(self._outbox_dir, fresh_id=os.urandom(16).hex())
        self._warn_if_volatile()
        keeper.check_disk(keeper.next_segment_bytes(no_segment()), RecordKind.LOG)
        self.directory.mkdir(exist_ok=self._continued)
        if not self._lock.try_acquire():
            raise LockedError(f"another process writes the source {self._source_id}; wait for it to end")
        try:
            return self._open_locked(keeper, on_open)
        except BaseException:
            if not self._continued:
                self._remove_what_was_made()
            self._lock.release()
            raise

    def _remove_what_was_made(self) -> None:
        with contextlib.suppress(OSError):
            for path in self.directory.iterdir():
                path.unlink()
            self.directory.rmdir()

    def _open_locked(self, keeper: RoomKeeper, on_open: Callable[[str], bytes] | None) -> OutboxSegment:
        before = self._where_it_ended() if self._continued else no_segment()
        first = b"" if on_open is None or before.number else encode_line(on_open(self._source_id))
        segment = self._create(before, max(keeper.next_segment_bytes(before), room_for(len(first))))
        if first:
            segment.store(self._files, first)
            segment.lines = 1
        identity = describe_source(
            self._source_id,
            self.directory,
            version=VERSION,
            created_us=self._clock.wall_us(),
            mapped=segment.mapping is not None,
            continued=self._continued,
        )
        write_source(self.directory, identity, sync=self._syncs)
        if self._syncs:
            sync_directory(self._outbox_dir)
        keeper.opened(segment, before)
        return segment

    def _where_it_ended(self) -> OutboxSegment:
        """What a source that was written before holds, as a segment to go on behind."""
        before = no_segment()
        with SourceReader.resume(self.directory).reader as reader:
            for _ in iter_lines(reader):
                pass
            before.number, before.first_line = unpack_position(reader.position)[0], reader.records + 1
        return before

    def next_segment(
        self, before: OutboxSegment, size: int, kind: RecordKind, keeper: RoomKeeper
    ) -> OutboxSegment:
        """A segment behind `before` that takes `size` bytes. Raises `NoRoom` or `OSError` with nothing changed."""
        need = room_for(size)
        wanted = max(need, keeper.next_segment_bytes(before))
        keeper.check_disk(wanted, kind)
        try:
            segment = self._create(before, wanted)
        except OSError as exc:
            if exc.errno not in FULL_ERRNOS or kind is RecordKind.LOG or need == wanted:
                raise
            segment = self._create(before, need)  # the last space is for the ends of runs
        if self._syncs:
            sync_directory(self.directory)
        return segment

    def _create(self, before: OutboxSegment, size: int) -> OutboxSegment:
        number, first_line = before.number + 1, before.first_line + before.lines
        place = (self._files, self.directory, self._source_id, number, first_line, size)
        if self._mapped:
            try:
                return create_segment(*place, mapped=True)
            except MappingUnsupportedError as exc:
                self._mapped = False
                _log.warning("the outbox %s can't be mapped (%s): appends are slower", self._outbox_dir, exc)
        return create_segment(*place, mapped=False)

    def sync_closed(self, current: OutboxSegment) -> None:
        """Get the segments before `current`, and all names, onto the disk. Raises `StopError` where the disk fails."""
        try:
            for number in list_segments(self.directory):
                if self._synced_number <= number < current.number:
                    self._sync_by_name(number)
            sync_directory(self.directory)
            sync_directory(self._outbox_dir)
        except OSError as exc:
            raise StopError(
                f"the disk of {self.directory} failed: {exc.strerror}; check it, then restart the process"
            ) from exc
        self._synced_number = current.number

    def _sync_by_name(self, number: int) -> None:
        with contextlib.suppress(FileNotFoundError):  # acknowledged and deleted meanwhile
            fd = os.open(self.directory / segment_name(number), os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._files.sync(fd, None)
            finally:
                os.close(fd)

    def release(self) -> None:
        """Let go of the `writer` lock: the source is dead. In a forked child only the inherited descriptor goes."""
        self._lock.release()

    def translate(self, exc: OSError) -> Exception:
        """What an error of the file system means to whoever appends."""
        if exc.errno in FULL_ERRNOS:
            return NoRoom(f"the file system of {self._outbox_dir} says: {exc.strerror}; free some space")
        return StopError(
            f"can't write the outbox {self._outbox_dir}: {exc.strerror}; check the directory's owner and its disk "
            "(SKILLAUDIT_DATA names the directory above it)"
        )

    def _warn_if_volatile(self) -> None:
        kind = "" if self._outbox_dir in _warned else volatile_kind(self._outbox_dir)
        if kind:
            _warned.add(self._outbox_dir)
            _log.warning(
                "the outbox %s is on %s, which goes with the machine or the container: put SKILLAUDIT_DATA on a volume "
                "that outlives it",
                self._outbox_dir,
                kind,
            )


def room_for(size: int) -> int:
    """Size of a segment that takes lines of `size` bytes and its header."""
    return round_to_pages(size + HEADER_BYTES_MAX)
