"""The statements of this part's `.sql` files."""

from __future__ import annotations

from functools import cache
from typing import Final

from skillaudit.contract.statements import named_statements

FILES: Final = ("runs.sql", "events.sql", "states.sql")


@cache
def statements() -> dict[str, str]:
    """Name -> statement of all files; `ValueError` where one is there twice."""
    found: dict[str, str] = {}
    for file in FILES:
        named = named_statements("skillaudit.query", f"sql/{file}")
        if twice := found.keys() & named.keys():
            raise ValueError(f"{file} names again: {', '.join(sorted(twice))}")
        found |= named
    return found


def sql(name: str) -> str:
    """The statement of that name."""
    return statements()[name]
