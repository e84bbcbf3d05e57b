"""`skillaudit demo`."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import click

from skillaudit.cli.options import with_settings
from skillaudit.cli.output import stderr
from skillaudit.contract.settings import Settings


@click.command()
@click.option("--keep", is_flag=True, help="Keep the data (and the topic) to look around afterwards.")
@with_settings
def demo(settings: Settings, keep: bool) -> None:
    """Record, materialize and read a small fleet of agents.

    Four processes of small agents work on this project's own files; some start sub-runs, one fails, one is killed in the
    middle of a run. Exit code 1 if anything they recorded is missing. Uses a data directory of its own, and with
    --kafka a topic of its own.
    """
    from skillaudit.cli.demo_fleet.stage import run_demo

    directory = Path(tempfile.mkdtemp(prefix="skillaudit-demo-"))
    settings = replace(
        settings, data=directory, db_file=None, url="", http_listen="127.0.0.1:0", token_file=None
    )
    try:
        found_everything = asyncio.run(run_demo(settings, keep=keep))
    finally:
        if keep:
            stderr().print(f"kept: skillaudit runs --data {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    if not found_everything:
        raise click.exceptions.Exit(1)
