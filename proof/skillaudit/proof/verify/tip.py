"""The journal, as far as the check of one run needs it: its newest states and the leaves of the run's seals are proven by
the stored tiles, instead of hashing all leaves anew.

Tiles are not believed: a root that they give is compared with what was signed and anchored, and a leaf counts where an
inclusion proof leads from its own bytes to these roots. This look only ever says yes: where anything is not plainly right,
`check_journal` looks at all of it, and says what.
"""

from __future__ import annotations

from dataclasses import replace

from skillaudit.proof import merkle
from skillaudit.proof.findings import Findings
from skillaudit.proof.journal import Subtrees
from skillaudit.proof.merkle import leaf_hash
from skillaudit.proof.tiles import TILE_BYTES, TILE_WIDTH, Tile, tile_root
from skillaudit.proof.verify.engine import Engine, Row
from skillaudit.proof.verify.journal import JournalState, judge_journal, judge_reading, read_checkpoints
from skillaudit.proof.verify.request import VerifyRequest
from skillaudit.proof.verify.witness import AnchorReading

FILE = "tip.sql"


class JournalTip:
    """The look, and the hashes and the newest checkpoints that it read: a journal that has not grown has no others. A leaf
    counts where its own bytes lead to a root over them, whatever became of the database meanwhile.
    """

    def __init__(self) -> None:
        self._tip: _Tip | None = None
        self._notes: list[Row] = []

    def prove(
        self, engine: Engine, request: VerifyRequest, findings: Findings, now_us: int
    ) -> JournalState | None:
        """In the engine's snapshot; its `holds` proves single leaves. None where this look can't say that all is right:
        then `findings` are not to be used.
        """
        size, count = engine.rows(FILE, "size")[0]
        if size != count:
            return None
        tip = self._read(engine, size)
        newest = [_newest(reading) for reading in request.anchors]
        # Mostly the newest is of the whole journal; looking for the largest takes three times as long.
        notes = self._notes or engine.rows(FILE, "newest_checkpoints")
        signed = list(read_checkpoints(notes, request.policy, findings))
        sizes = {it.size for it in signed} | {it.size for reading in newest for it in reading.checkpoints}
        if any(not 0 < wanted <= size for wanted in sizes):
            return None
        try:
            roots = {wanted: tip.root(wanted) for wanted in sorted(sizes | {size}, reverse=True)}
        except _MissingError:
            return None
        state = JournalState(size=size, root=roots[size].hex(), holds=tip.holds)
        for reading in request.anchors:
            findings.add_all(judge_reading(reading, request.policy))
        judge_journal(replace(request, anchors=tuple(newest)), signed, roots, state, findings, now_us)
        if findings.counts:
            self._tip = None
            return None
        return state

    def _read(self, engine: Engine, size: int) -> _Tip:
        if self._tip is None or self._tip.size != size:
            self._tip, self._notes = _Tip(engine, size), []
        self._tip.engine = engine
        if not self._notes:
            self._notes = engine.rows(FILE, "checkpoints_from", size=size)
        return self._tip


def _newest(reading: AnchorReading) -> AnchorReading:
    """Whatever is below the newest checkpoint is proven with it."""
    newest = max(reading.checkpoints, key=lambda it: it.size, default=None)
    return replace(reading, checkpoints=() if newest is None else (newest,))


class _MissingError(Exception):
    """A leaf or a tile is not there, or has another form."""


class _Tip:
    """Roots of the journal, and leaves proven against them."""

    def __init__(self, engine: Engine, size: int) -> None:
        self.engine = engine
        """Of the check that is made now."""
        self.size = size
        self._tiles: dict[tuple[int, int], bytes] = {}
        self._trees: dict[int, tuple[bytes, Subtrees]] = {}

    def root(self, size: int) -> bytes:
        """The root of the first `size` leaves; `_MissingError`."""
        if size in self._trees:
            return self._trees[size][0]
        subtrees = Subtrees(self._tile, size)
        self._trees[size] = merkle.root(size, subtrees), subtrees
        return self._trees[size][0]

    def holds(self, index: int, leaf: bytes) -> bool:
        """Whether this is the journal's leaf of that number: under every root that was computed and reaches it. What
        is under the journal's own root and no other is proven to no higher grade.
        """
        if not 0 <= index < self.size:
            return False
        hashed = leaf_hash(leaf)
        try:
            return all(
                merkle.verify_inclusion(
                    hashed, index, size, merkle.inclusion_proof(index, size, subtrees), root
                )
                for size, (root, subtrees) in self._trees.items()
                if index < size
            )
        except _MissingError:
            return False

    def _tile(self, tile: Tile) -> bytes:
        """As the widest tree has it: a smaller one's hashes are its first ones."""
        found = self._tiles.get((tile.level, tile.index))
        if found is None:
            first, end = tile.first, tile.first + TILE_WIDTH
            if tile.complete:
                found = self._stored(tile.level, tile.index, tile.index + 1)[0]
            elif tile.level == 0:
                rows = self.engine.rows(FILE, "leaves", first=first, end=end)
                found = b"".join(map(leaf_hash, _in_order(rows, first, min(end, self.size))))
            else:
                found = b"".join(map(tile_root, self._stored(tile.level - 1, first, first + tile.width)))
            self._tiles[tile.level, tile.index] = found
        return found[: tile.width * merkle.HASH_BYTES]

    def _stored(self, level: int, first: int, end: int) -> list[bytes]:
        found = _in_order(self.engine.rows(FILE, "tiles", level=level, first=first, end=end), first, end)
        if any(len(hashes) != TILE_BYTES for hashes in found):
            raise _MissingError
        return found


def _in_order(rows: list[Row], first: int, end: int) -> list[bytes]:
    rows = sorted(rows)
    if [row[0] for row in rows] != list(range(first, end)):
        raise _MissingError
    return [bytes(row[1]) for row in rows]
