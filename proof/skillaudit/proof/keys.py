"""Ed25519 keys of signed notes: made, kept in files that nobody else can read, written as text.

    verifier key  <name>+<key id, 8 hex digits>+base64(0x01 <public key>)              may be shown to anybody
    private key   PRIVATE+KEY+<name>+<key id, 8 hex digits>+base64(0x01 <seed>)        one line, in a file of mode 0600

Both as `golang.org/x/mod/sumdb/note` writes them. Key id: the first 4 bytes of SHA-256(name LF 0x01 public key).
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from skillaudit.contract.errors import SettingsError
from skillaudit.contract.outbox.files import sync_directory
from skillaudit.proof.errors import NoteError
from skillaudit.proof.notes import KEY_ID_BYTES, check_name

ED25519: Final = b"\x01"
KEY_BYTES: Final = 32
KEY_FILE_BYTES_MAX: Final = 4_096
_PRIVATE: Final = "PRIVATE+KEY+"


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key and its name."""

    name: str
    public: bytes

    @property
    def key_id(self) -> bytes:
        """Four bytes that tell keys of one name apart."""
        return sha256(self.name.encode() + b"\n" + ED25519 + self.public).digest()[:KEY_ID_BYTES]

    @property
    def text(self) -> str:
        """The verifier key's text."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(ED25519 + self.public).decode()}"

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's over the message."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except InvalidSignature:
            return False
        return True


class Signer:
    """A private key and its name. Its `repr` shows only what is public."""

    def __init__(self, name: str, seed: bytes) -> None:
        """`seed`: the 32 bytes of an Ed25519 private key."""
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        public = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.verifier = Verifier(check_name(name), public)

    def __repr__(self) -> str:
        """The verifier key."""
        return f"Signer({self.verifier.text})"

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the signature."""
        return self._private.sign(message)


def parse_verifier(text: str) -> Verifier:
    """A verifier key from its text; `NoteError` naming what is wrong with it."""
    name, key_id, public = _parse_key(text.strip())
    verifier = Verifier(name, public)
    if verifier.key_id != key_id:
        raise NoteError(
            f"the key id of {name} is {verifier.key_id.hex()}, not {key_id.hex()}; is the text complete?"
        )
    return verifier


def generate_key(path: Path, name: str) -> Verifier:
    """Make a key in a new file that only its owner can read; returns what verifiers are told.

    `name`: the log's origin, like `audit.example.org/fleet-1`. `SettingsError` where the file exists already: a key is
    never overwritten.
    """
    check_name(name)
    seed = os.urandom(KEY_BYTES)
    verifier = Signer(name, seed).verifier
    line = f"{_PRIVATE}{name}+{verifier.key_id.hex()}+{base64.b64encode(ED25519 + seed).decode()}\n"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError as exc:
        raise SettingsError(f"{path} exists; a key is never overwritten: choose another file") from exc
    except OSError as exc:
        raise SettingsError(f"can't make the key file {path}: {exc.strerror}") from exc
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, 0o600)  # whatever the umask takes away
        file.write(line.encode())
        file.flush()
        os.fsync(fd)
    sync_directory(path.parent)
    return verifier


def read_key(path: Path) -> Signer:
    """The private key in a file. `SettingsError` where it is missing, where group or others can reach it, or where it
    holds no key.
    """
    content, mode = _read(path)
    _check_private(path, mode)
    try:
        return _parse_private(content.decode().strip())
    except (NoteError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{path} holds no private key as `skillaudit keys new` writes it") from exc


def read_former_keys(path: Path) -> tuple[tuple[Signer, ...], tuple[Verifier, ...]]:
    """Keys that signed before, a line each: private ones, that go on signing for a while, and the verifiers' halves of
    those that sign no more. `SettingsError` as of `read_key`; a file without private keys may be read by anybody.
    """
    content, mode = _read(path)
    signers: list[Signer] = []
    verifiers: list[Verifier] = []
    try:
        for line in content.decode().split():
            if line.startswith(_PRIVATE):
                _check_private(path, mode)
                signers.append(_parse_private(line))
            else:
                verifiers.append(parse_verifier(line))
    except (NoteError, UnicodeDecodeError) as exc:
        raise SettingsError(
            f"{path} holds something else than keys, one a line, as `skillaudit keys new` writes them and `keys show` prints them"
        ) from exc
    if not signers and not verifiers:
        raise SettingsError(f"{path} holds no key; leave seal_former_key_file out where there is none")
    return tuple(signers), tuple(verifiers)


def lies_in(path: Path, directory: Path) -> bool:
    """Whether a file is below a directory, whatever links lead there."""
    return path.resolve().is_relative_to(directory.resolve())


def _read(path: Path) -> tuple[bytes, int]:
    """Content and mode; nothing of what is no file."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            return file.read(KEY_FILE_BYTES_MAX) if stat.S_ISREG(mode) else b"", mode
    except OSError as exc:
        raise SettingsError(
            f"can't read the key file {path}: {exc.strerror}; `skillaudit keys new` makes one"
        ) from exc


def _check_private(path: Path, mode: int) -> None:
    if stat.S_ISREG(mode) and mode & 0o077:
        raise SettingsError(f"others may read the key in {path} ({mode & 0o777:o}); chmod 600 {path}")


def _parse_private(text: str) -> Signer:
    if not text.startswith(_PRIVATE):
        raise NoteError("not a private key")
    name, key_id, seed = _parse_key(text.removeprefix(_PRIVATE))
    signer = Signer(name, seed)
    if signer.verifier.key_id != key_id:
        raise NoteError("the key id is not the key's")
    return signer


def _parse_key(text: str) -> tuple[str, bytes, bytes]:
    """(name, key id, 32 bytes) of either text."""
    name, _, rest = text.partition("+")
    digits, _, encoded = rest.partition("+")
    try:
        key_id, key = bytes.fromhex(digits), base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error) as exc:
        raise NoteError("a key is <name>+<8 hex digits>+<base64>") from exc
    if len(key_id) != KEY_ID_BYTES or len(key) != 1 + KEY_BYTES or key[:1] != ED25519:
        raise NoteError("a key is <name>+<8 hex digits>+<base64 of 0x01 and 32 bytes>, Ed25519")
    return check_name(name), key_id, key[1:]
