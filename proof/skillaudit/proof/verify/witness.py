"""What the verifier reads from the anchors by himself, before he asks the database anything."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from skillaudit.contract.errors import SettingsError, SkillauditError
from skillaudit.contract.settings import Settings
from skillaudit.proof.errors import AnchorContentError, NewestUnknownError, NoteError
from skillaudit.proof.merkle import leaf_hash
from skillaudit.proof.policy import AnchorPolicy, Policy

if TYPE_CHECKING:
    from skillaudit.proof.anchors import Anchor, StoredObject
    from skillaudit.proof.keys import Verifier

NOTES_REMEMBERED: Final = 64
NOTE_REMEMBERED_CHARS_MAX: Final = 10_000
POLICIES_REMEMBERED: Final = 16
WINDOW_LEAVES: Final = 2_000
"""How far back from its newest object an anchor is read: what was changed there is named leaf by leaf."""


class Anchored(NamedTuple):
    """One checkpoint that an anchor holds."""

    origin: str
    size: int
    root: bytes
    at_us: int
    """When the anchor took it."""
    place: str
    signed_by: tuple[str, ...]
    """Names of the policy's keys that signed it."""
    bad_signature: bool
    first: int
    leaf_hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorReading:
    """What one anchor said."""

    uri: str
    trust: str = "other"
    checkpoints: tuple[Anchored, ...] = ()
    """The newest ones, in the anchor's order."""
    error: str = ""
    """Why it could not be read."""
    altered: bool = False
    """It holds something that no sealer wrote."""


def read_anchors(
    policy: Policy, settings: Settings | None = None, *, newest_only: bool = False
) -> tuple[AnchorReading, ...]:
    """Ask every anchor of the policy. Blocking; what fails is told in the reading. `settings`: for Kafka's. `newest_only`:
    the newest object is enough, as it is for the check of one run.

    Raises `SettingsError` for an anchor that can't be one, such as a topic of several partitions.
    """
    from skillaudit.proof.anchors import open_anchor

    found: list[AnchorReading] = []
    for entry in policy.anchors:
        with contextlib.closing(open_anchor(entry.uri, settings, make=False)) as anchor:
            found.append(read_anchor(anchor, entry, policy, newest_only=newest_only))
    return tuple(found)


def read_anchor(
    anchor: Anchor, entry: AnchorPolicy, policy: Policy, *, newest_only: bool = False
) -> AnchorReading:
    """Ask one."""
    try:
        window = tuple(_window(anchor, policy, newest_only=newest_only))
        return AnchorReading(uri=entry.uri, trust=entry.trust, checkpoints=window)
    except SettingsError:
        raise
    except SkillauditError as exc:
        altered = isinstance(exc, (AnchorContentError, NoteError))
        return AnchorReading(uri=entry.uri, trust=entry.trust, error=str(exc), altered=altered)


def _window(anchor: Anchor, policy: Policy, *, newest_only: bool) -> list[Anchored]:
    try:
        newest = anchor.newest()
    except NewestUnknownError:
        if newest_only:
            raise
        return [_anchored(stored, policy.keys) for stored in anchor.objects()]
    if newest is None:
        return []
    if newest_only:
        return [_anchored(newest, policy.keys)]
    after = max(newest.content.checkpoint.size - WINDOW_LEAVES, 0)
    return [_anchored(stored, policy.keys) for stored in anchor.objects(after=after)]


@lru_cache(maxsize=POLICIES_REMEMBERED)
def _verifiers(keys: tuple[str, ...]) -> Sequence[Verifier]:
    """The policy's keys, ready for use."""
    if not keys:
        return ()
    from skillaudit.proof.keys import parse_verifier

    return [parse_verifier(key) for key in keys]


def _anchored(stored: StoredObject, keys: tuple[str, ...]) -> Anchored:
    checkpoint = stored.content.checkpoint
    signed_by, bad = signers(stored.content.note, keys)
    return Anchored(
        checkpoint.origin,
        checkpoint.size,
        checkpoint.root,
        stored.at_us,
        stored.place,
        signed_by,
        bad,
        stored.content.first,
        tuple(map(leaf_hash, stored.content.leaves)),
    )


def signers(note: str, keys: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
    """Names of those of the policy's keys that signed the note; and whether a signature claims one of them and is not its
    own. Remembered by the note's and the keys' text: the newest checkpoint is asked about with every run.
    """
    return (_remembered if len(note) <= NOTE_REMEMBERED_CHARS_MAX else _signers)(note, keys)


def _signers(note: str, keys: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
    from skillaudit.proof.notes import parse_note

    try:
        return tuple(key.name for key in parse_note(note).verified_by(_verifiers(keys))), False
    except NoteError:
        return (), True


_remembered: Final = lru_cache(maxsize=NOTES_REMEMBERED)(_signers)


def reading_members(reading: AnchorReading) -> dict[str, Any]:
    """A reading as it travels."""
    return {
        "uri": reading.uri,
        "trust": reading.trust,
        "error": reading.error,
        "altered": reading.altered,
        "checkpoints": [
            {
                **it._asdict(),
                "root": it.root.hex(),
                "signed_by": list(it.signed_by),
                "leaf_hashes": [leaf.hex() for leaf in it.leaf_hashes],
            }
            for it in reading.checkpoints
        ],
    }


def parse_reading(members: dict[str, Any]) -> AnchorReading:
    """The inverse of `reading_members`; `KeyError`, `TypeError` or `ValueError` for anything else."""
    return AnchorReading(
        uri=str(members["uri"]),
        trust=str(members["trust"]),
        error=str(members["error"]),
        altered=bool(members["altered"]),
        checkpoints=tuple(
            Anchored(
                str(it["origin"]),
                int(it["size"]),
                bytes.fromhex(it["root"]),
                int(it["at_us"]),
                str(it["place"]),
                tuple(map(str, it["signed_by"])),
                bool(it["bad_signature"]),
                int(it["first"]),
                tuple(map(bytes.fromhex, it["leaf_hashes"])),
            )
            for it in members["checkpoints"]
        ),
    )
