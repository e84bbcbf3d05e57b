"""DuckDB, as this part uses it: its exceptions become ours where they enter."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Protocol

import duckdb

from skillaudit.contract.errors import DatabaseError, FencedError


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


@contextlib.contextmanager
def engine_errors(doing: str) -> Generator[None]:
    """Map DuckDB's exceptions to ours; `doing` completes "can't ..."."""
    try:
        yield
    except duckdb.TransactionException as exc:
        raise FencedError(f"can't {doing}: another writer was faster ({_first_line(exc)})") from exc
    except duckdb.Error as exc:
        raise DatabaseError(f"can't {doing}: {_first_line(exc)}") from exc


def _first_line(exc: BaseException) -> str:
    return str(exc).partition("\n")[0]
