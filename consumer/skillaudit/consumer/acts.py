"""Changes to the stored state that no record of a topic makes: each in a transaction of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import orjson

from skillaudit.consumer.changes import Changes
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.sources import SourceState
from skillaudit.consumer.statements import statements
from skillaudit.consumer.taking import turn_source
from skillaudit.contract.errors import PoisonLimitError, StopError
from skillaudit.contract.sources import OUTBOX_TOPIC, Finding
from skillaudit.proof.cuts import CUT_INCIDENT, end_empty
from skillaudit.proof.decided import decide

_STATE: Final = statements("state.sql")
UNMET_INCIDENT: Final = "seals-unmet"
"""The kind under which it is kept that a database made again has not met what was sealed before."""


def close_sources(materializer: Materializer, partitions: Sequence[str]) -> int:
    """The processes behind these embedded partitions are gone, and everything they wrote is stored: what their
    forwarder would publish as `source.closed` by the adopter is recorded here. Returns how many were not closed yet.
    """
    with materializer.transaction("close sources") as cursor:
        remembered, changes = materializer.remembered, Changes()
        ids = [partition.removeprefix(f"{OUTBOX_TOPIC}/") for partition in partitions]
        remembered.recall_sources(cursor, ids)
        closed = 0
        for source_id, partition in zip(ids, partitions, strict=True):
            book = remembered.source(source_id, OUTBOX_TOPIC, partition)
            if book.state == SourceState.CLOSED:
                continue
            book.closed_by, book.closed_us, book.state = (
                "adopter",
                materializer.clock.wall_us(),
                SourceState.CLOSED,
            )
            turn_source(remembered, changes, book)
            closed += 1
        if closed:
            changes.write_rest(cursor, remembered.gone)
    for book in changes.sources.values():
        book.stored = True
    return closed


def record_findings(materializer: Materializer, findings: Sequence[Finding]) -> None:
    """Keep what a source met as incidents."""
    for finding in findings:
        materializer.record_incident(finding.kind, f"{finding.partition}#{finding.offset}", finding.detail)


def record_stop(materializer: Materializer, exc: StopError) -> None:
    """Keep why the consumer stopped; said once, however often a supervisor starts it into the same trouble again."""
    kind, detail = type(exc).__name__.removesuffix("Error"), str(exc)
    if isinstance(exc, PoisonLimitError) and exc.refused:
        if not _waits_before_poison(materializer, exc.refused):
            parameters = {"value": orjson.dumps(dict(exc.refused)).decode()}
            materializer.record_incident(
                kind, exc.place, detail, lambda cursor: cursor.execute(_STATE["set_poison_stop"], parameters)
            )
        return
    with materializer.transaction("read the newest incident") as cursor:
        newest = cursor.execute(_STATE["newest_incident"]).fetchone()
    if newest != (kind, detail):
        materializer.record_incident(kind, "consumer", detail)


def record_unmet(materializer: Materializer, detail: str) -> None:
    """Keep that a database made again lacks rows that were sealed; said once, as `record_stop`."""
    with materializer.transaction("read the newest incident") as cursor:
        newest = cursor.execute(_STATE["newest_of_kind"], {"kind": UNMET_INCIDENT}).fetchone()
    if newest != (detail,):
        materializer.record_incident(UNMET_INCIDENT, "ledger", detail)


def _waits_before_poison(materializer: Materializer, refused: Collection[str]) -> bool:
    """Whether this is the stop that was recorded last: something that was not taken then is not taken still.

    By positions and not by the text, which the next bad deployment has in common with this one; and not by what is
    refused now, for after every start the records come in other batches.
    """
    with materializer.transaction("read the newest stop") as cursor:
        row = cursor.execute(_STATE["poison_stop"]).fetchone()
    then: dict[str, int] = orjson.loads(row[0]) if row else {}
    positions, together = materializer.positions(), set(map(_read_together, refused))
    for partition, end in then.items():
        position = positions.get(partition)
        if _read_together(partition) in together and (position is None or position.next_offset < end):
            return True
    return False


def _read_together(partition: str) -> str:
    """The topic, whose partitions come in any order; embedded, the source."""
    topic = partition.rpartition("/")[0]
    return partition if topic == OUTBOX_TOPIC else topic


def end_empty_partitions(
    materializer: Materializer, emptied: Mapping[str, int], is_expired: Callable[[str, int], bool]
) -> int:
    """While a database is made again: of partitions with seals no record is left; see `proof.cuts.end_empty`. Each is an
    incident. Returns how many.
    """
    with materializer.transaction("find partitions of which nothing is left") as cursor:
        cuts = end_empty(cursor, emptied, is_expired)
        decide(materializer.remembered.decided, cuts)
        if cuts:
            changes, now_us = Changes(), materializer.clock.wall_us()
            for cut in cuts:
                number = materializer.remembered.take_incident_id()
                changes.add("incidents", number, now_us, CUT_INCIDENT, cut.partition, str(cut))
            changes.write_rest(cursor, ())
    if cuts:
        materializer.forget()  # where their ledgers would go on
    return len(cuts)


def is_accepted(partition: str, patterns: Sequence[str]) -> bool:
    """Whether one of `patterns` (a partition's name, or `TOPIC/*` for all of a topic) names this partition."""
    every = f"{partition.rpartition('/')[0]}/*"
    return partition in patterns or every in patterns


def accept_history_loss(materializer: Materializer, partition: str) -> bool:
    """Forget the partition's position, so that it is read from where it begins now; recorded as an incident.

    What was stored stays. False where the partition has no stored position.
    """
    stored = materializer.positions().get(partition)
    if stored is None:
        return False
    detail = (
        f"the stored position {stored.next_offset} was given up; what lay between is not known to be complete"
    )
    materializer.record_incident("history-loss-accepted", partition, detail)
    with materializer.transaction("forget a position") as cursor:
        cursor.execute("DELETE FROM store.positions WHERE partition = ?", [partition])
        cursor.execute(_STATE["forget_poison_stop"])  # its offsets say nothing of what is read from now on
    materializer.forget()
    return True
