"""From the records of a run's doubtful numbers, and what is stored under these, to findings. Pure.

Which record holds a number is decided by the rules of `contract.runrecord`, as the consumer decided it: the records of a
number, and the run's starts and finishes, are all that these rules ask for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from skillaudit.contract.runrecord import RunRecord
from skillaudit.contract.wire import RunEvent, RunFinished, RunLog, RunRefused, RunStarted
from skillaudit.proof.findings import Finding, Kind
from skillaudit.proof.verify.copying import BARE, CopiedRecord, What
from skillaudit.proof.verify.judging import shown_time

_TYPE_SHOWN_MAX: Final = 40
_BARE_BY: Final = "storage"


class StoredTag(NamedTuple):
    """What is stored under a number."""

    what: What
    tag: int | None
    event_type: str
    at_us: int


@dataclass(slots=True, kw_only=True)
class DoubtfulRun:
    """One run, with what there is of the numbers that are looked at."""

    run_id: str
    partition: str
    bare: bool
    """As the database says."""
    held: bool
    """Kafka holds its start, and so everything that came of it."""
    source: int
    """The hash of its source's id."""
    numbers: Sequence[int] = ()
    copied: Sequence[CopiedRecord] = ()
    """Of these numbers, and all starts and finishes, by offset."""
    replayed: Sequence[CopiedRecord] = ()
    """Those that were dead letters first: they were applied later, nobody knows when."""
    stored: Mapping[int, Sequence[StoredTag]] = field(default_factory=dict[int, Sequence[StoredTag]])
    conflicts: Collection[tuple[int, int]] = ()
    """Numbers and tags of the records that were kept aside as conflicts."""
    refused: Collection[int] = ()
    """Numbers that the broker refused, as the database knows."""
    differs: Mapping[tuple[int, int], str] = field(default_factory=dict[tuple[int, int], str])
    """Number and a record's tag -> in what the record differs from what is stored, where contents were compared."""


def judge_doubtful(run: DoubtfulRun) -> Iterator[Finding]:
    """What is to be said of these numbers; nothing where what is stored is what the records make of the run."""
    record, places = _record_of(run)
    if run.held and record.bare is not run.bare:
        now, then = ("a bare Storage's", "a Writer's") if run.bare else ("a Writer's", "a bare Storage's")
        first = min(run.copied, key=lambda it: it.offset)
        says = f"is stored as {now}, and Kafka's records of it ({_place(run, first)}) are {then}"
        yield Finding(Kind.RUN_REWRITTEN, says, {"run_id": run.run_id})
        return
    expected = _expected(record, places) if run.held else {}
    for seq in run.numbers:
        if run.held:
            yield from _held(run, seq, expected.get(seq))
        elif not run.bare:
            yield from _partly(run, seq)


def _record_of(run: DoubtfulRun) -> tuple[RunRecord, dict[int, CopiedRecord]]:
    record, places = RunRecord(run.run_id), dict[int, CopiedRecord]()
    for it in (*run.copied, *run.replayed):
        event = _event_of(run.run_id, it)
        record.apply(event)
        if record.arrived and record.arrived[-1] is event:
            places[id(event)] = it  # the record keeps it, so that its id stays its own
    return record, places


def _event_of(run_id: str, it: CopiedRecord) -> RunEvent:
    """A record with as much as the rules ask for."""
    by = _BARE_BY if it.what >= BARE else ""
    call_id = f"{it.offset}" if by else ""
    source = str(it.source)
    match it.what % BARE:
        case What.START:
            return RunStarted(
                run_id, it.seq, 0, it.tag, "", "", "", "", "", source, 0, "", b"", b"", by, call_id
            )
        case What.LOG:
            return RunLog(run_id, it.seq, 0, it.tag, "", b"", by=by, call_id=call_id)
        case What.FINISH:
            counts = (0, 0, 0, 0, 0, it.seq + 1)
            return RunFinished(
                run_id, it.seq, 0, it.tag, "", "", "", *counts, source, 0, "", "", (), by, call_id
            )
        case _:
            return RunRefused(run_id, it.seq, 0, it.tag, "", 0)


def _expected(record: RunRecord, places: Mapping[int, CopiedRecord]) -> dict[int, CopiedRecord]:
    """By number, the record that holds it."""
    found = {seq: places[id(log)] for seq, log in record.logs.items()}
    for end in (record.start, record.finish):
        if end is not None and end.seq >= 0:
            found[end.seq] = places[id(end)]
    return found


def _held(run: DoubtfulRun, seq: int, record: CopiedRecord | None) -> Iterator[Finding]:
    """Of a run whose records are all there."""
    stored = run.stored.get(seq, ())
    others = {it.tag for it in run.replayed if it.seq == seq}
    right = False
    for it in stored:
        if it.tag in others or (record is not None and (it.what, it.tag) == _key(record)):
            right = True
        elif record is not None and record.what % BARE == it.what:
            right = True
            yield _altered(run, seq, it, record)
        else:
            says = f"{_told(it)} no record of Kafka brings it"
            yield Finding(Kind.EVENT_EXTRA, says, {"run_id": run.run_id, "sequence": seq})
    if record is None:
        return
    if not right:
        yield _missing(run, seq, record)
    elif record.digest != record.tag and any(it.tag == record.tag for it in stored):
        says = f"{_told(stored[0])} Kafka's record of it ({_place(run, record)}) does not match its own tag: it was altered on its way, or its run's salt was"
        yield Finding(Kind.EVENT_ALTERED, says, {"run_id": run.run_id, "sequence": seq})


def _partly(run: DoubtfulRun, seq: int) -> Iterator[Finding]:
    """Of a run whose first records Kafka has no longer: another record may have been the first of a number."""
    copied = [it for it in (*run.copied, *run.replayed) if it.seq == seq and it.what < What.REFUSED]
    stored = run.stored.get(seq, ())
    held = {(it.what, it.tag) for it in stored}
    for record in copied[:1]:
        aside = all((seq, it.tag) in run.conflicts for it in copied)
        if any(_key(it) in held for it in copied) or aside or seq in run.refused:
            continue
        same = next((it for it in stored if it.what == record.what), None)
        yield _missing(run, seq, record) if same is None else _altered(run, seq, same, record)


def _key(record: CopiedRecord) -> tuple[int, int]:
    return record.what % BARE, record.tag


def _altered(run: DoubtfulRun, seq: int, stored: StoredTag, record: CopiedRecord) -> Finding:
    tag = "none" if stored.tag is None else f"{stored.tag:016x}"
    differs = run.differs.get((seq, record.tag))
    where = f", and differs in {differs}" if differs else ""
    says = f"{_told(stored)} it is not what Kafka's record {_place(run, record)} brought: that one's tag is {record.digest:016x}, the stored one's {tag}{where}"
    return Finding(Kind.EVENT_ALTERED, says, {"run_id": run.run_id, "sequence": seq})


def _missing(run: DoubtfulRun, seq: int, record: CopiedRecord) -> Finding:
    says = (
        f"Kafka's record {_place(run, record)} brought it, this database read past that, and it is not there"
    )
    return Finding(Kind.EVENT_MISSING, says, {"run_id": run.run_id, "sequence": max(seq, 0)})


def _told(stored: StoredTag) -> str:
    return f"({stored.event_type[:_TYPE_SHOWN_MAX]}, {shown_time(stored.at_us)})"


def _place(run: DoubtfulRun, record: CopiedRecord) -> str:
    return f"{run.partition}@{record.offset}"
