"""From one run's facts to findings. Pure.

Three witnesses are compared: the content (digests computed anew), the tags and the head stored beside it, and the ledger.
What disagrees with what tells what was changed: an event whose own tag disagrees is named; where all tags agree and the
head is not the ledger's, the run was rewritten together with its tags; where the ledger speaks of more events than there
are, the run was cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from skillaudit.contract import ranges
from skillaudit.contract.clock import from_us
from skillaudit.contract.completeness import RunNumbers, completeness, missing
from skillaudit.contract.digests import run_hash
from skillaudit.contract.errors import InvalidRecordError
from skillaudit.contract.events import format_ranges, parse_ranges
from skillaudit.contract.ranges import Ranges
from skillaudit.contract.words import counted
from skillaudit.proof.findings import Finding, Kind
from skillaudit.proof.verify.facts import Mark, RunFacts

CLOCK_AHEAD_US_MAX: Final = 300_000_000
"""A run dated this much after its start was received has a clock that went wrong."""
_TIME_TYPE_MAX: Final = 40
_UNFINISHED: Final = (
    ("status", "running"),
    ("output", ""),
    ("error", ""),
    ("tool_calls_count", 0),
    ("runtime_us", 0),
    ("total_input_tokens", 0),
    ("total_output_tokens", 0),
    ("total_thinking_tokens", 0),
)
"""What the columns of a finish hold while there is none."""


def judge_run(facts: RunFacts) -> list[Finding]:
    """Everything that is to be said of the run; nothing where it is finished, whole and proven."""
    if facts.row["by_storage"]:
        return list(_bare(facts))
    absent = list(_numbers(facts))
    found = [*_events(facts), *absent, *_heads(facts, whole=not absent)]
    sound = not facts.altered and not absent
    return [*found, *_columns(facts, sound=sound), *_state(facts)]


def _bare(facts: RunFacts) -> Iterator[Finding]:
    """A run written through a bare Storage has nothing that proves it, and must not have once been a Writer's."""
    row = facts.row
    if facts.marks and row["conflicts"]:
        yield _of(
            facts,
            Kind.RUN_EQUIVOCATES,
            f"a bare Storage and a Writer ({facts.marks[0].place}) both wrote under its id",
        )
    elif facts.marks:
        yield _of(
            facts,
            Kind.RUN_REWRITTEN,
            f"is stored as a bare Storage's, and the ledger lists it as a Writer's ({facts.marks[0].place})",
        )
    elif row["salt"] is not None or row["head"] is not None or row["source_id"]:
        yield _of(
            facts, Kind.COLUMN_ALTERED, "is stored as a bare Storage's and has what only a Writer's run has"
        )
    yield _of(
        facts,
        Kind.RUN_UNPROVEN,
        "was written through a bare Storage: nothing proves its content or its numbers",
    )


def _events(facts: RunFacts) -> Iterator[Finding]:
    intact = facts.finished and facts.head == facts.row["head"] and facts.head in _heads_of(facts, "finish")
    for it in facts.altered:
        when = f"({it.event_type[:_TIME_TYPE_MAX]}, {shown_time(it.at_us)})"
        if it.unsalted:
            says = f"{when} its salt is gone, and no redaction stands in its place"
        elif intact:
            says = f"{when} its tag is not that of its content; the content agrees with the ledger"
        else:
            says = f"{when} its content does not match its tag"
        yield _of(facts, Kind.EVENT_ALTERED, says, sequence=it.seq)
    if facts.altered_more:
        yield _of(facts, Kind.EVENT_ALTERED, f"and {counted(facts.altered_more, 'more event')} of it")
    if facts.backwards is not None and not facts.altered:
        yield _of(facts, Kind.CLOCK_JUMP, "is dated before the event before it", sequence=facts.backwards)
    yield from _clock(facts)


def _clock(facts: RunFacts) -> Iterator[Finding]:
    received = [mark.received_us for mark in facts.marks if mark.kind == "start" and mark.received_us]
    if received and facts.row["started_us"] > min(received) + CLOCK_AHEAD_US_MAX:
        yield _of(
            facts,
            Kind.CLOCK_JUMP,
            f"is dated {shown_time(facts.row['started_us'])} and was received at {shown_time(min(received))}: the host's clock was ahead",
        )


# Numbers: which events are there, which should be.


def _stored(facts: RunFacts) -> Ranges:
    numbers = ranges.add(facts.logs, 0)
    return ranges.add(numbers, facts.row["finish_seq"]) if facts.finished else numbers


def _listed(facts: RunFacts) -> int:
    """How many events the ledger says the run has, as its own source said."""
    finishes = [mark.events for mark in facts.marks if mark.kind == "finish" and _is_own(facts, mark)]
    if finishes:
        return max(finishes)
    return max((mark.events for mark in facts.marks if _is_due(facts, mark)), default=0)


def _is_due(facts: RunFacts, mark: Mark) -> bool:
    """Whether all that its own source counted there must have been read by now."""
    return _is_own(facts, mark) and mark not in facts.ahead


def _is_own(facts: RunFacts, mark: Mark) -> bool:
    return mark.source_id == str(facts.row["source_id"])


def _numbers(facts: RunFacts) -> Iterator[Finding]:
    stored, listed = _stored(facts), _listed(facts)
    end = facts.row["finish_seq"] if facts.finished else None
    top = max(listed - 1, end if end is not None else ranges.highest(stored))
    admitted = _parsed(facts.row["missing"])
    absent = ranges.subtract(ranges.missing(stored, 0, top), ranges.union(facts.declared, facts.refused))
    gone = ranges.subtract(absent, admitted)
    for low, high in gone:
        if high == top and listed > low and not (facts.finished and end == top):
            yield _of(
                facts,
                Kind.RUN_TRUNCATED,
                f"ends before event {low}; the ledger says it has {listed}",
                sequence=low,
            )
        else:
            yield _of(
                facts,
                Kind.EVENT_MISSING,
                _span(low, high) + " not there, and the run's row says it was stored",
                sequence=low,
            )
    for low, high in facts.repeated:
        yield _of(facts, Kind.EVENT_EXTRA, _span(low, high) + " there more than once", sequence=low)
    if end is not None:
        for low, high in ranges.subtract(facts.logs, ((0, end - 1),)):
            yield _of(
                facts,
                Kind.EVENT_EXTRA,
                f"{_span(low, high)} there, and the run's finish is number {end}",
                sequence=low,
            )
    if ranges.contains(facts.logs, 0):
        yield _of(facts, Kind.EVENT_EXTRA, "a log has the start's number", sequence=0)
    if not gone and facts.logs_stored < facts.row["events_stored"]:
        yield _of(
            facts,
            Kind.EVENT_MISSING,
            f"{facts.row['events_stored']} logs were stored, {facts.logs_stored} are there",
        )


def _span(low: int, high: int) -> str:
    return "is" if low == high else f"to {high} are"


def _parsed(text: str) -> Ranges:
    try:
        return ranges.normalized(parse_ranges(text))
    except ValueError:
        return ()


# Heads: the content as a whole against the ledger.


def _heads_of(facts: RunFacts, kind: str) -> set[bytes | None]:
    return {mark.head for mark in facts.marks if mark.kind == kind}


def _heads(facts: RunFacts, *, whole: bool) -> Iterator[Finding]:
    """`whole`: no number is gone or too many, else the head differs for that reason."""
    yield from _listing(facts)
    yield from _equivocation(facts)
    if facts.altered or not whole:
        return
    if facts.finished:
        yield from _finish_head(facts)
    for mark in _last_marks(facts):
        head = facts.heads.get(mark.events)
        if head is not None and head != mark.head:
            yield _of(
                facts,
                Kind.RUN_REWRITTEN,
                f"its head through {counted(mark.events, 'event')} differs from the ledger's ({mark.place}), and its tags agree: it was rewritten",
                sequence=mark.events - 1,
            )


def _finish_head(facts: RunFacts) -> Iterator[Finding]:
    computable = not facts.refused and facts.row["completeness"] != "incomplete"
    marks = [mark for mark in facts.marks if mark.kind == "finish" and _is_own(facts, mark)]
    if computable and facts.head != facts.row["head"]:
        where = f"; ledger {marks[0].place}" if marks else ""
        yield _of(
            facts,
            Kind.RUN_REWRITTEN,
            f"its head is not the one that its finish carries, and its tags agree{where}",
        )
    elif marks and facts.row["head"] not in {mark.head for mark in marks}:
        yield _of(
            facts,
            Kind.RUN_REWRITTEN,
            f"its head differs from the ledger's ({marks[0].place}), and its tags agree: it was rewritten",
        )


def _last_marks(facts: RunFacts) -> list[Mark]:
    """The start's row, and the one that speaks of most events: what the others say is in its head."""
    own = [mark for mark in facts.marks if _is_own(facts, mark) and mark.kind != "finish"]
    starts = [mark for mark in own if mark.kind == "start"]
    last = max((mark for mark in own if mark.kind != "start"), key=lambda mark: mark.events, default=None)
    return [*starts[:1], *([last] if last else [])]


def _listing(facts: RunFacts) -> Iterator[Finding]:
    starts = [mark for mark in facts.marks if mark.kind == "start"]
    row = facts.row
    if not starts:
        if not facts.before_ledger:
            yield _of(
                facts,
                Kind.RUN_UNLISTED,
                "its start is in no row of the ledger: it did not come by way of a record",
            )
        return
    if not any((mark.source_id, mark.source_seq) == (row["source_id"], row["source_seq"]) for mark in starts):
        first = starts[0]
        yield _of(
            facts,
            Kind.SOURCE_ALTERED,
            f"the ledger ({first.place}) says it is run {first.source_seq} of source {first.source_id}",
            source_id=row["source_id"],
            source_seq=row["source_seq"],
        )
    if facts.finished and not any(mark.kind == "finish" for mark in facts.marks) and not facts.before_ledger:
        yield _of(facts, Kind.RUN_UNLISTED, "its finish is in no row of the ledger")


def _equivocation(facts: RunFacts) -> Iterator[Finding]:
    """Two different statements about one run and one number of events."""
    said: dict[tuple[str, int], set[tuple[str, int, bytes | None]]] = {}
    for mark in facts.marks:
        kind = mark.kind if mark.kind in {"start", "finish"} else "listing"
        key = (kind, 0 if kind == "finish" else mark.events)
        said.setdefault(key, set()).add((mark.source_id, mark.events if kind == "finish" else 0, mark.head))
    told = False
    for (kind, _), statements in sorted(said.items()):
        if len(statements) > 1:
            told = True
            yield _of(
                facts,
                Kind.RUN_EQUIVOCATES,
                f"the ledger holds {len(statements)} different statements of its {kind}",
            )
    if facts.stored_conflicts and not told:
        says = (
            f"has {counted(facts.stored_conflicts, 'conflict')}: records for a place that another one holds"
        )
        yield _of(facts, Kind.RUN_EQUIVOCATES, says)


# Columns that say what can be computed.


def _columns(facts: RunFacts, *, sound: bool) -> Iterator[Finding]:
    """`sound`: no event is altered, missing or too many; else what is computed from them says nothing."""
    computed = (*_altered_times(facts), *_altered_verdict(facts)) if sound else ()
    for name in (*_altered_columns(facts), *_altered_receipt(facts), *computed):
        yield _of(facts, Kind.COLUMN_ALTERED, f"the column {name} is not what its records say")


def _altered_columns(facts: RunFacts) -> Iterator[str]:
    row = facts.row
    if row["run_hash"] != run_hash(facts.run_id):
        yield "run_hash"
    expected = None if not facts.finished else row["finish_seq"] + 1
    if row["events_expected"] != expected:
        yield "events_expected"
    if row["events_stored"] < facts.logs_stored:
        yield "events_stored"
    if not facts.lost_readable or (facts.refused and ranges.subtract(facts.refused, _parsed(row["lost"]))):
        yield "lost"
    if row["liveness"] not in ({"finished"} if facts.finished else {"open", "abandoned"}):
        yield "liveness"
    for name in ("finished_us", "finish_tag", "head"):
        if (row[name] is not None) != facts.finished:
            yield name
    if facts.finished and facts.redactions and row["salt"] is not None:
        yield "salt"  # forgotten with what was taken out: from it the content could be guessed
    if not facts.finished:
        yield from (name for name, empty in _UNFINISHED if row[name] != empty)


def _altered_receipt(facts: RunFacts) -> Iterator[str]:
    row = facts.row
    if row["conflicts"] != facts.stored_conflicts:
        yield "conflicts"
    received = [mark.received_us for mark in facts.marks if mark.kind == "start"]
    if any(received) and row["received_us"] not in received:
        yield "received_at"
    places = {(mark.partition, mark.offset) for mark in facts.marks if mark.kind == "start"}
    if places and (row["partition"], row["record_offset"]) not in places:
        yield "record_offset"


def _altered_times(facts: RunFacts) -> Iterator[str]:
    if not facts.refused and facts.row["last_event_us"] != facts.last_us:
        yield "last_event_at"


def _altered_verdict(facts: RunFacts) -> Iterator[str]:
    """Completeness and missing numbers, from the numbers that are there and what the ledger knows of the run."""
    listings = [mark for mark in facts.marks if mark.kind in {"progress", "closed"}]
    # Where a listing was read ahead of its run, the row may count what it lists, or not yet.
    readings = [
        RunNumbers(
            received=_stored(facts),
            declared=ranges.union(facts.declared, facts.refused),
            events=facts.row["finish_seq"] + 1 if facts.finished else None,
            known=max((mark.events for mark in listings if counts(facts, mark)), default=0),
        )
        for counts in (_is_own, _is_due)
    ]
    if facts.row["completeness"] not in {completeness(numbers) for numbers in readings}:
        yield "completeness"
    if facts.row["missing"] not in {format_ranges(missing(numbers)) for numbers in readings}:
        yield "missing"


# What the run's state means for the verdict.


def _state(facts: RunFacts) -> Iterator[Finding]:
    row = facts.row
    if row["missing"]:
        yield _of(facts, Kind.RUN_INCOMPLETE, f"events {row['missing']} never arrived")
    if facts.declared or facts.refused:
        lost = ranges.union(facts.declared, facts.refused)
        yield _of(
            facts,
            Kind.RUN_DECLARED_LOSS,
            f"its agent or the broker declared events {format_ranges(lost)} lost",
        )
    if not facts.finished and row["liveness"] == "open":
        yield _of(
            facts,
            Kind.RUN_OPEN,
            "is not finished: what comes after its last event that the ledger knows is not proven",
        )
    elif not facts.finished and _closed(facts):
        yield _of(
            facts, Kind.RUN_ABANDONED, "was abandoned, and everything that its source recorded of it is here"
        )
    elif not facts.finished:
        yield _of(
            facts, Kind.RUN_OPEN, "was abandoned: its source is gone, and its last events are not proven"
        )
    if facts.before_ledger and not any(mark.kind == "start" for mark in facts.marks):
        yield _of(
            facts,
            Kind.RUN_UNPROVEN,
            "is in no ledger: it was stored by an earlier release, by a dead letter replayed later, or from what was left of a seal",
        )
    redacted = len({(it.seq, it.field) for it in facts.redactions})
    if redacted:
        yield _of(facts, Kind.REDACTED, f"{redacted} redactions; what is left is proven")


def _closed(facts: RunFacts) -> bool:
    """Whether its source's last word lists it, with no more than is here."""
    return any(
        mark.kind == "closed" and _is_own(facts, mark) and mark.events in facts.heads for mark in facts.marks
    )


def _of(facts: RunFacts, kind: Kind, says: str, **where: Any) -> Finding:
    return Finding(kind, says, {"run_id": facts.run_id, **where})


def shown_time(at_us: int) -> str:
    """A time for people; the number of a year that nobody lives in."""
    try:
        return from_us(at_us).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, InvalidRecordError):
        return f"{at_us} us"
