"""Tiles: the hashes of a tree in files of 256, as tlog-tiles lays them out (https://c2sp.org/tlog-tiles).

A tile at level L holds hashes of the tree's level 8 L. Complete tiles never change; the last of each level is partial
until it is full. An entry bundle holds the leaves under a tile of level 0, each behind its length in two bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from skillaudit.contract.errors import InvalidRecordError
from skillaudit.proof.leaves import LEAF_BYTES_MAX
from skillaudit.proof.merkle import HASH_BYTES, root_of

TILE_LEVELS: Final = 8
TILE_WIDTH: Final = 256
TILE_BYTES: Final = TILE_WIDTH * HASH_BYTES
LEVEL_MAX: Final = 7
_ROOTS_REMEMBERED: Final = 512


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """One tile: its level, its index, and how many hashes (or leaves) it holds, 1 to 256."""

    level: int
    index: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """`tile/<level>/<index>`, the index in groups of three digits, partial tiles with `.p/<width>`."""
        return f"tile/{self.level}/{_grouped(self.index)}{self._partial}"

    @property
    def entries_path(self) -> str:
        """Of a tile of level 0: where its leaves are, `tile/entries/<index>`."""
        return f"tile/entries/{_grouped(self.index)}{self._partial}"

    @property
    def first(self) -> int:
        """Its first hash's place in its level."""
        return self.index * TILE_WIDTH

    @property
    def complete(self) -> bool:
        """Whether it is full and will never change."""
        return self.width == TILE_WIDTH

    @property
    def _partial(self) -> str:
        return "" if self.complete else f".p/{self.width}"


def _grouped(index: int) -> str:
    groups = [f"{index % 1000:03d}"]
    while index := index // 1000:
        groups.append(f"x{index % 1000:03d}")
    return "/".join(reversed(groups))


def level_size(level: int, size: int) -> int:
    """How many hashes the tiles of this level hold for a tree of `size` leaves."""
    return size >> (TILE_LEVELS * level)


def tiles_between(old: int, new: int) -> Iterator[Tile]:
    """The tiles that a tree of `new` leaves has and one of `old` had not in this width: what an append has to store."""
    for level in range(LEVEL_MAX + 1):
        before, after = level_size(level, old), level_size(level, new)
        if after == 0:
            return
        if before == after:
            continue
        for index in range(before // TILE_WIDTH, -(-after // TILE_WIDTH)):
            yield Tile(level, index, min(TILE_WIDTH, after - index * TILE_WIDTH))


def complete_tiles_between(old: int, new: int) -> Iterator[Tile]:
    """Those of `tiles_between` that are complete, level by level upwards."""
    return (tile for tile in tiles_between(old, new) if tile.complete)


@lru_cache(maxsize=_ROOTS_REMEMBERED)
def tile_root(hashes: bytes) -> bytes:
    """The node above a complete tile. Remembered by content, so that a tile that changed gives another one."""
    if len(hashes) != TILE_BYTES:
        raise ValueError(f"a complete tile has {TILE_BYTES} bytes, this one {len(hashes)}")
    return root_of(hashes)


def encode_entries(leaves: Sequence[bytes]) -> bytes:
    """An entry bundle. `InvalidRecordError` for a leaf that is too long, `ValueError` for too many of them."""
    if len(leaves) > TILE_WIDTH:
        raise ValueError(f"{len(leaves)} leaves are more than one bundle")
    if any(len(leaf) > LEAF_BYTES_MAX for leaf in leaves):
        raise InvalidRecordError(f"a leaf of the journal has at most {LEAF_BYTES_MAX} bytes")
    return b"".join(len(leaf).to_bytes(2) + leaf for leaf in leaves)


def parse_entries(bundle: bytes) -> tuple[bytes, ...]:
    """The leaves of an entry bundle; `InvalidRecordError` where it is cut off or holds more than 256."""
    leaves: list[bytes] = []
    at = 0
    while at < len(bundle):
        start = at + 2
        at = start + int.from_bytes(bundle[at:start])
        leaves.append(bundle[start:at])
    if at != len(bundle) or len(leaves) > TILE_WIDTH:
        raise InvalidRecordError(
            f"not an entry bundle: it ends inside leaf {len(leaves) - 1}, or is too long"
        )
    return tuple(leaves)
