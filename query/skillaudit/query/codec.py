"""Records as JSON and back: what server and clients exchange. Pure; member names are the records' own.

Times are RFC 3339, UTC, microseconds. JSON that an agent recorded goes out as the bytes it was stored as. A parser
doesn't tell a client which bytes it read, so an event's payload can be asked for as text instead (`payload_json`, a
JSON string): that is what this project's clients do.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias, TypeVar

import orjson

from skillaudit.contract.errors import InvalidRecordError
from skillaudit.contract.records import (
    Completeness,
    Integrity,
    JsonObject,
    Liveness,
    RunState,
    SkillRun,
    SkillRunLog,
)
from skillaudit.contract.storage import Positions
from skillaudit.query.rows import StoredObject

T = TypeVar("T")
Object: TypeAlias = Mapping[str, Any]

SESSION_HEADER: Final = "Skillaudit-After"
"""A read with this header waits until the database has consumed what the token says."""
SESSION_TOKEN_CHARACTERS_MAX: Final = 8 * 1024
"""Servers and proxies bound what a header may hold."""


def time_text(at: datetime) -> str:
    """RFC 3339, UTC, microseconds."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_time(text: object) -> datetime:
    """A time with an offset, in UTC; raises `ValueError` for anything else."""
    if not isinstance(text, str) or "T" not in text.upper():
        raise ValueError("expected a time like 2026-01-31T12:00:00Z")
    at = datetime.fromisoformat(text.upper())
    if at.tzinfo is None:
        raise ValueError("the time has no offset; write one, like 2026-01-31T12:00:00Z")
    return at.astimezone(UTC)


def run_json(run: SkillRun) -> bytes:
    """A run."""
    return orjson.dumps(
        {
            "id": run.id,
            "skill_id": run.skill_id,
            "caller_id": run.caller_id,
            "channel_id": run.channel_id,
            "inputs": _as_stored(run.inputs),
            "started_at": time_text(run.started_at),
            "finished_at": None if run.finished_at is None else time_text(run.finished_at),
            "status": run.status,
            "output": run.output,
            "error": run.error,
            "tool_calls_count": run.tool_calls_count,
            "runtime_seconds": run.runtime_seconds,
            "parent_run_id": run.parent_run_id,
            "total_input_tokens": run.total_input_tokens,
            "total_output_tokens": run.total_output_tokens,
            "total_thinking_tokens": run.total_thinking_tokens,
            "attributes": _as_stored(run.attributes),
        }
    )


def log_json(log: SkillRunLog, *, as_text: bool) -> bytes:
    """An event; its payload as an object, byte for byte, or as text in `payload_json`."""
    payload = (
        ("payload_json", log.payload_json.decode())
        if as_text
        else ("payload", orjson.Fragment(log.payload_json))
    )
    return orjson.dumps(
        {
            "run_id": log.run_id,
            "sequence": log.sequence,
            "event_type": log.event_type,
            "created_at": time_text(log.created_at),
            payload[0]: payload[1],
        }
    )


def state_json(state: RunState) -> bytes:
    """A run's state; ranges are pairs of first and last number."""
    return orjson.dumps(
        {
            "run_id": state.run_id,
            "liveness": state.liveness,
            "completeness": state.completeness,
            "integrity": state.integrity,
            "events": state.events,
            "missing": state.missing,
            "lost": state.lost,
            "conflicts": state.conflicts,
            "source_id": state.source_id,
            "last_event_at": None if state.last_event_at is None else time_text(state.last_event_at),
        }
    )


def _as_stored(value: JsonObject) -> object:
    return orjson.Fragment(value.json) if isinstance(value, StoredObject) else value


def decoded(body: bytes, decode: Callable[[Any], T]) -> T:
    """What `decode` makes of a JSON body; `InvalidRecordError` where the body is something else."""
    try:
        return decode(orjson.loads(body))
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise InvalidRecordError(
            f"the server's answer is not what this client understands ({type(exc).__name__}: {exc}); "
            "is it a skillaudit server of the same major version?"
        ) from exc


def run_of_json(found: Object) -> SkillRun:
    """The run of `run_json`."""
    finished_at = found["finished_at"]
    return SkillRun(
        id=found["id"],
        skill_id=found["skill_id"],
        caller_id=found["caller_id"],
        channel_id=found["channel_id"],
        inputs=found["inputs"],
        started_at=parse_time(found["started_at"]),
        finished_at=None if finished_at is None else parse_time(finished_at),
        status=found["status"],
        output=found["output"],
        error=found["error"],
        tool_calls_count=found["tool_calls_count"],
        runtime_seconds=found["runtime_seconds"],
        parent_run_id=found["parent_run_id"],
        total_input_tokens=found["total_input_tokens"],
        total_output_tokens=found["total_output_tokens"],
        total_thinking_tokens=found["total_thinking_tokens"],
        attributes=found["attributes"],
    )


def log_of_json(found: Object) -> SkillRunLog:
    """The event of `log_json(..., as_text=True)`."""
    return SkillRunLog.from_json(
        run_id=found["run_id"],
        sequence=found["sequence"],
        event_type=found["event_type"],
        payload_json=found["payload_json"].encode(),
        created_at=parse_time(found["created_at"]),
    )


def state_of_json(found: Object) -> RunState:
    """The state of `state_json`."""
    last_event_at = found["last_event_at"]
    return RunState(
        run_id=found["run_id"],
        liveness=Liveness(found["liveness"]),
        completeness=Completeness(found["completeness"]),
        integrity=Integrity(found["integrity"]),
        events=found["events"],
        missing=tuple((low, high) for low, high in found["missing"]),
        lost=tuple((low, high) for low, high in found["lost"]),
        conflicts=found["conflicts"],
        source_id=found["source_id"],
        last_event_at=None if last_event_at is None else parse_time(last_event_at),
    )


def positions_of_json(found: Object) -> dict[str, int]:
    """Partition -> offset."""
    return {str(name): int(offset) for name, offset in found["positions"].items()}


def session_token(positions: Positions) -> str:
    """An opaque word for positions, fit for a header."""
    return base64.urlsafe_b64encode(orjson.dumps(dict(positions))).decode().rstrip("=")


def parse_session_token(text: str) -> dict[str, int]:
    """The positions of `session_token`; `InvalidRecordError` for anything else."""
    try:
        found: Any = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return positions_of_json({"positions": found})
    except (ValueError, TypeError, AttributeError, binascii.Error) as exc:
        raise InvalidRecordError(f"the header {SESSION_HEADER} holds no token of this server") from exc
