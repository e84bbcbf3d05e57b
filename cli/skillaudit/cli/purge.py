"""`skillaudit purge`."""

from __future__ import annotations

from datetime import datetime

import click

from skillaudit.cli.options import MOMENT
from skillaudit.cli.ordering import confirm, operate, print_report, with_forcible_order, yes_option
from skillaudit.cli.output import time_text
from skillaudit.contract.admin import ActOrder
from skillaudit.contract.errors import HeldError
from skillaudit.contract.settings import Settings
from skillaudit.contract.words import counted


@click.command()
@click.argument("run_ids", nargs=-1, metavar="[RUN]...")
@click.option("--before", type=MOMENT, help="Runs that started before: a time, or an age such as 180d.")
@yes_option
@with_forcible_order
def purge(
    settings: Settings,
    as_json: bool,
    order: ActOrder,
    run_ids: tuple[str, ...],
    before: datetime | None,
    yes: bool,
) -> None:
    """Delete runs and their events. Their rows in the ledger and a tombstone each stay, and the act that says so.

    Runs whose start never came go, too: they count as started when their first record arrived or, without a broker's
    time, was made. Every consumer of the same topics deletes them, and a rebuilt database deletes them again. The topic, the outbox's
    archive and backups hold their copies until their own retention. What a hold or the minimum age keeps stays, and is
    told; of runs that are named, exit code 1 where all are kept, 4 where some are.

    \b
    Examples:
      skillaudit purge --before 180d --reason "retention 180 days"
      skillaudit purge 0197a1b2-... --yes
    """
    if bool(run_ids) is (before is not None):
        raise click.UsageError("name runs, or give --before: one of both")
    what = (
        counted(len(run_ids), "run")
        if run_ids
        else f"all runs that started before {time_text(before)}"
        if before
        else ""
    )
    confirm(f"Delete {what} for good?", yes=yes)
    report = operate(settings, lambda operations: operations.purge(order, before=before, runs=run_ids))
    print_report(
        report,
        f"{counted(report.runs, 'run')} and {counted(report.events, 'event')} deleted",
        as_json=as_json,
    )
    if run_ids and (report.held or report.young):
        raise click.exceptions.Exit(4 if report.acts else HeldError.exit_code)
