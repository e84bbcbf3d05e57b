"""Where a ledger begins that is made again from less than there was: retention took the oldest records.

Rows are numbered from a partition's first record on, and that one is gone. But the seals of a restored journal say which
row each of them ends with, and at which position. So a ledger begins at a seal's next position, with that seal's next
row. What lies before, the *cut*, is left out of what the ledger has to meet, and named: in the database, in the journal
(an act of kind `cut`, signed like all of it), and by `verify`.

    first record left          numbering begins
    behind a seal's end        with that seal's next row
    within a seal's records    with that seal's own first row, on trial: where the seal ends, either all its rows have
                               come (what retention took had made none), or these rows are dropped and numbering goes
                               on with the next seal's first row
    behind the last seal       with the last seal's next row: what may have been in between was never sealed

All functions are the writer's, in its transaction, and change nothing unless a journal was restored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import duckdb

from skillaudit.contract.engine import engine_errors
from skillaudit.contract.errors import InvalidRecordError
from skillaudit.proof.acts import Act, ActKind, act_line, parse_act
from skillaudit.proof.journal import Journal
from skillaudit.proof.leaves import encode_act
from skillaudit.proof.leaves import parse_act as act_of_leaf
from skillaudit.proof.statements import statements

_SQL: Final = statements("sql/cuts.sql")
_RESTORING_SQL: Final = statements("sql/restoring.sql")
CUT_INCIDENT: Final = "ledger-cut"
"""The kind under which a consumer keeps a cut as an incident."""
PARTITIONS_PER_ACT_MAX: Final = 200
"""An embedded source's line of an act has some 100 bytes, an act at most 60,000."""


@dataclass(frozen=True, slots=True)
class Around:
    """The seals next to the first record that is left of a partition."""

    partition: str
    offset: int
    """Of that record."""
    before_row: int
    """The first row behind the seals whose records all lie before it."""
    before_offset: int
    """The position behind these records; 0 where there are none."""
    trial_row: int | None
    """The first row behind the next seal; None where it was the last."""
    trial_offset: int | None


@dataclass(frozen=True, slots=True)
class Trial:
    """Whether all rows of a seal are left shows at its end."""

    row: int
    """The first one behind the seal."""
    offset: int
    """The position behind the seal's records."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What is not here of a partition's ledger."""

    partition: str
    first_row: int
    """Rows below it that are not here will not come."""
    record_offset: int
    """Records below it made no rows here."""
    trial: Trial | None = None

    def __str__(self) -> str:
        """For people."""
        return (
            f"the ledger of {self.partition} begins with row {self.first_row}, at {self.record_offset}: what was sealed before"
            " is in no record that is left, and not in this database. A backup that holds it can be restored instead"
        )


def beginning(around: Around, rows_here: int) -> Cut | None:
    """Where numbering begins: None, with `rows_here`, where nothing that was sealed is known to be missing. `rows_here`:
    how many rows an older copy of the database holds already.
    """
    first = max(rows_here, around.before_row)
    partial = around.offset > around.before_offset and (around.trial_row or 0) > first
    if partial and around.trial_row is not None and around.trial_offset is not None:
        trial = Trial(around.trial_row, around.trial_offset)
        return Cut(around.partition, first, around.before_offset, trial)
    return Cut(around.partition, first, around.before_offset) if first > rows_here else None


def begin(
    cursor: duckdb.DuckDBPyConnection, firsts: Mapping[str, int], rows_here: Mapping[str, int]
) -> list[Cut]:
    """Judge partitions of which nothing was consumed yet, and write down what is missing of them.

    `firsts`: partition -> position of its first record that is left. `rows_here`: partition -> next row as it is
    without this. Nothing, unless there are restored seals to meet.
    """
    with engine_errors("find where ledgers begin"):
        if not firsts or not cursor.execute(_RESTORING_SQL["unmet_from"]).fetchall():
            return []
        cursor.execute(_SQL["make_sealed"])
        asked = {"partitions": list(firsts), "offsets": list(firsts.values())}
        found = [Around(*row) for row in cursor.execute(_SQL["around"], asked).fetchall()]
    cuts = [beginning(around, rows_here.get(around.partition, 0)) for around in found]
    made = [cut for cut in cuts if cut is not None]
    for cut in made:
        _remember(cursor, cut)
    return made


def trials(cursor: duckdb.DuckDBPyConnection) -> dict[str, Trial]:
    """The partitions of which it is open whether all rows of a seal are left."""
    with engine_errors("read where ledgers begin"):
        return {row[0]: Trial(row[1], row[2]) for row in cursor.execute(_SQL["trials"]).fetchall()}


def settle(
    cursor: duckdb.DuckDBPyConnection,
    partition: str,
    trial: Trial,
    next_row: int,
    keep: Callable[[Cut, Cut | None], None],
) -> tuple[int | None, Cut | None]:
    """The seal's records are read; `next_row`: how far numbering came. Returns from which row on they are dropped, for
    numbering goes on with the cut's `first_row` then, or None; and what is missing, None where nothing is. Rows that are
    not stored yet are the caller's to drop. `keep` is told the cut as it was tried, and what is missing, before the database.

    More rows than were sealed are no matter of retention: they stay, and the seal is not met.
    """
    dropped: int | None = None
    with engine_errors("settle where a ledger begins"):
        first, offset = cursor.execute(_SQL["cut_of"], {"partition": partition}).fetchall()[0]
        tried, cut = Cut(partition, first, offset, trial), Cut(partition, first, offset)
        if next_row < trial.row:
            cursor.execute(_SQL["drop_rows"], {"partition": partition, "row": first})
            dropped, cut = first, Cut(partition, trial.row, trial.offset)
        below = cursor.execute(_SQL["rows_below"], {"partition": partition, "row": cut.first_row}).fetchall()
        if below[0][0] == cut.first_row:
            keep(tried, None)
            cursor.execute(_SQL["forget_cut"], {"partition": partition})
            return None, None
    keep(tried, cut)
    _remember(cursor, cut)
    return dropped, cut


def end_empty(
    cursor: duckdb.DuckDBPyConnection, emptied: Mapping[str, int], is_expired: Callable[[str, int], bool]
) -> list[Cut]:
    """Partitions with seals of which no record is left: all of their rows are cut.

    `emptied`: partition -> where its next record would come. One that ends before what was sealed has not lost its oldest
    records, and is left as it is. `is_expired(partition, sealed_us)`: whether a partition is not there because what
    was sealed last at that time has been removed by rule since.
    """
    with engine_errors("find ledgers of which nothing is left"):
        if not cursor.execute(_RESTORING_SQL["unmet_from"]).fetchall():
            return []
        cursor.execute(_SQL["make_sealed"])
        rows = cursor.execute(_SQL["unbegun"]).fetchall()
    cuts = [
        Cut(partition, end_row, next_offset)
        for partition, end_row, next_offset, sealed_us in rows
        if emptied.get(partition, -1) >= next_offset or is_expired(partition, sealed_us)
    ]
    for cut in cuts:
        _remember(cursor, cut)
    return cuts


def cut_rows(cursor: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Partition -> the row before which rows may be missing."""
    with engine_errors("read where ledgers begin"):
        return {str(row[0]): int(row[1]) for row in cursor.execute(_SQL["cut_rows"]).fetchall()}


def unnamed_cuts(cursor: duckdb.DuckDBPyConnection) -> list[Cut]:
    """What is missing and no act of the journal names yet."""
    with engine_errors("read where ledgers begin"):
        return [Cut(*row) for row in cursor.execute(_SQL["unnamed"]).fetchall()]


def name_cuts(cursor: duckdb.DuckDBPyConnection, now_us: int) -> list[int]:
    """Append acts to the journal that name what is missing and was not named yet; returns the leaves' indexes."""
    cuts = unnamed_cuts(cursor)
    return [
        _name(cursor, cuts[at : at + PARTITIONS_PER_ACT_MAX], now_us)
        for at in range(0, len(cuts), PARTITIONS_PER_ACT_MAX)
    ]


def cut_act(cuts: Sequence[Cut], now_us: int) -> Act:
    """What the journal says of them: scope names the first rows, positions where their records begin."""
    name = sha256("".join(f"{cut}\n" for cut in cuts).encode() + b"%d" % now_us).hexdigest()[:32]
    return Act(
        act_id=f"cut-{name}",
        kind=ActKind.CUT,
        actor="sealer",
        at_us=now_us,
        reason="made again from records that no longer reach back to the first",
        scope={cut.partition: cut.first_row for cut in cuts},
        positions={cut.partition: cut.record_offset for cut in cuts},
    )


def cuts_in(leaf: bytes) -> list[Cut]:
    """What a leaf of the journal names as cut; nothing where it is no act of that kind."""
    try:
        act = parse_act(act_of_leaf(leaf))
    except InvalidRecordError:
        return []
    if act.kind is not ActKind.CUT:
        return []
    return [Cut(name, row, act.positions.get(name, -1)) for name, row in act.scope.items()]


def _name(cursor: duckdb.DuckDBPyConnection, cuts: Sequence[Cut], now_us: int) -> int:
    index = Journal(cursor).append(encode_act(act_line(cut_act(cuts, now_us))), now_us)
    with engine_errors("name where ledgers begin"):
        named = {"journal_idx": index, "partitions": [cut.partition for cut in cuts]}
        cursor.execute(_SQL["named"], named)
    return index


def _remember(cursor: duckdb.DuckDBPyConnection, cut: Cut) -> None:
    row = {
        "partition": cut.partition,
        "first_row": cut.first_row,
        "record_offset": cut.record_offset,
        "trial_row": cut.trial.row if cut.trial else None,
        "trial_offset": cut.trial.offset if cut.trial else None,
    }
    with engine_errors("remember where a ledger begins"):
        cursor.execute(_SQL["forget_cut"], {"partition": cut.partition})
        cursor.execute(_SQL["remember_cut"], row)
