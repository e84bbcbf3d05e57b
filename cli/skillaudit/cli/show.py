"""`skillaudit show`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import click
import orjson

from skillaudit.cli.options import json_option, with_settings
from skillaudit.cli.output import print_json, print_table, stderr, stdout
from skillaudit.cli.presenting import event_json, preview, run_json
from skillaudit.contract.errors import RejectedError, RunNotFoundError
from skillaudit.contract.events import format_ranges
from skillaudit.contract.records import Completeness, RunState, SkillRun, SkillRunLog
from skillaudit.contract.settings import Settings
from skillaudit.contract.words import counted

_PREVIEW_CHARACTERS = 100
_FIELD_CHARACTERS = 400


class SequenceRange(click.ParamType[tuple[int, int]]):
    """Event numbers: 17, or 40-80."""

    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """An inclusive pair."""
        low, dash, high = str(value).partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()) or (dash and int(low) > int(high)):
            self.fail(f"{value!r} is neither a number like 17 nor a range like 40-80", param, ctx)
        return int(low), int(high if dash else low)


class NotListedError(RejectedError):
    """The run is no row that could be shown, but it left a trace: it was purged, or its start never came."""

    exit_code = RunNotFoundError.exit_code


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--events", "numbers", type=SequenceRange(), help="Only these events: 17, or 40-80.")
@click.option("--payloads", is_flag=True, help="Whole payloads instead of a preview.")
@with_settings
@json_option
def show(
    settings: Settings, as_json: bool, run_id: str, numbers: tuple[int, int] | None, payloads: bool
) -> None:
    """Show one run: what it was, whether its record is complete, and its events in order."""
    run, state, chain, logs = asyncio.run(_read(settings, run_id))
    if numbers:
        logs = [log for log in logs if numbers[0] <= log.sequence <= numbers[1]]
        if not logs:
            stderr().print(
                f"skillaudit: the run has none of these events; it has {counted(state.events, 'event')}"
            )
    if as_json:
        print_json({"run": run_json(run, state), "events": [event_json(log) for log in logs]})
        return
    _print_head(run, state, chain)
    if payloads:
        for log in logs:
            sys.stdout.write(f"\n{log.sequence} {log.event_type}\n{log.payload_json.decode()}\n")
        return
    print_table(
        ("event", "type", "time", "payload"),
        [
            (log.sequence, log.event_type, log.created_at, preview(log.payload, _PREVIEW_CHARACTERS))
            for log in logs
        ],
    )


async def _read(
    settings: Settings, run_id: str
) -> tuple[SkillRun, RunState, list[SkillRun], list[SkillRunLog]]:
    from skillaudit.storage import open_reader

    async with open_reader(settings) as reader:
        try:
            run = await reader.get_run(run_id)
        except RunNotFoundError:
            trace = (await reader.list_run_states([run_id])).get(run_id)
            if trace is None:
                raise
            raise NotListedError(_why_not_listed(run_id, trace)) from None
        state = await reader.get_run_state(run_id)
        return run, state, await reader.walk_parent_chain(run_id), await reader.list_logs_by_run(run_id)


def _why_not_listed(run_id: str, trace: RunState) -> str:
    if trace.completeness is Completeness.PURGED:
        return f"run {run_id!r} was purged; `skillaudit acts --kind purge` says by whom and why"
    return f"of run {run_id!r} only {counted(trace.events, 'event')} stored here; its start has not come"


def _print_head(run: SkillRun, state: RunState, chain: Sequence[SkillRun]) -> None:
    tokens = (
        f"{run.total_input_tokens} in, {run.total_output_tokens} out, {run.total_thinking_tokens} thinking"
    )
    lines: list[tuple[str, object]] = [
        ("run", run.id),
        ("skill", run.skill_id),
        ("status", run.status),
        ("liveness", state.liveness),
        ("completeness", state.completeness),
        ("integrity", state.integrity),
        ("missing", format_ranges(state.missing)),
        ("declared lost", format_ranges(state.lost)),
        ("conflicts", state.conflicts or ""),
        ("parents", " > ".join(parent.id for parent in chain[:-1])),
        ("caller", run.caller_id),
        ("channel", run.channel_id),
        ("started", run.started_at),
        ("finished", run.finished_at),
        ("last event", state.last_event_at if run.finished_at is None else None),
        ("seconds", run.runtime_seconds if run.finished_at else None),
        ("events", state.events),
        ("tool calls", run.tool_calls_count),
        ("tokens", tokens),
        ("inputs", _cut(_compact(run.inputs))),
        ("attributes", _cut(_compact(run.attributes))),
        ("output", _cut(run.output)),
        ("error", _cut(run.error)),
    ]
    print_table(("", ""), [line for line in lines if line[1] not in (None, "")])
    stdout().print()


def _cut(text: str) -> str:
    """The beginning of a long text; --json has all of it."""
    return text if len(text) <= _FIELD_CHARACTERS else f"{text[:_FIELD_CHARACTERS]}… ({len(text)} characters)"


def _compact(value: object) -> str:
    return orjson.dumps(value).decode() if value else ""
