"""Printing: data to stdout, everything else to stderr; no escape codes where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDTH_PIPED: Final = 100_000
"""Columns where stdout is not a terminal: nothing is cut, a row is as wide as its cells."""


class _Console(Console):
    """A reader that goes away (`| head -1`) is the business of whoever runs the command, as for any other write."""

    def on_broken_pipe(self) -> None:
        """Called while the error is handled: raise it again, instead of ending with exit code 1."""
        raise  # noqa: PLE0704


def stdout() -> Console:
    """Where data goes."""
    return _Console(width=None if sys.stdout.isatty() else _WIDTH_PIPED, highlight=False)


def stderr() -> Console:
    """Where progress and remarks go."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON document, indented, with the record's own names."""
    sys.stdout.write(
        orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE, default=_json).decode()
    )


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """A plain table; cells are text, never markup."""
    table = Table(
        title=title or None,
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
        show_header=any(columns),
    )
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in _NUMERIC else "left")
    for row in rows:
        table.add_row(*(Text(cell_text(cell)) for cell in row))
    console = stdout()
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        sys.stdout.write(line.rstrip() + "\n")


_NUMERIC: Final = frozenset(
    {"events", "runs", "seconds", "tokens", "records", "bytes", "tool calls", "failed", "position"}
)


def cell_text(value: object) -> str:
    """A cell: times as RFC 3339 UTC, nothing for None, control characters made visible."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return time_text(value)
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def time_text(at: datetime) -> str:
    """RFC 3339, UTC, milliseconds."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def json_time(at: datetime) -> str:
    """RFC 3339, UTC, microseconds."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _json(value: object) -> object:
    if isinstance(value, bytes):
        return orjson.Fragment(value)
    raise TypeError(f"not JSON: {type(value).__name__}")
