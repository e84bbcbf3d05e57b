"""The sealer: puts the ledger's new rows into the journal, signs the journal as it stands, and remembers what it signed.

    LEDGER ROWS --hash--> SEAL --commit--> JOURNAL GREW --sign--> remembered outside --> CHECKPOINT in the database
                                                                                          (publishing.py: anchors)

Each arrow may be the last one before a crash; the next `step` goes on from there. What is signed is remembered in a
file outside the database *before* anybody sees the signature, and nothing is ever signed that does not continue it: a
database that was put back to an older copy, or changed, gets no signature.

`step` blocks: run it in a thread of its own. Without keys it seals and signs nothing; the proof's grade is then `self`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import duckdb

from skillaudit.contract.engine import engine_errors
from skillaudit.contract.errors import DatabaseError
from skillaudit.contract.outbox.files import read_optional, write_atomically
from skillaudit.contract.words import counted
from skillaudit.proof import merkle
from skillaudit.proof.checkpoint import Checkpoint, open_checkpoint
from skillaudit.proof.cuts import cut_rows, name_cuts, unnamed_cuts
from skillaudit.proof.decided import CutState, check_decided, check_leaves, file_errors, forget_decided
from skillaudit.proof.engine import ProofDatabase
from skillaudit.proof.errors import NoteError, SigningRefusedError
from skillaudit.proof.journal import Journal
from skillaudit.proof.leaves import SealedRange, encode_act, split_seal
from skillaudit.proof.notes import NoteSigner, NoteVerifier
from skillaudit.proof.restoring import all_met, unmet_from, unmet_seals
from skillaudit.proof.sealing import RowRange, SealPolicy, choose, pending, seal_due
from skillaudit.proof.statements import statements

_SQL: Final = statements("sql/sealer.sql")
OBJECT_BYTES_MAX: Final = 640 * 1024
"""Leaves between two checkpoints: with its checkpoint they are one object of an anchor, below Kafka's usual 1 MB."""
OBJECT_LEAVES_MAX: Final = 1_024
CHECKPOINTS_PER_STEP_MAX: Final = 64
INCIDENTS_PER_SEAL_MAX: Final = 100
BLOCK_HEIGHT: Final = merkle.BLOCK_LEAVES.bit_length() - 1
"""Of a seal of more rows the roots of its blocks of 64 rows are kept, so that one row is proven by its block."""
RECORD_ROWS_MAX: Final = 1_001
"""Rows that one record gives: each run that it lists, and the final count. A record is sealed whole."""
LACKING_TOLD_MAX: Final = 5
_SEALS_READ: Final = 10_000
_WHAT: Final = "what was signed last"

_log = logging.getLogger("skillaudit.proof")


class CheckpointState(Protocol):
    """Where the last signed checkpoint is kept, apart from the database."""

    def read(self) -> str | None:
        """The note; None where nothing was signed yet."""
        ...

    def write(self, note: str) -> None:
        """Keep the note instead of the last one. It is on the disk when this returns."""
        ...


class FileState:
    """`CheckpointState` in a file. Best on another disk than the database, or with another owner.

    `RetryableError` where the file can't be read or written: nothing is signed meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> str | None:
        """As `CheckpointState.read`."""
        with file_errors("read", self._path, _WHAT):
            content = read_optional(self._path)
        try:
            return None if content is None else content.decode()
        except UnicodeDecodeError as exc:
            raise NoteError(
                f"{self._path} holds no checkpoint; put it back, or take the newest of an anchor"
            ) from exc

    def write(self, note: str) -> None:
        """As `CheckpointState.write`."""
        with file_errors("write", self._path, _WHAT):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, note.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """With which keys the journal is signed, and what was signed last.

    To change a key, sign with both for a while: put the new one first, and drop the old one after the next seal.
    """

    signers: Sequence[NoteSigner]
    state: CheckpointState
    former: Sequence[NoteVerifier] = ()
    """Keys that signed before and sign no more: they may have signed what `state` holds."""
    cuts: CutState | None = None
    """What the consumer decided that a database made again lacks. Nothing else of that kind is signed."""

    @property
    def origin(self) -> str:
        """The log's name: that of the first key."""
        return self.signers[0].verifier.name

    @property
    def verifiers(self) -> list[NoteVerifier]:
        """Every key whose signature on the last checkpoint counts."""
        return [*(signer.verifier for signer in self.signers), *self.former]


class Prover(Protocol):
    """Recomputes what a seal covers, before it is sealed."""

    def __call__(
        self, cursor: duckdb.DuckDBPyConnection, ranges: Sequence[SealedRange], now_us: int
    ) -> Sequence[bytes]:
        """Check the runs whose finish is among these rows of the ledger, set-wise, reading by `cursor`.

        Returns one line of JSON per mismatch: an act of kind `incident`, as it goes into the journal behind the seal.
        Of more than `INCIDENTS_PER_SEAL_MAX` the first are taken. Holds no lock; raises only what ends the step.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one `Sealer.step` did."""

    rows: int = 0
    """Rows of the ledger that it sealed."""
    leaves: tuple[int, ...] = ()
    """Indexes of the leaves it appended, incidents included."""
    incidents: int = 0
    signed: tuple[Checkpoint, ...] = ()
    behind_rows: int = 0
    """Rows that wait for the next seal."""
    more: bool = False
    """Whether to call again at once: it is behind."""
    lacking: tuple[str, ...] = ()
    """Of a restored journal's seals: partitions with the rows that are not there, `LACKING_TOLD_MAX` at most."""


@dataclass(frozen=True, slots=True)
class _Hashed:
    """Ranges of the ledger, hashed."""

    sealed: list[SealedRange]
    nodes: dict[SealedRange, bytes]
    """The roots of the blocks of those that have more than one."""
    last_rowid: int
    """The least of the partitions' last row ids."""


@dataclass(frozen=True, slots=True)
class _Batch:
    sealed: tuple[SealedRange, ...]
    nodes: dict[SealedRange, bytes]
    incidents: tuple[bytes, ...]
    from_rowid: int
    """Below this row id the ledger has nothing that the next seal needs."""


class Sealer:
    """Seals, checks, signs. One per database, one thread at a time.

    Errors of `step` and `meet`: `SigningRefusedError` where the journal is no continuation of what was signed, or a cut is in
    it or waits for it that the consumer did not decide (sealing stops for good; a person has to look), `DatabaseError` for a ledger with holes or an engine that refuses.
    """

    def __init__(
        self,
        database: ProofDatabase,
        *,
        policy: SealPolicy | None = None,
        signing: Signing | None = None,
        prover: Prover | None = None,
    ) -> None:
        """`signing`: None where no key is configured."""
        self._database = database
        self._policy = policy or SealPolicy()
        self._signing = signing
        self._prover = prover
        self._sealed: dict[str, int] | None = None
        self._last_us: int | None = None
        self._from_rowid = 0
        self._resumed = False
        self._unmet = True
        self._to_meet: dict[str, int] | None = None
        self._lacking: tuple[str, ...] = ()
        self._forgot = False

    def __repr__(self) -> str:
        """Whether it signs."""
        return f"Sealer({self._signing.origin if self._signing else 'without a key'})"

    def step(self, now_us: int, *, force: bool = False) -> StepReport:
        """Seal what is due, then sign the journal if it grew, whoever appended to it.

        `now_us`: wall clock, microseconds. `force`: seal what waits, however little; nothing where nothing waits.
        Where nothing is due it costs a few small reads: call it once a second.
        """
        if self._signing and not self._resumed:
            self._resume(self._signing, now_us)
        with contextlib.closing(self._database.cursor()) as cursor:
            waiting = self._pending(cursor) if self._meets(cursor, now_us) else []
            rows = sum(part.rows for part in waiting)
            forced = force or self._unmet
            due = bool(waiting) if forced else seal_due(self._policy, now_us, self._last_us, waiting)
            batch = self._prepared(cursor, waiting, now_us) if due else None
        leaves = self._append(batch, now_us) if batch else ()
        count = sum(part.count for part in batch.sealed) if batch else 0
        signed = self._sign(self._signing, now_us) if self._signing else ()
        if self._signing and not self._unmet and not self._forgot and len(signed) < CHECKPOINTS_PER_STEP_MAX:
            forget_decided(self._signing.cuts)
            self._forgot = True
        return StepReport(
            rows=count,
            leaves=leaves,
            incidents=len(batch.incidents) if batch else 0,
            signed=signed,
            behind_rows=rows - count,
            more=bool(batch) and rows - count >= self._policy.rows_max,
            lacking=self._lacking,
        )

    def meet(self, note: str) -> None:
        """Take a checkpoint that an anchor holds as signed before: the journal has to contain it from now on.

        Called with each anchor's newest checkpoint before the first step, so that a database and a state file that were
        both put back are not signed over. Does nothing without keys. `NoteError` where no key of ours signed it.
        """
        if self._signing is None:
            return
        found = self._opened(self._signing, note)
        last = self._last(self._signing)
        with contextlib.closing(self._database.cursor()) as cursor:
            _check_contains(Journal(cursor), found)
        if last is None or found.size > last.size:
            self._signing.state.write(note)

    # Sealing

    def _meets(self, cursor: duckdb.DuckDBPyConnection, now_us: int) -> bool:
        """Whether the ledger has met the seals of a restored journal, but for what is cut; false as long as rows are missing.

        Raises `SigningRefusedError` where they are all there and are others than those sealed.
        """
        first = unmet_from(cursor) if self._unmet else None
        if first is None:
            self._unmet, self._lacking = False, ()
            return True
        if self._signing is not None:
            check_decided(self._signing.cuts, unnamed_cuts(cursor))
        with engine_errors("read the ledger's ends"):
            ends = {str(row[0]): int(row[1]) for row in cursor.execute(_SQL["ends"]).fetchall()}
        cut = cut_rows(cursor)
        if self._to_meet is None:
            self._to_meet = _sealed_ends(cursor, None)
        here = {name: max(ends.get(name, 0), cut.get(name, 0)) for name in self._to_meet}
        lacking = [
            f"{name} rows {here[name]} to {end - 1}"
            for name, end in self._to_meet.items()
            if here[name] < end
        ]
        self._lacking = tuple(sorted(lacking)[:LACKING_TOLD_MAX])
        if lacking:
            return False
        unmet = next(unmet_seals(cursor, first, Journal(cursor).size(), cut), None)
        if unmet is not None:
            raise SigningRefusedError(
                f"the ledger made from the events is not the one that was sealed: {unmet}. Nothing is sealed; run"
                " `skillaudit verify`"
            )
        with self._database.transaction("remember that the ledger met its seals") as writing:
            all_met(writing)
            name_cuts(writing, now_us)
        self._unmet = False
        return True

    def _pending(self, cursor: duckdb.DuckDBPyConnection) -> list[RowRange]:
        with engine_errors("read the ledger's ends"):
            ends = {str(row[0]): int(row[1]) for row in cursor.execute(_SQL["ends"]).fetchall()}
            if self._sealed is None:
                self._sealed = _sealed_ends(cursor, set(ends))
                last = cursor.execute(_SQL["last_seal"]).fetchone()
                self._last_us = None if last is None or last[0] is None else int(last[0])
        return pending(ends, self._sealed)

    def _prepared(
        self, cursor: duckdb.DuckDBPyConnection, waiting: Sequence[RowRange], now_us: int
    ) -> _Batch:
        """What the next seal says; nothing is locked meanwhile, for the ledger's rows never change."""
        last = self._last(self._signing) if self._signing else None
        if last is not None:
            _check_contains(Journal(cursor), last)
        chosen = choose(self._policy, waiting)
        # The newest rows are looked at first; where they moved (the engine renumbers rows), all of them.
        found = _hashed(cursor, chosen, self._from_rowid) or _hashed(cursor, chosen, 0)
        if found is None:
            names = ", ".join(part.partition for part in chosen[:3])
            raise DatabaseError(f"the ledger of {names} has not the rows it counts; run `skillaudit verify`")
        lines = self._prover(cursor, found.sealed, now_us) if self._prover and found.sealed else ()
        whole = len(chosen) == len(waiting)
        from_rowid = found.last_rowid if whole and chosen else self._from_rowid
        return _Batch(tuple(found.sealed), found.nodes, tuple(lines)[:INCIDENTS_PER_SEAL_MAX], from_rowid)

    def _append(self, batch: _Batch, now_us: int) -> tuple[int, ...]:
        leaves = [seal.encode() for seal in split_seal(now_us, batch.sealed)]
        leaves += [encode_act(line) for line in batch.incidents]
        known, self._sealed = self._sealed or {}, None  # read again if the transaction fails
        with self._database.transaction("seal the ledger") as cursor:
            journal = Journal(cursor)
            indexes = tuple(journal.append(leaf, now_us) for leaf in leaves)
            for part, hashes in batch.nodes.items():
                row = {"partition": part.partition, "first_row": part.first, "hashes": hashes}
                cursor.execute(_SQL["add_nodes"], row)
        self._sealed = known | {part.partition: part.end for part in batch.sealed}
        self._last_us, self._from_rowid = now_us, batch.from_rowid
        return indexes

    # Signing

    def _resume(self, signing: Signing, now_us: int) -> None:
        """Go on from what was signed last: the journal has it, and it has its row, wherever a crash came between."""
        last = self._last(signing)
        if last is not None:
            with contextlib.closing(self._database.cursor()) as cursor:
                _check_contains(Journal(cursor), last)
            note = signing.state.read()
            if note:
                self._record(last.size, note, now_us)
            else:
                signing.state.write(self._newest_note() or "")
        self._resumed = True

    def _sign(self, signing: Signing, now_us: int) -> tuple[Checkpoint, ...]:
        """Sign the journal where it grew, in portions that an anchor takes as one object."""
        signed: list[Checkpoint] = []
        for _ in range(CHECKPOINTS_PER_STEP_MAX):
            with contextlib.closing(self._database.cursor()) as cursor:
                checkpoint = self._next_checkpoint(signing, cursor)
            if checkpoint is None:
                break
            note = checkpoint.signed(signing.signers)
            signing.state.write(note)
            self._resumed = False  # until it has its row
            self._record(checkpoint.size, note, now_us)
            self._resumed = True
            signed.append(checkpoint)
        return tuple(signed)

    def _next_checkpoint(self, signing: Signing, cursor: duckdb.DuckDBPyConnection) -> Checkpoint | None:
        last = self._last(signing)
        first = last.size if last else 0
        bounds = {"first": first, "bytes_max": OBJECT_BYTES_MAX, "leaves_max": OBJECT_LEAVES_MAX}
        with engine_errors("read how far the journal grew"):
            row = cursor.execute(_SQL["grown"], bounds).fetchone()
        if row is None or row[0] is None:
            return None
        journal, size = Journal(cursor), int(row[0])
        check_leaves(signing.cuts, journal.iterate(first, size))
        root = journal.root(size)
        if last is not None and not merkle.verify_consistency(
            last.size, last.root, size, root, journal.consistency_proof(last.size, size)
        ):
            raise _refused(last, f"at {size} it is another history")
        return Checkpoint(signing.origin, size, root)

    def _last(self, signing: Signing) -> Checkpoint | None:
        """What was signed last, by the state outside; where that is empty, by the database."""
        note = signing.state.read() or self._newest_note()
        return None if note is None else self._opened(signing, note)

    def _newest_note(self) -> str | None:
        with contextlib.closing(self._database.cursor()) as cursor, engine_errors("read the checkpoints"):
            row = cursor.execute(_SQL["newest_checkpoint"]).fetchone()
        return None if row is None else str(row[0])

    def _opened(self, signing: Signing, note: str) -> Checkpoint:
        checkpoint, by = open_checkpoint(note, signing.verifiers)
        if not by:
            raise NoteError(
                f"the checkpoint of {checkpoint.origin} at {checkpoint.size} is signed by none of our keys; after a change"
                " of keys sign with the old one, too, until the next seal"
            )
        if checkpoint.origin != signing.origin:
            raise NoteError(
                f"the last checkpoint is of {checkpoint.origin}, the key's name is {signing.origin}"
            )
        return checkpoint

    def _record(self, size: int, note: str, now_us: int) -> None:
        with contextlib.closing(self._database.cursor()) as cursor, engine_errors("read the checkpoints"):
            row = cursor.execute(_SQL["checkpoint_at"], {"size": size}).fetchone()
        if row is not None and row[0]:
            return
        with (
            self._database.transaction("record a checkpoint") as cursor,
            engine_errors("record a checkpoint"),
        ):
            cursor.execute(_SQL["add_checkpoint"], {"size": size, "note": note, "signed_us": now_us})


def _sealed_ends(cursor: duckdb.DuckDBPyConnection, partitions: set[str] | None) -> dict[str, int]:
    """How far each of the partitions is sealed by the journal's seals, looked for from its end; None: of all there are."""
    sealed: dict[str, int] = {}
    end = Journal(cursor).size()
    while end > 0 and (partitions is None or not partitions <= sealed.keys()):
        bounds = {"first": max(0, end - _SEALS_READ), "end": end}
        for partition, rows in cursor.execute(_SQL["sealed"], bounds).fetchall():
            sealed[partition] = max(int(rows), sealed.get(partition, 0))
        end = bounds["first"]
    return sealed


def _hashed(cursor: duckdb.DuckDBPyConnection, chosen: Sequence[RowRange], from_rowid: int) -> _Hashed | None:
    """None where rows were not found."""
    if not chosen:
        return _Hashed([], {}, from_rowid)
    parameters = {
        "partitions": [part.partition for part in chosen],
        "firsts": [part.first for part in chosen],
        "ends": [part.end for part in chosen],
        "from_rowid": from_rowid,
        "record_rows_max": RECORD_ROWS_MAX,
        "block_height": BLOCK_HEIGHT,
    }
    with engine_errors("hash the ledger's rows"):
        rows = cursor.execute(_SQL["roots"], parameters).fetchall()
    if len(rows) != len(chosen):
        return None
    sealed: list[SealedRange] = []
    nodes: dict[SealedRange, bytes] = {}
    for part, (partition, first, last, count, last_offset, _, root, hashes) in zip(chosen, rows, strict=True):
        if (partition, first, count) != (part.partition, part.first, last + 1 - first) or last + 1 < part.end:
            return None
        found = SealedRange(partition, first, count, bytes(root), last_offset + 1)
        sealed.append(found)
        if hashes is not None:
            nodes[found] = b"".join(map(bytes, hashes))
    return _Hashed(sealed, nodes, min(int(row[5]) for row in rows))


def _check_contains(journal: Journal, signed: Checkpoint) -> None:
    """Raise unless the journal's beginning is what was signed."""
    size = journal.size()
    if size < signed.size:
        raise _refused(signed, f"it has {counted(size, 'leaf', 'leaves')}")
    if journal.root(signed.size) != signed.root:
        raise _refused(signed, "its beginning is another")


def _refused(signed: Checkpoint, how: str) -> SigningRefusedError:
    return SigningRefusedError(
        f"the journal does not continue the checkpoint of {counted(signed.size, 'leaf', 'leaves')} that was signed: {how}. Nothing is sealed"
        " or signed until its leaves are put back: from an anchor that holds them, or with a backup; look with `skillaudit"
        " verify`. Where neither is left, a new journal is begun on purpose: with a key of another name"
        " (`skillaudit keys new`), another seal_state_file and other anchors; what was signed before then proves nothing here"
    )
