"""What the commands that order acts share: who wants it and why, the question before it, and the answer."""

from __future__ import annotations

import asyncio
import functools
import getpass
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, TypeVar

import click

from skillaudit.cli.options import json_option, with_settings
from skillaudit.cli.output import print_json, stderr
from skillaudit.contract.admin import ActOrder, ActReport, Operations
from skillaudit.contract.settings import Settings
from skillaudit.contract.words import counted, named

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

yes_option = click.option("--yes", is_flag=True, help="Do it without asking.")
_ORDER = (
    click.option("--actor", help="Who wants it; your user name by default. Kept for ever."),
    click.option("--reason", default="", help="Why. Kept for ever: name no persons."),
)
_FORCE = click.option(
    "--force", is_flag=True, help="Go over holds and the minimum age. Recorded, and shown for ever."
)


def with_order(command: F) -> F:
    """Add the connection options, `--json` and the options of an order; the command gets `settings`, `as_json`, `order`."""

    @functools.wraps(command)
    def wrapper(*args: Any, actor: str | None, reason: str, force: bool = False, **kwargs: Any) -> Any:
        order = ActOrder(actor=actor or getpass.getuser(), reason=reason, force=force)
        return command(*args, order=order, **kwargs)

    decorated: Any = wrapper
    for option in reversed(_ORDER):
        decorated = option(decorated)
    return with_settings(json_option(decorated))  # type: ignore[no-any-return]


def with_forcible_order(command: F) -> F:
    """As `with_order`, and with `--force`: for what a hold or the minimum age may keep from happening."""
    return _FORCE(with_order(command))


def confirm(question: str, *, yes: bool) -> None:
    """Ask on a terminal; without one `--yes` must have said it."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody can be asked here; say it with --yes")
    if not click.confirm(question, err=True):
        raise click.exceptions.Abort


def operate(settings: Settings, act: Callable[[Operations], Awaitable[T]]) -> T:
    """Ask the consumer, or take the file while it lasts."""

    async def run() -> T:
        from skillaudit.storage import open_operations

        async with open_operations(settings) as operations:
            return await act(operations)

    return asyncio.run(run())


def print_report(report: ActReport, said: str, *, as_json: bool) -> None:
    """`said` names what was done; the acts' ids follow, and, on stderr, what was kept back and why."""
    if as_json:
        lists = ("acts", "holds")
        print_json({name: list(value) if name in lists else value for name, value in asdict(report).items()})
    else:
        kept = report.held or report.young
        click.echo(said if report.acts else "nothing was done" if kept else "nothing to do")
        for act_id in report.acts:
            click.echo(f"act {act_id}")
    if report.held:
        by = (
            named("hold", report.holds) if report.holds else "hold"
        )  # a consumer of an earlier release names none
        stderr().print(
            f"skillaudit: {counted(report.held, 'run')} kept by the {by}; `skillaudit acts --holds` says why, "
            "`skillaudit release HOLD` ends one"
        )
    if report.young:
        stderr().print(
            f"skillaudit: {counted(report.young, 'run')} kept by the minimum age (the consumer's `min_retention_days`)"
        )
