"""Sources: which of the runs that they numbered never arrived, and whether what is said of them can be true."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from skillaudit.contract.words import counted
from skillaudit.proof.findings import Finding, Findings, Kind
from skillaudit.proof.verify.cuts import NO_CUTS, Cuts, before_cut
from skillaudit.proof.verify.engine import Engine
from skillaudit.proof.verify.request import VerifyRequest

FILE: Final = "sources.sql"
TOLD_MAX: Final = 100
"""Missing runs of one gap that are told one by one."""
LISTED_MAX: Final = 10_000
"""Runs that are listed and never came, of which more than their number is told."""

Listed = Mapping[tuple[str, int], tuple[str, int, str]]
"""(source, number) -> (run, events, where the ledger says so)"""


@dataclass(slots=True)
class SourceTotals:
    """What there is."""

    sources: int = 0
    started: int = 0
    """Runs whose start is in the ledger."""
    live: int = 0
    never_arrived: int = 0


def check_sources(
    engine: Engine, request: VerifyRequest, findings: Findings, cuts: Cuts = NO_CUTS
) -> SourceTotals:
    """In the engine's snapshot."""
    totals = SourceTotals(*engine.rows(FILE, "totals")[0])
    listed = {
        (source_id, number): (run_id, events, place)
        for source_id, number, run_id, events, place in engine.rows(FILE, "listed", limit=LISTED_MAX)
    }
    for source_id, start, high, due, tail in engine.rows(FILE, "gaps"):
        low = max(start, min(cuts.numbers.get(source_id, 0), high + 1))
        if low > start:
            findings.add_all(before_cut(cuts, source_id, start, low - 1))
        late = max(min(high, due) - low + 1, 0)
        totals.never_arrived += late
        _gap(findings, source_id, low, min(high, due), listed, tail=tail)
        if high > due and high >= low:
            says = f"runs {max(low, due + 1)} to {high} were counted and may still be on their way"
            findings.add(Finding(Kind.SOURCE_TAIL_UNKNOWN, says, {"source_id": source_id}))
    findings.add_all(_altered(engine))
    for source_id, started, host in engine.rows(FILE, "silent"):
        says = f"of host {host or '(unknown)'} fell silent without a last word: its runs after number {started} are unknown"
        findings.add(Finding(Kind.SOURCE_TAIL_UNKNOWN, says, {"source_id": source_id}))
    for source_id, host, ended in engine.rows(FILE, "unknown"):
        if ended and source_id in cuts.numbers and source_id in cuts.known.sources:
            says = "its opening lies before what this database was made again from; its last word is here"
            findings.add(Finding(Kind.LEDGER_CUT_KNOWN, says, {"source_id": source_id}))
            continue
        says = f"of host {host or '(unknown)'} is not known: its opening never arrived, and with it others of its words may be gone"
        findings.add(Finding(Kind.SOURCE_TAIL_UNKNOWN, says, {"source_id": source_id}))
    hosts = {row[0] for row in engine.rows(FILE, "hosts")}
    for host in request.policy.expected_hosts:
        if host not in hosts:
            findings.add(
                Finding(Kind.SOURCE_MISSING, f"no source of the expected host {host} was ever heard")
            )
    engine.tell("sources", totals.sources, totals.sources)
    return totals


def only_listed(engine: Engine, run_id: str, source_id: str, number: int, events: int, place: str) -> Finding:
    """Of a run that its source lists and of which nothing was ever received, in the engine's snapshot."""
    where = {"run_id": run_id, "source_id": source_id, "source_seq": number}
    due, other = engine.rows(FILE, "number", source_id=source_id, source_seq=number, run_id=run_id)[0]
    if other is not None:
        return Finding(Kind.SOURCE_EQUIVOCATES, f"was given to {other}, too ({place})", where)
    if number > due:
        return Finding(Kind.SOURCE_TAIL_UNKNOWN, f"is listed ({place}), and may still be on its way", where)
    return Finding(Kind.RUN_NEVER_ARRIVED, _listed_text(events, place), where)


def _listed_text(events: int, place: str) -> str:
    return f"its source lists it with {counted(events, 'event')} ({place}), and nothing of it ever arrived"


def _gap(findings: Findings, source_id: str, low: int, high: int, listed: Listed, *, tail: bool) -> None:
    """Numbers that are due. A gap behind everything that arrived is one finding; others are told run by run, each once."""
    if low > high:
        return
    where: dict[str, str | int] = {"source_id": source_id, "source_seq": low}
    if tail:
        says = f"to {high} were started, as the source says, and never arrived"
        if (source_id, low) in listed:
            says += f"; the first of them is run {listed[source_id, low][0]}"
        findings.add(Finding(Kind.SOURCE_TAIL_MISSING, says, where))
        return
    for number in range(low, min(high, low + TOLD_MAX - 1) + 1):
        where = {"source_id": source_id, "source_seq": number}
        says = "a run with this number was started, and never arrived"
        if (source_id, number) in listed:
            where["run_id"], events, place = listed[source_id, number]
            says = _listed_text(events, place)
        findings.add(Finding(Kind.RUN_NEVER_ARRIVED, says, where))
    findings.count(Kind.RUN_NEVER_ARRIVED, high - low + 1 - TOLD_MAX if high - low + 1 > TOLD_MAX else 0)


def _altered(engine: Engine) -> Iterator[Finding]:
    for source_id, missing, final, claimed, started, closed_by, state in engine.rows(FILE, "altered"):
        where = {"source_id": source_id}
        if missing:
            yield Finding(Kind.SOURCE_ALTERED, "the ledger lists its runs, and its own row is gone", where)
        elif claimed is None:
            says = f"its row does not say how many runs it told of; {counted(started, 'run')} were started"
            yield Finding(Kind.SOURCE_ALTERED, says, where)
        elif final is not None and (claimed < final or (closed_by and started != final)):
            says = f"its last word counts {counted(final, 'run')} in the ledger, {started} in its row"
            yield Finding(Kind.SOURCE_ALTERED, says, where)
        else:
            says = f"its row contradicts itself or the ledger: {state}, closed by {closed_by or 'nobody'}, {started:,} of {counted(claimed, 'run')}"
            yield Finding(Kind.SOURCE_ALTERED, says, where)
