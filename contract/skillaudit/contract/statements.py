"""Named SQL statements from the `.sql` files of a part, so that SQL is reviewed as SQL.

A file holds statements introduced by a line `-- name: <name>`; everything up to the next such line is its text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Final

_NAME: Final = re.compile(r"^-- name: ([a-z_]+)$", re.MULTILINE)


def sql_text(package: str, path: str) -> str:
    """The text of a file below the package's folder."""
    return (resources.files(package) / path).read_text(encoding="utf-8")


@cache
def named_statements(package: str, path: str) -> Mapping[str, str]:
    """The named statements of a file below the package's folder; `ValueError` where it names one twice."""
    parts = _NAME.split(sql_text(package, path))
    names = parts[1::2]
    if len(set(names)) != len(names):
        raise ValueError(f"{path} names a statement twice")
    return dict(zip(names, (text.strip().rstrip(";") for text in parts[2::2]), strict=True))
