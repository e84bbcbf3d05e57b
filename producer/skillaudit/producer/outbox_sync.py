"""Getting what was appended onto the disk: one fsync for all who wait, or one per interval."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable
from typing import Final

from skillaudit.contract.errors import StopError
from skillaudit.producer.outbox_files import FileSystem
from skillaudit.producer.outbox_segment import OutboxSegment

_PASSING_ERRNOS: Final = frozenset((errno.EMFILE, errno.ENFILE))
"""No descriptor left: nothing was asked of the disk, so nothing is lost; the next time may do better."""
_log = logging.getLogger("skillaudit.outbox")


class GroupSync:
    """Threads that want their line on the disk share one fsync.

    A call returns after an fsync that began after it was called. While one runs, all who come wait for the next, which
    one of them does for all. After an fsync that failed nothing may be promised any more, not even by one that
    succeeds later (the kernel forgets what it could not write): every call raises from then on.
    """

    def __init__(self, files: FileSystem) -> None:
        """`files`: where to sync."""
        self._files = files
        self._condition = threading.Condition()
        self._dirty: set[OutboxSegment] = set()
        self._begun = 0
        self._ended = 0
        self._leader = 0
        """Thread that runs an fsync, 0 where none does."""
        self._error: OSError | None = None

    def sync(self, segment: OutboxSegment) -> None:
        """Return once everything stored in `segment` before this call is on the disk; raise `StopError` for good where
        the disk failed.
        """
        if self._leader == threading.get_ident():  # a signal handler inside this thread's own fsync
            self._files.sync(segment.fd, segment.mapping)
            return
        with self._condition:
            self._dirty.add(segment)
            mine = self._begun + 1
            while self._ended < mine and self._error is None:
                if self._leader:
                    self._condition.wait()
                else:
                    self._lead()
            if self._error is not None:
                raise StopError(
                    f"the disk of {segment.path.parent} failed to keep what was written ({self._error.strerror}); what "
                    "this process recorded may be lost: check the disk, then restart the process"
                ) from self._error

    def _lead(self) -> None:
        segments, self._dirty = self._dirty, set()
        self._leader = threading.get_ident()
        self._begun += 1
        self._condition.release()
        done = False
        try:
            for segment in segments:
                if segment.fd >= 0:  # else the log was closed, and synced by that
                    self._files.sync(segment.fd, segment.mapping)
            done = True
        except OSError as exc:
            self._error = exc
        finally:
            self._condition.acquire()
            self._leader = 0
            if done:
                self._ended = self._begun
            else:
                self._begun -= 1
                self._dirty |= segments
            self._condition.notify_all()


class IntervalSync:
    """A thread that calls `sync` every `interval_ms` until stopped, or until the disk fails: then it calls `failed`."""

    def __init__(
        self, sync: Callable[[], None], interval_ms: int, failed: Callable[[StopError], None]
    ) -> None:
        """Starts at once; a daemon thread, so that it never keeps the interpreter."""
        self._sync = sync
        self._failed = failed
        self._interval_s = interval_ms / 1000
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="skillaudit-outbox-sync", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it; the last sync is the caller's."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                self._sync()
            except StopError as exc:
                if isinstance(exc.__cause__, OSError) and exc.__cause__.errno in _PASSING_ERRNOS:
                    _log.warning("can't sync the outbox to the disk this time: %s", exc)
                    continue
                _log.exception("can't sync the outbox to the disk; it takes no more records")
                self._failed(exc)
                return
