"""Writing small files so that a crash leaves either the old content or the new, and reading them back."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Final

FULL_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a file system says when there is no room: disk full, quota, the process's file size limit."""


def sync_directory(directory: Path) -> None:
    """Make created, renamed and deleted names in `directory` survive the death of the machine."""
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomically(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Replace `path`: temporary file, fsync, rename, directory fsync. A reader sees the old content or the new."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        write_new(temporary, content, sync=sync)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # a full disk should not be kept full by what did not fit
            temporary.unlink()
        raise
    if sync:
        sync_directory(path.parent)


def create_exclusively(path: Path, content: bytes) -> bytes:
    """Create `path` with `content` unless it exists; returns what it holds. Of several creators one wins whole."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        write_new(temporary, content)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)
    return path.read_bytes()


def write_new(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Create or overwrite `path` and, by default, wait until its content is on the disk."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def read_optional(path: Path) -> bytes | None:
    """The content of `path`; None where it does not exist."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
