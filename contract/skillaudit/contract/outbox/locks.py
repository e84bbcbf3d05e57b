"""Locks on files that live exactly as long as the process that took them.

POSIX record locks (`lockf`), because they belong to the process: a forked child neither inherits nor can free them,
and they go with the process however it dies. (`flock` would stay held by a forked child after its parent's death.)
Their trap: closing *any* descriptor of the file in the owning process frees the lock. So an owner opens such a file
once, through `FileLock`, and within one process nobody probes a file that this process has locked: `FileLock` keeps a
table of what the process holds and answers from it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from pathlib import Path
from threading import Lock
from typing import Final

from skillaudit.contract.errors import UnsupportedPlatformError

try:
    import fcntl
except ImportError as exc:  # pragma: no cover  Windows
    raise UnsupportedPlatformError(
        "the outbox needs POSIX file locks, which this platform lacks; on Windows run the agent inside WSL"
    ) from exc

_BUSY: Final = frozenset({errno.EACCES, errno.EAGAIN})
_FLOCK: Final = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, len, pid

_held: dict[Path, int] = {}
"""Locked file -> pid that locked it. After a fork the entries carry the parent's pid and do not count."""
_held_guard = Lock()


def _after_fork() -> None:
    global _held_guard  # noqa: PLW0603  a lock held by another thread of the parent would never be released here
    _held_guard = Lock()


os.register_at_fork(after_in_child=_after_fork)


class FileLock:
    """An exclusive lock on a file of its own. Not reentrant; bound to the process that acquired it."""

    __slots__ = ("_fd", "_pid", "path")

    def __init__(self, path: Path) -> None:
        """`path`: created when the lock is first tried; its directory exists."""
        self.path = path.absolute()
        self._fd = -1
        self._pid = 0

    def __repr__(self) -> str:
        """Path and state."""
        return f"FileLock({str(self.path)!r}, {'held' if self.held else 'free'})"

    @property
    def held(self) -> bool:
        """Whether this object holds the lock in this process; False in a forked child."""
        return self._fd >= 0 and self._pid == os.getpid()

    def try_acquire(self, note: bytes = b"") -> bool:
        """Take the lock if it is free, write `note` into the file and return True; return False if somebody holds it.

        Raises `UnsupportedPlatformError` on a file system without working locks.
        """
        with _held_guard:
            if _held.get(self.path) == os.getpid():
                return False
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                os.close(fd)
                if exc.errno in _BUSY:
                    return False
                raise UnsupportedPlatformError(
                    f"the file system of {self.path} has no working locks ({exc.strerror}); put the directory on a local one"
                ) from exc
            self._fd, self._pid = fd, os.getpid()
            _held[self.path] = self._pid
        if note:
            os.ftruncate(fd, 0)
            os.pwrite(fd, note, 0)
        return True

    def release(self) -> None:
        """Give the lock back; safe to call again. In a forked child it only closes the inherited descriptor."""
        if self._fd < 0:
            return
        with _held_guard:
            if self.held:
                _held.pop(self.path, None)
            with contextlib.suppress(OSError):  # a descriptor closed behind our back is as free as it can be
                os.close(self._fd)
            self._fd = -1


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock on `path`; False where the file is missing."""
    return lock_holder(path) is not None


def lock_holder(path: Path) -> int | None:
    """Pid of the process that holds the lock on `path`, None where nobody does.

    0 where the holder's pid is not visible here (another pid namespace, another host over NFS).
    """
    path = path.absolute()
    with _held_guard:
        if _held.get(path) == os.getpid():
            return os.getpid()
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            query = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, query))
        finally:
            os.close(fd)
    return None if kind == fcntl.F_UNLCK else max(int(pid), 0)
