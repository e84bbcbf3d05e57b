"""Named SQL statements from the `.sql` files beside this module, so that SQL is reviewed as SQL.

A file holds statements introduced by a line `-- name: <name>`; everything up to the next such line is its text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Final

_PACKAGE: Final = "skillaudit.consumer"
_NAME: Final = re.compile(r"^-- name: ([a-z_]+)$", re.MULTILINE)


def sql_text(path: str) -> str:
    """The text of a file below `sql/`."""
    return (resources.files(_PACKAGE) / "sql" / path).read_text(encoding="utf-8")


@cache
def statements(path: str) -> Mapping[str, str]:
    """The named statements of a file below `sql/`; raises `ValueError` for text before the first name or a name twice."""
    parts = _NAME.split(sql_text(path))
    names = parts[1::2]
    if len(set(names)) != len(names):
        raise ValueError(f"{path} names a statement twice")
    return dict(zip(names, (text.strip().rstrip(";") for text in parts[2::2]), strict=True))


def migrations() -> list[tuple[int, str, str]]:
    """(number, name, text) of the schema's steps, ascending: files `sql/schema/<number>_<name>.sql`."""
    folder = resources.files(_PACKAGE).joinpath("sql").joinpath("schema")
    steps = [entry.name for entry in folder.iterdir() if entry.name[:4].isdigit()]
    return [(int(name[:4]), name[5:-4], sql_text(f"schema/{name}")) for name in sorted(steps)]
