"""What a check answers: two verdicts, the grade, and the findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from skillaudit.contract.clock import from_us
from skillaudit.contract.words import counted
from skillaudit.proof.findings import PRECEDENCE, SEVERITIES, Findings, Kind, Severity, finding_line
from skillaudit.proof.policy import Grade

FORMAT: Final = 1


@dataclass(slots=True, kw_only=True)
class Report:
    """The outcome of one check. JSON and the lines for people are made of the same members."""

    scope: str
    """What was checked, in words."""
    runs: int = 0
    events: int = 0
    hashed_runs: int = 0
    """Of `runs`, those whose content was computed anew,"""
    hashed_events: int = 0
    """and their logs."""
    altered: int = 0
    incomplete: int = 0
    purged: int = 0
    redacted: int = 0
    sources: int = 0
    started: int = 0
    live: int = 0
    never_arrived: int = 0
    ledger_rows: int = 0
    unsealed_rows: int = 0
    journal: int = 0
    root: str = ""
    signed: int = 0
    anchored: int = 0
    anchored_at_us: int | None = None
    anchors: list[str] = field(default_factory=list[str])
    asked: str = Grade.SELF.value
    grade: str = Grade.SELF.value
    """The strongest grade to which everything that was checked is proven."""
    checked_at_us: int = 0
    sealed_to: int = 0
    """Journal leaves whose seals were compared with the ledger, now or before: where the next check may go on."""
    content_to: int = 0
    """The same of content: leaves below which every run was computed, now or before."""
    database: str = ""
    """Which one it was: not proven, and enough to tell another one."""
    unsettled: Sequence[int] = ()
    """Keys of finished runs below `content_to` that lacked something: what still comes of them makes no row of the ledger."""
    kafka: Mapping[str, Any] | None = None
    """Where it was asked for: what was held against Kafka's records, of which cluster, read by whom (`against.Compared`)."""
    run: Mapping[str, Any] | None = None
    """Of a check of one run: its own words and what proves it."""
    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    findings: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    exit_code: int = 0

    def take(self, findings: Findings) -> None:
        """Close the report."""
        self.counts = {str(kind): number for kind, number in sorted(findings.counts.items())}
        self.findings = [finding.json() for finding in findings.kept()]
        self.exit_code = findings.exit_code()

    def hold_against(self, found: Findings, kafka: Mapping[str, Any] | None) -> None:
        """Add what a comparison with Kafka's records found to the closed report."""
        known = {it.get("run_id") for it in self.findings if it["severity"] == "violation"}
        wrong = {
            it.subject["run_id"] for it in found.kept() if it.severity is Severity.VIOLATION if it.subject
        }
        more = [finding.json() for finding in found.kept()]
        order = {severity.name.lower(): place for place, severity in enumerate((*PRECEDENCE, Severity.NOTE))}
        self.findings = sorted([*self.findings, *more], key=lambda it: order[it["severity"]])
        counts = Counter(self.counts) + Counter({str(kind): n for kind, n in found.counts.items()})
        self.counts = dict(sorted(counts.items()))
        self.altered += len(wrong - known)
        self.kafka = kafka
        if found.of(Severity.VIOLATION, Severity.UNCHECKED):
            self.grade = Grade.SELF.value
            codes = {self.exit_code, found.exit_code()}
            self.exit_code = next(int(it.value) for it in PRECEDENCE if it.value in codes)
        if self.run is not None and wrong:
            self.run = {**self.run, "integrity": "altered"}

    def json(self) -> dict[str, Any]:
        """As it travels and is printed."""
        return {"format": FORMAT, **asdict(self)}

    def verdict(self, severity: Severity) -> bool:
        """Whether nothing of this severity was found."""
        return not any(self._found(severity))

    def _found(self, severity: Severity) -> Iterator[int]:
        """How many of each kind of this severity."""
        told = {finding["kind"]: str(finding["severity"]) for finding in self.findings}
        counted = {**dict.fromkeys(told, 1), **self.counts}
        for kind, number in counted.items():
            if self._severity(kind, told) == severity.name.lower():
                yield number

    def _severity(self, kind: str, told: Mapping[str, str]) -> str:
        """By the name; of one that a newer release gave, as its findings say, else as grave as the exit code."""
        if kind in Kind.__members__:
            return SEVERITIES[Kind(kind)].name.lower()
        return told.get(kind, Severity(self.exit_code).name.lower())

    def lines(self) -> Iterator[str]:
        """The first lines for people; findings follow."""
        yield f"integrity     {self._integrity() if self.run is None else self._integrity_of_run(self.run)}"
        yield f"completeness  {self._completeness() if self.run is None else self._completeness_of_run(self.run)}"
        yield f"proof         {self._proof()}"
        if self.kafka is not None:
            yield f"kafka         {self._kafka(self.kafka)}"

    def _word(self, severity: Severity) -> str:
        """How a verdict begins; nothing is ok of which a part was not looked at."""
        if not self.verdict(severity):
            return "FAIL  "
        return "part  " if self.counts.get(Kind.NOT_CHECKED) else "ok    "

    def _integrity_of_run(self, run: Mapping[str, Any]) -> str:
        word = self._word(Severity.VIOLATION)
        seals = [
            f"{it['kind']} {it['ledger']} sealed in journal {it['journal_idx']:,}"
            for it in run.get("sealed", ())
        ]
        return "; ".join([f"{word}{run['integrity']}, {counted(self.events, 'event')}", *seals])

    def _completeness_of_run(self, run: Mapping[str, Any]) -> str:
        word = self._word(Severity.INCOMPLETE)
        status = f"status {run['status']}" if run.get("status") else None
        return ", ".join([f"{word}{run['completeness']}", *filter(None, [run.get("liveness"), status])])

    def _integrity(self) -> str:
        parts = [f"{counted(self.runs, 'run')}, {counted(self.events, 'event')}"]
        if 0 < self.hashed_runs < self.runs:
            parts.append(f"content of {counted(self.hashed_runs, 'run')}")
        if self.purged:
            parts.append(f"{self.purged:,} purged by acts")
        if self.redacted:
            parts.append(f"{self.redacted:,} redacted by acts")
        if self.verdict(Severity.VIOLATION):
            return self._word(Severity.VIOLATION) + "; ".join(parts)
        found = sum(self._found(Severity.VIOLATION))
        return f"FAIL  {self.altered:,} of {'; '.join(parts)}; {counted(found, 'finding')}"

    def _completeness(self) -> str:
        known = f"{counted(self.sources, 'source')}, {counted(self.started, 'run')} started"
        live = f"; {counted(self.live, 'source')} live" if self.live else ""
        if self.verdict(Severity.INCOMPLETE):
            return f"{self._word(Severity.INCOMPLETE)}{known}{live}"
        return f"FAIL  {known}; {self.never_arrived:,} never arrived, {self.incomplete:,} incomplete{live}"

    def _proof(self) -> str:
        reached, asked = Grade(self.grade), Grade(self.asked)
        wish = "as asked" if reached is asked else f"{self.asked} was asked for"
        if not self.verdict(Severity.VIOLATION) or self.counts.get(Kind.NOT_CHECKED):
            why = "a part was not checked" if self.verdict(Severity.VIOLATION) else "something is violated"
            return f"no    nothing as a whole, since {why} ({self.asked} was asked for); {self._journal()}"
        word = "ok    " if reached.strength >= asked.strength else "no    "
        return f"{word}grade {self.grade} ({wish}): {self._journal()}{self._doubt()}"

    def _kafka(self, kafka: Mapping[str, Any]) -> str:
        runs, compared, partly = kafka["runs"], kafka["compared"], kafka["partly"]
        older = runs - compared - partly
        word = "FAIL  " if kafka["violations"] else "part  " if kafka["unchecked"] else "ok    "
        if word == "ok    " and runs and not compared + partly:
            word = "none  "
        parts = [f"{compared:,} of {counted(runs, 'run')} compared"]
        parts += [f"{partly:,} in part"] if partly else []
        parts += [f"{older:,} older than Kafka keeps"] if older and not kafka["unchecked"] else []
        cluster = kafka["cluster"] or "a cluster out of reach"
        parts += [f"{counted(kafka['records'], 'record')} of {cluster}, read by {kafka['by']}"]
        return word + "; ".join(parts)

    def _journal(self) -> str:
        if not self.journal:
            return "nothing is sealed yet"
        leaves = f"{counted(self.journal, 'leaf', 'leaves')} of the journal"
        if self.anchored and self.anchored_at_us is not None:
            age_s = max(self.checked_at_us - self.anchored_at_us, 0) // 1_000_000
            at = from_us(self.anchored_at_us).isoformat(timespec="seconds").replace("+00:00", "Z")
            return f"{self.anchored:,} of {leaves} anchored at {at}, {age_s:,} s ago"
        if self.signed:
            return f"{self.signed:,} of {leaves} signed by a known key, under no known anchor"
        return f"{leaves}, under no known signature or anchor"

    def _doubt(self) -> str:
        """Who could have rewritten what is proven no better."""
        if self.grade == Grade.ANCHORED.value:
            return ""
        who = "whoever writes the database"
        if self.grade == Grade.SIGNED.value:
            return f"; {who} and holds the key could have rewritten it"
        what = "the rest" if self.signed or self.anchored else "it"
        return f"; {who} could have rewritten {what}"


def parse_report(found: Mapping[str, Any]) -> Report:
    """The inverse of `Report.json`; members of a newer release are passed over. `TypeError` for no report at all."""
    known = Report.__dataclass_fields__
    return Report(**{name: value for name, value in found.items() if name in known})


def sentence(finding: Mapping[str, Any]) -> str:
    """A finding's line for people; of a newer release's finding, too."""
    subject = {name: value for name, value in finding.items() if name not in {"kind", "severity", "says"}}
    return finding_line(finding["kind"], subject, finding["says"])
