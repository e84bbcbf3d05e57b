"""The control log of the embedded pipeline: a file of lines `act TAB crc32 LF`, as in an outbox.

It is only appended to, by whoever owns the database, under a lock of its own. A line that a crash cut off was never
promised to anybody: the next append takes its place. Anything else that is not a line is damage, and stops.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Final
from zlib import crc32

from skillaudit.consumer.control import ACTS_POLLED_MAX
from skillaudit.contract.errors import (
    HistoryLostError,
    LockedError,
    RejectedError,
    StopError,
    UnreachableError,
)
from skillaudit.contract.outbox.files import sync_directory
from skillaudit.contract.outbox.locks import FileLock, lock_holder
from skillaudit.contract.outbox.scan import next_line, take_line
from skillaudit.contract.sources import RecordBatch, SourceRecord, StoredPosition, record_digest

PARTITION: Final = "control/0"
LOCK_WAIT_S: Final = 5.0
POLL_PAUSE_S: Final = 0.05


class FileControlLog:
    """`ControlLog` on a file. The positions are bytes."""

    identity = "control"
    partition = PARTITION

    def __init__(self, path: Path) -> None:
        """`path`: made by the first append, with its directory."""
        self.path = path
        self._position = 0

    def __repr__(self) -> str:
        """Path and position."""
        return f"FileControlLog({str(self.path)!r}, {self._position})"

    async def open(self, stored: StoredPosition | None) -> None:
        """As `ControlLog.open`."""
        await asyncio.to_thread(self._open, stored)

    async def poll(self, timeout_ms: int) -> RecordBatch:
        """As `ControlLog.poll`."""
        deadline_s = time.monotonic() + timeout_ms / 1000
        while True:
            batch = await asyncio.to_thread(self._read)
            remaining_s = deadline_s - time.monotonic()
            if batch.records or remaining_s <= 0:
                return batch
            await asyncio.sleep(min(POLL_PAUSE_S, remaining_s))

    async def append(self, act_id: str, line: bytes) -> int:
        """As `ControlLog.append`."""
        del act_id  # it is in the line
        return await asyncio.to_thread(self._append, line)

    async def close(self) -> None:
        """As `ControlLog.close`: nothing is open between two calls."""

    def _open(self, stored: StoredPosition | None) -> None:
        self._position = stored.next_offset if stored else 0
        if stored is None or not stored.last_digest:
            return
        line = take_line(self._content(stored.last_offset), 0)
        if line is None or record_digest(line.record) != stored.last_digest:
            raise HistoryLostError(
                f"{self.path} no longer holds the act that was applied at {stored.last_offset}; put the file back. "
                f"`skillaudit consume --accept-history-loss {PARTITION}` goes on with what is there, and records it",
                PARTITION,
            )

    def _content(self, position: int = 0) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(position)
                return file.read()
        except FileNotFoundError:
            return b""
        except OSError as exc:
            raise UnreachableError(f"can't read {self.path}: {exc.strerror}; check the disk") from exc

    def _read(self) -> RecordBatch:
        content, begin = self._content(self._position), self._position
        records: list[SourceRecord] = []
        at = 0
        while len(records) < ACTS_POLLED_MAX and (line := take_line(content, at)) is not None:
            records.append(SourceRecord(PARTITION, begin + at, begin + line.end, 0, None, line.record))
            at = line.end
        if len(records) < ACTS_POLLED_MAX:
            self._check_rest(content, at, begin)
        self._position = begin + at
        more = len(records) == ACTS_POLLED_MAX and at < len(content)
        return RecordBatch(records, {PARTITION: self._position + more})

    def _check_rest(self, content: bytes, at: int, begin: int) -> None:
        """What is no line is the last one, cut off; before another line it is damage."""
        if at < len(content) and next_line(content, at) >= 0:
            raise StopError(
                f"{self.path} is damaged at byte {begin + at}, and acts stand behind it; put back a copy of the file"
            )

    def _append(self, line: bytes) -> int:
        if b"\n" in line or b"\t" in line:
            raise RejectedError("a line of the control log holds neither a line feed nor a TAB")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = self._locked()
            try:
                return self._write(line + b"\t%08x\n" % crc32(line))
            finally:
                lock.release()
        except OSError as exc:
            raise UnreachableError(f"can't write {self.path}: {exc.strerror}; check the disk") from exc

    def _write(self, line: bytes) -> int:
        end = self._end()
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, end)
            view, at = memoryview(line), end
            while view:
                written = os.pwrite(fd, view, at)
                view, at = view[written:], at + written
            os.fsync(fd)
        finally:
            os.close(fd)
        if end == 0:
            sync_directory(self.path.parent)
        return at

    def _end(self) -> int:
        """Behind the last whole line."""
        content, at = self._content(), 0
        while (line := take_line(content, at)) is not None:
            at = line.end
        self._check_rest(content, at, 0)
        return at

    def _locked(self) -> FileLock:
        lock = FileLock(self.path.with_name(self.path.name + ".lock"))
        deadline_s = time.monotonic() + LOCK_WAIT_S
        while not lock.try_acquire():
            if time.monotonic() >= deadline_s:
                raise LockedError(
                    f"process {lock_holder(lock.path)} writes {self.path} for too long; try again"
                )
            time.sleep(POLL_PAUSE_S)
        return lock
