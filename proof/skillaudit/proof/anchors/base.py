r"""What an anchor is: a place outside the database, best under somebody else's control, that keeps what it was given.

One object per checkpoint: the leaves since the previous object, so that the whole journal can be made again from the
objects, and the signed checkpoint of the journal with them.

    "skillaudit anchor 1\nleaves " first " " count "\n", then per leaf <bytes of it> ":" <it> "\n", then the signed note
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from skillaudit.contract.errors import InvalidRecordError, RejectedError
from skillaudit.proof.acts import parse_act as read_act
from skillaudit.proof.checkpoint import Checkpoint, read_checkpoint
from skillaudit.proof.errors import AnchorContentError, NewestUnknownError
from skillaudit.proof.leaves import LEAF_BYTES_MAX, leaf_kind, parse_act, parse_seal

CLOCKS_APART_US: Final = 300_000_000
"""Clocks of sealer and anchor differ by no more; where they do, nothing is concluded from them."""
LOOKED_BACK_LEAVES: Final = 1_000
"""How far before what is known the newest object is sought by sizes."""
_HEAD: Final = re.compile(rb"skillaudit anchor 1\nleaves (0|[1-9][0-9]{0,18}) (0|[1-9][0-9]{0,6})\n")
_LENGTH: Final = re.compile(rb"(0|[1-9][0-9]{0,4}):")


class AnchorTrust(Enum):
    """Who could change what the anchor holds, as far as its kind tells. A verifier's policy says more."""

    HOST = "host"
    """Whoever administers the machine whose files these are."""
    BROKER = "broker"
    """Whoever administers the broker."""


@dataclass(frozen=True, slots=True)
class AnchorObject:
    """The leaves `[first, checkpoint.size)` and the signed checkpoint of that size."""

    first: int
    leaves: tuple[bytes, ...]
    note: str

    @property
    def checkpoint(self) -> Checkpoint:
        """Read from the note, not verified; `NoteError` where the note is none."""
        return read_checkpoint(self.note)

    def encode(self) -> bytes:
        """The object's bytes."""
        head = b"skillaudit anchor 1\nleaves %d %d\n" % (self.first, len(self.leaves))
        return head + b"".join(b"%d:%b\n" % (len(leaf), leaf) for leaf in self.leaves) + self.note.encode()


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as an anchor holds it."""

    content: AnchorObject
    at_us: int
    """When the anchor took it, by the anchor's clock: microseconds."""
    place: str
    """Where it is, for people."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the anchor answered."""

    at_us: int
    place: str


class Anchor(Protocol):
    """Keeps objects in the order of their journal sizes. Blocking, bounded in time; one thread at a time.

    Errors: `UnreachableError` where it can't be asked now, `AnchorConflictError` where it holds other content at a size,
    `AnchorContentError` where it holds something that is no object.
    """

    @property
    def uri(self) -> str:
        """What it was opened by."""
        ...

    @property
    def trust(self) -> AnchorTrust:
        """Who could change it."""
        ...

    def publish(self, objects: Sequence[AnchorObject]) -> list[Receipt]:
        """Put objects there, ascending, and return when it has them for good, a receipt each. An object that is there
        already is no error. Where it fails, none or some are there: ask `newest`.
        """
        ...

    def newest(self) -> StoredObject | None:
        """The object with the largest journal; None where there is none. `NewestUnknownError` where that can't be told
        within a bound.
        """
        ...

    def objects(self, after: int = 0) -> Iterator[StoredObject]:
        """Those whose journal is larger than `after`, in the anchor's order."""
        ...

    def at(self, size: int) -> StoredObject | None:
        """The object whose checkpoint has this size; None where there is none."""
        ...

    def close(self) -> None:
        """Let go of it; safe to call again."""
        ...


def newest_of(anchor: Anchor, known: int) -> StoredObject | None:
    """The object with the largest journal, also where its times can't tell it, as when a clock was wrong once: by sizes then, of
    what stands there from a little before the `known` one on; where nothing does, of all. For who goes on from it: to take one
    for the newest that isn't only says again what is there. Raises what the anchor raises.
    """
    try:
        return anchor.newest()
    except NewestUnknownError:
        for after in dict.fromkeys((max(0, known - LOOKED_BACK_LEAVES), 0)):
            found = max(anchor.objects(after), key=lambda it: it.content.checkpoint.size, default=None)
            if found is not None:
                return found
        return None


def parse_object(content: bytes, place: str) -> AnchorObject:
    """The inverse of `AnchorObject.encode`; `AnchorContentError` naming the place for anything else. The note has the
    form of a checkpoint of the right size; its signature isn't looked at.
    """
    head = _HEAD.match(content)
    if head is None:
        raise AnchorContentError(f"{place} is no object of a journal's anchor")
    first, count, at = int(head[1]), int(head[2]), head.end()
    leaves: list[bytes] = []
    for number in range(count):
        length = _LENGTH.match(content, at)
        if length is None or int(length[1]) > LEAF_BYTES_MAX:
            raise AnchorContentError(f"{place}: leaf {first + number} has no length")
        start, at = length.end(), length.end() + int(length[1])
        leaves.append(content[start:at])
        if content[at : at + 1] != b"\n":
            raise AnchorContentError(f"{place}: leaf {first + number} is cut off")
        at += 1
    try:
        found = AnchorObject(first, tuple(leaves), content[at:].decode())
        size = found.checkpoint.size
    except (UnicodeDecodeError, RejectedError) as exc:
        raise AnchorContentError(f"{place}: behind its leaves stands no checkpoint") from exc
    if size != first + count:
        raise AnchorContentError(
            f"{place}: a checkpoint of {size} behind the leaves {first} to {first + count - 1}"
        )
    return found


def told_us(stored: StoredObject) -> int | None:
    """A moment at which all that came before the object was there already, as its newest leaf says; None where no leaf says
    one that can be. No larger object was taken by the anchor before it, give or take `CLOCKS_APART_US`.
    """
    at_us = max(filter(None, map(_leaf_us, stored.content.leaves)), default=None)
    return None if at_us is None or at_us > stored.at_us + CLOCKS_APART_US else at_us


def _leaf_us(leaf: bytes) -> int | None:
    try:
        if leaf_kind(leaf) == "seal":
            return parse_seal(leaf).at_us
        return read_act(parse_act(leaf)).at_us
    except InvalidRecordError:
        return None


def same_content(one: AnchorObject, other: AnchorObject) -> bool:
    """Whether two objects of one size say the same: checkpoint and leaves, as far as both have them. Signatures may
    differ: the key may have changed in between.
    """
    if one.checkpoint != other.checkpoint:
        return False
    shared = min(len(one.leaves), len(other.leaves))
    return one.leaves[len(one.leaves) - shared :] == other.leaves[len(other.leaves) - shared :]
