"""`skillaudit restore`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skillaudit.cli.ordering import confirm, with_order, yes_option
from skillaudit.cli.output import print_json
from skillaudit.contract.admin import ActOrder
from skillaudit.contract.settings import Settings
from skillaudit.contract.words import counted

if TYPE_CHECKING:
    from skillaudit.storage.restoring import RestoreReport


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@yes_option
@with_order
def restore(settings: Settings, as_json: bool, order: ActOrder, file: Path, yes: bool) -> None:
    """Put a backup, FILE, in the database's place, and record that as an act. End the consumer first.

    The file that was there is kept beside it. The journal is taken forward from the anchors, acts that came since are
    applied again, and the consumer catches up with events from the topics, or from the outbox's archive. Without the
    act `skillaudit verify` calls an older copy what it looks like: rolled back.
    """
    confirm(f"Put {file} in the place of {settings.database}?", yes=yes)
    report = asyncio.run(_restore(settings, file, order))
    if as_json:
        replaced = str(report.replaced) if report.replaced else None
        print_json(
            {
                "database_id": report.database_id,
                "journal_size": report.journal_size,
                "replaced": replaced,
                "act": report.act,
            }
        )
        return
    click.echo(
        f"{file} is now {settings.database}; its journal has {counted(report.journal_size, 'leaf', 'leaves')}"
    )
    if report.replaced:
        click.echo(f"what was there is kept as {report.replaced}")
    click.echo(f"act {report.act}")


async def _restore(settings: Settings, file: Path, order: ActOrder) -> RestoreReport:
    from skillaudit.storage.restoring import restore as put_back

    return await put_back(settings, file, order)
