"""Options that many commands share, and how they become settings."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from skillaudit.contract.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}

_PATH = click.Path(path_type=Path)
_DATABASE = click.Path(path_type=Path, readable=False)
"""Whoever opens it says what is wrong with it, by option and by setting."""
_CONNECTION = (
    click.option("--data", type=_PATH, help="Directory of outbox, archive and database (SKILLAUDIT_DATA)."),
    click.option("--db", "db_file", type=_DATABASE, help="Database file (SKILLAUDIT_DB_FILE)."),
    click.option(
        "--kafka",
        "kafka_bootstrap_servers",
        metavar="HOST:PORT",
        help="Broker (SKILLAUDIT_KAFKA_BOOTSTRAP_SERVERS).",
    ),
    click.option(
        "--topic", "kafka_topic", metavar="NAME", help="Topic of the events (SKILLAUDIT_KAFKA_TOPIC)."
    ),
    click.option("--url", help="Address of a running consumer (SKILLAUDIT_URL)."),
    click.option("--token-file", type=_PATH, help="File with that consumer's token (SKILLAUDIT_TOKEN_FILE)."),
    click.option("--config", "config_file", type=_PATH, help="TOML file with settings (SKILLAUDIT_CONFIG)."),
)
_NAMES: Final = ("data", "db_file", "kafka_bootstrap_servers", "kafka_topic", "url", "token_file")


def with_settings(command: F) -> F:
    """Add the connection options; the command gets one `settings` argument in their place."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        arguments = {name: kwargs.pop(name) for name in _NAMES}
        config_file = kwargs.pop("config_file")
        return command(*args, settings=Settings.load(arguments, config_file=config_file), **kwargs)

    decorated: Any = wrapper
    for option in reversed(_CONNECTION):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


class Moment(click.ParamType[datetime]):
    """A point in time: RFC 3339 with offset, a date (UTC), or an age such as 15m, 24h or 30d."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """A timezone-aware UTC datetime."""
        if isinstance(value, datetime):
            return value
        text = str(value).strip()
        if text[:-1].isdecimal() and text[-1:] in _UNITS_S:
            try:
                return datetime.now(UTC) - timedelta(seconds=int(text[:-1]) * _UNITS_S[text[-1]])
            except OverflowError:
                self.fail(f"{text!r} is before all times; leave the option out", param, ctx)
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            self.fail(
                f"{text!r} is neither a time like 2026-11-22T20:15:00Z nor an age like 15m, 24h or 30d",
                param,
                ctx,
            )
        if at.tzinfo is None and len(text) > len("2026-11-22"):
            self.fail(f"{text!r} has no offset; append Z for UTC", param, ctx)
        try:
            return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
        except OverflowError:
            self.fail(f"{text!r} is no time in UTC", param, ctx)


MOMENT = Moment()
