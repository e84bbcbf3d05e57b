"""`skillaudit import`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from skillaudit.cli.options import MOMENT, json_option, with_settings
from skillaudit.cli.output import print_json, stderr
from skillaudit.cli.running import ProgressLine
from skillaudit.contract.settings import Settings
from skillaudit.contract.words import counted
from skillaudit.producer.history import ImportReport, import_file


@click.command(name="import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--at", type=MOMENT, help="Time of what has none of its own; by default the file's.")
@click.option(
    "--skill", "skill_id", default="", help="Skill of runs that name none; by default the file's name."
)
@with_settings
@json_option
def import_(settings: Settings, as_json: bool, file: Path, at: datetime | None, skill_id: str) -> None:
    """Import recorded trajectories in the common chat-message form: a JSON list or JSON Lines.

    Each trajectory becomes a run. Importing the same file again changes nothing, and an interrupted import goes on. Exit
    code 4 where trajectories were refused, 8 where what was imported is not acknowledged yet.
    """
    line = ProgressLine()
    report = import_file(
        file,
        settings,
        at=at,
        skill_id=skill_id,
        progress=lambda done, total: line.show(lambda: f"{done:,} of {counted(total, 'byte')}"),
    )
    line.clear()
    if as_json:
        print_json(_members(report))
    else:
        click.echo(_text(report))
    for refusal in report.refused:
        stderr().print(f"refused: trajectory {refusal.index}: {refusal.reason}")
    if report.refused_count:
        raise click.exceptions.Exit(4)
    if report.flush.pending and settings.uses_kafka:
        raise click.exceptions.Exit(8)


def _members(report: ImportReport) -> dict[str, object]:
    return {
        "source_id": report.source_id,
        "runs": report.runs,
        "events": report.events,
        "appended": report.appended,
        "refused": [{"index": it.index, "reason": it.reason} for it in report.refused],
        "refused_count": report.refused_count,
        "pending": report.flush.pending,
    }


def _text(report: ImportReport) -> str:
    new = ", all there already" if report.runs and not report.appended else ""
    waiting = (
        f", {counted(report.flush.pending, 'record')} in the outbox, not consumed yet"
        if report.flush.pending
        else ""
    )
    return f"{counted(report.runs, 'run')}, {counted(report.events, 'event')}, {report.refused_count} refused{new}{waiting}"
