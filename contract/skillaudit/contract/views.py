"""The views that everybody reads: the interface of a database, in `views.sql`."""

from __future__ import annotations

from typing import Final

from skillaudit.contract.statements import sql_text

SCHEMA: Final = 7
"""The schema whose views these are. A change of a view asks for a step of the schema, else no database gets it."""


def views_text() -> str:
    """The statements that make all of them, in the order in which they need each other."""
    return sql_text("skillaudit.contract", "views.sql")
