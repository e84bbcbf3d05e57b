"""A notary whose process dies at an exact point between a seal's first statement and its anchor's note of it.

Every part stands behind the interface that the product's notary takes: the database, the keys, the state file, the anchors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import duckdb
from tests.faults.switched_off import write_over
from tests.faults.tripwires import Calls, die, say
from tests.proof.support import WrappedAnchor

from skillaudit.consumer.notary import Notary, WriterAccess
from skillaudit.contract.clock import Clock
from skillaudit.contract.settings import Settings
from skillaudit.proof.anchors.base import Anchor, AnchorObject, Receipt
from skillaudit.proof.checkpoint import Checkpoint
from skillaudit.proof.engine import ProofDatabase
from skillaudit.proof.journal import Journal
from skillaudit.proof.notes import NoteSigner, NoteVerifier
from skillaudit.proof.publishing import Publisher
from skillaudit.proof.sealer import CheckpointState, FileState, Signing

TRANSACTIONS = {
    "seal the ledger": "leaf",
    "record a checkpoint": "checkpoint",
    "note what was published": "publication",
}
"""What the product calls its transactions, and what is in them."""
LEAF_APPENDED, STATE_TORN = "leaf_appended", "state_torn"
NOTARY_POINTS = (
    *(f"{what}_{when}" for what in TRANSACTIONS.values() for when in ("begun", "appended", "committed")),
    *("signing", "signed"),
    *("state_unwritten", "state_beside", "state_renamed", "state_written"),
    *("publishing", "object_beside", "object_linked", "published"),
)
"""In the order of one seal: its leaf, the signature, the state file, the checkpoint's row, the anchor, what is noted of it."""


@dataclass(slots=True)
class Points:
    """Ends the process the `at`-th time that it passes the point; says so first."""

    point: str
    at: int
    told: str = ""

    def reached(self, name: str) -> bool:
        """Whether this is the time."""
        self.at -= name == self.point
        return name == self.point and self.at == 0

    def passes(self, name: str) -> None:
        """Go by it, or not."""
        if self.reached(name):
            self.end()

    def end(self) -> bool:
        """Here."""
        if self.told:
            say(self.told, self.point)
        die()
        return True

    def ends_at(self, name: str, function: str, *, after: bool, within: str) -> None:
        """The point is a call that is made by what is called next, in this thread."""
        if self.reached(name):
            Calls([function], 1, after=after, dies=self.end, within=[within]).arm()


class PointedAccess(WriterAccess):
    """The writer's transactions, with points around and in them."""

    def __init__(self, inner: ProofDatabase, points: Points) -> None:
        self._inner = inner
        self._points = points

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """As the product's."""
        return self._inner.cursor()

    @contextlib.contextmanager
    def transaction(self, doing: str) -> Generator[duckdb.DuckDBPyConnection]:
        """As the product's."""
        what = TRANSACTIONS.get(doing, "other")
        with self._inner.transaction(doing) as cursor:
            self._points.passes(f"{what}_begun")
            yield cursor
            self._points.passes(f"{what}_appended")
        self._points.passes(f"{what}_committed")


class SignsUncommitted(PointedAccess):
    """Signs a leaf, and keeps in the state file that it did, before the transaction that appends the leaf has ended."""

    signing: Signing

    @contextlib.contextmanager
    def transaction(self, doing: str) -> Generator[duckdb.DuckDBPyConnection]:
        """As the product's, with a signature too early."""
        with super().transaction(doing) as cursor:
            yield cursor
            if TRANSACTIONS.get(doing) == "leaf":
                self._sign(cursor)

    def _sign(self, cursor: duckdb.DuckDBPyConnection) -> None:
        journal = Journal(cursor)
        size = journal.size()
        note = Checkpoint(self.signing.origin, size, journal.root(size)).signed(self.signing.signers)
        self.signing.state.write(note)
        cursor.execute("INSERT INTO store.checkpoints VALUES (?, ?, 0, '{}')", [size, note])


class PointedSigner:
    """A key, with points around its signature."""

    def __init__(self, inner: NoteSigner, points: Points) -> None:
        self._inner = inner
        self._points = points

    @property
    def verifier(self) -> NoteVerifier:
        """The public half."""
        return self._inner.verifier

    def sign(self, message: bytes) -> bytes:
        """As the key's."""
        self._points.passes("signing")
        signature = self._inner.sign(message)
        self._points.passes("signed")
        return signature


class PointedState:
    """The state file, with points around and in its replacement."""

    def __init__(self, inner: CheckpointState, points: Points) -> None:
        self._inner = inner
        self._points = points

    def read(self) -> str | None:
        """As the file's."""
        return self._inner.read()

    def write(self, note: str) -> None:
        """As the file's."""
        self._points.passes("state_unwritten")
        self._points.ends_at("state_beside", "replace", after=False, within="write_atomically")
        self._points.ends_at("state_renamed", "replace", after=True, within="write_atomically")
        self._points.ends_at(STATE_TORN, "write", after=True, within="write_over")
        self._inner.write(note)
        self._points.passes("state_written")


class StateInPlace(FileState):
    """The state file, written over the note that is in it."""

    def write(self, note: str) -> None:
        """As the product's, but for the temporary file."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_over(self._path, note.encode())


class PointedAnchor(WrappedAnchor):
    """An anchor, with points around and in its taking of an object."""

    def __init__(self, inner: Anchor, points: Points) -> None:
        super().__init__(inner)
        self._points = points

    def publish(self, objects: Sequence[AnchorObject]) -> list[Receipt]:
        """As the anchor's."""
        if not objects:
            return []
        self._points.passes("publishing")
        self._points.ends_at("object_beside", "link", after=False, within="_create_readable")
        self._points.ends_at("object_linked", "link", after=True, within="_create_readable")
        receipts: list[Receipt] = self.inner.publish(objects)
        self._points.passes("published")
        return receipts


class DyingNotary(Notary):
    """The product's, made of such parts; `off`: without one of its mechanisms."""

    def __init__(
        self, settings: Settings, access: WriterAccess, clock: Clock, points: Points, off: str = ""
    ) -> None:
        early = off == "committed-before-signed"
        pointed = (SignsUncommitted if early else PointedAccess)(access, points)
        super().__init__(settings, pointed, clock)
        signing = self._signing
        assert signing is not None, "a notary that signs nothing has no such points"
        state = StateInPlace(settings.seal_state) if off == "state-replaced-whole" else signing.state
        signers = [PointedSigner(signer, points) for signer in signing.signers]
        self._signing = replace(signing, signers=signers, state=PointedState(state, points))
        if isinstance(pointed, SignsUncommitted):
            pointed.signing = signing
        anchors: Any = [PointedAnchor(anchor, points) for anchor in self._anchors]
        self._anchors, self._publisher = anchors, Publisher(pointed, anchors)
        self._sealer = self._new_sealer()
