"""The one place that decides whether a run's record is whole. Pure; every store and reader asks it."""

from __future__ import annotations

from dataclasses import dataclass

from skillaudit.contract import ranges
from skillaudit.contract.ranges import Ranges
from skillaudit.contract.records import Completeness, Liveness


@dataclass(frozen=True, slots=True, kw_only=True)
class RunNumbers:
    """What is known of one run's event numbers: 0 is the start, 1..n the logs, n + 1 the finish."""

    received: Ranges = ()
    """Numbers whose events are stored."""
    declared: Ranges = ()
    """Numbers declared lost: by the `lost` of the run's logs and finish, or by a `run.refused` that took them."""
    events: int | None = None
    """The finish's `events`, n + 2; None while no finish is stored."""
    known: int = 0
    """Numbers below this one exist, as the run's source said when it listed the run as open."""
    bare: bool = False
    """Written through a bare Storage: its numbers are the caller's and prove nothing."""


def missing(run: RunNumbers) -> Ranges:
    """Numbers that exist, are not stored and were not declared lost.

    With a finish these are judged over what the finish counts; numbers past it are no gap (an event after the finish
    is for `verify` to name). Without one, everything below the highest number seen or known must be there.
    """
    if run.bare:
        return ()
    top = max(ranges.highest(run.received), ranges.highest(run.declared), run.known - 1)
    if run.events is not None:
        top = run.events - 1
    return ranges.subtract(ranges.missing(run.received, 0, top), run.declared)


def completeness(run: RunNumbers) -> Completeness:
    """The word for it, in order of precedence.

    `unproven` for a bare Storage's run; `incomplete` where a number is missing, finished or not; `open` while there is
    no finish; `declared-loss` where the finish is there and what is not stored was declared lost; else `complete`:
    start, all numbers and finish are stored. (`purged` is the store's to say: it is no longer about numbers.)
    """
    if run.bare:
        return Completeness.UNPROVEN
    if missing(run):
        return Completeness.INCOMPLETE
    if run.events is None:
        return Completeness.OPEN
    return Completeness.DECLARED_LOSS if run.declared else Completeness.COMPLETE


def liveness(*, finished: bool, source_gone: bool) -> Liveness:
    """`finished` where a finish is stored; else `abandoned` where its source is gone; else `open`."""
    if finished:
        return Liveness.FINISHED
    return Liveness.ABANDONED if source_gone else Liveness.OPEN
