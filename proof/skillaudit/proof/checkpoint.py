"""Checkpoints: what a tree was at one size, as C2SP's tlog-checkpoint writes it, signed as a note.

    <origin: the log's name, a URL without scheme>
    <size, decimal>
    <root, base64>

No extension lines: a reader refuses them.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from skillaudit.proof.errors import NoteError
from skillaudit.proof.merkle import HASH_BYTES, SIZE_MAX
from skillaudit.proof.notes import NoteSigner, NoteVerifier, check_name, parse_note, sign_note

_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_LINES: Final = 3


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Origin, size and root (32 bytes) of a journal."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    def signed(self, signers: Sequence[NoteSigner]) -> str:
        """The signed note."""
        parse_checkpoint(self.text)
        return sign_note(self.text, signers)


def parse_checkpoint(text: str) -> Checkpoint:
    """A note's text as a checkpoint; `NoteError` for any other."""
    lines = text.split("\n")
    if len(lines) != _LINES + 1 or lines[-1]:
        raise NoteError("a checkpoint is three lines: origin, size, root")
    origin, size, encoded = lines[:_LINES]
    if not _SIZE.fullmatch(size) or int(size) > SIZE_MAX:
        raise NoteError(f"{size[:32]!r} is no journal's size")
    try:
        root = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise NoteError("a checkpoint's root is not in base64") from exc
    if len(root) != HASH_BYTES or base64.b64encode(root).decode() != encoded:
        raise NoteError(f"a checkpoint's root has {HASH_BYTES} bytes, in canonical base64")
    return Checkpoint(check_name(origin), int(size), root)


def read_checkpoint(note: str) -> Checkpoint:
    """The checkpoint in a signed note, nothing verified; `NoteError` where it has no such form."""
    return parse_checkpoint(parse_note(note).text)


def open_checkpoint(
    note: str, verifiers: Sequence[NoteVerifier]
) -> tuple[Checkpoint, tuple[NoteVerifier, ...]]:
    """The checkpoint and which of these keys signed it (none, perhaps: that is for the caller to judge).

    `NoteError` where it has no such form, or a signature in the name of one of these keys is not its own.
    """
    parsed = parse_note(note)
    return parse_checkpoint(parsed.text), parsed.verified_by(verifiers)
