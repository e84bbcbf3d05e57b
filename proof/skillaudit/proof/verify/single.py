"""One run: its content, its rows in the ledger, and the seals over them up to what is signed or anchored."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from skillaudit.contract.digests import run_hash
from skillaudit.proof.findings import Finding, Findings, Kind, Severity
from skillaudit.proof.policy import Grade
from skillaudit.proof.verify.acts import check_acts
from skillaudit.proof.verify.cuts import ORPHAN_BEFORE, find_cuts, orphans_before
from skillaudit.proof.verify.engine import Engine
from skillaudit.proof.verify.facts import Mark, RunFacts, marks_of_run, read_facts
from skillaudit.proof.verify.journal import JournalState
from skillaudit.proof.verify.judging import judge_run
from skillaudit.proof.verify.request import VerifyRequest
from skillaudit.proof.verify.runs import RunTotals, rows_of_run
from skillaudit.proof.verify.seals import KnownSeals, Seal, SealedMarks, seals_over
from skillaudit.proof.verify.sources import only_listed


class CheckedRun(NamedTuple):
    """One run's own words, and what they rest on."""

    words: dict[str, Any]
    proven_by: tuple[int, ...]
    """The journal's leaves that prove it: its seals, and the acts that took of it. Empty: there is one missing, or none."""


def check_run(
    engine: Engine,
    request: VerifyRequest,
    findings: Findings,
    totals: RunTotals,
    journal: JournalState,
    run_id: str,
    known: KnownSeals,
) -> CheckedRun | None:
    """Check it in the engine's snapshot; None where nothing of it is or was stored."""
    rows = rows_of_run(engine, run_id)
    if not rows:
        return _absent(engine, request, findings, journal, run_id)
    facts = [read_facts(engine, row) for row in rows]
    return check_stored(engine, request, findings, totals, journal, facts, known)


def check_stored(
    engine: Engine,
    request: VerifyRequest,
    findings: Findings,
    totals: RunTotals,
    journal: JournalState,
    facts: Sequence[RunFacts],
    known: KnownSeals,
    sealed: SealedMarks | None = None,
) -> CheckedRun:
    """What is to say of the rows of one id, at least one. `sealed`: the rows of the ledger that known seals prove."""
    rows, run_id = [fact.row for fact in facts], facts[0].run_id
    found = [finding for fact in facts for finding in judge_run(fact)]
    if len(rows) > len({row["topic"] for row in rows}):  # each topic is a namespace of its own
        found.append(Finding(Kind.RUN_EQUIVOCATES, f"is stored {len(rows)} times", {"run_id": run_id}))
    acts = {it.act_id for fact in facts for it in fact.redactions}
    if acts:
        found += _lawful(engine, request, journal, run_id, acts).kept()
    look = partial(_seals, engine, request=request, journal=journal, found=found, known=known, sealed=sealed)
    seals = [seal for fact in facts for seal in look(fact)]
    findings.add_all(found)
    violated = any(it.severity is Severity.VIOLATION for it in found)
    totals.runs += 1
    totals.events += facts[0].logs_stored
    totals.altered += violated
    totals.incomplete += any(it.severity is Severity.INCOMPLETE for it in found)
    row = rows[0]
    words = {
        "run_id": run_id,
        "status": row["status"],
        "completeness": row["completeness"],
        "liveness": row["liveness"],
        "integrity": "altered" if violated else "unchecked" if row["by_storage"] else "verified",
        "events": facts[0].logs_stored,
        "head": row["head"].hex() if row["head"] else "",
        "redactions": sum(len(fact.redactions) for fact in facts),
        "sealed": [
            {"kind": mark.kind, "ledger": mark.place, "journal_idx": seal.journal_idx}
            for mark, seal in seals
            if seal is not None
        ],
    }
    leaves = [None if seal is None else seal.journal_idx for _, seal in seals]
    return CheckedRun(words, _all_of([*leaves, *_leaves_of_acts(engine, acts)]))


def _all_of(leaves: Collection[int | None]) -> tuple[int, ...]:
    """None where one is missing: what lacks a part of its proof has none."""
    found = tuple(leaf for leaf in leaves if leaf is not None)
    return found if len(found) == len(leaves) else ()


def _leaves_of_acts(engine: Engine, act_ids: Collection[str]) -> list[int | None]:
    if not act_ids:
        return []
    found: dict[str, int | None] = dict(engine.rows("one.sql", "leaves_of_acts", act_ids=sorted(act_ids)))
    return [found.get(act_id) for act_id in sorted(act_ids)]


def _lawful(
    engine: Engine, request: VerifyRequest, journal: JournalState, run_id: str, act_ids: Collection[str]
) -> Findings:
    """What the check of all acts says of this run, and of the acts that took of it; whatever it says of others."""

    def ours(finding: Finding) -> bool:
        return finding.subject.get("run_id") == run_id or finding.subject.get("act_id") in named

    named = {*act_ids}
    acts = Findings(wanted=ours)
    check_acts(engine, request, acts, journal.proven(request.policy.grade))
    return acts


def _absent(
    engine: Engine, request: VerifyRequest, findings: Findings, journal: JournalState, run_id: str
) -> CheckedRun | None:
    key = {"run_hash": run_hash(run_id), "run_id": run_id}
    marks = marks_of_run(engine, run_id)
    tombstones = engine.rows("one.sql", "tombstones_of_hash", **key)
    if tombstones:
        act_ids = {row[-1] for row in tombstones}
        return _purged(engine, request, findings, journal, run_id, act_ids, listed=bool(marks))
    orphans = engine.rows("one.sql", "orphans_of_hash", **key)
    if _is_cut(engine, run_id, marks, waits=bool(orphans), vouched=journal.vouched(request)):
        known = run_id in request.policy.cuts.runs
        kind = Kind.LEDGER_CUT_KNOWN if known else Kind.LEDGER_CUT
        findings.add(Finding(kind, ORPHAN_BEFORE, {"run_id": run_id}))
        completeness = orphans[0][3] if orphans else "incomplete"
        return CheckedRun({"run_id": run_id, "completeness": completeness, "integrity": "unchecked"}, ())
    received = {mark.kind for mark in marks} & {"start", "finish"}
    if "start" in received or (received and not orphans):
        says = f"the ledger lists it ({marks[0].place}), and it is not stored"
        findings.add(Finding(Kind.RUN_MISSING, says, {"run_id": run_id}))
        return CheckedRun({"run_id": run_id, "completeness": "incomplete", "integrity": "altered"}, ())
    if orphans:
        says = "its start never arrived; events of it are kept and can't be checked without"
        findings.add(Finding(Kind.RUN_INCOMPLETE, says, {"run_id": run_id}))
        return CheckedRun({"run_id": run_id, "completeness": orphans[0][3], "integrity": "unchecked"}, ())
    if marks:
        most = max(marks, key=lambda mark: mark.events)
        place = (most.source_id, most.source_seq, most.events, most.place)
        findings.add(only_listed(engine, run_id, *place))
        return CheckedRun({"run_id": run_id, "completeness": "incomplete", "integrity": "unchecked"}, ())
    return None


def _is_cut(engine: Engine, run_id: str, marks: Sequence[Mark], *, waits: bool, vouched: int) -> bool:
    """Whether a run without a start, or one that is only listed, may lie before what a rebuilt database holds. `waits`:
    events of it are kept; `vouched`: as `JournalState.vouched`.
    """
    if any(mark.kind == "start" for mark in marks) or not (marks or waits):
        return False
    cuts = find_cuts(engine, Findings(), vouched)
    if waits:
        return run_id in orphans_before(engine, cuts)
    return all(
        mark.kind != "finish" and mark.source_seq < cuts.numbers.get(mark.source_id, 0) for mark in marks
    )


def _purged(
    engine: Engine,
    request: VerifyRequest,
    findings: Findings,
    journal: JournalState,
    run_id: str,
    act_ids: Collection[str | None],
    *,
    listed: bool,
) -> CheckedRun:
    """Of a run that a tombstone stands for. `act_ids`: the acts that it names; None where it names none. `listed`: whether
    the ledger has rows of it.
    """
    acts = {it for it in act_ids if it is not None}
    found = _lawful(engine, request, journal, run_id, acts)
    findings.add_all(found.kept())
    if not found.counts.keys() - {Kind.ACT_UNPROVEN}:
        says = "was purged by an act; the ledger " + ("still lists it" if listed else "has nothing of it")
        findings.add(Finding(Kind.PURGED, says, {"run_id": run_id}))
    words = {
        "run_id": run_id,
        "completeness": "incomplete" if Kind.RUN_MISSING in found.counts else "purged",
        "integrity": "altered" if found.of(Severity.VIOLATION) else "unchecked",
    }
    return CheckedRun(words, _all_of(_leaves_of_acts(engine, acts)))


def _seals(
    engine: Engine,
    facts: RunFacts,
    *,
    request: VerifyRequest,
    journal: JournalState,
    found: list[Finding],
    known: KnownSeals,
    sealed: SealedMarks | None,
) -> Iterator[tuple[Mark, Seal | None]]:
    """The run's own start and finish with the seals over them; what is wrong with these, or missing, goes to `found`."""
    marks = _ends(facts.marks, str(facts.row["source_id"]))
    if sealed is not None and all(mark in sealed.marks for mark in marks):
        seals = sealed.seals
    else:
        seals = seals_over(engine, facts, journal, marks, request.policy.grade, known)
    for mark in marks:
        where = {"run_id": facts.run_id, "partition": mark.partition, "idx": mark.idx}
        seal = next((it for it in seals if it.covers(mark)), None)
        yield mark, seal
        if seal is None:
            if request.policy.grade is not Grade.SELF:
                found.append(Finding(Kind.LEDGER_UNSEALED, f"its {mark.kind} is not sealed yet", where))
            continue
        if not seal.right:
            says = f"the rows {seal.first} to {seal.end - 1} are not those that were sealed"
            found.append(Finding(Kind.LEDGER_ALTERED, says, {**where, "journal_idx": seal.journal_idx}))
        elif seal.journal_idx >= journal.proven(request.policy.grade):
            says = f"its {mark.kind} is sealed, and the seal is not {request.policy.grade.value} yet"
            found.append(Finding(Kind.LEDGER_UNSEALED, says, {**where, "journal_idx": seal.journal_idx}))


def _ends(marks: Sequence[Mark], source_id: str) -> list[Mark]:
    own = [mark for mark in marks if mark.source_id == source_id]
    starts = [mark for mark in own if mark.kind == "start"][:1]
    finishes = [mark for mark in own if mark.kind == "finish"][:1]
    return [*starts, *(finishes or [mark for mark in own if mark.kind != "start"][-1:])]
