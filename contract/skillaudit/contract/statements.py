"""Named SQL statements from the `.sql` files of a part, so that SQL is reviewed as SQL.

A file holds sections that begin with `-- name: x` (a statement) or `-- fragment: x` (text that sections of the same file
include as `{x}`), and end where the next one begins. Fragments are put in when the file is loaded; nothing that a caller says
ever becomes SQL text, but for the slots that a part names: tables and columns of its own, filled in by its code.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cache
from importlib import resources
from typing import Final

_SECTION: Final = re.compile(r"^-- (name|fragment): ([a-z_]+)$", re.MULTILINE)
_INCLUDE: Final = re.compile(r"\{([a-z_]+)\}")


def sql_text(package: str, path: str) -> str:
    """The text of a file below the package's folder."""
    return (resources.files(package) / path).read_text(encoding="utf-8")


def parse_statements(text: str, slots: Collection[str] = ()) -> dict[str, str]:
    """Name -> statement of one file's text. `slots`: what stays open, to be filled in by who uses the statement.

    `KeyError` for an unknown fragment, `ValueError` for a name twice.
    """
    parts = _SECTION.split(text)
    names = parts[2::3]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"a statement or fragment is there twice: {', '.join(twice)}")
    sections = list(zip(parts[1::3], names, parts[3::3], strict=True))
    fragments = {name: body.strip() for kind, name, body in sections if kind == "fragment"}
    return {
        name: _filled(body.strip().rstrip(";"), fragments, slots)
        for kind, name, body in sections
        if kind == "name"
    }


def _filled(text: str, fragments: Mapping[str, str], slots: Collection[str]) -> str:
    return _INCLUDE.sub(
        lambda match: match[0] if match[1] in slots else _filled(fragments[match[1]], fragments, slots), text
    )


@cache
def named_statements(package: str, path: str, slots: frozenset[str] = frozenset()) -> Mapping[str, str]:
    """As `parse_statements`, of a file below the package's folder."""
    try:
        return parse_statements(sql_text(package, path), slots)
    except ValueError as exc:
        raise ValueError(f"{path}: {exc}") from exc
