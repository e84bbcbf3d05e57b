"""`skillaudit hold`."""

from __future__ import annotations

import click

from skillaudit.cli.ordering import operate, print_report, with_order
from skillaudit.contract.admin import ActOrder, HoldScope
from skillaudit.contract.settings import Settings


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
    print_report(report, "held; release it by the act's id", as_json=as_json)
