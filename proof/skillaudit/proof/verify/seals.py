"""The seals over a run's rows of the ledger, compared with what is there now; and those that need not be read again."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from operator import itemgetter
from typing import Final, NamedTuple, Protocol

from skillaudit.contract.digests import run_hash
from skillaudit.contract.errors import InvalidRecordError
from skillaudit.proof.leaves import LedgerRow, SealedRange, encode_ledger_rows, parse_seal
from skillaudit.proof.merkle import BLOCK_LEAVES, HASH_BYTES, leaf_hash, root_of
from skillaudit.proof.policy import Grade
from skillaudit.proof.verify.engine import Engine, Row
from skillaudit.proof.verify.facts import Mark, RunFacts
from skillaudit.proof.verify.journal import JournalState

SEAL_LAG_US: Final = 600_000_000
"""A row is usually sealed within this time after it was received; beyond it the whole journal is searched."""
CLOCKS_APART_US: Final = 120_000_000
KNOWN_SEALS_MAX: Final = 256
"""Remembered for the next check: of a minute each at 160 runs a second some 2.5 MB."""
PLACES_MAX: Final = 8
"""Rows of one run that are looked for in known seals; mostly there are two."""
_EVER: Final = (-(1 << 63), (1 << 63) - 1)


class Place(Protocol):
    """A row of the ledger, by where it stands."""

    @property
    def partition(self) -> str:
        """As the ledger names it."""
        ...

    @property
    def idx(self) -> int:
        """In that partition."""
        ...


class _Place(NamedTuple):
    partition: str
    idx: int


class Seal(NamedTuple):
    """One sealed range, compared with the ledger's rows."""

    journal_idx: int
    partition: str
    first: int
    end: int
    right: bool

    def covers(self, place: Place) -> bool:
        """Whether the row is in it."""
        return self.partition == place.partition and self.first <= place.idx < self.end


class _Covering(NamedTuple):
    """A sealed range as its leaf names it."""

    journal_idx: int
    leaf: bytes
    range: SealedRange

    def covers(self, place: Place) -> bool:
        return _covers(self.range, place)

    def seal(self, *, right: bool) -> Seal:
        return Seal(self.journal_idx, self.range.partition, self.range.first, self.range.end, right)


class KnownSeals:
    """Sealed ranges with the roots of their blocks, which gave the seal's root when they were read. The leaf is proven anew
    each time: it counts where it leads to the roots of that check, whatever became of the tables meanwhile.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, str], tuple[_Covering, bytes]] = OrderedDict()

    def __len__(self) -> int:
        """How many."""
        return len(self._known)

    def covering(self, places: Sequence[Place], fits: Callable[[_Covering], bool]) -> list[_Covering] | None:
        """Those over all of these rows that fit; None where one of the rows has none."""
        found = {
            key: seal
            for key, (seal, _) in self._known.items()
            if any(seal.covers(place) for place in places) and fits(seal)
        }
        if not all(any(seal.covers(place) for seal in found.values()) for place in places):
            return None
        for key in found:
            self._known.move_to_end(key)
        return list(found.values())

    def blocks(self, seal: _Covering) -> bytes | None:
        """The roots of its blocks, where they are known."""
        key = (seal.journal_idx, seal.range.partition)
        known, blocks = self._known.get(key, (None, b""))
        return blocks if known == seal else None

    def keep(self, seal: _Covering, blocks: bytes) -> None:
        """`blocks` give the seal's root."""
        self._known[seal.journal_idx, seal.range.partition] = seal, blocks
        if len(self._known) > KNOWN_SEALS_MAX:
            self._known.popitem(last=False)


class SealedMarks(NamedTuple):
    """What the ledger says of a run, with the seals over it, all of which are right."""

    marks: list[Mark]
    seals: list[Seal]


def known_marks(
    engine: Engine, run_id: str, journal: JournalState, grade: Grade, known: KnownSeals
) -> SealedMarks | None:
    """All rows of the run, where known seals prove each of them: then their blocks are all that is read of them, and a row
    is found by the hash of its run's id alone. None: look for them, and for their seals.
    """
    look = _Look(engine, journal, grade, known)
    if not look.knows:
        return None
    rows = engine.rows("one.sql", "places_of_hash", run_hash=run_hash(run_id))
    places = [_Place(*row) for row in rows[: PLACES_MAX + 1]]
    found = look.known(places) if 0 < len(places) <= PLACES_MAX else None
    if found is None:
        return None
    marks: dict[_Place, Mark] = {}
    for it in found:
        indexes = {place.idx for place in places if it.covers(place)}
        read = look.rows_of(it, indexes)
        if read is None:
            return None
        for idx, kind, of_run, source_id, source_seq, events, head, offset, received_us in read:
            if idx in indexes and of_run == run_id:
                place = _Place(it.range.partition, idx)
                marks[place] = Mark(kind, *place, source_id, source_seq, events, head, received_us, offset)
    return SealedMarks([marks[place] for place in sorted(marks)], [it.seal(right=True) for it in found])


def seals_over(
    engine: Engine,
    facts: RunFacts,
    journal: JournalState,
    marks: Sequence[Mark],
    grade: Grade,
    known: KnownSeals,
) -> list[Seal]:
    """The seals over these rows: those that are known, or looked for near the time of the rows, then everywhere unless
    those found are proven.
    """
    if not marks:
        return []
    look = _Look(engine, journal, grade, known)
    found = look.known(marks)
    if found is None:
        times = [mark.received_us or facts.row["started_us"] for mark in marks]
        found = look.search(marks, min(times) - CLOCKS_APART_US, max(times) + SEAL_LAG_US)
    return [look.compared(it, [mark.idx for mark in marks if it.covers(mark)]) for it in found]


class _Look:
    """One look for the seals of a run, in the engine's snapshot."""

    def __init__(self, engine: Engine, journal: JournalState, grade: Grade, known: KnownSeals) -> None:
        self._engine = engine
        self._holds = journal.holds
        self._proven = journal.proven(grade)
        self._known = known

    @property
    def knows(self) -> bool:
        """Whether what is known may be used: where the whole journal was hashed, all is read that is looked at."""
        return self._holds is not None and len(self._known) > 0

    def known(self, places: Sequence[Place]) -> list[_Covering] | None:
        """None where a row has none."""
        holds = self._holds
        if holds is None:
            return None
        return self._known.covering(
            places, lambda it: it.journal_idx < self._proven and holds(it.journal_idx, it.leaf)
        )

    def search(self, marks: Sequence[Mark], low_us: int, high_us: int) -> list[_Covering]:
        found: list[_Covering] = []
        for bounds in ((low_us, high_us), _EVER):
            found = sorted(self._covering(marks, *bounds), key=itemgetter(0))
            proven = [it for it in found if it.journal_idx < self._proven]
            if all(any(it.covers(mark) for it in proven) for mark in marks):
                break
        return found

    def _covering(self, marks: Sequence[Mark], from_us: int, to_us: int) -> Iterator[_Covering]:
        names = {b"\nledger %b " % mark.partition.encode() for mark in marks}
        for chunk in self._engine.chunks("ledger.sql", "seals_between", from_us=from_us, to_us=to_us):
            for journal_idx, leaf in chunk:
                if not any(name in leaf for name in names):
                    continue
                with contextlib.suppress(InvalidRecordError):  # the check of the journal names it
                    for found in parse_seal(bytes(leaf)).ranges:
                        if any(_covers(found, mark) for mark in marks):
                            yield _Covering(journal_idx, bytes(leaf), found)

    def compared(self, it: _Covering, indexes: Collection[int]) -> Seal:
        """Against the rows of these numbers, or all."""
        right = self.rows_of(it, indexes) is not None or self._all_rows(it.range) is not None
        if self._holds is not None:
            right = right and self._holds(it.journal_idx, it.leaf)
        return it.seal(right=right)

    def rows_of(self, it: _Covering, indexes: Collection[int]) -> list[Row] | None:
        """The rows of these numbers' blocks, where they are those that were sealed; None where that can't be said."""
        seal = it.range
        if seal.count <= BLOCK_LEAVES:
            return self._all_rows(seal)
        kept = (self._known.blocks(it) if self._holds else None) or self._kept(it)
        if kept is None:
            return None
        wanted = sorted({(index - seal.first) // BLOCK_LEAVES for index in indexes})
        rows = self._rows_of_blocks(seal, wanted)
        for number in wanted:
            first = seal.first + number * BLOCK_LEAVES
            numbers = range(first, min(first + BLOCK_LEAVES, seal.end))
            root = _root([row for row in rows if row[0] in numbers], numbers)
            if root != kept[number * HASH_BYTES :][:HASH_BYTES]:
                return None
        return rows

    def _rows_of_blocks(self, seal: SealedRange, wanted: Sequence[int]) -> list[Row]:
        first, last = wanted[0], wanted[-1]
        place = {
            "partition": seal.partition,
            "first": seal.first + first * BLOCK_LEAVES,
            "end": min(seal.first + (last + 1) * BLOCK_LEAVES, seal.end),
        }
        if last - first < len(wanted):
            return self._engine.rows("one.sql", "rows_between", **place)
        blocks = {"seal_first": seal.first, "leaves": BLOCK_LEAVES, "blocks": wanted}
        return self._engine.rows("one.sql", "rows_of_blocks", **place, **blocks)

    def _all_rows(self, seal: SealedRange) -> list[Row] | None:
        place = {"partition": seal.partition, "first": seal.first, "end": seal.end}
        rows = self._engine.rows("one.sql", "rows_between", **place)
        return rows if _root(rows, range(seal.first, seal.end)) == seal.root else None

    def _kept(self, it: _Covering) -> bytes | None:
        """The roots of its blocks as they are stored, where they give the seal's."""
        seal = it.range
        found = self._engine.rows("one.sql", "roots_of_blocks", partition=seal.partition, first=seal.first)
        kept = [bytes(row[0]) for row in found]
        if len(kept) != 1 or len(kept[0]) != -(-seal.count // BLOCK_LEAVES) * HASH_BYTES:
            return None
        if root_of(kept[0]) != seal.root:
            return None
        self._known.keep(it, kept[0])
        return kept[0]


def _covers(found: SealedRange, place: Place) -> bool:
    return found.partition == place.partition and found.first <= place.idx < found.end


def _root(rows: Sequence[Row], numbers: range) -> bytes | None:
    """The root over these rows of the ledger; None where they have not these numbers, or one has no leaf."""
    rows = sorted(rows, key=itemgetter(0))
    if [row[0] for row in rows] != list(numbers):
        return None
    leaves: Sequence[LedgerRow] = [row[1:] for row in rows]
    try:
        return root_of(b"".join(map(leaf_hash, encode_ledger_rows(leaves))))
    except InvalidRecordError:
        return None
