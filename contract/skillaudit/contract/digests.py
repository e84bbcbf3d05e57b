r"""The bytes of tags and heads. The golden vectors in `tests/vectors/` are their specification.

Everything hashed is text, UTF-8, LF, reproducible with `sha256sum`, in SQL and in any language. `T(x)` is
`<byte length>:<x>`, so that no two field lists share an encoding (the length prefix of DSSE's PAE); NULL is `-`.

    header  log     "log " seq " " at_us " " T(event_type)
            start   "start 0 " at_us " " T(parent_run_id) " " T(skill_id) " " source_id " " source_seq
            finish  "finish " seq " " at_us " " T(status) " " tool_calls " " runtime_us " " in " " out " " thinking
                    " " T(lost)
    salt    hex half (seq even: first 32 digits, odd: last 32) of
            SHA-256("skillaudit salt 1\n" run_salt_hex "\n" (seq div 2) "\n")
    digest  SHA-256("skillaudit event 1\n" salt "\n" header "\n" body)
    body    log: the payload's bytes; start and finish: a line `name hex\n` per redactable field in fixed order
            (caller_id, channel_id, inputs, attributes | output, error), hex = SHA-256("skillaudit field 1\n" salt
            "\n" name "\n" T(value)), that salt the first 32 digits of SHA-256("skillaudit salt 1\n" run_salt_hex
            "\n" <seq>.<name> "\n")
    tag     the first 16 hex digits of the digest
    manifest "skillaudit run 1\n" T(run_id) "\n", then per event in sequence order: header " " digest "\n"
    head_k  SHA-256 of the manifest through event k
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from typing import Final, Protocol, Self

START_FIELDS: Final = ("caller_id", "channel_id", "inputs", "attributes")
FINISH_FIELDS: Final = ("output", "error")
TAG_DIGITS: Final = 16
SALT_BYTES: Final = 16
KINDS_REMEMBERED: Final = 256
"""Event types whose encoded form is kept."""


class _Hash(Protocol):
    """What is used of hashlib's objects."""

    def update(self, data: bytes, /) -> None: ...

    def copy(self) -> Self: ...

    def hexdigest(self) -> str: ...


def T(value: bytes) -> bytes:  # noqa: N802  the format's own name
    """`<byte length>:<value>`."""
    return b"%d:%b" % (len(value), value)


def event_salt(run_salt: str, seq: int) -> bytes:
    """The 32 hex digits that salt event `seq` of a run whose salt is the 32 hex digits `run_salt`."""
    return event_salts(run_salt, seq // 2)[seq % 2]


def event_salts(run_salt: str, pair: int) -> tuple[bytes, bytes]:
    """The salts of the events 2 `pair` and 2 `pair` + 1."""
    digits = sha256(b"skillaudit salt 1\n%b\n%d\n" % (run_salt.encode(), pair)).hexdigest().encode()
    return digits[:32], digits[32:]


def field_salt(run_salt: str, seq: int, name: str) -> bytes:
    """The 32 hex digits that salt one redactable field of a start or finish."""
    text = f"skillaudit salt 1\n{run_salt}\n{seq}.{name}\n"
    return sha256(text.encode()).hexdigest()[:32].encode()


def field_digest(salt: bytes, name: str, value: bytes) -> bytes:
    """The 64 hex digits of a redactable field's value."""
    return sha256(b"skillaudit field 1\n%b\n%b\n%b" % (salt, name.encode(), T(value))).hexdigest().encode()


def fields_body(run_salt: str, seq: int, fields: Iterable[tuple[str, bytes]]) -> bytes:
    """The body of a start or finish: a line per redactable field, in the given (fixed) order."""
    return b"".join(
        b"%b %b\n" % (name.encode(), field_digest(field_salt(run_salt, seq, name), name, value))
        for name, value in fields
    )


def log_header(seq: int, at_us: int, event_type: str) -> bytes:
    """Header of a log."""
    return b"log %d %d %b" % (seq, at_us, _kind(event_type))


@lru_cache(KINDS_REMEMBERED)
def _kind(event_type: str) -> bytes:
    return T(event_type.encode())


def start_header(at_us: int, parent_run_id: str, skill_id: str, source_id: str, source_seq: int) -> bytes:
    """Header of a start."""
    return b"start 0 %d %b %b %b %d" % (
        at_us,
        T(parent_run_id.encode()),
        T(skill_id.encode()),
        source_id.encode(),
        source_seq,
    )


def finish_header(  # noqa: PLR0913, PLR0917  the header's fields, one by one
    seq: int,
    at_us: int,
    status: str,
    tool_calls: int,
    runtime_us: int,
    input_tokens: int,
    output_tokens: int,
    thinking_tokens: int,
    lost: str,
) -> bytes:
    """Header of a finish."""
    return b"finish %d %d %b %d %d %d %d %d %b" % (
        seq,
        at_us,
        T(status.encode()),
        tool_calls,
        runtime_us,
        input_tokens,
        output_tokens,
        thinking_tokens,
        T(lost.encode()),
    )


def event_digest(salt: bytes, header: bytes, body: bytes) -> str:
    """The 64 hex digits of an event."""
    return sha256(b"skillaudit event 1\n%b\n%b\n%b" % (salt, header, body)).hexdigest()


def manifest_line(header: bytes, digest: str) -> bytes:
    """What one event adds to its run's manifest."""
    return b"%b %b\n" % (header, digest.encode())


def lost_line(first: int, last: int) -> bytes:
    """What stands in the manifest in the place of the events `first` to `last` that the agent declared lost."""
    return b"lost %d\n" % first if first == last else b"lost %d-%d\n" % (first, last)


_LINES_MAX: Final = 64
"""Manifest lines kept unhashed: hashing them together costs a tenth of hashing them one by one."""


class RunDigest:
    """The manifest of one run as it grows: digests events and knows the head of any prefix reached.

    Not safe for threads: the Writer calls it under the run's lock. Costs one SHA-256 per event, one salt per two
    events, and one update of the manifest per 64 events.

    `lines` holds what is not hashed yet. An event becomes part of the manifest by one `lines.append`, so that whatever
    a signal handler raises, it is in or out as a whole; `fold` replaces hash and lines together.
    """

    __slots__ = ("_manifest", "_salt_hash", "_salt_pair", "_salts", "events", "lines", "run_salt")

    def __init__(self, run_id: str, run_salt: str) -> None:
        """`run_salt`: 32 hex digits, fresh for each run."""
        self.run_salt = run_salt
        self.events = 0
        """Numbers covered so far: events added, and those declared lost."""
        self.lines: list[bytes] = []
        self._manifest: _Hash = sha256(b"skillaudit run 1\n%b\n" % T(run_id.encode()))
        self._salt_hash: _Hash = sha256(b"skillaudit salt 1\n%b\n" % run_salt.encode())
        self._salts = b"", b""
        self._salt_pair = -1

    def salt(self, seq: int) -> bytes:
        """As `event_salt`, remembering the pair."""
        pair = seq >> 1
        if pair != self._salt_pair:
            hashed = self._salt_hash.copy()  # a fifth faster than from the beginning
            hashed.update(b"%d\n" % pair)
            digits = hashed.hexdigest().encode()
            self._salts = digits[:32], digits[32:]
            self._salt_pair = pair
        return self._salts[seq & 1]

    def digest(self, seq: int, header: bytes, body: bytes) -> str:
        """The event's 64 hex digits; the manifest is unchanged."""
        return sha256(b"\n".join((b"skillaudit event 1", self.salt(seq), header, body))).hexdigest()

    def add(self, header: bytes, digest: str) -> None:
        """Append an event to the manifest. Call it once the event has its number for good."""
        self.events += 1
        self.lines.append(b"%b %b\n" % (header, digest.encode()))  # a manifest_line, without the call
        if len(self.lines) >= _LINES_MAX:
            self.fold()

    def add_lost(self, first: int, last: int) -> None:
        """Put a whole unbroken range of events declared lost in its place; call it once the range has ended."""
        self.events += last - first + 1
        self.lines.append(lost_line(first, last))

    def fold(self) -> None:
        """Hash the lines that wait, if there are many."""
        if len(self.lines) >= _LINES_MAX:
            manifest = self._with(b"")
            self._manifest, self.lines = manifest, []

    def head(self) -> str:
        """The head through the last added event, 64 hex digits."""
        return self._with(b"").hexdigest()

    def head_with(self, header: bytes, digest: str, lost: tuple[int, int] | None = None) -> str:
        """The head as it would be with one more event: what a finish carries, itself included. `lost`: the range of
        events declared lost right before it.
        """
        line = manifest_line(header, digest)
        return self._with(lost_line(*lost) + line if lost else line).hexdigest()

    def _with(self, more: bytes) -> _Hash:
        manifest = self._manifest.copy()
        manifest.update(b"".join(self.lines) + more)
        return manifest


def run_hash(run_id: str) -> int:
    """A stable 64-bit hash of a run id (first 8 bytes of its SHA-256, big endian): what run rows are found by."""
    return int.from_bytes(sha256(run_id.encode()).digest()[:8])
