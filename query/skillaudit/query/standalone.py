"""Reading a database file that nobody writes, opened read-only in this process."""

from __future__ import annotations

from pathlib import Path

import duckdb

from skillaudit.contract.errors import LockedError, SkillauditError, UnopenedError, UnreachableError
from skillaudit.contract.owner import held_text
from skillaudit.contract.settings import Settings
from skillaudit.query.reading import DuckDBReader


def open_file_reader(path: Path, *, settings: Settings | None = None) -> DuckDBReader:
    """A reader on the file; closing it lets go of the file. Nothing is written, no schema is migrated.

    Raises `LockedError` naming the holder while some process has the file open for writing, `UnreachableError` where
    there is no file, `UnopenedError` where it is none of ours or can't be read.
    """
    connection = open_file(path)
    return DuckDBReader(connection.cursor, settings=settings, on_close=connection.close)


def open_file(path: Path) -> duckdb.DuckDBPyConnection:
    """The file, read-only; errors as `open_file_reader`'s. The caller closes it."""
    path = path.absolute()
    try:
        found, is_directory = path.exists(), path.is_dir()
    except OSError as exc:  # a directory above it may not be looked into
        raise UnopenedError(f"can't open the database {path}: {exc.strerror}") from exc
    if not found:
        raise UnreachableError(
            f"there is no database at {path}: name the one that is meant (--db, --data), or run `skillaudit consume`, which "
            "makes it of what was recorded"
        )
    if is_directory:
        raise UnopenedError(f"{path} is a directory; name the database file in it")
    connection = _connect(path)
    try:
        connection.execute("SELECT 1 FROM main.runs LIMIT 0")
    except duckdb.Error as exc:
        connection.close()
        raise UnopenedError(
            f"{path} is no database of skillaudit; name the one that is meant (--db, --data)"
        ) from exc
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
        return UnopenedError(f"can't open the database {path}: {words}")
    return LockedError(held_text(path, str(exc)))
