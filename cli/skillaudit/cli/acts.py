"""`skillaudit acts`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
import orjson

from skillaudit.cli.options import json_option, with_settings
from skillaudit.cli.ordering import operate
from skillaudit.cli.output import json_time, print_json, print_table, stderr, time_text
from skillaudit.contract.admin import HoldScope, StoredAct, StoredHold
from skillaudit.contract.clock import from_us
from skillaudit.contract.records import LIST_LIMIT_MAX
from skillaudit.contract.settings import Settings
from skillaudit.contract.words import counted, named
from skillaudit.proof.acts import ActKind

_KINDS = tuple(kind.value for kind in ActKind)


@click.command()
@click.option("--kind", type=click.Choice(_KINDS), help="Only these.")
@click.option("--limit", type=click.IntRange(1, LIST_LIMIT_MAX), default=50, show_default=True)
@click.option("--holds", is_flag=True, help="The holds in force instead.")
@with_settings
@json_option
def acts(settings: Settings, as_json: bool, kind: str | None, limit: int, holds: bool) -> None:
    """List what was done to the record on purpose, newest first, by whom and why."""
    if holds:
        _print_holds(operate(settings, lambda operations: operations.list_holds()), as_json=as_json)
        return
    found = operate(settings, lambda operations: operations.list_acts(limit, kind))
    if as_json:
        print_json([_act(act) for act in found])
        return
    print_table(
        ("at", "kind", "actor", "what", "reason", "act"),
        [(act.at, _kind(act), act.actor, _what(act.scope), act.reason, act.act_id) for act in found],
    )
    more = " at least; --limit shows more" if len(found) == limit else ""
    stderr().print(counted(len(found), "act") + more)


def _kind(act: StoredAct) -> str:
    marks = [word for word, on in (("forced", act.policy.get("force")), ("pending", act.pending)) if on]
    return f"{act.kind} ({', '.join(marks)})" if marks else act.kind


def _what(scope: Mapping[str, Any]) -> str:
    """An act's scope in words; as JSON where it has none."""
    match dict(scope):
        case {"started_before": int(at_us)}:
            said = f"runs started before {time_text(from_us(at_us))}"
        case {"run": str(run_id), "seq": int(seq)}:
            field = f", {scope['field']}" if "field" in scope else ""
            said = f"run {run_id} event {seq}{field}"
        case {"runs": [*run_ids]}:
            said = named("run", run_ids)
        case {"skill_id": str(skill_id)}:
            said = f"runs of the skill {skill_id}"
        case {"all": True}:
            said = "all runs"
        case {"hold": str(hold_id)}:
            said = f"hold {hold_id}"
        case other:
            said = orjson.dumps(other).decode()
    return said


def _act(act: StoredAct) -> dict[str, object]:
    return {
        "act_id": act.act_id,
        "kind": act.kind,
        "actor": act.actor,
        "at": json_time(act.at),
        "reason": act.reason,
        "scope": dict(act.scope),
        "policy": dict(act.policy),
        "applied_at": json_time(act.applied_at),
        "journal_idx": act.journal_idx,
        "pending": act.pending,
    }


def _print_holds(holds: list[StoredHold], *, as_json: bool) -> None:
    if as_json:
        print_json(
            [
                {
                    "act_id": hold.act_id,
                    "placed_at": json_time(hold.placed_at),
                    "actor": hold.actor,
                    "reason": hold.reason,
                    "runs": list(hold.scope.runs),
                    "skill_id": hold.scope.skill_id,
                    "everything": hold.scope.everything,
                }
                for hold in holds
            ]
        )
        return
    print_table(
        ("placed", "actor", "keeps", "reason", "act"),
        [(hold.placed_at, hold.actor, _keeps(hold.scope), hold.reason, hold.act_id) for hold in holds],
    )
    stderr().print(counted(len(holds), "hold"))


def _keeps(scope: HoldScope) -> str:
    if scope.runs:
        return named("run", scope.runs)
    return "all runs" if scope.everything else f"runs of the skill {scope.skill_id}"
