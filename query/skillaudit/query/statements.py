"""The named statements of `sql/*.sql`: reviewable as SQL, bound parameters only.

A file holds sections that begin with `-- name: x` (a statement) or `-- fragment: x` (text that statements of the same
file include as `{x}`). Fragments are put in when the file is loaded; nothing a caller says ever becomes SQL text.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Final

_SECTION: Final = re.compile(r"^-- (name|fragment): (\w+)$", re.MULTILINE)
_INCLUDE: Final = re.compile(r"\{(\w+)\}")
FILES: Final = ("runs.sql", "events.sql", "states.sql")


def parse(text: str) -> dict[str, str]:
    """Name -> statement of one file's text; raises `KeyError` for an unknown fragment, `ValueError` for a double name."""
    parts = _SECTION.split(text)
    sections = list(zip(parts[1::3], parts[2::3], parts[3::3], strict=True))
    fragments = {name: body.strip() for kind, name, body in sections if kind == "fragment"}
    statements: dict[str, str] = {}
    for kind, name, body in sections:
        if kind == "fragment":
            continue
        if name in statements:
            raise ValueError(f"the statement {name} is there twice")
        statements[name] = _INCLUDE.sub(lambda match: fragments[match[1]], body.strip())
    return statements


@cache
def statements() -> dict[str, str]:
    """Name -> statement of all files."""
    found: dict[str, str] = {}
    for name in FILES:
        text = files("skillaudit.query").joinpath("sql", name).read_text(encoding="utf-8")
        for statement, body in parse(text).items():
            if statement in found:
                raise ValueError(f"the statement {statement} is there twice")
            found[statement] = body
    return found


def sql(name: str) -> str:
    """The statement of that name."""
    return statements()[name]
