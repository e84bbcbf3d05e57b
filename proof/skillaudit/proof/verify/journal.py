"""The journal: its tree computed anew, and held against tiles, checkpoints and what the anchors said."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from skillaudit.contract.words import counted
from skillaudit.proof.checkpoint import read_checkpoint
from skillaudit.proof.errors import NoteError
from skillaudit.proof.findings import FINDINGS_MAX, Finding, Findings, Kind
from skillaudit.proof.merkle import HASH_BYTES, CompactRange, leaf_hash
from skillaudit.proof.policy import Grade, Policy
from skillaudit.proof.tiles import TILE_BYTES, TILE_WIDTH, tile_root
from skillaudit.proof.verify.engine import Engine, Row
from skillaudit.proof.verify.request import VerifyRequest
from skillaudit.proof.verify.witness import Anchored, AnchorReading, signers

FILE: Final = "journal.sql"
MEMORY: Final = "memory"
"""Trust of what the verifier remembers from an earlier check: it shows what changed, and proves nothing to others."""
APPENDED: Final = "kafka:"
"""How anchors are called in which the newest object has no place of its own."""
_US: Final = 1_000_000
ORDER_APART_US: Final = 300_000_000
"""An anchor's clock may be set back by so much, and the files of a copied one be written in any order."""


@dataclass(slots=True)
class JournalState:
    """What there is, and how far it is proven."""

    size: int = 0
    root: str = ""
    signed_size: int = 0
    """Leaves under the newest checkpoint that a key of the policy signed and that the journal agrees with."""
    anchored_size: int = 0
    """Leaves under the newest anchored checkpoint that the journal agrees with, of an anchor in other hands."""
    anchored_at_us: int | None = None
    anchors: list[str] = field(default_factory=list[str])
    """Those that agree."""
    holds: Callable[[int, bytes], bool] | None = None
    """Whether a leaf is proven to stand at that index; None: all leaves were hashed."""

    def proven(self, grade: Grade) -> int:
        """How many leaves are proven to this grade."""
        return {Grade.SELF: self.size, Grade.SIGNED: self.signed_size, Grade.ANCHORED: self.anchored_size}[
            grade
        ]

    def vouched(self, request: VerifyRequest) -> int:
        """How many leaves are more than the database's own word, where the policy asks for more than that. An anchor that can't
        be asked is no reason to call what it may hold a violation, if there are no keys to tell by.
        """
        policy = request.policy
        unknown = not policy.keys and any(reading.error for reading in request.anchors)
        if policy.grade is Grade.SELF or unknown:
            return self.size
        return max(self.signed_size, self.anchored_size)


@dataclass(frozen=True, slots=True)
class Signed:
    """A checkpoint in the database."""

    origin: str
    size: int
    root: bytes
    signed_by: tuple[str, ...]


def check_journal(engine: Engine, request: VerifyRequest, findings: Findings, now_us: int) -> JournalState:
    """In the engine's snapshot. Anchors are those of the request: read by whoever asks, not by who is asked."""
    signed = list(read_checkpoints(engine.rows(FILE, "checkpoints"), request.policy, findings))
    anchored = [checkpoint for reading in request.anchors for checkpoint in reading.checkpoints]
    numbers: list[int] = []
    roots, hashes = _roots(engine, {it.size for it in signed} | {it.size for it in anchored}, numbers)
    findings.add_all(_shape(engine, numbers))
    size = max(roots, default=0)
    state = JournalState(size=size, root=roots.get(size, b"").hex())
    findings.add_all(_tiles(engine, hashes))
    judge_journal(request, signed, roots, state, findings, now_us, hashes)
    engine.tell("journal", size, size)
    return state


def judge_journal(
    request: VerifyRequest,
    signed: Sequence[Signed],
    roots: Mapping[int, bytes],
    state: JournalState,
    findings: Findings,
    now_us: int,
    hashes: Sequence[bytes] = (),
) -> None:
    """Roots of the journal against what was signed and anchored; what agrees goes to `state`. `hashes`: of all leaves."""
    _against_checkpoints(signed, roots, state, findings)
    findings.add_all(_forks(signed, request.anchors))
    for reading in request.anchors:
        _against_anchor(reading, request.policy, roots, hashes, state, findings)
    findings.add_all(_grades(request, state, now_us))


def _shape(engine: Engine, numbers: Sequence[int]) -> Iterator[Finding]:
    if list(numbers) == list(range(len(numbers))):
        return
    for low, high in engine.rows(FILE, "missing", limit=FINDINGS_MAX + 1):
        says = "is gone" if low == high else f"to {high} are gone"
        yield Finding(Kind.JOURNAL_ALTERED, says, {"journal_idx": low})
    if len(set(numbers)) != len(numbers) or min(numbers) < 0:
        yield Finding(Kind.JOURNAL_ALTERED, "leaves have one number twice, or numbers below 0")


def read_checkpoints(rows: Iterable[Row], policy: Policy, findings: Findings) -> Iterator[Signed]:
    """The database's checkpoints, by their rows; what is wrong with their notes goes to `findings`."""
    for size, note in rows:
        try:
            checkpoint = read_checkpoint(note)
        except NoteError as exc:
            findings.add(Finding(Kind.SIGNATURE_BAD, f"the checkpoint of {size} is none: {exc}"))
            continue
        signed_by, bad = signers(note, policy.keys)
        if bad:
            findings.add(
                Finding(Kind.SIGNATURE_BAD, f"a signature under the checkpoint of {size} is not its key's")
            )
        elif policy.keys and not signed_by:
            findings.add(
                Finding(Kind.UNKNOWN_KEY, f"the checkpoint of {size} is signed by none of the policy's keys")
            )
        if checkpoint.size != size:
            findings.add(
                Finding(Kind.JOURNAL_ALTERED, f"the checkpoint stored for {size} is of {checkpoint.size}")
            )
        yield Signed(checkpoint.origin, checkpoint.size, checkpoint.root, signed_by)


def _roots(engine: Engine, sizes: Iterable[int], numbers: list[int]) -> tuple[dict[int, bytes], list[bytes]]:
    """The root at each of these sizes that the journal reaches, and at its own; and the hashes of all leaves. Their
    numbers as stored go to `numbers`.
    """
    wanted = set(sizes)
    tree, roots, hashes = CompactRange(), dict[int, bytes](), list[bytes]()
    for chunk in engine.chunks(FILE, "leaf_hashes"):
        for number, leaf in chunk:
            numbers.append(number)
            hashes.append(bytes(leaf))
            tree.append(hashes[-1])
            if tree.size in wanted:
                roots[tree.size] = tree.root()
    if tree.size:
        roots[tree.size] = tree.root()
    return roots, hashes


def _tiles(engine: Engine, hashes: Sequence[bytes]) -> Iterator[Finding]:
    """The stored tiles against the leaves; they only save time, so what they say wrong is no more than that."""
    expected = dict(_complete_tiles(hashes))
    for level, idx, content in engine.rows(FILE, "tiles"):
        if expected.pop((level, idx), None) != bytes(content):
            yield Finding(Kind.JOURNAL_ALTERED, f"the tile {level}/{idx} is not that of the leaves")
    for level, idx in sorted(expected):
        yield Finding(Kind.JOURNAL_ALTERED, f"the tile {level}/{idx} is gone")


def _complete_tiles(hashes: Sequence[bytes]) -> Iterator[tuple[tuple[int, int], bytes]]:
    level, nodes = 0, b"".join(hashes)
    while len(nodes) >= TILE_BYTES:
        tiles = [
            nodes[at : at + TILE_BYTES]
            for at in range(0, len(nodes) - TILE_BYTES + 1, TILE_WIDTH * HASH_BYTES)
        ]
        yield from (((level, idx), tile) for idx, tile in enumerate(tiles))
        level, nodes = level + 1, b"".join(map(tile_root, tiles))


def _against_checkpoints(
    signed: Sequence[Signed], roots: Mapping[int, bytes], state: JournalState, findings: Findings
) -> None:
    agreed = 0
    for it in signed:
        if it.size > state.size:
            says = (
                f"has {counted(state.size, 'leaf', 'leaves')}, a checkpoint in the database is of {it.size}"
            )
            findings.add(Finding(Kind.JOURNAL_ROLLED_BACK, says))
        elif roots.get(it.size) != it.root:
            says = f"differs from its own checkpoint of {it.size}; up to {agreed} it agrees"
            findings.add(Finding(Kind.JOURNAL_REWRITTEN, says))
        else:
            agreed = max(agreed, it.size)
            if it.signed_by:
                state.signed_size = max(state.signed_size, it.size)


def _forks(signed: Sequence[Signed], readings: Sequence[AnchorReading]) -> Iterator[Finding]:
    """Two checkpoints of one origin and one size must be one. Of another origin it is another journal's, and no fork of this
    one: that it is not this one is told all the same.
    """
    told: dict[tuple[str, int], tuple[bytes, str]] = {}
    places = [(it.origin, it.size, it.root, "the database") for it in signed]
    places += [
        (it.origin, it.size, it.root, reading.uri) for reading in readings for it in reading.checkpoints
    ]
    for origin, size, root, place in places:
        other = told.setdefault((origin, size), (root, place))
        if other[0] != root:
            says = f"{other[1]} and {place} hold different checkpoints of {size}"
            yield Finding(Kind.CHECKPOINT_FORK, says)


def _against_anchor(
    reading: AnchorReading,
    policy: Policy,
    roots: Mapping[int, bytes],
    hashes: Sequence[bytes],
    state: JournalState,
    findings: Findings,
) -> None:
    where = {"anchor": reading.uri}
    if reading.error:
        kind = Kind.ANCHOR_ALTERED if reading.altered else Kind.ANCHOR_UNREACHABLE
        findings.add(Finding(kind, reading.error, where))
        return
    findings.add_all(judge_reading(reading, policy))
    agreed: Anchored | None = None
    for it in reading.checkpoints:
        if it.size <= state.size and roots.get(it.size) == it.root:
            agreed = it
            findings.add_all(_filled(it, hashes, where))
    newest = max(reading.checkpoints, key=lambda it: it.size, default=None)
    if newest is not None and newest.size > state.size:
        says = f"the journal has {counted(state.size, 'leaf', 'leaves')}, anchored are {newest.size}"
        findings.add(Finding(Kind.JOURNAL_ROLLED_BACK, says, where))
    findings.add_all(_rewritten(reading, roots, hashes, state, agreed))
    if agreed is not None and reading.trust == "other" and _counts(agreed, policy):
        state.anchors.append(reading.uri)
        state.anchored_size = max(state.anchored_size, agreed.size)
        state.anchored_at_us = max(state.anchored_at_us or 0, agreed.at_us)
        if agreed.signed_by:
            state.signed_size = max(state.signed_size, agreed.size)


def _filled(it: Anchored, hashes: Sequence[bytes], where: Mapping[str, str]) -> Iterator[Finding]:
    """An object whose checkpoint is right and whose leaves are not those under it. `hashes`: of all leaves, or empty."""
    held = hashes[it.first : it.first + len(it.leaf_hashes)]
    for place, leaf in enumerate(held):
        if leaf != it.leaf_hashes[place]:
            says = f"{it.place} holds another leaf {it.first + place} than is under its checkpoint"
            yield Finding(Kind.ANCHOR_ALTERED, says, where)
            return


def leaves_agree(engine: Engine, readings: Sequence[AnchorReading]) -> bool:
    """Whether the newest objects of anchors to which anybody may append hold the journal's leaves, where they reach. By what
    is in these objects it is told that none is newer.
    """
    for reading in readings:
        newest = max(reading.checkpoints, key=lambda it: it.size, default=None)
        if newest is None or not reading.uri.startswith(APPENDED):
            continue
        place = {"first": newest.first, "end": newest.first + len(newest.leaf_hashes)}
        rows = sorted(engine.rows("tip.sql", "leaves", **place))
        if tuple(leaf_hash(bytes(leaf)) for _, leaf in rows) != newest.leaf_hashes:
            return False
    return True


def judge_reading(reading: AnchorReading, policy: Policy) -> Iterator[Finding]:
    """What an anchor holds, against itself and the keys."""
    if reading.trust != MEMORY:
        yield from _signatures(reading, policy)
        yield from _order(reading)


def _counts(checkpoint: Anchored, policy: Policy) -> bool:
    """Where the policy names keys, what an anchor holds counts only if one of them signed it."""
    return bool(checkpoint.signed_by) or not policy.keys


def _signatures(reading: AnchorReading, policy: Policy) -> Iterator[Finding]:
    for it in reading.checkpoints:
        where = {"anchor": reading.uri}
        if it.bad_signature:
            yield Finding(Kind.SIGNATURE_BAD, f"a signature at {it.place} is not its key's", where)
        elif policy.keys and not it.signed_by:
            yield Finding(Kind.UNKNOWN_KEY, f"{it.place} is signed by none of the policy's keys", where)


def _order(reading: AnchorReading) -> Iterator[Finding]:
    """An anchor takes longer and longer journals: an object that is older or smaller than its neighbour was put there."""
    for before, it in zip(reading.checkpoints, reading.checkpoints[1:], strict=False):
        if it.size < before.size:
            says = f"{it.place} holds a journal of {it.size} behind one of {before.size}"
            yield Finding(Kind.CHECKPOINT_OLDER, says, {"anchor": reading.uri})
        elif it.at_us < before.at_us - ORDER_APART_US:
            says = f"{it.place} was put there before the smaller {before.place}"
            yield Finding(Kind.CHECKPOINT_OLDER, says, {"anchor": reading.uri})


def _rewritten(
    reading: AnchorReading,
    roots: Mapping[int, bytes],
    hashes: Sequence[bytes],
    state: JournalState,
    agreed: Anchored | None,
) -> Iterator[Finding]:
    differing = [it for it in reading.checkpoints if it.size <= state.size and roots.get(it.size) != it.root]
    if not differing:
        return
    below = min(it.size for it in differing)
    leaves = [
        it.first + place
        for it in reading.checkpoints
        for place, leaf in enumerate(it.leaf_hashes)
        if it.first + place < len(hashes) and hashes[it.first + place] != leaf
    ]
    named = f"; leaf {min(leaves)} is another" if leaves else ""
    upto = agreed.size if agreed is not None and agreed.size < below else 0
    says = f"the journal below {below} is not what was anchored{named}; up to {upto} it agrees"
    yield Finding(Kind.JOURNAL_REWRITTEN, says, {"anchor": reading.uri})


def _grades(request: VerifyRequest, state: JournalState, now_us: int) -> Iterator[Finding]:
    policy = request.policy
    asked = policy.grade
    if asked is not Grade.SELF and not state.signed_size and policy.keys:
        yield Finding(
            Kind.NOT_SIGNED, "no checkpoint that agrees with the journal is signed by a key of the policy"
        )
    elif asked is Grade.SIGNED and not policy.keys:
        yield Finding(Kind.NOT_SIGNED, "the policy asks for signatures and names no keys")
    if asked is not Grade.ANCHORED:
        return
    if not state.anchors:
        yield Finding(
            Kind.NOT_ANCHORED, "no anchor in other hands holds a checkpoint that agrees with the journal"
        )
        return
    age_s = (now_us - (state.anchored_at_us or 0)) // _US
    if age_s > policy.anchor_age_s_max:
        says = (
            f"the newest anchored checkpoint is {age_s} s old, the policy allows {policy.anchor_age_s_max} s"
        )
        yield Finding(Kind.ANCHOR_STALE, says)
