"""`skillaudit backup`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from skillaudit.cli.options import with_settings
from skillaudit.cli.output import stderr
from skillaudit.contract.settings import Settings
from skillaudit.contract.words import counted


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@with_settings
def backup(settings: Settings, file: Path) -> None:
    """Write a consistent copy of the database to FILE while it runs.

    The copy is as of one moment; batches go on meanwhile. FILE must not exist. `skillaudit restore FILE` goes back to
    it: the consumer catches up from where the copy stands.
    """
    size = asyncio.run(_back_up(settings, file))
    stderr().print(f"{file}: {counted(size, 'byte')}")


async def _back_up(settings: Settings, file: Path) -> int:
    from skillaudit.storage import open_operations

    async with open_operations(settings) as operations:
        return await operations.back_up(file)
