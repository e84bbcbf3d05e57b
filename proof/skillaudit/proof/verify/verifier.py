"""One check from its beginning to its report."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, replace
from typing import Final, NamedTuple, ParamSpec, TypeVar

import duckdb

from skillaudit.contract.errors import DatabaseError, RunNotFoundError, SettingsError
from skillaudit.contract.words import counted
from skillaudit.proof.findings import Finding, Findings, Kind, Severity
from skillaudit.proof.policy import Grade
from skillaudit.proof.verify.acts import check_acts
from skillaudit.proof.verify.against import AgainstCheck
from skillaudit.proof.verify.catalog import EarlierSchemaError, check_catalog
from skillaudit.proof.verify.cuts import NO_CUTS, find_cuts
from skillaudit.proof.verify.engine import Engine, VerifyStoppedError, told_where_not
from skillaudit.proof.verify.facts import Mark, read_facts
from skillaudit.proof.verify.journal import JournalState, check_journal, leaves_agree
from skillaudit.proof.verify.ledger import check_ledger
from skillaudit.proof.verify.records import OpenRecords
from skillaudit.proof.verify.report import Report
from skillaudit.proof.verify.request import Depth, VerifyRequest
from skillaudit.proof.verify.runs import RunsCheck, RunTotals, rows_of_run, unsettled_runs
from skillaudit.proof.verify.seals import KnownSeals, SealedMarks, known_marks
from skillaudit.proof.verify.single import CheckedRun, check_run, check_stored
from skillaudit.proof.verify.sources import check_sources
from skillaudit.proof.verify.tip import JournalTip

_P = ParamSpec("_P")
_T = TypeVar("_T")
Progress = Callable[[str, int, int], None]
_OF_THE_LEDGER: Final = frozenset({Kind.LEDGER_ALTERED, Kind.LEDGER_ENTRY_MISSING, Kind.SEAL_GAP})
_DOUBTS: Final = (Severity.VIOLATION, Severity.INCOMPLETE, Severity.UNCHECKED)
"""What is looked at again before it is said."""
JournalLook = Callable[[Engine, VerifyRequest, Findings, int], JournalState | None]


class Memory:
    """What checks of one open database leave to those after them, one at a time: that its views are ours, the hashes of its
    journal, the seals that were compared.
    """

    def __init__(self) -> None:
        self.catalog: tuple[Finding, ...] | None = None
        self.tip = JournalTip()
        self.seals = KnownSeals()
        self.beside = ThreadPoolExecutor(1, "skillaudit-verify-ledger")
        """For what is read beside; its thread begins with the first of it, and ends when nobody holds this any more."""


class _LedgerSide(NamedTuple):
    """What the journal and the ledger say of a run."""

    journal: JournalState
    sealed: SealedMarks


class Verifier:
    """Checks one database. The cursor is the caller's, and so is the time; `stop` may be called by another thread."""

    def __init__(
        self,
        cursor: duckdb.DuckDBPyConnection,
        progress: Progress | None = None,
        memory: Memory | None = None,
        records: OpenRecords | None = None,
    ) -> None:
        """`memory`: of earlier checks of the same open database, none of which runs now. `records`: how Kafka is read."""
        self._engine = Engine(cursor, progress)
        self._memory = memory or Memory()
        self._records = records

    def stop(self) -> None:
        """End a check: it raises `VerifyStoppedError`. Repeat until it has."""
        self._engine.stop()

    def check(self, request: VerifyRequest, now_us: int) -> Report:
        """Run it. Raises `RunNotFoundError` for a run of which nothing is or was stored, `DatabaseError`; `SettingsError` where
        records are to be held against Kafka, and none is configured here.
        """
        if self._memory.catalog is None:
            self._memory.catalog = self._check_schema()
        against = self._held_against_kafka(request) if request.against_kafka else None
        try:
            if request.run_id is None:
                report = self._check_all(request, now_us)
            else:
                report = self._check_run(request, request.run_id, now_us)
        except RunNotFoundError:
            if against is None or not against.findings.counts:
                raise
            report = Report(scope=_scope(request), asked=request.policy.grade.value, checked_at_us=now_us)
            report.run = {"run_id": request.run_id, "completeness": "incomplete", "integrity": "unchecked"}
        if against is not None:
            report.hold_against(against.findings, asdict(against.totals))
        return report

    def _held_against_kafka(self, request: VerifyRequest) -> AgainstCheck:
        if self._records is None:
            raise SettingsError("whoever has this database open can't read Kafka")
        records = self._records()
        try:
            against = AgainstCheck(self._engine, request, records)
            against.check()
        finally:
            records.close()
        return against

    def _check_schema(self) -> tuple[Finding, ...]:
        """Once: a file has one owner, in whose process the next check is asked for."""
        try:
            with self._engine.snapshot():
                return tuple(check_catalog(self._engine))
        except VerifyStoppedError:
            raise
        except EarlierSchemaError as exc:
            raise DatabaseError(
                "this database was written by an earlier release; open it once with `skillaudit consume`, which migrates it"
            ) from exc
        except DatabaseError as exc:
            found = {row[0] for row in self._engine.rows("schema.sql", "views")}
            if "runs" not in found:
                raise DatabaseError("this is no database of skillaudit; is it the right file?") from exc
            raise

    def _check_all(self, request: VerifyRequest, now_us: int) -> Report:
        engine, findings = self._engine, Findings()
        report = Report(scope=_scope(request), asked=request.policy.grade.value, checked_at_us=now_us)
        unsettled: tuple[int, ...] | None = None
        findings.add_all(self._memory.catalog or ())
        journal, cuts = JournalState(), NO_CUTS
        with told_where_not(findings, "the record in one state"), engine.snapshot():
            with engine.part(findings, "which database it is"):
                report.database = str(engine.rows("schema.sql", "identity")[0][0])
                request = _of_this(request, report)
                unsettled = unsettled_runs(engine)
            with engine.part(findings, "the journal"):
                journal = check_journal(engine, request, findings, now_us)
            with engine.part(findings, "where the ledger begins"):
                cuts = find_cuts(engine, findings, journal.vouched(request), request.policy.cuts)
            with engine.part(findings, "the ledger"):
                report.sealed_to = max(check_ledger(engine, request, findings, cuts), request.sealed_from)
                self._sealed(request, journal, findings, report)
            with engine.part(findings, "the sources"):
                sources = check_sources(engine, request, findings, cuts)
                report.sources, report.started, report.live = sources.sources, sources.started, sources.live
                report.never_arrived = sources.never_arrived
            with engine.part(findings, "the acts"):
                acts = check_acts(engine, request, findings, journal.proven(request.policy.grade))
                report.purged, report.redacted = acts.purged, acts.redacted
        totals = RunTotals()
        with told_where_not(findings, "the runs"):
            runs = RunsCheck(engine, request, findings, totals, cuts)
            runs.check()
        report.runs, report.events = totals.runs, totals.events
        report.hashed_runs, report.hashed_events = totals.hashed_runs, totals.hashed_events
        _remember_content(report, request, unsettled)
        report.altered, report.incomplete = totals.altered, totals.incomplete
        _take_journal(report, journal)
        report.grade = _grade(journal, findings, [journal.size - 1] if journal.size else []).value
        report.take(findings)
        return report

    def _sealed(
        self, request: VerifyRequest, journal: JournalState, findings: Findings, report: Report
    ) -> None:
        """What of the ledger lies beyond what is proven to the grade asked for."""
        engine = self._engine
        report.ledger_rows = engine.rows("schema.sql", "ledger_rows")[0][0]
        proven = journal.proven(request.policy.grade)
        waiting = engine.rows("ledger.sql", "sealed_ends", size=proven)
        report.unsealed_rows = sum(rows - sealed for _, rows, sealed in waiting)
        if request.policy.grade is Grade.SELF:
            return
        for partition, rows, sealed in waiting:
            says = f"rows {sealed} to {rows - 1} are not under a seal that is {request.policy.grade.value}"
            findings.add(Finding(Kind.LEDGER_UNSEALED, says, {"partition": partition}))

    def _check_run(self, request: VerifyRequest, run_id: str, now_us: int) -> Report:
        """The looks that only say yes, the quickest first; else the thorough one."""
        report = self._look_twice_at_once(request, run_id, now_us)
        if report is not None:
            return report
        with self._engine.snapshot():
            report = self._look(request, run_id, now_us, self._memory.tip.prove) or self._look(
                request, run_id, now_us, check_journal
            )
        if report is None:
            raise RuntimeError("a thorough look ends with a report or an error")
        return report

    def _look_twice_at_once(self, request: VerifyRequest, run_id: str, now_us: int) -> Report | None:
        """The run's own rows and, beside them, the ledger's under known seals. In no snapshot: what leads to an anchored root does
        so whenever each was read. None where anything is missing, off or in doubt, or acts are to be judged.
        """
        if not self._memory.seals:
            return None
        engine, findings, totals = self._engine, Findings(), RunTotals()
        findings.add_all(self._memory.catalog or ())
        with (
            engine.beside() as other,
            self._asked(self._ledger_side, other, request, run_id, now_us) as asked,
        ):

            def marks() -> Sequence[Mark]:
                side = asked.result()
                return side.sealed.marks if side else ()

            facts = [read_facts(engine, row, marks) for row in rows_of_run(engine, run_id)]
            side = asked.result()
            if side is None or not facts:
                return None
            seals = self._memory.seals
            checked = check_stored(engine, request, findings, totals, side.journal, facts, seals, side.sealed)
        if findings.of(*_DOUBTS) or Kind.RUN_UNPROVEN in findings.counts or checked.words["redactions"]:
            return None
        return self._report_of_run(request, now_us, side.journal, checked, findings, totals)

    @contextlib.contextmanager
    def _asked(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Generator[Future[_T]]:
        """Begun in another thread, and over when this is."""
        asked = self._memory.beside.submit(work, *args, **kwargs)
        try:
            yield asked
        finally:
            wait([asked])

    def _ledger_side(
        self, other: Engine, request: VerifyRequest, run_id: str, now_us: int
    ) -> _LedgerSide | None:
        """In a thread of its own."""
        journal = self._memory.tip.prove(other, request, Findings(), now_us)
        if journal is None or not leaves_agree(other, request.anchors):
            return None
        sealed = known_marks(other, run_id, journal, request.policy.grade, self._memory.seals)
        return None if sealed is None else _LedgerSide(journal, sealed)

    def _whole_ledger(self, request: VerifyRequest, journal: JournalState, findings: Findings) -> None:
        """A run that no row of the ledger proves is no worse than unproven only where the ledger is whole: rows that are gone
        may have been its own, and what is said to be cut must be.
        """

        def ours(finding: Finding) -> bool:
            return finding.kind in _OF_THE_LEDGER

        whole = Findings(wanted=ours)
        cuts = find_cuts(self._engine, whole, journal.vouched(request), request.policy.cuts)
        check_ledger(self._engine, request, whole, cuts)
        findings.add_all(whole.kept())

    def _look(self, request: VerifyRequest, run_id: str, now_us: int, look: JournalLook) -> Report | None:
        """None where the quick look is not enough: the run is not found, something is wrong, or acts are to be judged, whose
        leaves it did not see.
        """
        engine, findings, totals = self._engine, Findings(), RunTotals()
        journal = look(engine, request, findings, now_us)
        if journal is None or (journal.holds and not leaves_agree(engine, request.anchors)):
            return None
        findings.add_all(self._memory.catalog or ())
        checked = check_run(engine, request, findings, totals, journal, run_id, self._memory.seals)
        unlisted = Kind.RUN_UNPROVEN in findings.counts
        if journal.holds and (checked is None or unlisted or checked.words.get("redactions") != 0):
            return None
        if unlisted:
            self._whole_ledger(request, journal, findings)
        if checked is None:
            checked = _not_found(run_id, findings)
        if journal.holds and findings.of(Severity.VIOLATION):
            return None
        return self._report_of_run(request, now_us, journal, checked, findings, totals)

    def _report_of_run(
        self,
        request: VerifyRequest,
        now_us: int,
        journal: JournalState,
        checked: CheckedRun,
        findings: Findings,
        totals: RunTotals,
    ) -> Report:
        report = Report(scope=_scope(request), asked=request.policy.grade.value, checked_at_us=now_us)
        report.runs, report.events = totals.runs, totals.events
        report.altered, report.incomplete = totals.altered, totals.incomplete
        report.run = checked.words
        _take_journal(report, journal)
        report.grade = _grade(journal, findings, checked.proven_by).value
        report.take(findings)
        return report


def _not_found(run_id: str, findings: Findings) -> CheckedRun:
    """Nothing of it is or was stored, which counts only where nothing is violated: who hides a run would be believed else."""
    if not findings.of(Severity.VIOLATION):
        raise RunNotFoundError(run_id)
    says = "is not found, and whoever altered what is told here may have hidden it"
    findings.add(Finding(Kind.NOT_CHECKED, says, {"run_id": run_id}))
    return CheckedRun({"run_id": run_id, "completeness": "unproven", "integrity": "unchecked"}, ())


def _take_journal(report: Report, journal: JournalState) -> None:
    report.journal, report.root = journal.size, journal.root
    report.signed, report.anchored = journal.signed_size, journal.anchored_size
    report.anchored_at_us, report.anchors = journal.anchored_at_us, journal.anchors


def _grade(journal: JournalState, findings: Findings, leaves: Sequence[int]) -> Grade:
    """The strongest grade to which all of these leaves of the journal are proven, `self` where there are none. What is not
    sealed yet is told by a finding.
    """
    if findings.of(Severity.VIOLATION) or Kind.NOT_CHECKED in findings.counts or not leaves:
        return Grade.SELF
    for grade in (Grade.ANCHORED, Grade.SIGNED):
        if max(leaves) < journal.proven(grade):
            return grade
    return Grade.SELF


def _is_whole(request: VerifyRequest) -> bool:
    """Whether all content was computed, now or in the checks before it."""
    return request.depth is Depth.FULL and request.since_us is None and request.until_us is None


def _of_this(request: VerifyRequest, report: Report) -> VerifyRequest:
    """What is known of another database, or of this one before it was put back, says nothing: everything is looked at."""
    if request.database in {None, report.database}:
        return request
    anew = replace(request, sealed_from=0, content_from=0, unsettled=())
    report.scope = f"{_scope(anew)}; not the database of the check before, as it was then"
    return anew


def _remember_content(report: Report, request: VerifyRequest, unsettled: tuple[int, ...] | None) -> None:
    """How far content is known, and which of it may still change: as of before any was computed. `unsettled` None: more runs than
    are remembered, so that nothing is known.
    """
    if not _is_whole(request):
        report.content_to, report.unsettled = request.content_from, request.unsettled
    elif unsettled is not None:
        report.content_to, report.unsettled = report.sealed_to, unsettled


def _scope(request: VerifyRequest) -> str:
    if request.run_id is not None:
        return f"run {request.run_id}"
    bounds = "" if request.since_us is None and request.until_us is None else " started in the given time"
    how: dict[Depth, str] = {
        Depth.QUICK: "numbers and heads only",
        Depth.SAMPLE: f"content of {counted(request.sample, 'run')}",
        Depth.FULL: "content of all runs",
    }
    if request.content_from:
        how[Depth.FULL] = "content of runs that are new since an earlier check, and of some others"
    return f"all runs{bounds}, {how[request.depth]}"
