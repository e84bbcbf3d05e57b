"""What the record says of the fleet, and whether that is what the fleet says of itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from skillaudit.cli.demo_fleet.account import Account, RunAccount
from skillaudit.cli.demo_fleet.worker import FAILING_SKILL, KILLED_SKILL
from skillaudit.cli.output import print_table, stdout
from skillaudit.cli.presenting import RUN_COLUMNS, preview, run_row
from skillaudit.contract.events import format_ranges
from skillaudit.contract.records import (
    LIST_LIMIT_MAX,
    Completeness,
    Liveness,
    RunFilter,
    RunState,
    SkillRun,
)
from skillaudit.contract.storage import AuditReader
from skillaudit.contract.words import counted

NEWEST = 8
EVENTS_SHOWN = 12
PREVIEW_CHARACTERS = 90


async def print_report(reader: AuditReader, account: Account) -> bool:
    """Print what an analyst would ask for; whether everything recorded is there."""
    runs = await _all_runs(reader)
    states = await reader.list_run_states([run.id for run in runs])
    _heading("The newest runs")
    print_table(RUN_COLUMNS, [run_row(run, states.get(run.id)) for run in runs[:NEWEST]])
    failed = next((run for run in runs if run.skill_id == FAILING_SKILL), None)
    if failed is not None:
        await _print_events(reader, failed)
    parent = next((run for run in runs if run.skill_id == "survey"), None)
    if parent is not None:
        _heading(f"The tree of {parent.id}")
        await _print_tree(reader, parent, states)
    _print_totals(runs)
    return await _print_completeness(reader, account, states)


async def _all_runs(reader: AuditReader) -> list[SkillRun]:
    runs: list[SkillRun] = []
    while page := await reader.list_runs_filtered(RunFilter(), offset=len(runs), limit=LIST_LIMIT_MAX):
        runs += page
    return runs


def _heading(text: str) -> None:
    stdout().print(f"\n[bold]{text}[/bold]")


async def _print_events(reader: AuditReader, run: SkillRun) -> None:
    logs = await reader.list_logs_by_run(run.id)
    _heading(f"What {run.skill_id} did: {run.id}, {run.status}: {run.error}")
    print_table(
        ("event", "type", "time", "payload"),
        [
            (log.sequence, log.event_type, log.created_at, preview(log.payload, PREVIEW_CHARACTERS))
            for log in logs[:EVENTS_SHOWN]
        ],
    )


async def _print_tree(
    reader: AuditReader, run: SkillRun, states: dict[str, RunState], depth: int = 0
) -> None:
    state = states.get(run.id)
    events = f"{counted(state.events, 'event')}, {state.completeness}" if state else ""
    stdout().print(
        f"{'   ' * depth}{run.skill_id}  {run.status}  {run.runtime_seconds:.3f} s  {events}", markup=False
    )
    for child in await reader.list_children_by_parent(run.id):
        await _print_tree(reader, child, states, depth + 1)


def _print_totals(runs: Sequence[SkillRun]) -> None:
    by_skill: dict[str, list[SkillRun]] = defaultdict(list)
    for run in runs:
        by_skill[run.skill_id].append(run)
    _heading("Totals per skill")
    print_table(
        ("skill", "runs", "failed", "tool calls", "seconds"),
        [
            (
                skill,
                len(mine),
                sum(run.status not in {"ok", "running"} for run in mine),
                sum(run.tool_calls_count for run in mine),
                sum(run.runtime_seconds for run in mine),
            )
            for skill, mine in sorted(by_skill.items())
        ],
    )


async def _print_completeness(reader: AuditReader, account: Account, states: dict[str, RunState]) -> bool:
    """Each run's completeness against the fleet's own account."""
    stored = {run_id: len(await reader.list_logs_by_run(run_id)) for run_id in account.runs}
    problems = [
        (run.run_id, run.skill_id, problem)
        for run in account.runs.values()
        for problem in _problems(run, states.get(run.run_id), stored[run.run_id])
    ]
    complete = sum(s.completeness is Completeness.COMPLETE for s in states.values())
    cut_off = [r for r in account.runs.values() if r.skill_id == KILLED_SKILL and not r.status]
    _heading("Completeness")
    stdout().print(f"complete, every number there: {complete:,} of {counted(len(account.runs), 'run')}.")
    for run in cut_off:
        state = states.get(run.run_id)
        stdout().print(
            f"{run.run_id} ({run.skill_id}) was killed in the middle: {state.liveness if state else 'unknown'}; all that it "
            f"recorded is here, {counted(stored[run.run_id], 'event')}.",
            markup=False,
        )
    if problems:
        print_table(("run", "skill", "missing"), problems)
    expected = {KILLED_SKILL} == {run.skill_id for run in account.runs.values() if not run.status}
    stdout().print(
        f"{counted(sum(stored.values()), 'event')} stored; {counted(account.events, 'event')} recorded; "
        f"{'nothing is missing' if not problems else counted(len(problems), 'problem')}."
    )
    return expected and not problems


def _problems(run: RunAccount, state: RunState | None, stored: int) -> Iterator[str]:
    """What the record lacks of what the run's process noted. A killed process may have recorded one event more than it
    came to note.
    """
    if state is None:
        yield "the whole run"
        return
    if state.missing:
        yield f"events {format_ranges(state.missing)}"
    if stored < run.events or (run.status and stored != run.events):
        yield f"{counted(stored, 'event')} stored, {run.events:,} recorded"
    if run.status and state.completeness is not Completeness.COMPLETE:
        yield f"reads {state.completeness}"
    if not run.status and state.liveness is not Liveness.ABANDONED:
        yield f"was killed and reads {state.liveness}"
    if state.conflicts:
        yield counted(state.conflicts, "conflict")
