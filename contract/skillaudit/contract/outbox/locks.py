"""Locks on files that live exactly as long as the process that took them.

POSIX record locks (`lockf`), because they belong to the process: a forked child neither inherits nor can free them,
and they go with the process however it dies. (`flock` would stay held by a forked child after its parent's death.)
Their trap: closing *any* descriptor of the file in the owning process frees the lock. So an owner opens such a file
once, through `FileLock`, and within one process nobody probes a file that this process has locked: `FileLock` keeps a
table of what the process holds and answers from it. The table goes by the file itself (device and inode), because one
file has many names: through a symbolic link, relative to a directory that changes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import sys
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
_FLOCK: Final = "hhqqi4x"
"""struct flock of 64-bit Linux: type, whence, start, len, pid."""
_FLOCK_OF_MACOS: Final = "qqihh"
"""The same of macOS: start, len, pid, type, whence."""

_FileId = tuple[int, int]
_held: dict[_FileId, int] = {}
"""Locked file -> pid that locked it. After a fork the entries carry the parent's pid and do not count. A file in here is
open, so that no other one gets its inode."""
_held_guard = Lock()


def _after_fork() -> None:
    global _held_guard  # noqa: PLW0603  a lock held by another thread of the parent would never be released here
    _held_guard = Lock()


os.register_at_fork(after_in_child=_after_fork)


class FileLock:
    """An exclusive lock on a file of its own. Not reentrant; bound to the process that acquired it."""

    __slots__ = ("_fd", "_id", "_pid", "path")

    def __init__(self, path: Path) -> None:
        """`path`: created when the lock is first tried; its directory exists."""
        self.path = path.absolute()
        self._fd = -1
        self._id: _FileId = (0, 0)
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
            if _is_held_here(self.path):
                return False
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                os.close(fd)
                if exc.errno in _BUSY:
                    return False
                raise _no_locks(self.path, exc) from exc
            self._fd, self._pid = fd, os.getpid()
            stat = os.fstat(fd)
            self._id = (stat.st_dev, stat.st_ino)
            _held[self._id] = self._pid
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
                _held.pop(self._id, None)
            with contextlib.suppress(OSError):  # a descriptor closed behind our back is as free as it can be
                os.close(self._fd)
            self._fd = -1


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock on `path`; False where the file is missing."""
    return lock_holder(path) is not None


def lock_holder(path: Path) -> int | None:
    """Pid of the process that holds the lock on `path`, None where nobody does.

    0 where the holder's pid is not visible here (another pid namespace, another host over NFS). Raises
    `UnsupportedPlatformError` on a file system without working locks.
    """
    with _held_guard:
        if _is_held_here(path):
            return os.getpid()
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            kind, pid = _ask(fd)
        except OSError as exc:
            raise _no_locks(path, exc) from exc
        finally:
            os.close(fd)
    return None if kind == fcntl.F_UNLCK else max(pid, 0)


def _no_locks(path: Path, exc: OSError) -> UnsupportedPlatformError:
    return UnsupportedPlatformError(
        f"the file system of {path} has no working locks ({exc.strerror}); put the directory on a local one"
    )


def _is_held_here(path: Path) -> bool:
    """Whether this process holds it, by whatever name. Opens nothing; under `_held_guard`."""
    try:
        stat = path.stat()
    except OSError:
        return False
    return _held.get((stat.st_dev, stat.st_ino)) == os.getpid()


def _ask(fd: int) -> tuple[int, int]:
    """(kind, pid) of the lock that would be in the way."""
    if sys.platform == "darwin":
        query = struct.pack(_FLOCK_OF_MACOS, 0, 0, 0, fcntl.F_WRLCK, os.SEEK_SET)
        _, _, pid, kind, _ = struct.unpack(_FLOCK_OF_MACOS, fcntl.fcntl(fd, fcntl.F_GETLK, query))
    else:
        query = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, query))
    return kind, pid
