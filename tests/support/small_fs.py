"""Small file systems of a test's own: full when the test says so, and looked at as a power loss would leave them.

Needs root, for mounting. `why_not` says what is missing; in CI nothing may be missing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Generator, Sequence
from functools import cache
from pathlib import Path

MIB = 1 << 20
UNMOUNT_ATTEMPTS = 50
UNMOUNT_PAUSE_S = 0.1
_FIFREEZE, _FITHAW = 0xC0045877, 0xC0045878
"""ioctls of <linux/fs.h>: nothing more reaches the file system until it is thawed."""


@cache
def why_not() -> str:
    """Why no file system can be mounted here; empty where it can."""
    if os.geteuid() != 0:
        return "mounting a small file system needs root"
    if shutil.which("mkfs.ext4") is None or shutil.which("mount") is None:
        return "mounting a small file system needs mount and mkfs.ext4"
    return ""


class SmallFs:
    """A mounted file system; `fill` and `free` take and give back its space."""

    def __init__(self, path: Path, image: Path | None) -> None:
        self.path = path
        self.image = image
        """The file below the loop device; None for a tmpfs."""
        self._filler = path / ".filler"

    @property
    def free_bytes(self) -> int:
        """What may still be written."""
        stat = os.statvfs(self.path)
        return stat.f_bfree * stat.f_frsize

    def fill(self, leave_bytes: int = 0) -> None:
        """Take all space but about so much: what the file system needs for itself goes from that, too."""
        with self._filler.open("ab") as filler:
            for _ in range(8):  # extents need blocks of their own
                size = self.free_bytes - leave_bytes
                if size <= 0:
                    return
                with contextlib.suppress(OSError):
                    os.posix_fallocate(filler.fileno(), os.fstat(filler.fileno()).st_size, size)
                    continue
                with contextlib.suppress(OSError):
                    os.posix_fallocate(filler.fileno(), os.fstat(filler.fileno()).st_size, max(size // 2, 1))

    def free(self, size_bytes: int | None = None) -> None:
        """Give back so much of what `fill` took; None: all of it."""
        if not self._filler.exists():
            return
        left = 0 if size_bytes is None else max(self._filler.stat().st_size - size_bytes, 0)
        if left:
            os.truncate(self._filler, left)
        else:
            self._filler.unlink()

    def grow(self, size_bytes: int) -> None:
        """More space than it was made with, as who looks after a disk would give it; of a tmpfs alone."""
        assert self.image is None, "only a tmpfs grows while it is mounted"
        stat = os.statvfs(self.path)
        _run("mount", "-o", f"remount,size={stat.f_blocks * stat.f_frsize + size_bytes}", str(self.path))


@contextlib.contextmanager
def small_fs(
    directory: Path,
    size_bytes: int,
    *,
    kind: str = "ext4",
    options: Sequence[str] = (),
    image: Path | None = None,
) -> Generator[SmallFs]:
    """A new file system of `kind` (ext4, tmpfs) mounted under `directory`, or that of an `image` there is."""
    mark = os.urandom(4).hex()
    mountpoint = directory / f"mount-{mark}"
    mountpoint.mkdir(parents=True)
    made = directory / f"image-{mark}"
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size_bytes}", *options]), "none"]
    else:
        image = image or make_image(made, size_bytes)
        command = ["mount", "-t", "ext4", "-o", ",".join(["loop", *options]), str(image)]
    _run(*command, str(mountpoint))
    try:
        yield SmallFs(mountpoint, image)
    finally:
        unmount(mountpoint)
        mountpoint.rmdir()
        made.unlink(missing_ok=True)


def make_image(path: Path, size_bytes: int) -> Path:
    """An image with an empty ext4, without reserved blocks."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
    _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(path))
    return path


def unmount(mountpoint: Path) -> None:
    """Unmount, its loop device with it; a process that still has a file open there is waited for, bounded."""
    for _ in range(UNMOUNT_ATTEMPTS):
        done = subprocess.run(["umount", str(mountpoint)], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        time.sleep(UNMOUNT_PAUSE_S)
    subprocess.run(["umount", "-l", str(mountpoint)], check=False)
    raise AssertionError(f"{mountpoint} was busy: {done.stderr}")


@contextlib.contextmanager
def frozen(mountpoint: Path) -> Generator[None]:
    """Nothing reaches the file system meanwhile; whoever writes to it waits."""
    fd = os.open(mountpoint, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _FIFREEZE, 0)
        try:
            yield
        finally:
            fcntl.ioctl(fd, _FITHAW, 0)
    finally:
        os.close(fd)


class LosableDisk:
    """An ext4 on a loop device, whose image lies on an ext4 of its own.

    `snapshot` freezes the outer one, so that the inner device stands still in the middle of whatever it is doing, and
    copies the image: what had reached the device, without what was still in memory. That is what a power loss leaves.
    """

    def __init__(self, outer: SmallFs, inner: SmallFs) -> None:
        self.path = inner.path
        """Where to write."""
        self._outer = outer
        self._image = inner.image

    def snapshot(self, target: Path) -> Path:
        """The image of this moment, copied to `target`, which lies elsewhere."""
        assert self._image is not None
        with frozen(self._outer.path):
            _run("cp", "--sparse=always", str(self._image), str(target))
        return target


@contextlib.contextmanager
def losable_disk(directory: Path, size_bytes: int, *, options: Sequence[str] = ()) -> Generator[LosableDisk]:
    """A disk that can be looked at as after a power loss; `options` are those of the inner ext4."""
    with contextlib.ExitStack() as stack:
        outer = stack.enter_context(small_fs(directory, size_bytes * 5 // 4 + 8 * MIB))
        image = make_image(outer.path / "image", size_bytes)
        inner = stack.enter_context(small_fs(directory, size_bytes, options=options, image=image))
        yield LosableDisk(outer, inner)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
