"""Checks at the boundary of a bare Storage's write half: a clear error before anything is written."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import orjson

from skillaudit.contract.errors import InvalidRecordError
from skillaudit.contract.events import RUN_ID_BYTES_MAX
from skillaudit.contract.records import EventType, JsonObject, RunStats, SkillRun, SkillRunLog

INT64_MAX: Final = 2**63 - 1
_EVENT_TYPES: Final = frozenset(EventType)
_RUNTIME_SECONDS_MAX: Final = INT64_MAX / 1_000_000


def check_run_id(run_id: object) -> None:
    """A run id is 1 to 512 bytes of UTF-8 text."""
    text = _text("run id", run_id)
    if not 0 < len(text.encode()) <= RUN_ID_BYTES_MAX:
        raise InvalidRecordError(
            f"a run id has 1 to {RUN_ID_BYTES_MAX} bytes of UTF-8; this one has {len(text.encode())}"
        )


def check_run(run: SkillRun) -> SkillRun:
    """The run with plain JSON objects; raises `InvalidRecordError` naming the field."""
    check_run_id(run.id)
    for name in ("skill_id", "caller_id", "channel_id", "parent_run_id"):
        _text(name, getattr(run, name))
    _time("started_at", run.started_at)
    return replace(
        run, inputs=_json_object("inputs", run.inputs), attributes=_json_object("attributes", run.attributes)
    )


def check_log(log: SkillRunLog) -> None:
    """Raises `InvalidRecordError` naming the field."""
    check_run_id(log.run_id)
    _count("sequence", log.sequence)
    if log.event_type not in _EVENT_TYPES:
        raise InvalidRecordError(f"event_type is one of {', '.join(EventType)}, not {log.event_type!r}")
    _time("created_at", log.created_at)
    try:
        parsed = orjson.loads(log.payload_json)
    except orjson.JSONDecodeError as exc:
        raise InvalidRecordError(f"payload is not valid JSON: {exc}") from exc
    if not isinstance(parsed, dict):
        raise InvalidRecordError("payload is a JSON object; wrap other values in one")
    if b"\n" in log.payload_json:
        raise InvalidRecordError(
            "payload_json holds a raw line feed; hand in compact JSON, such as orjson.dumps makes"
        )


def check_stats(run_id: str, stats: RunStats) -> None:
    """Raises `InvalidRecordError` naming the field."""
    check_run_id(run_id)
    for name in ("status", "output", "error"):
        _text(name, getattr(stats, name))
    if not stats.status or stats.status == "running":
        raise InvalidRecordError("a run finishes with a terminal status such as ok or error")
    for name in ("tool_calls", "input_tokens", "output_tokens", "thinking_tokens"):
        _count(name, getattr(stats, name))
    seconds = stats.runtime_seconds
    if not (math.isfinite(seconds) and 0 <= seconds <= _RUNTIME_SECONDS_MAX):
        raise InvalidRecordError(f"runtime_seconds is a finite number of seconds from 0 on, not {seconds!r}")


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidRecordError(f"{name} is text, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise InvalidRecordError(f"{name} holds a lone surrogate; encode it first: {exc.reason}") from exc
    return value


def _time(name: str, value: object) -> None:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise InvalidRecordError(f"{name} is a timezone-aware datetime; use datetime.now(UTC)")


def _count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= INT64_MAX:
        raise InvalidRecordError(f"{name} is a whole number from 0 to 2^63-1")


def _json_object(name: str, value: JsonObject) -> dict[str, Any]:
    try:
        text = orjson.dumps(dict(value))
    except (TypeError, ValueError) as exc:
        raise InvalidRecordError(f"{name} is a JSON object of JSON values: {exc}") from exc
    parsed: dict[str, Any] = orjson.loads(text)
    return parsed
