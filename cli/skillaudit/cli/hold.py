"""`skillaudit hold`."""

from __future__ import annotations

import asyncio
import contextlib

import click

from skillaudit.cli.ordering import operate, print_report, with_order
from skillaudit.cli.output import stderr
from skillaudit.contract.admin import ActOrder, HoldScope
from skillaudit.contract.errors import SkillauditError
from skillaudit.contract.settings import Settings
from skillaudit.contract.words import named


@click.command()
@click.argument("run_ids", nargs=-1, metavar="[RUN]...")
@click.option("--skill", "skill_id", help="All runs of this skill, those to come included.")
@click.option("--all", "everything", is_flag=True, help="All runs, those to come included.")
@with_order
def hold(
    settings: Settings,
    as_json: bool,
    order: ActOrder,
    run_ids: tuple[str, ...],
    skill_id: str | None,
    everything: bool,
) -> None:
    """Keep runs from being purged, redacted and erased, until `skillaudit release`."""
    if [bool(run_ids), skill_id is not None, everything].count(True) != 1:
        raise click.UsageError("name runs, or give --skill or --all: exactly one of these")
    scope = HoldScope(runs=run_ids, skill_id=skill_id, everything=everything)
    report = operate(settings, lambda operations: operations.hold(order, scope))
    print_report(report, f"held; to end it: skillaudit release {' '.join(report.acts[:1])}", as_json=as_json)
    missing = asyncio.run(_missing(settings, run_ids)) if run_ids else []
    if missing:
        stderr().print(f"skillaudit: not stored here, held in case they come: {named('run', missing)}")


async def _missing(settings: Settings, run_ids: tuple[str, ...]) -> list[str]:
    from skillaudit.storage import open_reader

    with contextlib.suppress(SkillauditError):  # the hold is placed; this is only a hint
        async with open_reader(settings) as reader:
            found = await reader.list_run_states(run_ids)
            return [run_id for run_id in run_ids if run_id not in found]
    return []
