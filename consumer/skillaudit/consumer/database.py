"""The database file and its one owner.

DuckDB lets one process open a file that is being written. That process is the owner; everybody else asks it. The
owner's address is written beside the file (`<file>.owner`), so that a command that finds the file locked can name who
has it, or ask them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path
from threading import Lock
from typing import Final, Self
from weakref import WeakSet

import duckdb

from skillaudit.consumer.statements import migrations
from skillaudit.contract.engine import engine_errors, first_line, translate
from skillaudit.contract.errors import (
    DatabaseError,
    LockedError,
    SchemaVersionError,
    UnsupportedPlatformError,
)
from skillaudit.contract.owner import held_text
from skillaudit.contract.views import views_text

STORAGE_VERSION: Final = "v1.5.0"
"""The file format: the oldest that compresses payloads with zstd."""
WAL_AUTOCHECKPOINT: Final = "1TB"
"""Out of reach: an automatic checkpoint compresses hot rows for nothing and stops the writer for seconds."""

_NO_LOCKS_WORDS: Final = tuple(os.strerror(number) for number in (errno.ENOLCK, errno.ENOTSUP))

_open_here: set[Path] = set()
_open_guard = Lock()


class Database:
    """The file, open for writing. Every thread uses a cursor of its own; `close` closes what is left of them."""

    def __init__(self, path: Path, connection: duckdb.DuckDBPyConnection) -> None:
        self.path = path
        self.database_id = ""
        self._connection = connection
        self._cursors: WeakSet[duckdb.DuckDBPyConnection] = WeakSet()
        self._guard = Lock()
        self._closed = False

    def __repr__(self) -> str:
        """Path and state."""
        return f"Database({str(self.path)!r}, {'closed' if self._closed else 'open'})"

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection of its own to the same database; the caller closes it. `DatabaseError` once it is closed."""
        with self._guard:
            if self._closed:
                raise DatabaseError(f"{self.path} is closed in this process; open it again")
            cursor = self._connection.cursor()
            self._cursors.add(cursor)
        cursor.execute("SET TimeZone = 'UTC'")  # it is the session's, and a cursor is a session
        return cursor

    def wal_bytes(self) -> int:
        """Size of the write-ahead log."""
        try:
            return self.path.with_name(self.path.name + ".wal").stat().st_size
        except FileNotFoundError:
            return 0

    def close(self) -> None:
        """Let go of the file; safe to call again. The engine holds it until the last cursor is closed."""
        with self._guard:
            if self._closed:
                return
            self._closed = True
            left = list(self._cursors)
        for cursor in left:
            with contextlib.suppress(duckdb.ConnectionException):  # its owner closed it
                cursor.interrupt()
                cursor.close()
        self._connection.close()
        with _open_guard:
            _open_here.discard(self.path)

    def __enter__(self) -> Self:
        """Enter; leaving closes."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close."""
        self.close()


def open_database(path: Path, *, memory_limit: str = "", threads: int = 0) -> Database:
    """Open the file as its owner, make it if it is missing, and bring its schema up to date.

    Raises `LockedError` naming who holds it, `UnsupportedPlatformError` on a file system without locks,
    `SchemaVersionError` (nothing changed) where a newer release wrote it, `DiskFullError`, `DatabaseError` where it is damaged or something else.
    """
    path = path.absolute()
    if path.is_dir():
        raise DatabaseError(
            f"{path} is a directory; name the database file in it (--db, or --data for the directory)"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with _open_guard:
        if path in _open_here:
            raise LockedError(f"{path} is already open in this process ({os.getpid()}); use that one")
        _open_here.add(path)
    try:
        database = Database(path, _connect(path, memory_limit, threads))
    except BaseException:
        with _open_guard:
            _open_here.discard(path)
        raise
    try:
        database.database_id = migrate(database)
    except BaseException:
        database.close()
        raise
    return database


def _connect(path: Path, memory_limit: str, threads: int) -> duckdb.DuckDBPyConnection:
    config: dict[str, str | bool | int | float | list[str]] = {
        "storage_compatibility_version": STORAGE_VERSION,
        "wal_autocheckpoint": WAL_AUTOCHECKPOINT,
    }
    if memory_limit:
        config["memory_limit"] = memory_limit
    if threads:
        config["threads"] = threads
    try:
        return duckdb.connect(str(path), config=config)
    except duckdb.IOException as exc:
        if any(words in str(exc) for words in _NO_LOCKS_WORDS):
            raise UnsupportedPlatformError(
                f"the file system of {path} has no working locks ({first_line(exc)}); put the directory on a local one"
            ) from exc
        if "lock" in str(exc):
            raise LockedError(held_text(path, str(exc))) from exc
        raise translate(f"open {path}", exc) from exc
    except duckdb.Error as exc:
        raise translate(f"open {path}", exc) from exc


def migrate(database: Database) -> str:
    """Bring the schema up to date, a transaction a step; returns the database's id."""
    cursor = database.cursor()
    try:
        with engine_errors(f"prepare {database.path}"):
            version = _schema_version(cursor)
            steps = migrations()
            if version == 0 and _is_anothers(cursor):
                raise DatabaseError(
                    f"{database.path} is a database of something else; name another file (--db). Nothing was changed"
                )
            if version > steps[-1][0]:
                raise SchemaVersionError(
                    f"{database.path} has schema {version}, this release knows {steps[-1][0]}; "
                    "upgrade skillaudit. Nothing was changed"
                )
            for number, _, text in steps:
                if number > version:
                    _step(cursor, number, text, last=number == steps[-1][0])
            row = cursor.execute("SELECT value FROM store.meta WHERE name = 'database_id'").fetchone()
            return str(row[0]) if row else ""
    finally:
        cursor.close()


def _schema_version(cursor: duckdb.DuckDBPyConnection) -> int:
    """0 where nothing was made yet."""
    found = cursor.execute(
        "SELECT count(*) FROM duckdb_tables() WHERE database_name = current_database()"
        " AND schema_name = 'store' AND table_name = 'meta'"
    ).fetchone()
    if not found or not found[0]:
        return 0
    row = cursor.execute("SELECT value FROM store.meta WHERE name = 'schema_version'").fetchone()
    return int(row[0]) if row else 0


def _is_anothers(cursor: duckdb.DuckDBPyConnection) -> bool:
    """Whether there is anything in a database in which nothing of ours is."""
    found = cursor.execute(
        "SELECT count(*) FROM (SELECT database_name FROM duckdb_tables() UNION ALL SELECT database_name FROM duckdb_views()"
        " WHERE NOT internal) WHERE database_name = current_database()"
    ).fetchone()
    return bool(found and found[0])


def _step(cursor: duckdb.DuckDBPyConnection, number: int, text: str, *, last: bool) -> None:
    """One step in one transaction. The views are those of the newest schema, so they are made with its last step."""
    cursor.execute("BEGIN")
    try:
        if number == 1:
            cursor.execute("CREATE SCHEMA IF NOT EXISTS store")
            cursor.execute("CREATE TABLE store.meta (name VARCHAR PRIMARY KEY, value VARCHAR NOT NULL)")
            cursor.execute(
                "INSERT INTO store.meta VALUES ('schema_version', '0'), ('database_id', ?)",
                [secrets.token_hex(16)],
            )
        cursor.execute(text)
        if last:
            cursor.execute(views_text())
        cursor.execute("UPDATE store.meta SET value = ? WHERE name = 'schema_version'", [str(number)])
        cursor.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(duckdb.Error):  # the first error is the one to tell
            cursor.execute("ROLLBACK")
        raise
