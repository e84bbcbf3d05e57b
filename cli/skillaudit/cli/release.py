"""`skillaudit release`."""

from __future__ import annotations

import click

from skillaudit.cli.ordering import operate, print_report, with_order
from skillaudit.contract.admin import ActOrder
from skillaudit.contract.settings import Settings


@click.command()
@click.argument("hold_id", metavar="HOLD")
@with_order
def release(settings: Settings, as_json: bool, order: ActOrder, hold_id: str) -> None:
    """End a hold, named by the act that placed it. Exit code 3 where none is in force under that id."""
    report = operate(settings, lambda operations: operations.release(order, hold_id))
    print_report(report, "released", as_json=as_json)
