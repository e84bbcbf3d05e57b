"""Runs and events as the commands print them; JSON carries the record's own names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from skillaudit.cli.output import json_time
from skillaudit.contract.events import format_ranges
from skillaudit.contract.records import RunState, SkillRun, SkillRunLog

RUN_COLUMNS = (
    "id",
    "skill",
    "status",
    "completeness",
    "liveness",
    "started",
    "seconds",
    "events",
    "tool calls",
    "tokens",
    "caller",
)


def run_json(run: SkillRun, state: RunState | None) -> dict[str, Any]:
    """A run as a JSON object: the record's members, then what the record says of itself under `state`."""
    return {
        "id": run.id,
        "skill_id": run.skill_id,
        "caller_id": run.caller_id,
        "channel_id": run.channel_id,
        "parent_run_id": run.parent_run_id,
        "status": run.status,
        "started_at": json_time(run.started_at),
        "finished_at": json_time(run.finished_at) if run.finished_at else None,
        "runtime_seconds": run.runtime_seconds,
        "tool_calls_count": run.tool_calls_count,
        "total_input_tokens": run.total_input_tokens,
        "total_output_tokens": run.total_output_tokens,
        "total_thinking_tokens": run.total_thinking_tokens,
        "inputs": run.inputs,
        "output": run.output,
        "error": run.error,
        "attributes": run.attributes,
        "state": state_json(state) if state else None,
    }


def state_json(state: RunState) -> dict[str, Any]:
    """A run's state as a JSON object."""
    return {
        "run_id": state.run_id,
        "liveness": state.liveness,
        "completeness": state.completeness,
        "integrity": state.integrity,
        "events": state.events,
        "missing": format_ranges(state.missing),
        "lost": format_ranges(state.lost),
        "conflicts": state.conflicts,
        "source_id": state.source_id,
        "last_event_at": json_time(state.last_event_at) if state.last_event_at else None,
    }


def event_json(log: SkillRunLog) -> dict[str, Any]:
    """An event as a JSON object; the payload's bytes as recorded."""
    return {
        "run_id": log.run_id,
        "sequence": log.sequence,
        "event_type": log.event_type,
        "created_at": json_time(log.created_at),
        "payload": log.payload_json,
    }


def run_row(run: SkillRun, state: RunState | None) -> Sequence[object]:
    """A row under `RUN_COLUMNS`."""
    return (
        run.id,
        run.skill_id,
        run.status,
        state.completeness if state else "",
        state.liveness if state else "",
        run.started_at,
        run.runtime_seconds if run.finished_at else None,
        state.events if state else None,
        run.tool_calls_count,
        run.total_input_tokens + run.total_output_tokens + run.total_thinking_tokens,
        run.caller_id,
    )


def preview(payload: Mapping[str, Any], width: int) -> str:
    """A payload in one line: its well-known members first, cut to `width` characters."""
    shown = ("name", "content", "arguments", "message", "is_error")
    parts = [f"{key}={_plain(payload[key])}" for key in shown if payload.get(key) not in (None, "", False)]
    text = " ".join(" ".join(parts).split()) or " ".join(f"{k}={_plain(v)}" for k, v in payload.items())
    return text if len(text) <= width else text[: width - 1] + "…"


def _plain(value: object) -> str:
    """Text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
