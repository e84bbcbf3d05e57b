"""The database, as this part uses it."""

from __future__ import annotations

import contextlib
from typing import Protocol

import duckdb


class ProofDatabase(Protocol):
    """What the one who owns the database gives to the sealer. Both may be called by any thread."""

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection of its own for reading; the caller closes it."""
        ...

    def transaction(self, doing: str) -> contextlib.AbstractContextManager[duckdb.DuckDBPyConnection]:
        """A transaction under the lock that everybody who writes the journal holds: committed at the end, rolled back
        where the body raises. `doing` completes "can't ..." in the errors.
        """
        ...
