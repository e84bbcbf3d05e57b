"""The outbox's appending side: one process writes one source, and what `append` returned from survives the process.

How an append goes. The line is made outside any lock. Under `_lock` space is taken in the mapped segment and the line
is stored there: a few integers and one copy, between which the interpreter does not switch threads, so that storing
under the lock costs other threads nothing and lines are complete in order. Nothing that lets go of the interpreter
happens under this lock: threads queueing for it while its holder waits for the interpreter would hand it round one
append at a time, for good (measured: a third of the rate).

Everything else is the long way, one thread at a time under `_slow`: the first record, room, pages, segments, a file
system that can't map. It takes `_lock` only to decide and to store. Waiting for room holds neither.

A call that comes while this very thread is inside either lock (from a signal handler or a finalizer) is queued, and
written before the interrupted call returns. It returns the position behind which that will be.

After a fork the child has no source: its first append makes one of its own. Locks are replaced, since another thread
of the parent may have held them, and what was inherited is closed, which frees nothing of the parent's.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Final
from zlib import crc32

from skillaudit.contract.clock import Clock, SystemClock
from skillaudit.contract.errors import (
    InvalidRecordError,
    OutboxFullError,
    RecordTooLargeError,
    RunStateError,
    StopError,
)
from skillaudit.contract.eventlog import FlushReport, RecordKind, mark_taken
from skillaudit.contract.outbox.acknowledgement import Acknowledgement
from skillaudit.contract.outbox.directory import Backlog, ReaderPresence, oldest_us
from skillaudit.contract.outbox.layout import LINE_OVERHEAD_BYTES, encode_line, pack_position
from skillaudit.contract.outbox.refused import list_refused
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import OUTBOX_TOPIC
from skillaudit.contract.words import counted
from skillaudit.producer.outbox_files import FileSystem
from skillaudit.producer.outbox_forks import mark_process
from skillaudit.producer.outbox_room import NoRoom, RoomKeeper
from skillaudit.producer.outbox_segment import OutboxSegment, no_segment
from skillaudit.producer.outbox_source import OutboxSource
from skillaudit.producer.outbox_sync import GroupSync, IntervalSync

POLL_S: Final = 0.01
"""How often the acknowledgement's file is looked at while waiting, where nobody in this process notifies."""

_CLOSED: Final = "this outbox log is closed; what is recorded after that has nowhere to go"
ROOM_BYTES: Final = 64 * 1024
"""What `has_room` takes a log to be: more than most have."""

_LOG: Final = RecordKind.LOG
_log = logging.getLogger("skillaudit.outbox")


class LogState(Enum):
    """What an `OutboxLog` is at."""

    NEW = "new"
    """Nothing appended yet (or not since a fork): there is no source on the disk."""
    OPEN = "open"
    CLOSED = "closed"


class _Entry:
    """Lines on their long way. `position` is set at the moment they are stored, so that whatever exception comes out
    after that (a signal handler's may come at any call) finds them taken.
    """

    __slots__ = ("count", "kind", "lines", "position")

    def __init__(self, lines: bytes, count: int, kind: RecordKind) -> None:
        self.lines, self.count, self.kind, self.position = lines, count, kind, -1


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
        self._state = LogState.NEW
        self._segment = no_segment()
        self._interval: IntervalSync | None = None
        self._report = FlushReport(acknowledged=0, pending=0)
        self._begin_process()
        _logs.add(self)

    def _begin_process(self) -> None:
        """Everything that belongs to one process: called at first, and in every forked child."""
        self._mark = mark_process()
        self._source_id = self._given_id or os.urandom(16).hex()
        self._source = OutboxSource(
            self.settings, self._clock, self._files, self._source_id, continued=self._given_id is not None
        )
        self._keeper = RoomKeeper(self.settings, self._files, self._source.directory)
        self._lock = threading.RLock()
        self._busy = False  # this thread is inside _lock
        self._slow = threading.RLock()
        self._slow_busy = False  # this thread is inside _slow
        self._failure: StopError | None = None
        self._queue: list[_Entry] = []
        self._room = threading.Condition()
        self._sync = GroupSync(self._files)

    def __repr__(self) -> str:
        """State and place."""
        return f"OutboxLog({self._source_id}, {self._state.value}, {self._segment!r})"

    @property
    def source_id(self) -> str:
        """This process's life in this log, 32 hex digits; another one in a forked child."""
        if not self._mark[0]:
            self.begin_in_child()
        return self._source_id

    @property
    def source_dir(self) -> Path:
        """Where the source is, once something was appended."""
        if not self._mark[0]:
            self.begin_in_child()
        return self._source.directory

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
        if not self._mark[0]:
            self.begin_in_child()
        line = b"%b\t%08x\n" % (record, crc32(record))
        size = len(line)
        if size > self._line_bytes_max or b"\n" in record:
            self._refuse(record)
        position = -1
        segment = self._segment
        try:
            with self._lock:
                if self._busy:
                    return self._enqueue(_Entry(line, 1, kind))
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
            if position < 0:
                return self._append_slowly(_Entry(line, 1, kind), wait_ms)
            if self._queue:
                self._write_queue()
            if self._always:
                self._sync.sync(segment)
        except BaseException as exc:
            if position >= 0:
                mark_taken(exc, position)
            raise
        return position

    def append_many(self, items: Sequence[tuple[str, bytes, RecordKind]], *, wait_ms: int) -> int:
        """As `EventLog.append_many`: all in one segment, one behind the other. The reserve only if all may use it."""
        if not self._mark[0]:
            self.begin_in_child()
        if not items:
            return self.position
        lines = [encode_line(record) for _, record, _ in items]
        for line, (_, record, _) in zip(lines, items, strict=True):
            if len(line) > self._line_bytes_max or b"\n" in record:
                self._refuse(record)
        kind = RecordKind.RESERVED if all(k is not _LOG for _, _, k in items) else _LOG
        start = self._append_slowly(_Entry(b"".join(lines), len(lines), kind), wait_ms)
        return start + sum(map(len, lines[:-1]))

    def _refuse(self, record: bytes) -> None:
        if b"\n" in record:
            raise InvalidRecordError("the record holds a line feed; hand in JSON without raw line breaks")
        raise RecordTooLargeError(
            f"the record has {len(record)} bytes and record_bytes_max is {self.settings.record_bytes_max}; "
            "shorten it or raise the setting (and the topic's max.message.bytes)"
        )

    def _append_slowly(self, entry: _Entry, wait_ms: int) -> int:
        """The long way, and waiting for room outside all locks."""
        deadline = time.monotonic() + wait_ms / 1000
        try:
            while True:
                reason = ""
                with self._slow:
                    if self._slow_busy:
                        return self._enqueue(entry)
                    self._slow_busy = True
                    try:
                        self._place(entry)
                    except NoRoom as exc:
                        reason = str(exc)
                    finally:
                        self._slow_busy = False
                    segment = self._segment
                if not reason:
                    break
                self._wait_for_room(deadline, reason)
            if self._queue:
                self._write_queue()
            if self._always:
                self._sync.sync(segment)
        except BaseException as exc:
            if entry.position >= 0:
                mark_taken(exc, entry.position)
            raise
        return entry.position

    def _wait_for_room(self, deadline: float, reason: str) -> None:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise OutboxFullError(f"the outbox is full: {reason}")
        with self._room:
            self._room.wait(min(remaining, POLL_S))

    # --- the long way: under `_slow`, with `_slow_busy` set ---------------------------------------------------------

    def _place(self, entry: _Entry) -> None:
        """Store the lines wherever there is room; raises `NoRoom` with nothing taken."""
        if self._state is LogState.CLOSED:
            raise RunStateError(_CLOSED)
        if self._failure is not None:
            raise StopError(str(self._failure)) from self._failure
        size = len(entry.lines)
        try:
            if self._state is LogState.NEW:
                self._open()
            self._look_at_acknowledgement()
            self._keeper.check_bytes(self._segment, size, entry.kind)
            if self._segment.used + size > self._segment.size:
                self._change_segment(size, entry.kind)
            self._store(entry)
        except OSError as exc:
            raise self._source.translate(exc) from exc

    def _open(self) -> None:
        segment = self._source.open(self._keeper, self._on_open)
        with self._deciding():
            self._segment = segment
            self._keeper.set_limits(segment)
            self._state = LogState.OPEN
        if self.settings.outbox_fsync == "interval":
            self._interval = IntervalSync(
                self._sync_everything, self.settings.outbox_fsync_interval_ms, self._disk_failed
            )

    def _disk_failed(self, failure: StopError) -> None:
        """What `outbox_fsync=interval` promises can't be kept any more: nothing is taken from now on."""
        with self._slow:
            self._failure = failure
            self._freeze(self._segment, frozen=True)  # every append takes the long way, to `_place`

    @contextmanager
    def _deciding(self) -> Generator[None]:
        """Hold `_lock`, marked, so that a signal handler's call in here is queued."""
        with self._lock:
            self._busy = True
            try:
                yield
            finally:
                self._busy = False

    def _look_at_acknowledgement(self) -> None:
        ack = self._keeper.read_acknowledgement()
        if ack is not None:
            with self._deciding():
                self._keeper.acknowledge(ack)

    def _change_segment(self, size: int, kind: RecordKind) -> None:
        """Go on in a new segment. While it is made nothing is stored in the old one: its header counts the lines."""
        before = self._segment
        self._freeze(before, frozen=True)
        try:
            segment = self._source.next_segment(before, size, kind, self._keeper)
        except BaseException:
            self._freeze(before, frozen=False)
            raise
        with self._deciding():
            self._keeper.opened(segment, before)
            self._segment = segment
            self._keeper.set_limits(segment)
        before.finish(self._files)

    def _freeze(self, segment: OutboxSegment, *, frozen: bool) -> None:
        with self._deciding():
            segment.frozen = frozen
            self._keeper.set_limits(segment)

    def _store(self, entry: _Entry) -> None:
        segment, size = self._segment, len(entry.lines)
        if segment.mapping is None:
            self._keeper.check_disk_of_plain(segment, size, entry.kind)
            start = segment.store(self._files, entry.lines)  # only the long way stores here
            segment.lines += entry.count
            entry.position = segment.base + start
            return
        while entry.position < 0:
            segment.prepare(self._files, segment.used + size)
            with self._deciding():  # others may have stored here meanwhile
                if segment.used + size <= segment.prepared:
                    start = segment.store(self._files, entry.lines)
                    segment.lines += entry.count
                    entry.position = segment.base + start
                    self._keeper.set_limits(segment)
            if entry.position < 0 and segment.used + size > segment.size:
                self._change_segment(size, entry.kind)
                segment = self._segment

    def _enqueue(self, entry: _Entry) -> int:
        """This thread is inside a lock already: keep the lines for when it comes out, if there will be room."""
        if self._state is LogState.CLOSED:
            raise RunStateError(_CLOSED)
        waiting = sum(len(queued.lines) for queued in self._queue)
        try:
            self._keeper.check_bytes(self._segment, waiting + len(entry.lines), entry.kind)
        except NoRoom as exc:
            raise OutboxFullError(f"the outbox is full: {exc}") from exc
        self._queue.append(entry)
        return self._segment.position

    def _write_queue(self) -> None:
        """Write what was queued; what finds no room stays for the next append."""
        with self._slow:
            while self._queue and not self._slow_busy:
                self._slow_busy = True
                try:
                    self._write_first_queued()
                except NoRoom as exc:
                    _log.warning("a record from a signal handler waits for room in the outbox: %s", exc)
                    return
                finally:
                    self._slow_busy = False

    def _write_first_queued(self) -> None:
        if self._queue:  # a signal handler's append may have written it meanwhile
            entry = self._queue[0]
            entry.kind = RecordKind.RESERVED  # its append has returned: it may not be refused any more
            if entry.position < 0:
                self._place(entry)
            del self._queue[0]

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
        with self._slow:
            if not self._slow_busy:
                self._look_at_acknowledgement()
        return self._keeper.ack

    def backlog(self) -> Backlog:
        """What waits to be acknowledged, for a heartbeat: one small read at most."""
        ack = self.acknowledgement
        with self._lock:
            waiting = self._keeper.unacknowledged_bytes(self._segment)
            records = self.records - ack.records if ack.position < self.position else 0
        oldest = oldest_us(self._source.directory, ack.position or pack_position(1, 0)) if records else 0
        return Backlog(
            records=records, bytes=waiting if records else 0, oldest_us=oldest, refused=ack.refused
        )

    def has_room(self, size_bytes: int = ROOM_BYTES) -> bool:
        """Whether a log of this size would be taken now, as far as `outbox_bytes_max` and, where it would need space of
        the file system, `outbox_free_bytes_min` go; never waits for room.
        """
        with self._slow:
            if self._state is not LogState.OPEN or self._slow_busy:
                return True
            self._look_at_acknowledgement()
            try:
                self._keeper.check_bytes(self._segment, size_bytes, _LOG)
                self._keeper.check_disk_ahead(self._segment, size_bytes)
            except NoRoom:
                return False
            except OSError:  # what is wrong there the append will say
                return True
        return True

    def flush(self, timeout_s: float) -> FlushReport:
        """As `EventLog.flush`. Embedded and nobody consumes: everything is synced to the disk and reported at once."""
        if not self._mark[0]:
            self.begin_in_child()
        if self._state is not LogState.OPEN:
            return self._report
        if self._queue:
            self._write_queue()
        with self._lock:
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
        queued = self._queued_records()  # for want of room: this flush tried to write them
        refused = list_refused(self._source.directory) if ack.refused else ()
        mine = {f"{OUTBOX_TOPIC}/{self._source_id}": target}
        return FlushReport(
            acknowledged=max(records - pending - ack.refused, 0),
            pending=pending + queued,
            refused=refused,
            positions=ack.positions if self.settings.uses_kafka else mine,
            synced=synced,
        )

    def _sync_everything(self) -> None:
        """Get all that is there, and the names, onto the disk."""
        current = self._segment
        self._sync.sync(current)
        with self._slow:
            if not self._slow_busy:
                self._source.sync_closed(current)

    def close(self, timeout_s: float) -> FlushReport:
        """As `EventLog.close`. The source then counts as dead: whoever reads it may finish it.

        From a signal handler that interrupted an append it only flushes: the append is still under way. Raises
        `StopError` where the disk failed; the log is closed then, too, so that another process can read what there is.
        """
        failure: StopError | None = None
        try:
            report = self.flush(timeout_s)
        except StopError as exc:
            report, failure = self._compose_report(self._keeper.ack, self.position, self.records), exc
        with self._slow:
            if self._state is LogState.CLOSED or self._slow_busy or self._busy:
                if failure is not None:
                    raise failure
                return report
            interval, self._interval = self._interval, None
            try:
                if self._state is LogState.OPEN:
                    self._end_segment()
            except StopError as exc:
                failure = failure or exc
            self._state = LogState.CLOSED
            report = self._without_queue(report)
            self._report = report
        if interval is not None:
            interval.stop()
        self._source.release()
        if failure is not None:
            raise failure
        return report

    def _without_queue(self, report: FlushReport) -> FlushReport:
        """What signal handlers left and even the reserve had no room for is lost now."""
        lost = self._queued_records()
        self._queue.clear()
        if lost:
            _log.error(
                "lost: %s from signal handlers, for which the outbox had no room", counted(lost, "record")
            )
        return replace(report, pending=max(report.pending - lost, 0), lost=report.lost + lost)

    def _queued_records(self) -> int:
        return sum(entry.count for entry in tuple(self._queue) if entry.position < 0)

    def _end_segment(self) -> None:
        segment = self._segment
        self._freeze(segment, frozen=True)
        try:
            if self.settings.outbox_fsync != "never":
                self._sync_everything()
        finally:
            segment.finish(self._files)
            self._segment = segment.epitaph()

    # --- forks ------------------------------------------------------------------------------------------------------

    def begin_in_child(self) -> None:
        """In a forked child, at its first call at the latest: let go of what was inherited, and begin anew."""
        segment, source = self._segment, self._source
        self._segment, self._interval = no_segment(), None
        if self._state is LogState.OPEN:
            self._state = LogState.NEW
        self._begin_process()
        segment.release()
        source.release()


_logs: Final[weakref.WeakSet[OutboxLog]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for log in tuple(_logs):
        log.begin_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
