"""Records that are no events: kept with their bytes and origin, looked at, replayed after a repair, or discarded."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Final

import duckdb

from skillaudit.consumer.database import Database
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.staging import Parse
from skillaudit.consumer.statements import statements
from skillaudit.contract.admin import DeadLetter, DeadLetterState, ReplayReport
from skillaudit.contract.clock import from_us
from skillaudit.contract.engine import engine_errors
from skillaudit.contract.errors import DeadLetterNotFoundError, InvalidRecordError
from skillaudit.contract.records import list_limit
from skillaudit.contract.sources import SourceRecord

_SQL: Final = statements("dead_letters.sql")


def list_dead_letters(database: Database, state: str | None, limit: int, after: int = 0) -> list[DeadLetter]:
    """As `Operations.list_dead_letters`."""
    with contextlib.closing(database.cursor()) as cursor, engine_errors("list dead letters"):
        wanted = {"state": state, "limit": list_limit(limit), "after": after}
        rows = cursor.execute(_SQL["list"], wanted).fetchall()
    return [_letter(row) for row in rows]


def get_dead_letter(database: Database, dead_letter_id: int) -> DeadLetter:
    """As `Operations.get_dead_letter`."""
    with contextlib.closing(database.cursor()) as cursor, engine_errors("read a dead letter"):
        rows = _rows(cursor, (dead_letter_id,))
    if not rows:
        raise DeadLetterNotFoundError(dead_letter_id)
    return _letter(rows[0])


def replay_dead_letters(materializer: Materializer, ids: Sequence[int]) -> ReplayReport:
    """As `Operations.replay_dead_letters`: one transaction; positions do not move. Runs in the writer's thread."""
    with contextlib.closing(materializer.database.cursor()) as cursor, engine_errors("read dead letters"):
        rows = _rows(cursor, ids)
    missing = set(ids) - {row[0] for row in rows}
    if missing:
        raise DeadLetterNotFoundError(min(missing))
    waiting = [row for row in rows if row[9] == DeadLetterState.WAITING]
    good = [row for row in waiting if _is_event(materializer.parse, row[5])]
    taken = [row[0] for row in good]

    def settle(cursor: duckdb.DuckDBPyConnection) -> None:
        _settle(cursor, taken, DeadLetterState.REPLAYED, materializer.clock.wall_us())

    if good:
        materializer.apply_again([_record(row) for row in good], settle)
    return ReplayReport(
        replayed=len(good), still_malformed=tuple(row[0] for row in waiting if row[0] not in set(taken))
    )


def discard_dead_letters(materializer: Materializer, ids: Sequence[int]) -> int:
    """As `Operations.discard_dead_letters`. Runs in the writer's thread."""
    with materializer.transaction("discard dead letters") as cursor:
        waiting = int(cursor.execute(_SQL["waiting"], {"ids": list(ids)}).fetchall()[0][0])
        _settle(cursor, ids, DeadLetterState.DISCARDED, materializer.clock.wall_us())
    return waiting


def _settle(
    cursor: duckdb.DuckDBPyConnection, ids: Sequence[int], state: DeadLetterState, now_us: int
) -> None:
    cursor.execute(_SQL["settle"], {"ids": list(ids), "state": str(state), "now_us": now_us})


def _rows(cursor: duckdb.DuckDBPyConnection, ids: Sequence[int]) -> list[tuple[Any, ...]]:
    return cursor.execute(_SQL["by_ids"], {"ids": list(ids)}).fetchall()


def _is_event(parse: Parse, record: bytes | None) -> bool:
    try:
        parse(record)
    except InvalidRecordError:
        return False
    return True


def _record(row: tuple[Any, ...]) -> SourceRecord:
    _, partition, offset, next_offset, key, record, received_us, *_ = row
    return SourceRecord(partition, offset, next_offset, received_us, key, record)


def _letter(row: tuple[Any, ...]) -> DeadLetter:
    number, partition, offset, _, key, record, received_us, stored_us, error, state = row
    return DeadLetter(
        id=number,
        partition=partition,
        offset=offset,
        received_at=from_us(received_us) if received_us else None,
        stored_at=from_us(stored_us),
        error=error,
        state=state,
        key=key,
        record=record,
    )
