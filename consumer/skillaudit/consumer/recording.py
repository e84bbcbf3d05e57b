"""Acts into the database: from the control log, or straight where there is none; and lists of those that were applied."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from typing import Any, Final

import orjson

from skillaudit.consumer.acting import Acting, ActResult, Origin
from skillaudit.consumer.database import Database
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.planning import Plan, Planner
from skillaudit.consumer.positions import advance, confirm, write_positions
from skillaudit.consumer.statements import statements
from skillaudit.contract.admin import ActReport, HoldScope, StoredAct, StoredHold
from skillaudit.contract.clock import from_us, uuid7
from skillaudit.contract.engine import engine_errors
from skillaudit.contract.errors import InvalidRecordError
from skillaudit.contract.records import list_limit
from skillaudit.contract.sources import SourceRecord
from skillaudit.proof.acts import Act, ActKind, act_line, parse_act, parse_ordered
from skillaudit.proof.journal import Journal

_SQL: Final = statements("acts.sql")
UNLISTED: Final = "act-not-in-log"
_UNLISTED_TEXT: Final = "is recorded as applied, and the control log does not hold it as an order: it gets no place in the journal; who put it there?"
_CHANGING: Final = frozenset({ActKind.PURGE, ActKind.REDACT, ActKind.ERASE})


def take_acts(materializer: Materializer, records: Sequence[SourceRecord], identity: str) -> None:
    """Apply the acts of a control log, in order, each in a transaction with the log's position.

    A line that is no act, or one that nobody orders, is kept as a dead letter and is an incident: nothing can be done about
    it, and the acts behind it count. Raises `FencedError` where another consumer moved the position, `RetryableError` where a seal takes too long;
    those before it are applied then.
    """
    for record in records:
        _take(materializer, record, identity)


def record_acts(materializer: Materializer, acts: Sequence[Act]) -> None:
    """Apply acts that are in no control log: of a database that nothing can be rebuilt for, or of its own life."""
    for act in acts:
        _apply(materializer, act, act_line(act), None)


def deferred_acts(materializer: Materializer) -> list[bytes]:
    """The lines of the acts that were recorded while the journal could not be appended to, where it can be now."""
    if not materializer.acting.journal:
        return []
    with materializer.transaction("look for acts without a place in the journal") as cursor:
        return [line.encode() for _, _, _, line in cursor.execute(_SQL["not_in_journal"]).fetchall()]


def journal_acts(materializer: Materializer, logged: Collection[bytes]) -> None:
    """Append to the journal what was recorded while it could not be appended to. `logged`: those of their lines that the
    control log holds; others get no place, which leaves them unproven, and are an incident, once.
    """
    with materializer.transaction("put acts into the journal") as cursor:
        refused = materializer.acting.journal_deferred(cursor, materializer.clock.wall_us(), logged)
        told = {row[0] for row in cursor.execute(_SQL["told"], {"kind": UNLISTED}).fetchall()}
    for act_id in refused:
        if act_id not in told:
            materializer.record_incident(UNLISTED, act_id, _UNLISTED_TEXT)


def record_life(materializer: Materializer) -> None:
    """Say in an empty journal which database begins it, and later, when that database's schema is another one. What goes
    on with a journal taken over from an anchor says nothing: its rebuild is not the journal's beginning.
    """
    with contextlib.closing(materializer.database.cursor()) as cursor, engine_errors("read how it began"):
        begun = Journal(cursor).size() > 0
        schema = int(cursor.execute(_SQL["schema"]).fetchall()[0][0])
        told = [parse_act(row[0].encode()) for row in cursor.execute(_SQL["life"]).fetchall()]
    scope: dict[str, Any] = {"database": materializer.database.database_id}
    known = next(
        (act.scope.get("schema") for act in told if act.scope.get("database") == scope["database"]), None
    )
    if known == schema or (known is None and begun):
        return
    kind = ActKind.GENESIS if known is None else ActKind.SCHEMA
    act = Act(
        act_id=uuid7(),
        kind=kind,
        actor="consumer",
        at_us=materializer.clock.wall_us(),
        scope={**scope, "schema": schema},
    )
    record_acts(materializer, [act])


def perform(materializer: Materializer, plan: Planner) -> ActReport:
    """Plan and apply at once, without a control log. Runs in the writer's thread."""
    with materializer.sealer.writing:
        planned = plan(materializer)
        record_acts(materializer, planned.acts)
        return report_of(materializer.acting, planned)


def report_of(acting: Acting, plan: Plan) -> ActReport:
    """What became of a plan whose acts were applied."""
    results = [acting.results.get(act.act_id, ActResult()) for act in plan.acts]
    late = [acting.results.get(act.act_id, ActResult()) for act in plan.acts if act.last_hold is not None]
    return ActReport(
        acts=tuple(act.act_id for act in plan.acts),
        runs=sum(result.runs for result in results),
        events=sum(result.events for result in results),
        held=plan.kept.held + sum(result.held for result in late),
        young=plan.kept.young,
        holds=(*plan.kept.holds, *dict.fromkeys(hold for result in late for hold in result.holds)),
    )


def _take(materializer: Materializer, record: SourceRecord, identity: str) -> None:
    book = materializer.remembered.partitions.get(record.partition)
    if book is not None and record.offset < book.next_offset:
        return
    try:
        act = parse_ordered(record.value or b"")
    except InvalidRecordError as exc:
        _bury(materializer, record, identity, str(exc))
    else:
        _apply(materializer, act, record.value or b"", record, identity)


def _apply(
    materializer: Materializer, act: Act, line: bytes, record: SourceRecord | None, identity: str = ""
) -> None:
    changing = act.kind in _CHANGING
    with materializer.sealer.quiet() if changing else materializer.sealer.writing:
        result = ActResult()
        with materializer.transaction(f"apply the act {act.act_id}") as cursor:
            if not materializer.acting.known(cursor, act.act_id):
                reached = {
                    name: book.next_offset for name, book in materializer.remembered.partitions.items()
                }
                reached[""] = 0
                origin = Origin(partition=record.partition, offset=record.offset) if record else None
                result = materializer.acting.record(cursor, act, line, origin, reached, materializer.moment())
            moved = [_move(materializer, record, identity)] if record else []
            write_positions(cursor, moved)
        confirm(moved)
        materializer.sealer.note(result.rows, 0)
        if act.kind is ActKind.PURGE and result.runs:
            materializer.forget()  # the books of these runs are no longer what the database says


def _move(materializer: Materializer, record: SourceRecord, identity: str) -> Any:
    book = materializer.remembered.partition(record.partition)
    advance(book, [record], identity, record.received_us)
    return book


def _bury(materializer: Materializer, record: SourceRecord, identity: str, error: str) -> None:
    now_us = materializer.clock.wall_us()
    number = materializer.remembered.take_dead_letter_id()
    row = (number, record.partition, record.offset, record.next_offset, record.key, record.value)
    with materializer.transaction("keep a line that is no act") as cursor:
        cursor.execute(_SQL["bury"], [*row, record.received_us, now_us, error, now_us])
        incident = (materializer.remembered.take_incident_id(), now_us)
        cursor.execute(_SQL["incident"], [*incident, f"{record.partition}#{record.offset}", error])
        moved = [_move(materializer, record, identity)]
        write_positions(cursor, moved)
    confirm(moved)


# lists


def list_acts(database: Database, limit: int, kind: str | None) -> list[StoredAct]:
    """As `Operations.list_acts`."""
    with contextlib.closing(database.cursor()) as cursor, engine_errors("list acts"):
        rows = cursor.execute(_SQL["list"], {"limit": list_limit(limit), "kind": kind}).fetchall()
    return [_stored_act(*row[2:5], pending=row[7]) for row in rows]


def _stored_act(line: str, applied_us: int, journal_idx: int | None, *, pending: bool) -> StoredAct:
    act = parse_act(line.encode())
    return StoredAct(
        act_id=act.act_id,
        kind=act.kind.value,
        actor=act.actor,
        at=from_us(act.at_us),
        reason=act.reason,
        scope=act.scope,
        policy=act.policy,
        applied_at=from_us(applied_us),
        journal_idx=journal_idx,
        pending=pending,
    )


def list_holds(database: Database, *, released: bool) -> list[StoredHold]:
    """As `Operations.list_holds`."""
    with contextlib.closing(database.cursor()) as cursor, engine_errors("list holds"):
        rows = cursor.execute(_SQL["holds"], {"released": released}).fetchall()
    return [_stored_hold(*row) for row in rows]


def _stored_hold(act_id: str, scope: str, placed_us: int, released_by: str | None, line: str) -> StoredHold:
    act, members = parse_act(line.encode()), orjson.loads(scope)
    return StoredHold(
        act_id=act_id,
        scope=HoldScope(
            runs=tuple(members.get("runs", ())),
            skill_id=members.get("skill_id"),
            everything=bool(members.get("all", False)),
        ),
        placed_at=from_us(placed_us),
        actor=act.actor,
        reason=act.reason,
        released_by=released_by,
    )
