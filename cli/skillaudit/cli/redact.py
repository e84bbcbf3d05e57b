"""`skillaudit redact`."""

from __future__ import annotations

import click

from skillaudit.cli.ordering import confirm, operate, print_report, with_forcible_order, yes_option
from skillaudit.contract.admin import ActOrder
from skillaudit.contract.digests import FINISH_FIELDS, START_FIELDS
from skillaudit.contract.settings import Settings
from skillaudit.contract.words import counted


@click.command()
@click.argument("run_id", metavar="RUN")
@click.argument("event", metavar="EVENT", type=click.IntRange(min=0))
@click.option(
    "--field",
    type=click.Choice([*START_FIELDS, *FINISH_FIELDS]),
    help="Only this field of the start (event 0) or of the finish.",
)
@yes_option
@with_forcible_order
def redact(
    settings: Settings,
    as_json: bool,
    order: ActOrder,
    run_id: str,
    event: int,
    field: str | None,
    yes: bool,
) -> None:
    """Take out what one event of a run said. That it happened, when, and its place in the run stay proven.

    EVENT is its number: 0 is the start, the last one the finish; of these all fields go, or the one named. The digest is
    kept and its salt forgotten: the content can't be found by trying. The topic, the outbox's archive and backups hold
    their copies until their own retention.
    """
    confirm(f"Take out the content of event {event} of run {run_id} for good?", yes=yes)
    report = operate(settings, lambda operations: operations.redact(order, run_id, event, field))
    print_report(report, f"{counted(report.events, 'place')} emptied", as_json=as_json)
