"""`skillaudit settings`."""

from __future__ import annotations

import click

from skillaudit.cli.options import json_option, with_settings
from skillaudit.cli.output import print_json, print_table
from skillaudit.contract.settings import PREFIX, Settings


@click.command()
@with_settings
@json_option
def settings(settings: Settings, as_json: bool) -> None:
    """Show every setting, its value here and the environment variable that sets it.

    Precedence: argument, environment, TOML file (--config or SKILLAUDIT_CONFIG), default. Secrets are not printed.
    """
    values = settings.printable()
    if as_json:
        print_json(values)
        return
    print_table(("setting", "value", "environment"), [(k, v, PREFIX + k.upper()) for k, v in values.items()])
