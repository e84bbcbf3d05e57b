"""Rows of the views to records, and arguments to bound parameters. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, TypeAlias

import orjson

from skillaudit.contract.clock import from_us, to_us
from skillaudit.contract.digests import run_hash
from skillaudit.contract.errors import DatabaseError, InvalidRecordError
from skillaudit.contract.events import parse_ranges
from skillaudit.contract.records import (
    Completeness,
    Liveness,
    RunFilter,
    RunState,
    SkillRun,
    SkillRunLog,
)

Row: TypeAlias = tuple[Any, ...]
Parameters: TypeAlias = Mapping[str, Any]

INT64_MAX: Final = (1 << 63) - 1
US_PER_S: Final = 1_000_000


class StoredObject(dict[str, Any]):
    """A JSON object as stored: the parsed members, and beside them the bytes they were parsed from.

    A plain dict to whoever asks; the server passes `json` on, so that what the agent recorded arrives byte for byte.
    """

    __slots__ = ("json",)

    def __init__(self, text: str) -> None:
        super().__init__(_loads(text))
        self.json = text.encode()


def _loads(text: str) -> dict[str, Any]:
    try:
        return dict(orjson.loads(text))
    except (ValueError, TypeError) as exc:
        # The text stays out of the message: payloads never reach logs.
        raise DatabaseError(
            "a stored JSON object can't be read as one; was the database changed by hand?"
        ) from exc


def run_of(row: Row) -> SkillRun:
    """The run of `run_columns`."""
    return SkillRun(
        id=row[0],
        skill_id=row[1],
        caller_id=row[2],
        channel_id=row[3],
        inputs=StoredObject(row[4]),
        started_at=from_us(row[5]),
        parent_run_id=row[6],
        attributes=StoredObject(row[7]),
        finished_at=None if row[8] is None else from_us(row[8]),
        status=row[9],
        output=row[10] or "",
        error=row[11] or "",
        tool_calls_count=row[12] or 0,
        runtime_seconds=(row[13] or 0) / US_PER_S,
        total_input_tokens=row[14] or 0,
        total_output_tokens=row[15] or 0,
        total_thinking_tokens=row[16] or 0,
    )


def log_of(run_id: str, row: Row) -> SkillRunLog:
    """The event of (sequence, event_type, payload, microseconds), its payload's bytes untouched."""
    try:
        return SkillRunLog.from_json(
            run_id=run_id,
            sequence=row[0],
            event_type=row[1],
            payload_json=row[2].encode(),
            created_at=from_us(row[3]),
        )
    except ValueError as exc:
        raise DatabaseError(
            f"the payload of event {row[0]} of run {run_id!r} is no JSON; was the database changed by hand?"
        ) from exc


def state_of(row: Row) -> RunState:
    """The state of `state_columns`."""
    return RunState(
        run_id=row[0],
        liveness=Liveness(row[1]),
        completeness=Completeness(row[2]),
        events=row[3] or 0,
        missing=parse_ranges(row[4] or ""),
        lost=parse_ranges(row[5] or ""),
        conflicts=row[6] or 0,
        source_id=row[7] or "",
        last_event_at=None if row[8] is None else from_us(row[8]),
    )


def filter_parameters(wanted: RunFilter) -> dict[str, Any]:
    """What `run_filter` binds. A status that is asked for by name shows dry runs as well."""
    return {
        "status": None if wanted.status is None else str(wanted.status),
        "skill_id": wanted.skill_id,
        "caller_id": wanted.caller_id,
        "channel_id": wanted.channel_id,
        "top_level_only": wanted.top_level_only,
        "include_dry_run": wanted.include_dry_run or wanted.status is not None,
        "since_us": None if wanted.since is None else instant_us("since", wanted.since),
        "until_us": None if wanted.until is None else instant_us("until", wanted.until),
    }


def instant_us(name: str, at: datetime) -> int:
    """Microseconds of a timezone-aware time; a naive one is refused, since nobody knows which instant it means."""
    if at.tzinfo is None:
        raise InvalidRecordError(f"{name} has no time zone; use datetime(..., tzinfo=UTC)")
    return to_us(at)


def hash_of(run_id: str) -> int | None:
    """`run_hash`, or None for text that no stored id can be (lone surrogates)."""
    try:
        return run_hash(run_id)
    except UnicodeEncodeError:
        return None


def storable(texts: Iterable[str]) -> list[str]:
    """Those of `texts` that a stored value can equal, each once, in order."""
    return [text for text in dict.fromkeys(texts) if text.isascii() or hash_of(text) is not None]
