"""The named statements of `checks/*.sql`: everything that verify asks the engine, reviewable as SQL.

A file holds sections that begin with `-- name: x` (a statement) or `-- fragment: x` (text that sections of the same file
include as `{x}`). Nothing that a caller says ever becomes SQL text: values are bound parameters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Final

_SECTION: Final = re.compile(r"^-- (name|fragment): (\w+)$", re.MULTILINE)
_INCLUDE: Final = re.compile(r"\{([a-z_]+)\}")


def parse(text: str) -> dict[str, str]:
    """Name -> statement of one file's text. `KeyError` for an unknown fragment, `ValueError` for a name twice."""
    parts = _SECTION.split(text)
    sections = list(zip(parts[1::3], parts[2::3], parts[3::3], strict=True))
    fragments = {name: body.strip() for kind, name, body in sections if kind == "fragment"}
    names = [name for _, name, _ in sections]
    if len(set(names)) != len(names):
        raise ValueError("a statement or fragment is there twice")
    return {name: _filled(body.strip(), fragments) for kind, name, body in sections if kind == "name"}


def _filled(text: str, fragments: Mapping[str, str]) -> str:
    return _INCLUDE.sub(lambda match: _filled(fragments[match[1]], fragments), text)


@cache
def statements(file: str) -> Mapping[str, str]:
    """The statements of a file in `checks/`."""
    return parse((resources.files("skillaudit.proof") / "checks" / file).read_text(encoding="utf-8"))
