r"""Signed notes as C2SP describes them (https://c2sp.org/signed-note): a text, a blank line, signature lines.

    <text, each line ended by LF>
    <blank line>
    — <key name> base64(<key id, 4 bytes> <signature>)        one line per signature, U+2014 in front

Signed are the text's bytes, its last LF included. Signatures by keys that a reader doesn't know are passed over; one
that claims a known key and is not its own makes the whole note worthless.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from skillaudit.proof.errors import NoteError

NOTE_BYTES_MAX: Final = 1_000_000
SIGNATURES_MAX: Final = 100
KEY_ID_BYTES: Final = 4
_DASH: Final = "\N{EM DASH} "


class NoteVerifier(Protocol):
    """The public half of a key."""

    @property
    def name(self) -> str:
        """The key's name: not empty, no white space, no `+`."""
        ...

    @property
    def key_id(self) -> bytes:
        """Four bytes that tell keys of one name apart."""
        ...

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether the signature (without the key id) is this key's over the message."""
        ...


class NoteSigner(Protocol):
    """The private half of a key."""

    @property
    def verifier(self) -> NoteVerifier:
        """The public half."""
        ...

    def sign(self, message: bytes) -> bytes:
        """The signature over the message, without the key id."""
        ...


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line, not judged yet."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A note as it was read, its signatures not judged yet."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def verified_by(self, verifiers: Sequence[NoteVerifier]) -> tuple[NoteVerifier, ...]:
        """Which of these keys signed it. `NoteError` where a signature claims one of them and is not its own."""
        known = {(key.name, key.key_id): key for key in verifiers}
        found: list[NoteVerifier] = []
        for line in self.signatures:
            key = known.get((line.name, line.key_id))
            if key is None or key in found:
                continue
            if not key.verify(self.text.encode(), line.signature):
                raise NoteError(f"the signature of {line.name} is not over this text")
            found.append(key)
        return tuple(found)


def sign_note(text: str, signers: Sequence[NoteSigner]) -> str:
    """The note: the text signed by each of the keys. `NoteError` for a text that has no such form."""
    _check_text(text)
    lines = [
        f"{_DASH}{signer.verifier.name} {_base64(signer.verifier.key_id + signer.sign(text.encode()))}\n"
        for signer in signers
    ]
    if not lines:
        raise NoteError("a note needs a signature")
    return f"{text}\n{''.join(lines)}"


def parse_note(note: str) -> Note:
    """Text and signatures; `NoteError` for any other form. Nothing is verified: see `Note.verified_by`."""
    if len(note) > NOTE_BYTES_MAX or len(note.encode()) > NOTE_BYTES_MAX:
        raise NoteError(f"a note has at most {NOTE_BYTES_MAX} bytes")
    head, blank, tail = note.rpartition("\n\n")
    if not blank or not tail.endswith("\n"):
        raise NoteError("a note is a text, a blank line, and signature lines")
    text = head + "\n"
    _check_text(text)
    lines = tail[:-1].split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise NoteError(f"a note has at most {SIGNATURES_MAX} signatures")
    return Note(text, tuple(_parse_signature(line) for line in lines))


def check_name(name: str) -> str:
    """The key name, where it may be one; `NoteError` for an empty one, or with white space or `+`."""
    if not name or "+" in name or not name.isprintable() or any(letter.isspace() for letter in name):
        raise NoteError(f"{name!r} can't name a key: not empty, no white space, no `+`")
    return name


def _parse_signature(line: str) -> NoteSignature:
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not space:
        raise NoteError("a signature line is `\N{EM DASH} <key name> <base64>`")
    try:
        blob = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise NoteError("a signature line does not end in base64") from exc
    if len(blob) <= KEY_ID_BYTES or _base64(blob) != encoded:
        raise NoteError("a signature is a key id of 4 bytes and what follows, in canonical base64")
    return NoteSignature(check_name(name), blob[:KEY_ID_BYTES], blob[KEY_ID_BYTES:])


def _check_text(text: str) -> None:
    bad = not text.endswith("\n") or any(letter < " " and letter != "\n" for letter in text)
    if bad or text == "\n":
        raise NoteError("a note's text ends with a line end and has no other control characters")


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
