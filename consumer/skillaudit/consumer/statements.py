"""The statements of this part's `.sql` files, and the steps of its schema."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Final

from skillaudit.contract import statements as named

_PACKAGE: Final = "skillaudit.consumer"
_SLOTS: Final = frozenset({"table", "field", "logs"})
"""Filled in where a statement is used, with names of this part's own."""


def sql_text(path: str) -> str:
    """The text of a file below `sql/`."""
    return named.sql_text(_PACKAGE, f"sql/{path}")


def statements(path: str) -> Mapping[str, str]:
    """The named statements of a file below `sql/`; `ValueError` where it names one twice."""
    return named.named_statements(_PACKAGE, f"sql/{path}", _SLOTS)


def migrations() -> list[tuple[int, str, str]]:
    """(number, name, text) of the schema's steps, ascending: files `sql/schema/<number>_<name>.sql`."""
    folder = resources.files(_PACKAGE).joinpath("sql").joinpath("schema")
    steps = [entry.name for entry in folder.iterdir() if entry.name[:4].isdigit()]
    return [(int(name[:4]), name[5:-4], sql_text(f"schema/{name}")) for name in sorted(steps)]
