"""What `verify` can find, by name, and which exit code follows.

A finding is an observation about what is stored, never a guess about who did it. Its severity says which of the two
verdicts it spoils: integrity (a violation) or completeness (something that never arrived); or that nothing is wrong but
not everything is proven; or that a check could not be made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any, Final


class Severity(Enum):
    """What a finding means for the verdicts. The value is the exit code it asks for."""

    NOTE = 0
    """Worth telling; lawful and proven."""
    INCOMPLETE = 4
    """Something exists and never arrived here."""
    VIOLATION = 5
    """What was received is altered, gone, forged or rolled back; or an act broke a rule."""
    UNPROVEN = 6
    """Nothing wrong was found, and not everything is proven to the grade asked for."""
    UNCHECKED = 7
    """A check could not be made."""


PRECEDENCE: Final = (Severity.VIOLATION, Severity.INCOMPLETE, Severity.UNCHECKED, Severity.UNPROVEN)
"""Which severity decides the exit code where there are several."""


class Kind(StrEnum):
    """The names. They are an interface: scripts compare them."""

    # Events against their own tags, the run's head and its numbers.
    EVENT_ALTERED = "EVENT_ALTERED"
    EVENT_MISSING = "EVENT_MISSING"
    EVENT_EXTRA = "EVENT_EXTRA"
    RUN_REWRITTEN = "RUN_REWRITTEN"
    RUN_TRUNCATED = "RUN_TRUNCATED"
    RUN_MISSING = "RUN_MISSING"
    RUN_UNLISTED = "RUN_UNLISTED"
    RUN_EQUIVOCATES = "RUN_EQUIVOCATES"
    COLUMN_ALTERED = "COLUMN_ALTERED"
    RUN_SUSPECT = "RUN_SUSPECT"
    CLOCK_JUMP = "CLOCK_JUMP"
    RUN_INCOMPLETE = "RUN_INCOMPLETE"
    RUN_OPEN = "RUN_OPEN"
    RUN_ABANDONED = "RUN_ABANDONED"
    RUN_UNPROVEN = "RUN_UNPROVEN"
    RUN_DECLARED_LOSS = "RUN_DECLARED_LOSS"
    # Sources and their numbering.
    SOURCE_ALTERED = "SOURCE_ALTERED"
    SOURCE_EQUIVOCATES = "SOURCE_EQUIVOCATES"
    SOURCE_MISSING = "SOURCE_MISSING"
    SOURCE_TAIL_MISSING = "SOURCE_TAIL_MISSING"
    SOURCE_TAIL_UNKNOWN = "SOURCE_TAIL_UNKNOWN"
    RUN_NEVER_ARRIVED = "RUN_NEVER_ARRIVED"
    # Ledger, seals, journal, checkpoints, anchors.
    LEDGER_ALTERED = "LEDGER_ALTERED"
    LEDGER_ENTRY_MISSING = "LEDGER_ENTRY_MISSING"
    LEDGER_UNSEALED = "LEDGER_UNSEALED"
    SEAL_GAP = "SEAL_GAP"
    JOURNAL_ALTERED = "JOURNAL_ALTERED"
    JOURNAL_REWRITTEN = "JOURNAL_REWRITTEN"
    JOURNAL_ROLLED_BACK = "JOURNAL_ROLLED_BACK"
    CHECKPOINT_FORK = "CHECKPOINT_FORK"
    CHECKPOINT_OLDER = "CHECKPOINT_OLDER"
    SIGNATURE_BAD = "SIGNATURE_BAD"
    UNKNOWN_KEY = "UNKNOWN_KEY"
    NOT_SIGNED = "NOT_SIGNED"
    NOT_ANCHORED = "NOT_ANCHORED"
    ANCHOR_STALE = "ANCHOR_STALE"
    ANCHOR_MISSING = "ANCHOR_MISSING"
    ANCHOR_UNREACHABLE = "ANCHOR_UNREACHABLE"
    ANCHOR_ALTERED = "ANCHOR_ALTERED"
    # Acts.
    ACT_ALTERED = "ACT_ALTERED"
    PURGE_VIOLATES_HOLD = "PURGE_VIOLATES_HOLD"
    PURGE_VIOLATES_MINIMUM = "PURGE_VIOLATES_MINIMUM"
    REDACTION_VIOLATES_HOLD = "REDACTION_VIOLATES_HOLD"
    REDACTED_WITHOUT_ACT = "REDACTED_WITHOUT_ACT"
    RESTORED = "RESTORED"
    PURGED = "PURGED"
    INCIDENT = "INCIDENT"
    REDACTED = "REDACTED"


_INCOMPLETE: Final = frozenset(
    {Kind.RUN_INCOMPLETE, Kind.RUN_NEVER_ARRIVED, Kind.SOURCE_TAIL_MISSING, Kind.SOURCE_MISSING}
)
_UNPROVEN: Final = frozenset(
    {
        Kind.RUN_OPEN,
        Kind.RUN_UNPROVEN,
        Kind.RUN_DECLARED_LOSS,
        Kind.CLOCK_JUMP,
        Kind.SOURCE_TAIL_UNKNOWN,
        Kind.LEDGER_UNSEALED,
        Kind.NOT_SIGNED,
        Kind.NOT_ANCHORED,
        Kind.ANCHOR_STALE,
        Kind.ANCHOR_MISSING,
        Kind.UNKNOWN_KEY,
    }
)
_UNCHECKED: Final = frozenset({Kind.ANCHOR_UNREACHABLE})
_NOTES: Final = frozenset({Kind.RUN_ABANDONED, Kind.PURGED, Kind.REDACTED, Kind.RESTORED, Kind.INCIDENT})

SEVERITIES: Final[Mapping[Kind, Severity]] = {
    kind: Severity.INCOMPLETE
    if kind in _INCOMPLETE
    else Severity.UNPROVEN
    if kind in _UNPROVEN
    else Severity.UNCHECKED
    if kind in _UNCHECKED
    else Severity.NOTE
    if kind in _NOTES
    else Severity.VIOLATION
    for kind in Kind
}
"""Everything that is not named above is a violation: a new name has to be argued down, not up."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. `subject` says where, by names such as run_id, sequence, partition, idx, source_id, journal_idx; `says`
    is the rest of the sentence for people. Neither ever holds what an event says.
    """

    kind: Kind
    says: str
    subject: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def severity(self) -> Severity:
        """As the kind's."""
        return SEVERITIES[self.kind]

    def sentence(self) -> str:
        """One line: the name, where, and what."""
        places = (words.format(self.subject[name]) for name, words in _PLACES if name in self.subject)
        return f"{self.kind} {' '.join(places)}: {self.says}".replace(" :", ":")

    def json(self) -> dict[str, Any]:
        """As it travels."""
        return {
            "kind": str(self.kind),
            "severity": self.severity.name.lower(),
            **self.subject,
            "says": self.says,
        }


_PLACES: Final = (
    ("run_id", "run {}"),
    ("sequence", "event {}"),
    ("source_id", "source {}"),
    ("source_seq", "number {}"),
    ("partition", "ledger {}"),
    ("idx", "#{}"),
    ("journal_idx", "journal {}"),
    ("act_id", "act {}"),
    ("anchor", "anchor {}"),
    ("key", "key {}"),
)

FINDINGS_MAX: Final = 1_000
"""Findings of one kind that are told one by one; of more there is the count."""


class Findings:
    """What was found so far: counts of all, and the first `FINDINGS_MAX` of each kind."""

    def __init__(self, *, findings_max: int = FINDINGS_MAX) -> None:
        self._max = findings_max
        self._kept: dict[Kind, list[Finding]] = {}
        self.counts: dict[Kind, int] = {}

    def add(self, finding: Finding) -> None:
        """One more."""
        self.counts[finding.kind] = self.counts.get(finding.kind, 0) + 1
        kept = self._kept.setdefault(finding.kind, [])
        if len(kept) < self._max:
            kept.append(finding)

    def add_all(self, findings: Iterable[Finding]) -> None:
        """Some more."""
        for finding in findings:
            self.add(finding)

    def count(self, kind: Kind, number: int) -> None:
        """Some that are only counted."""
        if number:
            self.counts[kind] = self.counts.get(kind, 0) + number

    def kept(self) -> list[Finding]:
        """Those that are told: violations first, else in the order of the names."""
        order = {severity: place for place, severity in enumerate((*PRECEDENCE, Severity.NOTE))}
        kinds = sorted(self._kept, key=lambda kind: order[SEVERITIES[kind]])
        return [finding for kind in kinds for finding in self._kept[kind]]

    def of(self, *severities: Severity) -> int:
        """How many of these severities."""
        return sum(number for kind, number in self.counts.items() if SEVERITIES[kind] in severities)

    def exit_code(self) -> int:
        """5 wins over 4, that over 7, that over 6; 0 where nothing but notes was found."""
        for severity in PRECEDENCE:
            if self.of(severity):
                return int(severity.value)
        return 0
