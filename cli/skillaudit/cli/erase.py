"""`skillaudit erase`."""

from __future__ import annotations

import click

from skillaudit.cli.ordering import confirm, operate, print_report, with_forcible_order, yes_option
from skillaudit.contract.admin import ActOrder
from skillaudit.contract.errors import RejectedError, RunNotFoundError
from skillaudit.contract.records import LIST_LIMIT_MAX, RunFilter
from skillaudit.contract.settings import Settings
from skillaudit.contract.words import counted


class NobodysRunsError(RejectedError):
    """No run of that caller is stored."""

    exit_code = RunNotFoundError.exit_code


@click.command()
@click.argument("run_ids", nargs=-1, metavar="[RUN]...")
@click.option("--caller", help="All runs of this caller.")
@yes_option
@with_forcible_order
def erase(
    settings: Settings,
    as_json: bool,
    order: ActOrder,
    run_ids: tuple[str, ...],
    caller: str | None,
    yes: bool,
) -> None:
    """Take out everything that runs said: a person's, for example. That they happened, and when, stays proven.

    Payloads, inputs, attributes, caller, channel, output and error go, and what of these runs is still to come. The act
    names the runs, never the caller. The topic, the outbox's archive and backups hold their copies until their own
    retention.
    """
    if bool(run_ids) is (caller is not None):
        raise click.UsageError("name runs, or give --caller: one of both")
    if caller is not None:
        run_ids = _runs_of(settings, caller)
    if not run_ids:
        raise NobodysRunsError(
            f"no run of the caller {caller!r} is stored here; `skillaudit runs --caller` lists a caller's"
        )
    confirm(f"Take out the content of {counted(len(run_ids), 'run')} for good?", yes=yes)
    report = operate(settings, lambda operations: operations.erase(order, run_ids))
    print_report(
        report, f"{counted(report.runs, 'run')}, {counted(report.events, 'place')} emptied", as_json=as_json
    )


def _runs_of(settings: Settings, caller: str) -> tuple[str, ...]:
    import asyncio

    async def find() -> tuple[str, ...]:
        from skillaudit.storage import open_reader

        found: list[str] = []
        filter_ = RunFilter(caller_id=caller, include_dry_run=True)
        async with open_reader(settings) as reader:
            while True:
                runs = await reader.list_runs_filtered(filter_, len(found), LIST_LIMIT_MAX)
                found += [run.id for run in runs]
                if len(runs) < LIST_LIMIT_MAX:
                    return tuple(dict.fromkeys(found))

    return asyncio.run(find())
