"""The Merkle tree of RFC 6962: leaf and node hashes, roots, inclusion and consistency proofs. Pure.

Hashes are 32 bytes. A *subtree* `(level, index)` is the complete tree over the leaves `[index << level, (index + 1) <<
level)`; a `SubtreeReader` gives its hash, so that a proof over millions of leaves needs some forty of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = sha256(b"").digest()
SIZE_MAX: Final = 1 << 62
"""Largest tree: a proof has at most twice as many hashes as this has bits."""

SubtreeReader = Callable[[int, int], bytes]
"""(level, index) -> the hash of that complete subtree."""


def leaf_hash(leaf: bytes) -> bytes:
    """The hash of one leaf's bytes."""
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return sha256(b"\x01" + left + right).digest()


def root_of(hashes: bytes) -> bytes:
    """The root over leaf hashes, given one after the other without separators.

    Level by level: a last node without a neighbour moves up as it is, which gives RFC 6962's tree. About 1 us per leaf.
    """
    if not hashes:
        return EMPTY_ROOT
    if len(hashes) % HASH_BYTES:
        raise ValueError(f"{len(hashes)} bytes are no whole number of hashes")
    while len(hashes) > HASH_BYTES:
        paired = len(hashes) // (2 * HASH_BYTES) * 2 * HASH_BYTES
        pairs = range(0, paired, 2 * HASH_BYTES)
        level = [sha256(b"\x01" + hashes[at : at + 2 * HASH_BYTES]).digest() for at in pairs]
        hashes = b"".join(level) + hashes[paired:]
    return hashes


BLOCK_LEAVES: Final = 64


def block_roots(hashes: bytes) -> bytes:
    """The roots over each `BLOCK_LEAVES` of these leaf hashes, one after the other; the root over them is that of all."""
    size = BLOCK_LEAVES * HASH_BYTES
    return b"".join(root_of(hashes[at : at + size]) for at in range(0, len(hashes), size))


def subtrees(first: int, end: int) -> list[tuple[int, int]]:
    """The fewest complete subtrees that together cover the leaves `[first, end)`, from left to right."""
    found: list[tuple[int, int]] = []
    while first < end:
        aligned = (first & -first).bit_length() - 1 if first else end.bit_length()
        level = min(aligned, (end - first).bit_length() - 1)
        found.append((level, first >> level))
        first += 1 << level
    return found


def range_hash(first: int, end: int, read: SubtreeReader) -> bytes:
    """RFC 6962's MTH over the leaves `[first, end)`, which must be a node of some tree (`first` aligned to the range)."""
    if first == end:
        return EMPTY_ROOT
    return _folded([read(level, index) for level, index in subtrees(first, end)])


def root(size: int, read: SubtreeReader) -> bytes:
    """The root of the tree of the first `size` leaves."""
    return range_hash(0, size, read)


def inclusion_proof(index: int, size: int, read: SubtreeReader) -> tuple[bytes, ...]:
    """The hashes that lead from leaf `index` to the root of the tree of `size`, from the leaf's neighbour up.

    `ValueError` unless 0 <= index < size.
    """
    if not 0 <= index < size:
        raise ValueError(f"there is no leaf {index} in a tree of {size}")
    proof: list[bytes] = []
    first, end = 0, size
    while end - first > 1:
        middle = first + _split(end - first)
        if index < middle:
            proof.append(range_hash(middle, end, read))
            end = middle
        else:
            proof.append(range_hash(first, middle, read))
            first = middle
    return tuple(reversed(proof))


def consistency_proof(old: int, new: int, read: SubtreeReader) -> tuple[bytes, ...]:
    """The hashes that show the tree of `old` to be the beginning of the tree of `new` (RFC 6962, 2.1.2).

    Empty where the sizes are equal. `ValueError` unless 0 < old <= new.
    """
    if not 0 < old <= new:
        raise ValueError(f"no proof from a tree of {old} to one of {new}")
    proof: list[bytes] = []
    first, end, known = 0, new, True
    while old != end:
        middle = first + _split(end - first)
        if old <= middle:
            proof.append(range_hash(middle, end, read))
            end = middle
        else:
            proof.append(range_hash(first, middle, read))
            first, known = middle, False
    if not known:
        proof.append(range_hash(first, end, read))
    return tuple(reversed(proof))


def root_from_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes | None:
    """The root that the proof leads to from the leaf's hash; None where it has not the right form."""
    if not 0 <= index < size <= SIZE_MAX or len(leaf) != HASH_BYTES or not _are_hashes(proof):
        return None
    node, last, found = index, size - 1, leaf
    for other in proof:
        if last == 0:
            return None
        if node & 1 or node == last:
            found = node_hash(other, found)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            found = node_hash(found, other)
        node, last = node >> 1, last >> 1
    return found if last == 0 else None


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root_hash: bytes) -> bool:
    """Whether the proof shows that leaf `index` (its hash) is in the tree of `size` with this root."""
    return root_from_inclusion(leaf, index, size, proof) == root_hash


def verify_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the proof shows that the tree of `old` is the beginning of the tree of `new`.

    The empty tree is the beginning of any; only its own root and the empty proof show that.
    """
    if not 0 <= old <= new <= SIZE_MAX or not _are_hashes(proof):
        return False
    if old in {0, new}:
        return not proof and old_root == (EMPTY_ROOT if old == 0 else new_root)
    return _both_roots(old, new, (old_root, *proof) if old & (old - 1) == 0 else tuple(proof)) == (
        old_root,
        new_root,
    )


def _both_roots(old: int, new: int, proof: Sequence[bytes]) -> tuple[bytes, bytes] | None:
    """Old and new root as the proof gives them (RFC 9162, 2.1.4.2); None where it has not the right form."""
    if not proof:
        return None
    node, last = old - 1, new - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old_found = new_found = proof[0]
    for other in proof[1:]:
        if last == 0:
            return None
        if node & 1 or node == last:
            old_found, new_found = node_hash(other, old_found), node_hash(other, new_found)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new_found = node_hash(new_found, other)
        node, last = node >> 1, last >> 1
    return (old_found, new_found) if last == 0 else None


class CompactRange:
    """The tree that grows by one leaf at a time, of which only one hash per bit of its size is kept."""

    __slots__ = ("_hashes", "size")

    def __init__(self) -> None:
        self.size = 0
        self._hashes: list[bytes] = []

    def append(self, leaf: bytes) -> None:
        """Add a leaf by its hash."""
        grown = self.size
        while grown & 1:
            leaf, grown = node_hash(self._hashes.pop(), leaf), grown >> 1
        self._hashes.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The root of what was added."""
        return _folded(self._hashes) if self._hashes else EMPTY_ROOT


def _folded(hashes: Sequence[bytes]) -> bytes:
    """One hash from those of complete subtrees, from left to right, the largest first."""
    found = hashes[-1]
    for left in reversed(hashes[:-1]):
        found = node_hash(left, found)
    return found


def _split(count: int) -> int:
    """The largest power of two below `count`, which is at least 2."""
    return 1 << ((count - 1).bit_length() - 1)


def _are_hashes(proof: Sequence[bytes]) -> bool:
    return all(len(part) == HASH_BYTES for part in proof)
