"""`skillaudit runs`."""

from __future__ import annotations

import asyncio
from datetime import datetime

import click

from skillaudit.cli.options import MOMENT, json_option, with_settings
from skillaudit.cli.output import print_json, print_table, stderr
from skillaudit.cli.presenting import RUN_COLUMNS, run_json, run_row
from skillaudit.contract.records import LIST_LIMIT_MAX, RunFilter, RunState, SkillRun
from skillaudit.contract.settings import Settings
from skillaudit.contract.words import counted


@click.command()
@click.option("--status", help="Exactly this status: running, ok, error, timeout ...")
@click.option("--skill", "skill_id", help="Exactly this skill.")
@click.option("--caller", "caller_id", help="Exactly this caller.")
@click.option("--channel", "channel_id", help="Exactly this channel.")
@click.option("--since", type=MOMENT, help="Started at or after: a time, or an age such as 24h.")
@click.option("--until", type=MOMENT, help="Started before.")
@click.option("--top-level", "top_level_only", is_flag=True, help="Without runs that another run started.")
@click.option("--dry-runs", "include_dry_run", is_flag=True, help="Dry runs too.")
@click.option("--offset", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--limit", type=click.IntRange(1, LIST_LIMIT_MAX), default=50, show_default=True)
@with_settings
@json_option
def runs(  # noqa: PLR0913  the filter's fields
    settings: Settings,
    as_json: bool,
    offset: int,
    limit: int,
    *,
    status: str | None,
    skill_id: str | None,
    caller_id: str | None,
    channel_id: str | None,
    since: datetime | None,
    until: datetime | None,
    top_level_only: bool,
    include_dry_run: bool,
) -> None:
    """List runs, newest first.

    \b
    Examples:
      skillaudit runs --status error --since 24h
      skillaudit runs --skill search --json
    """
    filter_ = RunFilter(
        status=status,
        skill_id=skill_id,
        caller_id=caller_id,
        channel_id=channel_id,
        top_level_only=top_level_only,
        include_dry_run=include_dry_run,
        since=since,
        until=until,
    )
    found, states, total = asyncio.run(_read(settings, filter_, offset, limit))
    if as_json:
        print_json(
            {"runs": [run_json(run, states.get(run.id)) for run in found], "offset": offset, "total": total}
        )
        return
    print_table(RUN_COLUMNS, [run_row(run, states.get(run.id)) for run in found])
    stderr().print(f"{len(found):,} of {counted(total, 'run')}")


async def _read(
    settings: Settings, filter_: RunFilter, offset: int, limit: int
) -> tuple[list[SkillRun], dict[str, RunState], int]:
    from skillaudit.storage import open_reader

    async with open_reader(settings) as reader:
        found = await reader.list_runs_filtered(filter_, offset, limit)
        states = await reader.list_run_states([run.id for run in found])
        return found, states, await reader.count_runs_filtered(filter_)
