"""What of a ledger is not in this database, because it was made again from less than there was.

That is no violation, and not proven either: rows that were sealed are not here, and nobody can say from this database what
they said. Only what the journal names as cut counts, so that nobody without the key can take rows out in the name of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from skillaudit.contract.errors import InvalidRecordError
from skillaudit.contract.words import counted
from skillaudit.proof.acts import Act, ActKind, parse_act
from skillaudit.proof.findings import Finding, Findings, Kind
from skillaudit.proof.leaves import parse_act as act_of_leaf
from skillaudit.proof.policy import KnownCuts
from skillaudit.proof.verify.engine import Engine

FILE: Final = "cuts.sql"


@dataclass(frozen=True, slots=True)
class Cuts:
    """What may be missing."""

    rows: Mapping[str, int] = field(default_factory=dict[str, int])
    """Partition -> rows of its ledger below this one."""
    numbers: Mapping[str, int] = field(default_factory=dict[str, int])
    """Source -> runs with numbers below this one: they were started before what is here was received."""
    known: KnownCuts = field(default_factory=KnownCuts)
    """What of it the verifier knows."""


NO_CUTS: Final = Cuts()
ORPHAN_BEFORE: Final = "its start is not here, and may lie before what this database was made again from"


def find_cuts(engine: Engine, findings: Findings, proven: int, known: KnownCuts | None = None) -> Cuts:
    """In the engine's snapshot. Costs nothing to speak of where nothing is cut. `proven`: how many of the journal's leaves are
    more than the database's own word; one that is named behind them may be anybody's. `known`: what the verifier knows of.
    """
    known = known or KnownCuts()
    said = engine.rows(FILE, "cuts")
    if not said:
        return NO_CUTS
    engine.run("ledger.sql", "make_seals")
    ends = {(row[0], row[1], row[2]) for row in engine.rows(FILE, "ends_of_cuts")}
    rows: dict[str, int] = {}
    for partition, first, offset, journal_idx, leaf, here in said:
        where = {"partition": partition, "idx": first}
        named = _names(leaf, partition, first, offset) and (partition, first, offset) in ends
        if named and journal_idx < proven:
            rows[partition] = first
            says = (
                f"{counted(first - here, 'sealed row')} before this one not in this database, nor the runs and events they"
                f" told of: it was made again from records that begin later; what comes after position {offset} is covered"
            )
            kind = Kind.LEDGER_CUT_KNOWN if known.rows.get(partition) == first else Kind.LEDGER_CUT
            findings.add(Finding(kind, says, where))
        else:
            who = "nothing that is signed or anchored says so yet" if named else "the journal does not say so"
            says = f"is said to begin with this row, and {who}"
            findings.add(Finding(Kind.LEDGER_ALTERED, says, where))
    numbers: dict[str, int] = dict(engine.rows(FILE, "numbers_before")) if rows else {}
    return Cuts(rows, numbers, known)


def before_cut(cuts: Cuts, source_id: str, low: int, high: int) -> Iterator[Finding]:
    """Numbers of a source that nothing here tells of."""
    below = min(max(cuts.known.sources.get(source_id, 0), low), high + 1)
    for kind, first, last in ((Kind.LEDGER_CUT_KNOWN, low, below - 1), (Kind.LEDGER_CUT, below, high)):
        if first <= last:
            yield _before_cut(kind, source_id, first, last)


def _before_cut(kind: Kind, source_id: str, low: int, high: int) -> Finding:
    runs = "its run" if low == high else f"its runs up to {high}"
    says = f"{runs} may lie before what this database was made again from, or never arrived"
    return Finding(kind, says, {"source_id": source_id, "source_seq": low})


def orphans_before(engine: Engine, cuts: Cuts) -> frozenset[str]:
    """Runs of which events came and no start, since that may lie before what is here."""
    if not cuts.numbers:
        return frozenset()
    found = engine.rows(FILE, "cut_orphans", sources=sorted(cuts.numbers))
    return frozenset(run_id for run_id, source_id, seq in found if (seq or 0) < cuts.numbers[source_id])


def _names(leaf: bytes | None, partition: str, first: int, offset: int) -> bool:
    act = None if leaf is None else _act(bytes(leaf))
    if act is None or act.kind is not ActKind.CUT:
        return False
    return (act.scope.get(partition), act.positions.get(partition)) == (first, offset)


def _act(leaf: bytes) -> Act | None:
    try:
        return parse_act(act_of_leaf(leaf))
    except InvalidRecordError:
        return None
