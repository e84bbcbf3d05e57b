"""What `verify` can find, by name, and which exit code follows.

A finding is an observation about what is stored, never a guess about who did it. Its severity says which of the two
verdicts it spoils: integrity (a violation) or completeness (something that never arrived); or that nothing is wrong but
not everything is proven; or that a check could not be made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
    LEDGER_CUT = "LEDGER_CUT"
    LEDGER_CUT_KNOWN = "LEDGER_CUT_KNOWN"
    SEAL_GAP = "SEAL_GAP"
    JOURNAL_ALTERED = "JOURNAL_ALTERED"
    JOURNAL_REWRITTEN = "JOURNAL_REWRITTEN"
    JOURNAL_ROLLED_BACK = "JOURNAL_ROLLED_BACK"
    CHECKPOINT_FORK = "CHECKPOINT_FORK"
    CHECKPOINT_OLDER = "CHECKPOINT_OLDER"
    SIGNATURE_BAD = "SIGNATURE_BAD"
    UNKNOWN_KEY = "UNKNOWN_KEY"
    KEY_UNRECORDED = "KEY_UNRECORDED"
    NOT_SIGNED = "NOT_SIGNED"
    NOT_ANCHORED = "NOT_ANCHORED"
    ANCHOR_STALE = "ANCHOR_STALE"
    ANCHOR_UNREACHABLE = "ANCHOR_UNREACHABLE"
    ANCHOR_ALTERED = "ANCHOR_ALTERED"
    # Acts.
    ACT_ALTERED = "ACT_ALTERED"
    ACT_UNLISTED = "ACT_UNLISTED"
    ACT_UNPROVEN = "ACT_UNPROVEN"
    PURGE_VIOLATES_HOLD = "PURGE_VIOLATES_HOLD"
    PURGE_VIOLATES_MINIMUM = "PURGE_VIOLATES_MINIMUM"
    REDACTION_VIOLATES_HOLD = "REDACTION_VIOLATES_HOLD"
    REDACTED_WITHOUT_ACT = "REDACTED_WITHOUT_ACT"
    RESTORED = "RESTORED"
    PURGED = "PURGED"
    INCIDENT = "INCIDENT"
    REDACTED = "REDACTED"
    # The check itself.
    SCHEMA_ALTERED = "SCHEMA_ALTERED"
    NOT_CHECKED = "NOT_CHECKED"


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
        Kind.LEDGER_CUT,
        Kind.ACT_UNPROVEN,
        Kind.NOT_SIGNED,
        Kind.NOT_ANCHORED,
        Kind.ANCHOR_STALE,
        Kind.UNKNOWN_KEY,
    }
)
_UNCHECKED: Final = frozenset({Kind.ANCHOR_UNREACHABLE, Kind.NOT_CHECKED})
_NOTES: Final = frozenset(
    {
        Kind.RUN_ABANDONED,
        Kind.LEDGER_CUT_KNOWN,
        Kind.PURGED,
        Kind.REDACTED,
        Kind.RESTORED,
        Kind.INCIDENT,
        Kind.KEY_UNRECORDED,
    }
)

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


MEANINGS: Final[Mapping[Kind, str]] = {
    Kind.EVENT_ALTERED: "content, time, type or tag of one event does not fit its digest, or its record in Kafka; or something stands in the place of a redaction",
    Kind.EVENT_MISSING: "an event that the run's row says was stored, or that a record in Kafka brought, is not there",
    Kind.EVENT_EXTRA: "an event after the finish, a number twice, events of no run, or one that no record in Kafka brought",
    Kind.RUN_REWRITTEN: "tags agree, and the head is not the ledger's: the run was rewritten with its tags",
    Kind.RUN_TRUNCATED: "the ledger speaks of more events than there are",
    Kind.RUN_MISSING: "a record of it was received, as the ledger or Kafka says, it is not stored, and no act purged it",
    Kind.RUN_UNLISTED: "it is stored, and no record brought it",
    Kind.RUN_EQUIVOCATES: "two different statements about one run",
    Kind.COLUMN_ALTERED: "a column that can be computed is not what its records say, or salts are kept that should not be",
    Kind.RUN_SUSPECT: "beyond the runs that are told one by one: something is off",
    Kind.CLOCK_JUMP: "events dated before their predecessors, or after they were received",
    Kind.RUN_INCOMPLETE: "events that never arrived",
    Kind.RUN_OPEN: "not finished: its last events are not proven",
    Kind.RUN_ABANDONED: "its source is gone, and everything that it recorded is here",
    Kind.RUN_UNPROVEN: "written through a bare Storage, or before there was a ledger",
    Kind.RUN_DECLARED_LOSS: "the agent or the broker declared events lost",
    Kind.SOURCE_ALTERED: "what is stored of a source, or a run's number, contradicts the ledger",
    Kind.SOURCE_EQUIVOCATES: "one number of a source given to two runs",
    Kind.SOURCE_MISSING: "no source of an expected host",
    Kind.SOURCE_TAIL_MISSING: "the last runs that a source counted never arrived",
    Kind.SOURCE_TAIL_UNKNOWN: "a source fell silent, or what it counted may still be on its way",
    Kind.RUN_NEVER_ARRIVED: "a run that its source numbered, or lists, never arrived",
    Kind.LEDGER_ALTERED: "rows of the ledger are not those that were sealed",
    Kind.LEDGER_ENTRY_MISSING: "rows of the ledger are gone",
    Kind.LEDGER_UNSEALED: "rows that no seal of the asked grade covers yet",
    Kind.LEDGER_CUT: "sealed rows, or runs, from before what this database was made again from: not here, and not proven",
    Kind.LEDGER_CUT_KNOWN: "the same, as far as the policy names it",
    Kind.SEAL_GAP: "a seal does not go on where the one before ended",
    Kind.JOURNAL_ALTERED: "leaves or tiles of the journal are gone or of another form",
    Kind.JOURNAL_REWRITTEN: "the journal is not the one that was signed or anchored",
    Kind.JOURNAL_ROLLED_BACK: "the journal is shorter than what was signed or anchored",
    Kind.CHECKPOINT_FORK: "two checkpoints of one size",
    Kind.CHECKPOINT_OLDER: "an anchor's object is out of order",
    Kind.SIGNATURE_BAD: "a signature in the name of a known key is not its own, or a checkpoint is none",
    Kind.UNKNOWN_KEY: "signed by none of the policy's keys",
    Kind.KEY_UNRECORDED: "keys are recorded in this journal, and one signs that no act introduced",
    Kind.NOT_SIGNED: "no checkpoint of a known key agrees with the journal",
    Kind.NOT_ANCHORED: "no anchor in other hands agrees with the journal",
    Kind.ANCHOR_STALE: "the newest anchored checkpoint is too old",
    Kind.ANCHOR_UNREACHABLE: "an anchor could not be asked",
    Kind.ANCHOR_ALTERED: "an anchor holds something that no sealer wrote",
    Kind.ACT_ALTERED: "an act or a hold is not what the journal holds",
    Kind.ACT_UNLISTED: "an act that the control log does not hold",
    Kind.ACT_UNPROVEN: "an act that no checkpoint of the asked grade covers yet, so that anybody may have put it there",
    Kind.PURGE_VIOLATES_HOLD: "a run was purged while it was held, by the acts, by the purge's own word, or by the row that is left of it",
    Kind.PURGE_VIOLATES_MINIMUM: "a run was purged before its minimum age",
    Kind.REDACTION_VIOLATES_HOLD: "content was taken out while the run was held",
    Kind.REDACTED_WITHOUT_ACT: "content was taken out, and no act did it",
    Kind.RESTORED: "the database was put back to an older copy by an act",
    Kind.PURGED: "the run was purged by an act",
    Kind.INCIDENT: "the sealer noted something in the journal",
    Kind.REDACTED: "content was taken out by an act",
    Kind.SCHEMA_ALTERED: "a view or a function is not the one that a release makes: whoever reads may be told what is not stored",
    Kind.NOT_CHECKED: "a part of the check could not be made; the others were",
}
"""What each says, in a few words; the table in docs/verify.md is made of it."""


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
        return finding_line(str(self.kind), self.subject, self.says)

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


def finding_line(kind: str, subject: Mapping[str, Any], says: str) -> str:
    """A finding's line for people. `kind` may be a newer release's, which this one doesn't know."""
    places = (words.format(subject[name]) for name, words in _PLACES if name in subject)
    return f"{kind} {' '.join(places)}: {says}".replace(" :", ":")


FINDINGS_MAX: Final = 1_000
"""Findings of one kind that are told one by one; of more there is the count."""


class Findings:
    """What was found so far: counts of all, and the first `FINDINGS_MAX` of each kind.

    `wanted`: only such findings are taken in, and only they count; what is passed over takes no room.
    """

    def __init__(
        self, *, findings_max: int = FINDINGS_MAX, wanted: Callable[[Finding], bool] = lambda _: True
    ) -> None:
        self._max = findings_max
        self._wanted = wanted
        self._kept: dict[Kind, list[Finding]] = {}
        self.counts: dict[Kind, int] = {}

    def add(self, finding: Finding) -> None:
        """One more."""
        if not self._wanted(finding):
            return
        self.counts[finding.kind] = self.counts.get(finding.kind, 0) + 1
        kept = self._kept.setdefault(finding.kind, [])
        if len(kept) < self._max:
            kept.append(finding)

    def add_all(self, findings: Iterable[Finding]) -> None:
        """Some more."""
        for finding in findings:
            self.add(finding)

    def take(self, others: Findings) -> None:
        """All that others found, counts included."""
        for kind, kept in others._kept.items():
            self.add_all(kept)
            self.count(kind, others.counts[kind] - len(kept))
        for kind in others.counts.keys() - others._kept.keys():
            self.count(kind, others.counts[kind])

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
