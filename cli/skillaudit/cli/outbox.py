"""`skillaudit outbox`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from skillaudit.cli.options import json_option, with_settings
from skillaudit.cli.output import json_time, print_json, print_table, stderr
from skillaudit.contract.clock import from_us
from skillaudit.contract.outbox.directory import SourceState, SourceStatus, list_sources, reader_identity
from skillaudit.contract.settings import Settings
from skillaudit.contract.words import counted


@click.group()
def outbox() -> None:
    """Show what this host's outbox holds."""


@outbox.command()
@click.option(
    "--all", "with_finished", is_flag=True, help="Sources too that are dead and fully acknowledged."
)
@with_settings
@json_option
def status(settings: Settings, as_json: bool, with_finished: bool) -> None:
    """Show each source: its process, its backlog, what was refused.

    Exit code 4 where a source is damaged or holds refused records.
    """
    found = settings.outbox_dir.exists()
    sources = list_sources(settings.outbox_dir) if found else []
    shown = [s for s in sources if with_finished or s.state is not SourceState.FINISHED or _troubled(s)]
    reader = reader_identity(settings.outbox_dir) if sources else None
    if as_json:
        print_json(
            {"directory": str(settings.outbox_dir), "reader": reader, "sources": [_json(s) for s in shown]}
        )
    else:
        print_table(_COLUMNS, [_row(source) for source in shown])
        stderr().print(
            f"there is no outbox at {settings.outbox_dir}: nothing was recorded with this data directory (--data)"
            if not found
            else f"{settings.outbox_dir}: {counted(len(sources), 'source')}, "
            f"{counted(sum(s.backlog_records for s in sources), 'record')} waiting, "
            f"read by {reader or 'nobody yet'}"
        )
    for source in sources:
        if source.trouble:
            stderr().print(f"{source.source_id}: {source.trouble}")
    if any(_troubled(source) for source in sources):
        raise click.exceptions.Exit(4)


_COLUMNS = (
    "source",
    "state",
    "host",
    "pid",
    "created",
    "records",
    "bytes",
    "oldest",
    "acknowledged",
    "refused",
    "read",
)


def _troubled(source: SourceStatus) -> bool:
    return bool(source.trouble) or source.acknowledgement.refused > 0


def _row(source: SourceStatus) -> Sequence[object]:
    who = source.identity
    return (
        source.source_id,
        source.state,
        who.host if who else None,
        who.pid if who else None,
        from_us(who.created_us) if who else None,
        source.backlog_records,
        source.backlog_bytes,
        from_us(source.oldest_us) if source.oldest_us else None,
        source.acknowledgement.records,
        source.acknowledgement.refused,
        "yes" if source.is_read else "no",
    )


def _json(source: SourceStatus) -> dict[str, Any]:
    who = source.identity
    return {
        "source_id": source.source_id,
        "state": source.state,
        "host": who.host if who else None,
        "pid": who.pid if who else None,
        "created_at": json_time(from_us(who.created_us)) if who else None,
        "backlog_records": source.backlog_records,
        "backlog_bytes": source.backlog_bytes,
        "oldest_at": json_time(from_us(source.oldest_us)) if source.oldest_us else None,
        "acknowledged_records": source.acknowledgement.records,
        "refused_records": source.acknowledgement.refused,
        "is_read": source.is_read,
        "trouble": source.trouble,
    }
