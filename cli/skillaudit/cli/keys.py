"""`skillaudit keys`."""

from __future__ import annotations

from pathlib import Path

import click

from skillaudit.cli.options import with_settings
from skillaudit.cli.ordering import operate, print_report, with_order
from skillaudit.cli.output import stderr
from skillaudit.contract.admin import ActOrder
from skillaudit.contract.errors import SettingsError
from skillaudit.contract.settings import Settings

_PATH = click.Path(path_type=Path)


@click.group()
def keys() -> None:
    """Make the key that signs the journal, show what verifiers need of it, record a change of keys."""


@keys.command()
@click.argument("file", type=_PATH)
@click.option("--name", required=True, help="The journal's name, like audit.example.org/fleet-1.")
@with_settings
def new(settings: Settings, file: Path, name: str) -> None:
    """Make a key in FILE, which only you can read, and print the verifier's half.

    Set `seal_key_file` to it. Best under another user, on another host than the database's administrators; the printed
    line goes into the verifiers' policies.
    """
    from skillaudit.proof.errors import NoteError
    from skillaudit.proof.keys import generate_key, lies_in
    from skillaudit.proof.notes import check_name

    try:
        check_name(name)
    except NoteError as exc:
        raise click.BadParameter(str(exc), param_hint="'--name'") from exc
    click.echo(generate_key(file, name).text)
    stderr().print(f"{file}: the private key; keep it, and keep it apart from the database")
    if lies_in(file, settings.data):
        stderr().print(
            f"warning: it lies in the data directory ({settings.data}): whoever gets at the database can sign in its name; move it"
        )


@keys.command()
@click.argument("file", type=_PATH)
def show(file: Path) -> None:
    """Print the verifier's half of the key in FILE."""
    from skillaudit.proof.keys import read_key

    click.echo(read_key(file).verifier.text)


@keys.command()
@click.argument("file", type=_PATH, required=False)
@with_order
def record(settings: Settings, as_json: bool, order: ActOrder, file: Path | None) -> None:
    """Record as an act that the key in FILE (by default `seal_key_file`) signs from now on.

    To change keys: make the new one, put it into `seal_key_file` and the old one into `seal_former_key_file`, start the
    consumer again, record it, and tell the verifiers both. After the next seal put the old one's verifier half (`keys show`)
    in its place: it signs no more, and what an anchor holds of it still counts.
    """
    from skillaudit.proof.keys import read_key

    file = file or settings.seal_key_file
    if file is None:
        raise SettingsError("no key is configured; name its file, or set seal_key_file")
    verifier = read_key(file).verifier
    report = operate(settings, lambda operations: operations.record_key(order, verifier.name, verifier.text))
    print_report(report, f"{verifier.text}: recorded", as_json=as_json)
