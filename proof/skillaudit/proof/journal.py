"""The journal in the database: a tree of seals and acts that only grows.

Leaves are rows; of the tree's hashes the complete tiles are stored, so that an append writes one row and, at every
256th, a tile, and a root or a proof reads at most 255 leaves and the tiles' rows on its way. What is partial is
computed from what is below it. Nothing is kept in memory between two calls: a transaction that was rolled back leaves
nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import duckdb

from skillaudit.contract.engine import engine_errors
from skillaudit.contract.errors import DatabaseError
from skillaudit.proof import merkle
from skillaudit.proof.leaves import LEAF_BYTES_MAX, leaf_kind
from skillaudit.proof.merkle import HASH_BYTES
from skillaudit.proof.statements import statements
from skillaudit.proof.tiles import (
    TILE_BYTES,
    TILE_LEVELS,
    TILE_WIDTH,
    Tile,
    complete_tiles_between,
    encode_entries,
    level_size,
    tile_root,
)

_LEAVES_READ_MAX: Final = 4_096
"""Leaves of one read: at most 256 MB, and with seals of usual length some 5 MB."""


class Journal:
    """The journal behind one cursor. Cheap to make; whoever appends holds a transaction on that cursor and the lock
    that guards the journal.

    Methods that read raise `DatabaseError` where a leaf or a tile that must be there is not.
    """

    def __init__(self, cursor: duckdb.DuckDBPyConnection, schema: str = "store") -> None:
        """`schema`: `store` for who writes, `main` for who only sees the views."""
        if schema not in {"store", "main"}:
            raise ValueError(f"the journal is in store or main, not in {schema}")
        self._cursor = cursor
        self._sql = {name: text.format(schema=schema) for name, text in statements("sql/journal.sql").items()}

    def size(self) -> int:
        """How many leaves it has."""
        with engine_errors("read the journal's size"):
            row = self._cursor.execute(self._sql["size"]).fetchone()
        size, count = (int(row[0]), int(row[1])) if row else (0, 0)
        if size != count:
            raise DatabaseError(
                f"the journal has {count} leaves numbered below {size}; run `skillaudit verify`"
            )
        return size

    def append(self, leaf: bytes, at_us: int) -> int:
        """Add a leaf, a seal's or an act's (`leaves.py`), in the caller's transaction; returns its index.

        `at_us`: wall-clock microseconds, for lists only; what is proven stands in the leaf. `InvalidRecordError` for
        a leaf of no known kind.
        """
        kind = leaf_kind(leaf)
        if len(leaf) > LEAF_BYTES_MAX:
            raise ValueError(f"a leaf has at most {LEAF_BYTES_MAX} bytes, this one {len(leaf)}")
        index = self.size()
        with engine_errors("append to the journal"):
            self._cursor.execute(
                self._sql["append"], {"idx": index, "at_us": at_us, "kind": kind, "leaf": leaf}
            )
            for tile in complete_tiles_between(index, index + 1):
                row = {"level": tile.level, "index": tile.index, "hashes": self._computed(tile)}
                self._cursor.execute(self._sql["append_tile"], row)
        return index

    def leaves(self, first: int, end: int) -> list[bytes]:
        """The leaves `[first, end)`."""
        with engine_errors("read the journal"):
            rows = self._cursor.execute(self._sql["leaves"], {"first": first, "end": end}).fetchall()
        if [row[0] for row in rows] != list(range(first, end)):
            raise DatabaseError(
                f"the journal does not hold the leaves {first} to {end - 1}; run `skillaudit verify`"
            )
        return [bytes(row[1]) for row in rows]

    def iterate(self, first: int, end: int) -> Iterator[bytes]:
        """The leaves `[first, end)`, read in bounded portions."""
        for start in range(first, end, _LEAVES_READ_MAX):
            yield from self.leaves(start, min(end, start + _LEAVES_READ_MAX))

    def root(self, size: int | None = None) -> bytes:
        """The root of the first `size` leaves; by default of all."""
        size = self.size() if size is None else size
        return merkle.root(size, Subtrees(self.tile, size))

    def inclusion_proof(self, index: int, size: int) -> tuple[bytes, ...]:
        """From leaf `index` to the root at `size`; see `merkle.inclusion_proof`."""
        return merkle.inclusion_proof(index, size, Subtrees(self.tile, size))

    def consistency_proof(self, old: int, new: int) -> tuple[bytes, ...]:
        """From the root at `old` to the root at `new`; see `merkle.consistency_proof`."""
        return merkle.consistency_proof(old, new, Subtrees(self.tile, new))

    def tile(self, tile: Tile) -> bytes:
        """The tile's hashes, one after the other: stored where it is complete, else computed."""
        if not tile.complete:
            return self._computed(tile)
        with engine_errors("read the journal's tiles"):
            row = self._cursor.execute(
                self._sql["tile"], {"level": tile.level, "index": tile.index}
            ).fetchone()
        if row is None or len(row[0]) != TILE_BYTES:
            raise DatabaseError(f"the journal's {tile.path} is missing or damaged; run `skillaudit verify`")
        return bytes(row[0])

    def entries(self, tile: Tile) -> bytes:
        """The entry bundle under a tile of level 0."""
        return encode_entries(self.leaves(tile.first, tile.first + tile.width))

    def _computed(self, tile: Tile) -> bytes:
        """A tile from what is below it: leaves, or complete tiles."""
        first, end = tile.first, tile.first + tile.width
        if tile.level == 0:
            return b"".join(map(merkle.leaf_hash, self.leaves(first, end)))
        place = {"level": tile.level - 1, "first": first, "end": end}
        with engine_errors("read the journal's tiles"):
            rows = self._cursor.execute(self._sql["tiles"], place).fetchall()
        if [row[0] for row in rows] != list(range(first, end)) or any(
            len(row[1]) != TILE_BYTES for row in rows
        ):
            raise DatabaseError(f"tiles below the journal's {tile.path} are missing; run `skillaudit verify`")
        return b"".join(tile_root(bytes(row[1])) for row in rows)


class Subtrees:
    """`merkle.SubtreeReader` of a tree of the journal's first `size` leaves; each tile is read once."""

    def __init__(self, read: Callable[[Tile], bytes], size: int) -> None:
        """`read` gives a tile's hashes, as `Journal.tile` does."""
        self._read = read
        self._size = size
        self._tiles: dict[tuple[int, int], bytes] = {}

    def __call__(self, level: int, index: int) -> bytes:
        """The hash of a complete subtree."""
        tile_level, height = divmod(level, TILE_LEVELS)
        tile_index, first = divmod(index << height, TILE_WIDTH)
        hashes = self._hashes(tile_level, tile_index)
        part = hashes[first * HASH_BYTES : (first + (1 << height)) * HASH_BYTES]
        return merkle.root_of(part)

    def _hashes(self, level: int, index: int) -> bytes:
        found = self._tiles.get((level, index))
        if found is None:
            width = min(TILE_WIDTH, level_size(level, self._size) - index * TILE_WIDTH)
            found = self._tiles[level, index] = self._read(Tile(level, index, width))
        return found
