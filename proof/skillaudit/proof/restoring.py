"""The journal made again from an anchor, for a database that was rebuilt or lost its end.

The anchor's objects hold every leaf. They are put back as they were, under the checkpoints that were signed over them;
the ledger comes back from the events, by itself. From then on there are seals that this ledger has not *met* yet: until
it has, and every root agrees, nothing new is sealed. What is in no record that is left can't be met (`cuts.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Final

import duckdb

from skillaudit.contract.engine import engine_errors
from skillaudit.contract.words import counted
from skillaudit.proof.anchors.base import StoredObject
from skillaudit.proof.checkpoint import Checkpoint, open_checkpoint
from skillaudit.proof.engine import ProofDatabase
from skillaudit.proof.errors import AnchorConflictError, AnchorContentError
from skillaudit.proof.journal import Journal
from skillaudit.proof.leaves import SealedRange, leaf_kind, parse_seal
from skillaudit.proof.notes import NoteVerifier
from skillaudit.proof.statements import statements

_SQL: Final = statements("sql/restoring.sql")
_SEALER_SQL: Final = statements("sql/sealer.sql")
CHECKED_ROWS_MAX: Final = 500_000
"""Rows of the ledger that one check hashes, a seal's more or less."""
CHECKED_SEALS_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class UnmetSeal:
    """A sealed range that the ledger does not agree with."""

    journal_index: int
    sealed: SealedRange
    rows: int
    """How many of its rows the ledger holds. All of them: another root."""

    def __str__(self) -> str:
        """One line for people."""
        what = f"{self.sealed.partition} rows {self.sealed.first} to {self.sealed.end - 1}"
        how = (
            "another root"
            if self.rows == self.sealed.count
            else f"{self.rows:,} of {counted(self.sealed.count, 'row')}"
        )
        return f"{what}, sealed in journal {self.journal_index}: {how}"


def restore_journal(
    database: ProofDatabase, objects: Iterable[StoredObject], verifiers: Sequence[NoteVerifier]
) -> Checkpoint | None:
    """Append what the journal lacks from an anchor's objects, in their order; returns the last checkpoint it then has.

    Each object goes in with a transaction of its own, after its checkpoint was found signed by one of the verifiers.
    Call it before anything is consumed, and stop on errors: `AnchorContentError` for an object that is signed by
    nobody known or lacks leaves, `AnchorConflictError` where the journal or another object says something else.
    """
    last: Checkpoint | None = None
    for stored in objects:
        checkpoint, by = open_checkpoint(stored.content.note, verifiers)
        if not by:
            raise AnchorContentError(f"{stored.place}: signed by none of the keys given; is one missing?")
        if last is not None and checkpoint.origin != last.origin:
            raise AnchorConflictError(f"{stored.place} is of another log, {checkpoint.origin}")
        with database.transaction("restore the journal") as cursor:
            _restore(cursor, stored, checkpoint)
        last = checkpoint if last is None or checkpoint.size > last.size else last
    return last


def _restore(cursor: duckdb.DuckDBPyConnection, stored: StoredObject, checkpoint: Checkpoint) -> None:
    journal, content = Journal(cursor), stored.content
    size = journal.size()
    if size < content.first:
        raise AnchorContentError(
            f"{stored.place} begins at leaf {content.first}, the ones from {size} on are missing"
        )
    for leaf in content.leaves[size - content.first :] if size < checkpoint.size else ():
        journal.append(leaf, stored.at_us)
    if journal.root(checkpoint.size) != checkpoint.root:
        raise AnchorConflictError(f"{stored.place}: the journal has another root at {checkpoint.size}")
    if size == journal.size():
        return
    with engine_errors("restore the journal"):
        cursor.execute(_SQL["set_unmet_from"], {"index": size})
        cursor.execute(_SQL["set_restored"], {"token": token_hex(8)})
        row = cursor.execute(_SEALER_SQL["checkpoint_at"], {"size": checkpoint.size}).fetchone()
        if row is None or not row[0]:
            signed = {"size": checkpoint.size, "note": content.note, "signed_us": stored.at_us}
            cursor.execute(_SEALER_SQL["add_checkpoint"], signed)


def unmet_from(cursor: duckdb.DuckDBPyConnection) -> int | None:
    """The first leaf whose seals the ledger has still to meet; None where it has met all."""
    with engine_errors("read what the ledger has to meet"):
        row = cursor.execute(_SQL["unmet_from"]).fetchone()
    return None if row is None else int(row[0])


def all_met(cursor: duckdb.DuckDBPyConnection) -> None:
    """Remember that `unmet_seals` found nothing; in the caller's transaction."""
    with engine_errors("remember that the ledger met its seals"):
        cursor.execute(_SQL["all_met"])


def unmet_seals(
    cursor: duckdb.DuckDBPyConnection, first: int, end: int, cut: Mapping[str, int] | None = None
) -> Iterator[UnmetSeal]:
    """Compare the seals among the leaves `[first, end)` with the ledger, hashed in the engine, portion by portion. `cut`:
    partition -> the row below which rows may be missing; those that are there count.
    """
    portion: list[tuple[int, SealedRange]] = []
    for index, leaf in enumerate(Journal(cursor).iterate(first, end), first):
        if leaf_kind(leaf) == "seal":
            portion += [(index, sealed) for sealed in parse_seal(leaf).ranges]
        rows = sum(sealed.count for _, sealed in portion)
        if rows >= CHECKED_ROWS_MAX or len(portion) >= CHECKED_SEALS_MAX:
            yield from _unmet(cursor, portion, cut or {})
            portion = []
    if portion:
        yield from _unmet(cursor, portion, cut or {})


def _unmet(
    cursor: duckdb.DuckDBPyConnection, portion: Sequence[tuple[int, SealedRange]], cut: Mapping[str, int]
) -> list[UnmetSeal]:
    parameters = {
        "partitions": [sealed.partition for _, sealed in portion],
        "firsts": [sealed.first for _, sealed in portion],
        "ends": [sealed.end for _, sealed in portion],
    }
    with engine_errors("hash the ledger's rows"):
        rows = cursor.execute(_SQL["range_roots"].format(schema="store"), parameters).fetchall()
    found = {(row[0], row[1]): (row[2], row[3] + 1, bytes(row[4])) for row in rows}
    missing = (0, 0, b"")
    unmet = [
        UnmetSeal(index, sealed, found.get((sealed.partition, sealed.first), missing)[0])
        for index, sealed in portion
        if found.get((sealed.partition, sealed.first)) != (sealed.count, sealed.next_offset, sealed.root)
    ]
    return [
        it for it in unmet if it.rows >= it.sealed.count or it.sealed.end > cut.get(it.sealed.partition, 0)
    ]
