"""The outbox's appending side: one process writes one source, and what `append` returned from survives the process.

How an append goes. The line is made outside any lock. Under one short lock space is taken in the mapped segment and
the line is stored there: two integers and one copy, between which the interpreter does not switch threads, so that
storing under the lock costs other threads nothing and lines are complete in order. Everything else (the first record,
a full segment, limits, waiting, a file system that can't map) is the long way, `_append_slowly`; it waits outside the
lock.

A call that comes while this very thread is inside the lock (from a signal handler or a finalizer) finds `_busy` set:
its line is queued, and written before the lock is released. It returns the position behind which that will be.

After a fork the child has no source: its first append makes one of its own. Locks are replaced, since another thread
of the parent may have held them, and what was inherited is closed, which frees nothing of the parent's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Final
from zlib import crc32

from skillaudit.contract.clock import Clock, SystemClock
from skillaudit.contract.errors import (
    InvalidRecordError,
    LockedError,
    OutboxFullError,
    RecordTooLargeError,
    RunStateError,
    StopError,
)
from skillaudit.contract.eventlog import FlushReport, RecordKind, mark_taken
from skillaudit.contract.outbox.acknowledgement import Acknowledgement
from skillaudit.contract.outbox.directory import Backlog, ReaderPresence, oldest_us, outbox_id
from skillaudit.contract.outbox.files import sync_directory
from skillaudit.contract.outbox.identity import describe_source, write_source
from skillaudit.contract.outbox.layout import (
    LINE_OVERHEAD_BYTES,
    encode_line,
    list_segments,
    pack_position,
    segment_name,
    unpack_position,
)
from skillaudit.contract.outbox.locks import FileLock
from skillaudit.contract.outbox.reader import WRITER_LOCK_NAME, SourceReader, iter_lines
from skillaudit.contract.outbox.refused import list_refused
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import OUTBOX_TOPIC
from skillaudit.producer._version import VERSION
from skillaudit.producer.outbox_files import (
    FULL_ERRNOS,
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
from skillaudit.producer.outbox_sync import GroupSync, IntervalSync

POLL_S: Final = 0.01
"""How often the acknowledgement's file is looked at while waiting, where nobody in this process notifies."""

_LOG: Final = RecordKind.LOG
_log = logging.getLogger("skillaudit.outbox")
_getpid = os.getpid
"""Bound once: it is asked on every append."""


class LogState(Enum):
    """What an `OutboxLog` is at."""

    NEW = "new"
    """Nothing appended yet (or not since a fork): there is no source on the disk."""
    OPEN = "open"
    CLOSED = "closed"


class _Queued:
    """Lines that came from a signal handler or finalizer while this thread was inside the lock."""

    __slots__ = ("count", "kind", "lines")

    def __init__(self, lines: bytes, count: int, kind: RecordKind) -> None:
        self.lines, self.count, self.kind = lines, count, kind


class OutboxLog:
    """This process's source in the outbox directory: the `EventLog` of an agent.

    Safe from any thread, from signal handlers and finalizers, and across forks. Nothing touches the disk before the
    first append. `notify_acknowledged` is for a forwarder in this process; without one the acknowledgement's file is
    looked at.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        on_open: Callable[[str], bytes] | None = None,
        files: FileSystem | None = None,
        source_id: str | None = None,
    ) -> None:
        """`on_open` composes a new source's first record from its id. `source_id`: continue that source (an import),
        or make it; by default every process has its own.
        """
        self.settings = settings
        self._clock = clock or SystemClock()
        self._on_open = on_open
        self._files = files or FileSystem()
        self._given_id = source_id
        self._outbox_dir = settings.outbox_dir
        self._presence = ReaderPresence(self._outbox_dir)
        self._line_bytes_max = settings.record_bytes_max + LINE_OVERHEAD_BYTES
        self._always = settings.outbox_fsync == "always"
        self._mapped = True
        self._warned = False
        self._state = LogState.NEW
        self._segment = no_segment()
        self._writer_lock: FileLock | None = None
        self._interval: IntervalSync | None = None
        self._report = FlushReport(acknowledged=0, pending=0)
        self._begin_process()
        _logs.add(self)

    def _begin_process(self) -> None:
        """Everything that belongs to one process: called at first, and in every forked child."""
        self._pid = _getpid()
        self._source_id = self._given_id or os.urandom(16).hex()
        self._source_dir = self._outbox_dir / self._source_id
        self._lock = threading.RLock()
        self._busy = False
        self._queue: list[_Queued] = []
        self._room = threading.Condition()
        self._sync = GroupSync(self._files)
        self._keeper = RoomKeeper(self.settings, self._files, self._source_dir)
        self._synced_number = 0

    def __repr__(self) -> str:
        """State and place."""
        return f"OutboxLog({self._source_id}, {self._state.value}, {self._segment!r})"

    @property
    def source_id(self) -> str:
        """This process's life in this log, 32 hex digits; another one in a forked child."""
        if _getpid() != self._pid:
            self.begin_in_child()
        return self._source_id

    @property
    def source_dir(self) -> Path:
        """Where the source is, once something was appended."""
        if _getpid() != self._pid:
            self.begin_in_child()
        return self._source_dir

    @property
    def state(self) -> LogState:
        """What it is at."""
        return self._state

    @property
    def position(self) -> int:
        """Position after the last line; 0 before the first append. Cheap: a forwarder compares it to see news."""
        return self._segment.position

    @property
    def records(self) -> int:
        """Lines this source holds."""
        segment = self._segment
        return segment.first_line - 1 + segment.lines

    def append(self, key: str, record: bytes, kind: RecordKind, *, wait_ms: int) -> int:
        """As `EventLog.append`; `record` holds no LF. `key` is part of the record and not stored again."""
        del key
        if _getpid() != self._pid:
            self.begin_in_child()
        line = b"%b\t%08x\n" % (record, crc32(record))
        size = len(line)
        if size > self._line_bytes_max or b"\n" in record:
            self._refuse(record)
        position = -1
        segment = self._segment
        try:
            with self._lock:
                if not self._busy:
                    self._busy = True
                    try:
                        segment = self._segment
                        start = segment.used
                        end = start + size
                        if end <= (segment.limit if kind is _LOG else segment.limit_reserved):
                            segment.mapping[start:end] = line  # type: ignore[index]  # limits are 0 without one
                            segment.used = end
                            segment.lines += 1
                            position = segment.base + start
                    finally:
                        self._busy = False
                    if self._queue:
                        self._write_queue()
            if position < 0:
                return self._append_slowly(line, 1, kind, wait_ms)
            if self._always:
                self._sync.sync(segment)
        except BaseException as exc:
            if position >= 0:
                mark_taken(exc, position)
            raise
        return position

    def append_many(self, items: Sequence[tuple[str, bytes, RecordKind]], *, wait_ms: int) -> int:
        """As `EventLog.append_many`: all in one segment, one behind the other. The reserve only if all may use it."""
        if _getpid() != self._pid:
            self.begin_in_child()
        if not items:
            return self.position
        lines = [encode_line(record) for _, record, _ in items]
        for line, (_, record, _) in zip(lines, items, strict=True):
            if len(line) > self._line_bytes_max or b"\n" in record:
                self._refuse(record)
        kind = RecordKind.RESERVED if all(k is not _LOG for _, _, k in items) else _LOG
        start = self._append_slowly(b"".join(lines), len(lines), kind, wait_ms)
        return start + sum(map(len, lines[:-1]))

    def _refuse(self, record: bytes) -> None:
        if b"\n" in record:
            raise InvalidRecordError("the record holds a line feed; hand in JSON without raw line breaks")
        raise RecordTooLargeError(
            f"the record has {len(record)} bytes and record_bytes_max is {self.settings.record_bytes_max}; "
            "shorten it or raise the setting (and the topic's max.message.bytes)"
        )

    def _append_slowly(self, lines: bytes, count: int, kind: RecordKind, wait_ms: int) -> int:
        """The long way: opens the source, changes segments, judges the room, and waits for it outside the lock."""
        deadline = time.monotonic() + wait_ms / 1000
        position = -1
        try:
            while True:
                with self._lock:
                    if self._busy:
                        return self._enqueue(lines, count, kind)
                    reason = ""
                    self._busy = True
                    try:
                        position = self._place(lines, count, kind)
                    except NoRoom as exc:
                        reason = str(exc)
                    finally:
                        self._busy = False
                    segment = self._segment
                    self._write_queue()
                if not reason:
                    break
                self._wait_for_room(deadline, reason)
            if self._always:
                self._sync.sync(segment)
        except BaseException as exc:
            if position >= 0:
                mark_taken(exc, position)
            raise
        return position

    def _wait_for_room(self, deadline: float, reason: str) -> None:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise OutboxFullError(f"the outbox is full: {reason}")
        with self._room:
            self._room.wait(min(remaining, POLL_S))

    # --- under the lock, with `_busy` set ---------------------------------------------------------------------------

    def _place(self, lines: bytes, count: int, kind: RecordKind) -> int:
        """Store `lines` wherever there is room and return their position; raises `NoRoom` with nothing taken."""
        if self._state is LogState.CLOSED:
            raise RunStateError("this outbox log is closed; what is recorded after that has nowhere to go")
        try:
            if self._state is LogState.NEW:
                self._open()
            self._keeper.look_at_acknowledgement()
            self._keeper.check_bytes(self._segment, len(lines), kind)
            if self._segment.used + len(lines) > self._segment.size:
                self._change_segment(len(lines), kind)
            segment = self._segment
            if segment.mapping is None:
                self._keeper.check_disk_of_plain(segment, len(lines), kind)
            start = segment.store(self._files, lines)
            segment.lines += count
        except OSError as exc:
            raise self._translate(exc) from exc
        self._keeper.set_limits(segment)
        return segment.base + start

    def _translate(self, exc: OSError) -> Exception:
        if exc.errno in FULL_ERRNOS:
            return NoRoom(f"the file system of {self._outbox_dir} says: {exc.strerror}; free some space")
        return StopError(
            f"can't write the outbox {self._outbox_dir}: {exc.strerror}; check the directory's owner and its disk "
            "(SKILLAUDIT_DATA names the directory above it)"
        )

    def _open(self) -> None:
        """Make the source: directory, lock, first segment, then `source.json`, with which it is there for readers."""
        self._outbox_dir.mkdir(parents=True, exist_ok=True)
        outbox_id(self._outbox_dir, fresh_id=os.urandom(16).hex())
        self._warn_if_volatile()
        self._source_dir.mkdir(exist_ok=self._given_id is not None)
        lock = FileLock(self._source_dir / WRITER_LOCK_NAME)
        if not lock.try_acquire():
            raise LockedError(f"another process writes the source {self._source_id}; wait for it to end")
        try:
            self._open_segment()
        except BaseException:
            if self._given_id is None:
                shutil.rmtree(self._source_dir, ignore_errors=True)
            self._segment = no_segment()
            self._keeper = RoomKeeper(self.settings, self._files, self._source_dir)
            lock.release()
            raise
        self._writer_lock = lock
        self._state = LogState.OPEN
        if self.settings.outbox_fsync == "interval":
            self._interval = IntervalSync(self._sync_everything, self.settings.outbox_fsync_interval_ms)

    def _open_segment(self) -> None:
        number, first_line = (1, 1) if self._given_id is None else self._continue_at()
        self._segment = no_segment()
        self._segment.number, self._segment.first_line = number - 1, first_line
        first = b"" if self._on_open is None or number > 1 else encode_line(self._on_open(self._source_id))
        self._change_segment(len(first), RecordKind.RESERVED if number > 1 else _LOG)
        if first:
            self._segment.store(self._files, first)
            self._segment.lines = 1
        syncs = self.settings.outbox_fsync != "never"
        identity = describe_source(
            self._source_id,
            self._source_dir,
            version=VERSION,
            created_us=self._clock.wall_us(),
            mapped=self._segment.mapping is not None,
            continued=self._given_id is not None,
        )
        write_source(self._source_dir, identity, sync=syncs)
        if syncs:
            sync_directory(self._outbox_dir)

    def _continue_at(self) -> tuple[int, int]:
        """Segment and line to go on with in a source that was written before."""
        with SourceReader.resume(self._source_dir).reader as reader:
            for _ in iter_lines(reader):
                pass
            return unpack_position(reader.position)[0] + 1, reader.records + 1

    def _change_segment(self, size: int, kind: RecordKind) -> None:
        """Go on in a new segment that takes `size` bytes and a header; the old one stays current where that fails."""
        before = self._segment
        need = round_to_pages(size + HEADER_BYTES_MAX)
        wanted = max(need, self._keeper.next_segment_bytes(before))
        self._keeper.check_disk(wanted, kind)
        try:
            segment = self._create_segment(before, wanted)
        except OSError as exc:
            if exc.errno not in FULL_ERRNOS or kind is _LOG or need == wanted:
                raise
            segment = self._create_segment(before, need)  # the last space is for the ends of runs
        self._keeper.opened(segment, before)
        self._segment = segment
        before.finish(self._files)
        if self.settings.outbox_fsync != "never":
            sync_directory(self._source_dir)

    def _create_segment(self, before: OutboxSegment, size: int) -> OutboxSegment:
        number, first_line = before.number + 1, before.first_line + before.lines
        place = (self._files, self._source_dir, self._source_id, number, first_line, size)
        if self._mapped:
            try:
                return create_segment(*place, mapped=True)
            except MappingUnsupportedError as exc:
                self._mapped = False
                _log.warning("the outbox %s can't be mapped (%s): appends are slower", self._outbox_dir, exc)
        return create_segment(*place, mapped=False)

    def _warn_if_volatile(self) -> None:
        kind = "" if self._warned else volatile_kind(self._outbox_dir)
        if kind:
            self._warned = True
            _log.warning(
                "the outbox %s is on %s, which goes with the machine or the container: put SKILLAUDIT_DATA on a volume "
                "that outlives it",
                self._outbox_dir,
                kind,
            )

    def _enqueue(self, lines: bytes, count: int, kind: RecordKind) -> int:
        """This thread is inside the lock already: keep the lines for when it comes out, if there will be room."""
        if self._state is LogState.CLOSED:
            raise RunStateError("this outbox log is closed; what is recorded after that has nowhere to go")
        waiting = sum(len(queued.lines) for queued in self._queue)
        try:
            self._keeper.check_bytes(self._segment, waiting + len(lines), kind)
        except NoRoom as exc:
            raise OutboxFullError(f"the outbox is full: {exc}") from exc
        self._queue.append(_Queued(lines, count, kind))
        return self._segment.position

    def _write_queue(self) -> None:
        """Write what was queued; what finds no room stays for the next append. Called under the lock, not busy."""
        while self._queue and not self._busy:
            self._busy = True
            try:
                queued = self._queue[0]
                self._place(queued.lines, queued.count, RecordKind.RESERVED)
                del self._queue[0]
            except NoRoom as exc:
                _log.warning("a record from a signal handler waits for room in the outbox: %s", exc)
                return
            finally:
                self._busy = False

    # --- what became of it ------------------------------------------------------------------------------------------

    def notify_acknowledged(self, ack: Acknowledgement) -> None:
        """A forwarder in this process has written `ack`: wakes those who wait for room or for their records."""
        with self._lock:
            if not self._busy:
                self._keeper.acknowledge(ack)
                self._keeper.set_limits(self._segment)
        with self._room:
            self._room.notify_all()

    @property
    def acknowledgement(self) -> Acknowledgement:
        """How far this source is acknowledged, as of now."""
        with self._lock:
            if not self._busy:
                self._keeper.look_at_acknowledgement()
            return self._keeper.ack

    def backlog(self) -> Backlog:
        """What waits to be acknowledged, for a heartbeat: one small read at most."""
        ack = self.acknowledgement
        with self._lock:
            waiting = self._keeper.unacknowledged_bytes(self._segment)
            records = self.records - ack.records if ack.position < self.position else 0
        oldest = oldest_us(self._source_dir, ack.position or pack_position(1, 0)) if records else 0
        return Backlog(records=records, bytes=waiting if records else 0, oldest_us=oldest)

    def flush(self, timeout_s: float) -> FlushReport:
        """As `EventLog.flush`. Embedded and nobody consumes: everything is synced to the disk and reported at once."""
        if _getpid() != self._pid:
            self.begin_in_child()
        with self._lock:
            if self._state is not LogState.OPEN:
                return self._report
            self._write_queue()
            target, records = self.position, self.records
        deadline = time.monotonic() + timeout_s
        while True:
            ack = self.acknowledgement
            remaining = deadline - time.monotonic()
            if ack.position >= target:
                return self._compose_report(ack, target, records)
            if not self.settings.uses_kafka and not self._presence.is_consumed(self._source_id):
                self._sync_everything()
                return self._compose_report(ack, target, records, synced=True)
            if remaining <= 0:
                return self._compose_report(ack, target, records)
            with self._room:
                self._room.wait(min(remaining, POLL_S))

    def _compose_report(
        self, ack: Acknowledgement, target: int, records: int, *, synced: bool = False
    ) -> FlushReport:
        pending = 0 if ack.position >= target else max(records - ack.records, 1)
        refused = list_refused(self._source_dir) if ack.refused else ()
        mine = {f"{OUTBOX_TOPIC}/{self._source_id}": target}
        return FlushReport(
            acknowledged=max(records - pending - ack.refused, 0),
            pending=pending,
            refused=refused,
            positions=ack.positions if self.settings.uses_kafka else mine,
            synced=synced,
        )

    def _sync_everything(self) -> None:
        """Get all segments that are there, and their names, onto the disk."""
        with self._lock:
            current = self._segment
        for number in list_segments(self._source_dir):
            if self._synced_number <= number < current.number:
                self._sync_closed(number)
        self._sync.sync(current)
        sync_directory(self._source_dir)
        sync_directory(self._outbox_dir)
        self._synced_number = current.number

    def _sync_closed(self, number: int) -> None:
        with contextlib.suppress(FileNotFoundError):  # acknowledged and deleted meanwhile
            fd = os.open(self._source_dir / segment_name(number), os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._files.sync(fd, None)
            except OSError as exc:
                raise StopError(f"the disk of {self._source_dir} failed: {exc.strerror}; check it") from exc
            finally:
                os.close(fd)

    def close(self, timeout_s: float) -> FlushReport:
        """As `EventLog.close`. The source then counts as dead: whoever reads it may finish it.

        From a signal handler that interrupted an append it only flushes: the append is still under way.
        """
        report = self.flush(timeout_s)
        with self._lock:
            if self._state is LogState.CLOSED or self._busy:
                return report
            self._write_queue()
            interval, self._interval = self._interval, None
            lock, self._writer_lock = self._writer_lock, None
            if self._state is LogState.OPEN:
                self._segment.finish(self._files)
                if self.settings.outbox_fsync != "never":
                    self._sync_everything()
            self._state = LogState.CLOSED
            self._segment = self._segment.epitaph()
            self._report = report
        if interval is not None:
            interval.stop()
        if lock is not None:
            lock.release()
        return report

    # --- forks ------------------------------------------------------------------------------------------------------

    def begin_in_child(self) -> None:
        """In a forked child, at its first call at the latest: let go of what was inherited, and begin anew."""
        segment, lock = self._segment, self._writer_lock
        self._segment, self._writer_lock, self._interval = no_segment(), None, None
        if self._state is LogState.OPEN:
            self._state = LogState.NEW
        self._begin_process()
        segment.release()
        if lock is not None:
            lock.release()


_logs: Final[weakref.WeakSet[OutboxLog]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for log in tuple(_logs):
        log.begin_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
