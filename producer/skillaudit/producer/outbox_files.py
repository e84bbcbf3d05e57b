"""What the appending side asks of the file system, as one small object that tests can replace."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path
from typing import Final

_UNSUPPORTED_ERRNOS: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV})
_VOLATILE: Final = frozenset({"tmpfs", "ramfs", "overlay", "aufs", "fuse-overlayfs"})
_MOUNTS: Final = Path("/proc/self/mountinfo")
_ZEROS: Final = bytes(256 * 1024)


class MappingUnsupportedError(Exception):
    """The file system can't preallocate or map; segments are then appended to."""


class FileSystem:
    """The machine's own. Errors are the operating system's `OSError`s."""

    def allocate(self, fd: int, size: int) -> None:
        """Give the file `size` bytes of NUL that are really there, so that no store into a mapping of it can fault.

        Raises `MappingUnsupportedError` where it can't be done.
        """
        reserve = getattr(os, "posix_fallocate", None)
        if reserve is None:
            raise MappingUnsupportedError("the platform has no posix_fallocate")
        try:
            reserve(fd, 0, size)
        except OSError as exc:
            if exc.errno in _UNSUPPORTED_ERRNOS:
                raise MappingUnsupportedError(str(exc)) from exc
            raise

    def prepare(self, fd: int, byte: int, size: int) -> None:
        """Write `size` NULs from `byte` on, where NULs are: a store into a page that is in the cache and has its block
        costs a fifth of one that has to get both (0.5 instead of 2.1 us per KiB, ext4).
        """
        end = byte + size
        while byte < end:
            byte += os.pwrite(fd, _ZEROS[: end - byte], byte)

    def map(self, fd: int, size: int) -> mmap.mmap:
        """Map the file shared and writable. Raises `MappingUnsupportedError` where it can't be done."""
        try:
            return mmap.mmap(fd, size)
        except OSError as exc:
            if exc.errno in _UNSUPPORTED_ERRNOS:
                raise MappingUnsupportedError(str(exc)) from exc
            raise

    def write(self, fd: int, data: bytes, byte: int) -> int:
        """Write at `byte`; returns how much was written."""
        return os.pwrite(fd, data, byte)

    def cut(self, fd: int, size: int) -> None:
        """Cut the file to `size` bytes."""
        os.ftruncate(fd, size)

    def sync(self, fd: int, mapping: mmap.mmap | None) -> None:
        """Wait until what was stored is on the disk."""
        if hasattr(os, "fdatasync"):  # on Linux it writes what was stored through mappings, too
            os.fdatasync(fd)
            return
        if mapping is not None:
            mapping.flush()
        os.fsync(fd)

    def free_bytes(self, directory: Path) -> int:
        """What an unprivileged process may still write there."""
        stat = os.statvfs(directory)
        return stat.f_bavail * stat.f_frsize


def volatile_kind(directory: Path) -> str:
    """Name of the file system of `directory` if it goes with the machine or the container, else an empty string."""
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
        device = directory.stat().st_dev
    except OSError:
        return ""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for mount in mounts:
        fields, _, rest = mount.partition(" - ")
        if fields.split()[2] == wanted:
            kind = rest.split()[0]
            return kind if kind in _VOLATILE else ""
    return ""
