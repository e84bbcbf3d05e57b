"""What is to be checked, how deeply, and against what the verifier knows by itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from skillaudit.proof.policy import Policy
from skillaudit.proof.verify.logged import ControlReading
from skillaudit.proof.verify.witness import AnchorReading


class Depth(StrEnum):
    """How deeply runs are checked. Ledger, seals, journal, anchors, sources and acts are checked in each."""

    QUICK = "quick"
    """Numbers, counts and heads as they are stored; no content is hashed."""
    SAMPLE = "sample"
    """As quick, and the content of runs drawn at random."""
    FULL = "full"
    """The content of every run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRequest:
    """One check."""

    run_id: str | None = None
    """Only this one; None: all in the scope."""
    since_us: int | None = None
    """Runs started at or after; None: no limit."""
    until_us: int | None = None
    depth: Depth = Depth.FULL
    sample: int = 0
    """With `Depth.SAMPLE`: how many runs."""
    seed: int = 0
    """Which runs are drawn, and which seals that were compared before."""
    sealed_from: int = 0
    """Journal index from which on all seals are checked against the ledger; what is below was checked before, and some of
    it is drawn and checked again."""
    content_from: int = 0
    """As `sealed_from`, of content: with `Depth.FULL`, runs whose rows of the ledger all lie under seals below it were
    computed before, and some of them are drawn and computed again; 0: all are."""
    database: str | None = None
    """Of which database `sealed_from`, `content_from` and `unsettled` are known, as `Report.database` named it; of another one, and
    of one that was put back since, everything is looked at. None: of this one."""
    unsettled: tuple[int, ...] = ()
    """Keys of runs below `content_from` that are computed again: they lacked something when they were."""
    policy: Policy = field(default_factory=Policy)
    anchors: tuple[AnchorReading, ...] = ()
    """What the verifier read from the anchors by itself."""
    against_kafka: bool = False
    """Stored events are held against the records that Kafka still holds, read by the process that has the database."""
    control: ControlReading | None = None
    """What it read from the control log by itself; None: the acts are not held against it."""
