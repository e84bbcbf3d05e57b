"""Reading a database file that nobody writes, opened read-only in this process."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import duckdb

from skillaudit.contract.errors import DatabaseError, LockedError, SkillauditError, UnreachableError
from skillaudit.contract.owner import read_owner
from skillaudit.contract.settings import Settings
from skillaudit.query.reading import DuckDBReader

_HOLDER: Final = re.compile(r"\(PID (\d+)\)")


def open_file_reader(path: Path, *, settings: Settings | None = None) -> DuckDBReader:
    """A reader on the file; closing it lets go of the file. Nothing is written, no schema is migrated.

    Raises `LockedError` naming the holder while some process has the file open for writing, `UnreachableError` where
    there is no file, `DatabaseError` where it is none of ours.
    """
    connection = open_file(path)
    return DuckDBReader(connection.cursor, settings=settings, on_close=connection.close)


def open_file(path: Path) -> duckdb.DuckDBPyConnection:
    """The file, read-only; errors as `open_file_reader`'s. The caller closes it."""
    path = path.absolute()
    if not path.exists():
        raise UnreachableError(
            f"there is no database at {path}; has anything been recorded and consumed yet?"
        )
    connection = _connect(path)
    try:
        connection.execute("SELECT 1 FROM main.runs LIMIT 0")
    except duckdb.Error as exc:
        connection.close()
        raise DatabaseError(f"{path} holds no skillaudit schema; is it the right file?") from exc
    return connection


def _connect(path: Path) -> duckdb.DuckDBPyConnection:
    try:
        return duckdb.connect(str(path), read_only=True)
    except duckdb.ConnectionException as exc:
        # The engine's word for "the same file is open here with other options".
        raise LockedError(f"{path} is open for writing in this very process; read through that") from exc
    except duckdb.Error as exc:
        raise _refused(path, exc) from exc


def _refused(path: Path, exc: duckdb.Error) -> SkillauditError:
    words = str(exc).partition("\n")[0]
    if not isinstance(exc, duckdb.IOException) or "lock" not in words:
        return DatabaseError(f"can't open {path}: {words}")
    owner = read_owner(path)
    holder = _HOLDER.search(str(exc))
    pid = int(holder[1]) if holder else owner.pid if owner else None
    who = "another process" if pid is None else f"process {pid}"
    asked = f", which answers at {owner.url}" if owner and owner.url and owner.pid == pid else ""
    return LockedError(f"{path} is held by {who}{asked}; ask it over HTTP (--url), or end it")
