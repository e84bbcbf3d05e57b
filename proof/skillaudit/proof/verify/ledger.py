"""The ledger as a whole: its numbering, its seals, the runs it lists, and the numbers of sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from skillaudit.contract.words import counted
from skillaudit.proof.findings import FINDINGS_MAX, Finding, Findings, Kind
from skillaudit.proof.merkle import block_roots, root_of
from skillaudit.proof.verify.cuts import NO_CUTS, Cuts
from skillaudit.proof.verify.engine import Engine, Row
from skillaudit.proof.verify.request import VerifyRequest

FILE: Final = "ledger.sql"
_LIMIT: Final = FINDINGS_MAX + 1
OLD_SEALS_COMPARED: Final = 1_000
"""Of the seals that an earlier check compared about so many are drawn and compared again; all where there are no more."""


def check_ledger(engine: Engine, request: VerifyRequest, findings: Findings, cuts: Cuts = NO_CUTS) -> int:
    """Everything of the ledger but the runs' content, in the engine's snapshot; returns how many rows are sealed. What is
    cut is told already.

    Leaves the temporary table `seals`.
    """
    findings.add_all(_numbering(engine, cuts.rows))
    engine.tell("ledger: numbering", 1, 4)
    engine.run(FILE, "make_seals")
    findings.add_all(_seal_forms(engine))
    sealed = 0
    for journal_idx, found in _sealed_ranges(engine, request, cuts.rows):
        findings.add_all(found)
        sealed = max(sealed, journal_idx + 1)
    engine.tell("ledger: seals", 2, 4)
    findings.add_all(_listed(engine))
    engine.tell("ledger: runs", 3, 4)
    findings.add_all(_told_twice(engine))
    engine.tell("ledger", 4, 4)
    return sealed


def _numbering(engine: Engine, cut: Mapping[str, int]) -> Iterator[Finding]:
    for partition, rows, first, last, numbers, ledger_next, given_up in engine.rows(FILE, "ends"):
        where, begin = {"partition": partition}, cut.get(partition, 0)
        for low, high in engine.rows(FILE, "gaps", partition=partition, begin=begin, limit=_LIMIT):
            yield Finding(Kind.LEDGER_ENTRY_MISSING, _span("row", low, high), {**where, "idx": low})
        if numbers < rows:
            for (idx,) in engine.rows(FILE, "repeated", partition=partition, limit=_LIMIT):
                yield Finding(Kind.LEDGER_ALTERED, "two rows have this number", {**where, "idx": idx})
        if first is not None and first < 0:
            yield Finding(Kind.LEDGER_ALTERED, "a row has a number below 0", where)
        if ledger_next is not None or not given_up:
            yield from _end(partition, max(-1 if last is None else last, begin - 1), ledger_next)
    for partition, idx in engine.rows(FILE, "misfiled", limit=_LIMIT):
        says = "is filed under the hash of another run id"
        yield Finding(Kind.LEDGER_ALTERED, says, {"partition": partition, "idx": idx})
    for (partition,) in engine.rows(FILE, "from_when"):
        says = "is said to have begun later than its first row, or behind more runs than there were records"
        yield Finding(Kind.LEDGER_ALTERED, says, {"partition": partition})
    for partition, idx in engine.rows(FILE, "out_of_order", limit=_LIMIT):
        says = "its record's place is not between those of its neighbours"
        yield Finding(Kind.LEDGER_ALTERED, says, {"partition": partition, "idx": idx})


def _end(partition: str, last: int, ledger_next: int | None) -> Iterator[Finding]:
    """The partition's last row against the number that the consumer would give next."""
    where = {"partition": partition, "idx": last + 1}
    if ledger_next is None:
        says = "the database has no position of this partition"
        yield Finding(Kind.LEDGER_ALTERED, says, {"partition": partition})
    elif ledger_next > last + 1:
        yield Finding(Kind.LEDGER_ENTRY_MISSING, _span("row", last + 1, ledger_next - 1), where)
    elif ledger_next <= last:
        says = f"the database wrote rows below {ledger_next}, and there are more"
        yield Finding(Kind.LEDGER_ALTERED, says, {"partition": partition, "idx": ledger_next})


def _seal_forms(engine: Engine) -> Iterator[Finding]:
    for (idx,) in engine.rows(FILE, "bad_leaves", limit=_LIMIT):
        yield Finding(Kind.JOURNAL_ALTERED, "is no leaf of format 1", {"journal_idx": idx})
    for partition, first in engine.rows(FILE, "stray_nodes", limit=_LIMIT):
        says = "hashes of blocks are kept from this row on, and no seal begins there"
        yield Finding(Kind.LEDGER_ALTERED, says, {"partition": partition, "idx": first})
    for partition, journal_idx, first, expected in engine.rows(FILE, "seal_gaps", limit=_LIMIT):
        says = f"seals from row {first} on, and the seals before it end at row {expected}"
        yield Finding(Kind.SEAL_GAP, says, {"partition": partition, "journal_idx": journal_idx})


def _sealed_ranges(
    engine: Engine, request: VerifyRequest, cut: Mapping[str, int]
) -> Iterator[tuple[int, list[Finding]]]:
    """(journal index, findings) of each range that is compared."""
    which = {"from": request.sealed_from}
    old = engine.rows(FILE, "old_seals", **which)[0][0]
    share = {"seed": request.seed, "one_in": max(1, -(-old // OLD_SEALS_COMPARED))}
    for chunk in engine.chunks(FILE, "sealed_rows", **which, **share):
        for row in chunk:
            yield row[0], list(_compared(row, cut))


def _compared(row: Row, cut: Mapping[str, int]) -> Iterator[Finding]:
    """A sealed range with what is there of it."""
    journal_idx, partition, first, rows, root, found, hashes, within, nodes = row
    where = {"partition": partition, "idx": first, "journal_idx": journal_idx}
    span = f"to #{first + rows - 1}"
    if found < rows:
        if first + rows > cut.get(partition, 0):
            says = f"{span}: {counted(rows, 'row')} sealed, {found:,} there"
            yield Finding(Kind.LEDGER_ENTRY_MISSING, says, where)
        return
    blocks = block_roots(bytes.fromhex(hashes))
    if found > rows or root_of(blocks).hex() != root:
        yield Finding(Kind.LEDGER_ALTERED, f"{span} are not the rows that were sealed", where)
        return
    if nodes is not None and bytes(nodes) != blocks:
        says = f"{span}: the hashes that are kept of their blocks are others"
        yield Finding(Kind.LEDGER_ALTERED, says, where)
    if not within:
        says = f"{span}: their records do not end at the position that the seal names"
        yield Finding(Kind.LEDGER_ALTERED, says, where)


def _listed(engine: Engine) -> Iterator[Finding]:
    """Runs that the ledger lists and that are not stored; runs and events that nothing lists."""
    for chunk in engine.chunks(FILE, "unstored"):
        for run_id, starts, place, orphaned in chunk:
            where: dict[str, Any] = {"run_id": run_id}
            if starts:
                says = f"its start was received ({place}), and it is not stored" + (
                    " any more: its events wait for one" if orphaned else ""
                )
                yield Finding(Kind.RUN_MISSING, says, where)
            else:
                says = f"its finish was received ({place}), and nothing of it is stored"
                yield Finding(Kind.RUN_MISSING, says, where)
    for run_key, events in engine.rows(FILE, "strays", limit=_LIMIT):
        yield Finding(Kind.EVENT_EXTRA, f"{counted(events, 'event')} of run key {run_key}, which no run has")


def _told_twice(engine: Engine) -> Iterator[Finding]:
    for run_id, _, times in engine.rows(FILE, "twice", limit=_LIMIT):
        yield Finding(Kind.RUN_EQUIVOCATES, f"is stored {times} times", {"run_id": run_id})
    for run_key, times in engine.rows(FILE, "keys_twice", limit=_LIMIT):
        yield Finding(Kind.COLUMN_ALTERED, f"{counted(times, 'run')} have the run key {run_key}")
    for run_id, kind, statements, place in engine.rows(FILE, "listed_twice", limit=_LIMIT):
        says = f"the ledger holds {statements} different statements of its {kind} ({place})"
        yield Finding(Kind.RUN_EQUIVOCATES, says, {"run_id": run_id})
    for source_id, source_seq, runs, one, other, place in engine.rows(FILE, "numbered_twice", limit=_LIMIT):
        says = f"was given to {counted(runs, 'run')}, among them {one} and {other} ({place})"
        yield Finding(Kind.SOURCE_EQUIVOCATES, says, {"source_id": source_id, "source_seq": source_seq})


def _span(noun: str, low: int, high: int) -> str:
    return f"{noun} {low} is gone" if low == high else f"{noun}s {low} to {high} are gone"
