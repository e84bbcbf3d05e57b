"""An anchor in a directory: on another machine's share, on a disk that keeps what was written, in a mirrored bucket.

    objects/<size // 4096, 15 digits>/<size, 19 digits>     one object per journal size
    tile/..., tile/entries/...                             complete tiles and entry bundles, as tlog-tiles names them

Every file is written beside, synced, and then given its name by a link: it appears whole or not at all, and no name is
ever given twice. Nothing is changed or deleted, so the directory may forbid both.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from skillaudit.contract.errors import UnreachableError
from skillaudit.contract.outbox.files import read_optional, sync_directory
from skillaudit.contract.words import counted
from skillaudit.proof import merkle
from skillaudit.proof.anchors.base import (
    AnchorObject,
    AnchorTrust,
    Receipt,
    StoredObject,
    parse_object,
    same_content,
)
from skillaudit.proof.errors import AnchorConflictError
from skillaudit.proof.tiles import (
    TILE_WIDTH,
    Tile,
    complete_tiles_between,
    encode_entries,
    tile_root,
)

OBJECTS_PER_DIRECTORY: Final = 4_096
_NO_PERMISSION: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


class FileAnchor:
    """`Anchor` in a directory."""

    def __init__(self, directory: Path, uri: str = "", *, make: bool = True) -> None:
        """`make`: where the directory is missing it is an anchor without objects yet, and made. Else it is out of reach."""
        self.directory = directory
        self._make = make
        self.uri = uri or f"file:{directory}"
        self.trust = AnchorTrust.HOST

    def __repr__(self) -> str:
        """The directory."""
        return f"FileAnchor({str(self.directory)!r})"

    def publish(self, objects: Sequence[AnchorObject]) -> list[Receipt]:
        """As `Anchor.publish`; then stores the tiles that are complete with it."""
        try:
            return [self._publish(new) for new in objects]
        except OSError as exc:
            remedy = "; may this user write there?" if exc.errno in _NO_PERMISSION else ""
            raise UnreachableError(f"can't write to {self.directory}: {exc}{remedy}") from exc

    def newest(self) -> StoredObject | None:
        """As `Anchor.newest`."""
        for path in self._paths(newest_first=True):
            return _stored(path)
        return None

    def objects(self, after: int = 0) -> Iterator[StoredObject]:
        """As `Anchor.objects`."""
        for path in self._paths(after):
            yield _stored(path)

    def at(self, size: int) -> StoredObject | None:
        """As `Anchor.at`."""
        path = self._path(size)
        return _stored(path) if path.exists() else None

    def close(self) -> None:
        """Nothing is held."""

    def _publish(self, new: AnchorObject) -> Receipt:
        path = self._path(new.checkpoint.size)
        content = new.encode()
        found = self._create(path, content)
        if found != content and not same_content(parse_object(found, str(path)), new):
            raise AnchorConflictError(
                f"{path} holds another journal of {counted(new.checkpoint.size, 'leaf', 'leaves')}; keep both and run `skillaudit verify`"
            )
        self._complete_tiles(new)
        return Receipt(path.stat().st_mtime_ns // 1000, str(path))

    def _complete_tiles(self, new: AnchorObject) -> None:
        """What the object's leaves complete, and what a crash left out at the object before. Leaves from before it are
        read back from the objects.
        """
        end = new.first + len(new.leaves)
        for tile in complete_tiles_between(max(0, new.first - TILE_WIDTH), end):
            if (self.directory / tile.path).exists():
                continue
            if tile.level == 0:
                leaves = self._leaves(tile, new)
                self._create(self.directory / tile.entries_path, encode_entries(leaves))
                hashes = b"".join(map(merkle.leaf_hash, leaves))
            else:
                below = (Tile(tile.level - 1, tile.first + number) for number in range(tile.width))
                hashes = b"".join(tile_root((self.directory / part.path).read_bytes()) for part in below)
            self._create(self.directory / tile.path, hashes)

    def _leaves(self, tile: Tile, new: AnchorObject) -> list[bytes]:
        """The leaves under a tile that `new` completes."""
        found: dict[int, bytes] = {}
        for stored in self.objects(after=tile.first):
            found |= dict(enumerate(stored.content.leaves, stored.content.first))
            if stored.content.checkpoint.size >= new.checkpoint.size:
                break
        wanted = range(tile.first, tile.first + tile.width)
        if any(index not in found for index in wanted):
            raise AnchorConflictError(
                f"{self.directory} lacks objects below {new.first}: they were taken away"
            )
        return [found[index] for index in wanted]

    def _path(self, size: int) -> Path:
        return self.directory / "objects" / f"{size // OBJECTS_PER_DIRECTORY:015d}" / f"{size:019d}"

    def _paths(self, after: int = 0, *, newest_first: bool = False) -> Iterator[Path]:
        """Paths of the objects larger than `after`, by size."""
        if not self._make and not self.directory.is_dir():
            raise UnreachableError(f"there is no directory {self.directory}; is it mounted here?")
        base = self.directory / "objects"
        for directory in sorted(_names(base), reverse=newest_first):
            if int(directory) < (after + 1) // OBJECTS_PER_DIRECTORY:
                continue
            for name in sorted(_names(base / directory), reverse=newest_first):
                if int(name) > after:
                    yield base / directory / name

    def _create(self, path: Path, content: bytes) -> bytes:
        """Give the content its name unless that is taken; returns what stands under it."""
        found = read_optional(path)
        if found is not None:
            return found
        _make_directories(path.parent)
        return _create_readable(path, content)


def _stored(path: Path) -> StoredObject:
    try:
        with path.open("rb") as file:
            content, status = file.read(), os.fstat(file.fileno())
    except OSError as exc:
        raise UnreachableError(f"can't read {path}: {exc}") from exc
    return StoredObject(parse_object(content, str(path)), status.st_mtime_ns // 1000, str(path))


def _names(directory: Path) -> list[str]:
    """Names of objects and their directories; what is being written has other names."""
    try:
        return [
            name for name in (path.name for path in directory.iterdir()) if name.isascii() and name.isdigit()
        ]
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise UnreachableError(f"can't list {directory}: {exc}") from exc


def _make_directories(directory: Path) -> None:
    missing: list[Path] = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for made in reversed(missing):
        made.mkdir(exist_ok=True)
        sync_directory(made.parent)


def _create_readable(path: Path, content: bytes) -> bytes:
    """Make the file whole, or find another there; returns what it holds. Verifiers of other users may read it, as far as
    the umask allows.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    with temporary.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    try:
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()
    sync_directory(path.parent)
    return path.read_bytes()
