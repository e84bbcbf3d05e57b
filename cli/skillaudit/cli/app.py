"""The command group: loads a command's module when it is called, and turns errors into exit codes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from typing import Any, Final

import click

from skillaudit.contract.errors import SkillauditError

EXIT_INTERRUPTED: Final = 130

COMMANDS: Final = {
    "acts": ("skillaudit.cli.acts", "acts", "List what was done to the record on purpose."),
    "backup": ("skillaudit.cli.backup", "backup", "Make a consistent copy of the database while it runs."),
    "consume": (
        "skillaudit.cli.consume",
        "consume",
        "Materialize events into the database and serve readers.",
    ),
    "dead-letters": (
        "skillaudit.cli.dead_letters",
        "dead_letters",
        "List, show, replay or discard malformed records.",
    ),
    "demo": ("skillaudit.cli.demo", "demo", "Record, materialize and read a small fleet of agents."),
    "erase": ("skillaudit.cli.erase", "erase", "Take out everything that runs said."),
    "forward": ("skillaudit.cli.forward", "forward", "Forward this host's outbox to Kafka."),
    "hold": ("skillaudit.cli.hold", "hold", "Keep runs from purges and redactions."),
    "import": ("skillaudit.cli.import_", "import_", "Import recorded trajectories."),
    "keys": ("skillaudit.cli.keys", "keys", "Make and record the key that signs the journal."),
    "outbox": ("skillaudit.cli.outbox", "outbox", "Show what the outbox holds."),
    "purge": ("skillaudit.cli.purge", "purge", "Delete runs; tombstones and the proof stay."),
    "redact": ("skillaudit.cli.redact", "redact", "Take out what one event said."),
    "release": ("skillaudit.cli.release", "release", "End a hold."),
    "restore": ("skillaudit.cli.restore", "restore", "Put a backup in the database's place, recorded."),
    "runs": ("skillaudit.cli.runs", "runs", "List runs, newest first."),
    "settings": (
        "skillaudit.cli.settings",
        "settings",
        "Show every setting, its value and where it can be set.",
    ),
    "show": ("skillaudit.cli.show", "show", "Show one run and its events."),
    "verify": ("skillaudit.cli.verify", "verify", "Check that the record is complete and unaltered."),
    "topics": ("skillaudit.cli.topics", "topics", "Create, check or print the Kafka topics."),
}


class ReaderGoneError(Exception):
    """Whoever reads stdout went away (`| head -1`)."""


class LazyGroup(click.Group):
    """Lists commands from the table above; imports a command's module only when it is called."""

    def invoke(self, ctx: click.Context) -> Any:
        """The command; a reader that goes away under another name, since click has an exit code of its own for it."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as exc:
            raise ReaderGoneError from exc

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module, name, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table above, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][2]) for name in self.list_commands(ctx)])


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"skillaudit {metadata.version('skillaudit')}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    epilog="Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 incomplete, 5 violation found, 6 not proven or still "
    "open, 7 unreachable or locked, 8 timed out, 130 interrupted.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--version",
    is_flag=True,
    callback=_print_version,
    expose_value=False,
    is_eager=True,
    help="Show the version.",
)
def cli() -> None:
    """The audit pipeline for fleets of LLM agents that can prove it lost nothing.

    \b
    Examples:
      skillaudit demo                          see it work, without Kafka
      skillaudit consume                       materialize events and serve readers
      skillaudit runs --status error           what failed lately
      skillaudit show RUN --events 1-20        what one run did
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Data goes to stdout, everything else to stderr."""
    _log_to_stderr()
    try:
        code = cli.main(args=arguments, prog_name="skillaudit", standalone_mode=False)
        sys.stdout.flush()
    except (click.exceptions.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except (ReaderGoneError, BrokenPipeError):
        # Silent, and stdout must not be flushed again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (click.ClickException, SkillauditError, ModuleNotFoundError, OSError) as exc:
        return _explain(exc)
    return code if isinstance(code, int) else 0


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("skillaudit: %(message)s"))
    ours = logging.getLogger("skillaudit")
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False
    # What the Kafka client has to say while it retries is said by us, once, when it matters.
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())


def _explain(exc: click.ClickException | SkillauditError | ModuleNotFoundError | OSError) -> int:
    if isinstance(exc, click.ClickException):
        exc.show()
        return exc.exit_code
    if isinstance(exc, SkillauditError):
        click.echo(f"skillaudit: {exc}", err=True)
        return exc.exit_code
    if isinstance(exc, OSError):
        click.echo(f"skillaudit: {exc.filename or 'the system'}: {exc.strerror or exc}", err=True)
        return 1
    return _missing_extra(exc)


_EXTRA_OF: Final = {
    "duckdb": "consumer",
    "pyarrow": "consumer",
    "pydantic": "consumer",
    "prometheus_client": "consumer",
    "fastapi": "server",
    "uvicorn": "server",
    "httpx": "client",
}


def _missing_extra(exc: ModuleNotFoundError) -> int:
    extra = _EXTRA_OF.get((exc.name or "").partition(".")[0])
    if extra is None:
        raise exc
    click.echo(
        f"skillaudit: this command needs {exc.name}; install it with: pip install 'skillaudit[{extra}]'",
        err=True,
    )
    return 1
