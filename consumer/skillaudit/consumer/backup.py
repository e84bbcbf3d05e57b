"""A consistent copy of the database, made by its owner while batches go on."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from pathlib import Path
from typing import Final

import duckdb

from skillaudit.consumer.database import STORAGE_VERSION, Database
from skillaudit.contract.engine import engine_errors
from skillaudit.contract.errors import DatabaseError, RejectedError

CHECKPOINT_ATTEMPTS: Final = 300
CHECKPOINT_PAUSE_S: Final = 0.1
_ALIAS: Final = "backup_copy_{}"


def back_up(database: Database, target: Path) -> int:
    """Copy everything as of one moment to `target`, which must not exist; returns its size in bytes.

    One transaction's snapshot: batches are committed meanwhile and are not in the copy. The copy is written beside
    `target`, opened and counted, and gets its name at the end, so that a file of that name is always whole. Takes the
    space of a copy; runs in any thread. Raises `RejectedError` for a bad target, `DatabaseError` where the disk refuses.
    """
    target = target.absolute()
    if target.exists():
        raise RejectedError(f"{target} exists already; name a file that does not, or move that one away")
    if not target.parent.is_dir():
        raise RejectedError(f"there is no directory {target.parent}; make it first")
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        rows = _copy(database, partial)
        if _count(partial) != rows:
            raise DatabaseError(f"the copy of {database.path} does not hold what was copied; check the disk")
        _sync(partial)
        os.link(partial, target)  # unlike a rename it never replaces what came meanwhile
    except FileExistsError as exc:
        raise RejectedError(f"{target} was made by somebody else meanwhile") from exc
    except OSError as exc:
        raise DatabaseError(f"can't write {target}: {exc.strerror}") from exc
    finally:
        for leftover in (partial, partial.with_name(partial.name + ".wal")):
            leftover.unlink(missing_ok=True)
    return target.stat().st_size


def _copy(database: Database, partial: Path) -> list[tuple[str, int]]:
    with contextlib.closing(database.cursor()) as cursor, engine_errors(f"copy {database.path}"):
        source = _identifier(str(_one(cursor, "SELECT current_database()")))
        alias = _ALIAS.format(secrets.token_hex(4))  # another backup may be under way
        cursor.execute(f"ATTACH '{_quoted(partial)}' AS {alias} (STORAGE_VERSION '{STORAGE_VERSION}')")
        try:
            cursor.execute("BEGIN")
            cursor.execute(f"COPY FROM DATABASE {source} TO {alias}")
            rows = _rows(cursor)
            cursor.execute("COMMIT")
            _checkpoint(cursor, alias)
        except BaseException:
            with contextlib.suppress(duckdb.Error):  # the first error is the one to tell
                cursor.execute("ROLLBACK")
            raise
        finally:
            with contextlib.suppress(duckdb.Error):  # as above
                cursor.execute(f"DETACH {alias}")
    return rows


def _checkpoint(cursor: duckdb.DuckDBPyConnection, alias: str) -> None:
    """Get all of the copy into its one file; the engine refuses for moments while others write elsewhere."""
    for attempt in range(CHECKPOINT_ATTEMPTS):
        try:
            cursor.execute(f"CHECKPOINT {alias}")
        except duckdb.TransactionException:
            if attempt + 1 == CHECKPOINT_ATTEMPTS:
                raise
            time.sleep(CHECKPOINT_PAUSE_S)
        else:
            return


def _count(path: Path) -> list[tuple[str, int]]:
    with (
        engine_errors(f"open the copy {path}"),
        contextlib.closing(duckdb.connect(str(path), read_only=True)) as copy,
    ):
        return _rows(copy)


def _rows(cursor: duckdb.DuckDBPyConnection) -> list[tuple[str, int]]:
    """Rows of each table of the current database, as this transaction sees them."""
    names = cursor.execute(
        "SELECT table_name FROM duckdb_tables()"
        " WHERE schema_name = 'store' AND database_name = current_database() ORDER BY table_name"
    ).fetchall()
    counts: list[tuple[str, int]] = []
    for (name,) in names:
        query = f"SELECT count(*) FROM store.{_identifier(name)}"  # noqa: S608  a table's own name, quoted
        counts.append((name, int(str(_one(cursor, query)))))
    return counts


def _one(cursor: duckdb.DuckDBPyConnection, query: str) -> object:
    return cursor.execute(query).fetchall()[0][0]


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
