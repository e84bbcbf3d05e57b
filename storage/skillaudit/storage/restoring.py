"""Putting a backup in the database's place, as an act: an older copy that nobody explains is a database rolled back.

    the copy is looked at -> the database's place is free -> it is put there -> its journal is taken forward from where it
    is anchored -> the acts that came since are applied -> the restore is an act itself, the last one

What is missing of events comes from the topics, or from the outbox's archive, when the consumer runs again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb

from skillaudit.consumer.database import open_database
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.planning import plan_note
from skillaudit.contract.admin import ActOrder, ActReport
from skillaudit.contract.errors import DatabaseError, LockedError, RejectedError
from skillaudit.contract.outbox.files import sync_directory
from skillaudit.contract.settings import Settings
from skillaudit.proof.acts import ActKind
from skillaudit.storage.operations import FileOperations, take_forward

_LOOK: Final = "SELECT value, (SELECT count(*) FROM store.journal) FROM store.meta WHERE name = 'database_id'"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreReport:
    """What was put where."""

    database_id: str
    journal_size: int
    """Leaves that the backup had."""
    replaced: Path | None
    """Where the database is now that was in its place."""
    act: str
    """The act's id."""


async def restore(settings: Settings, backup: Path, order: ActOrder) -> RestoreReport:
    """Put the copy `backup` in the database's place. The file that was there is kept beside it.

    Raises `LockedError` where a process owns the database, `RejectedError` where `backup` is no such copy,
    `UnreachableError` where the control log or an anchor does not answer: the copy is in its place then, and to ask again
    with it goes on.
    """
    database_id, size = await asyncio.to_thread(_look, backup)
    with contextlib.ExitStack() as files:
        replaced = await asyncio.to_thread(put_in_place, backup, settings.database, files)
        report = await _record(settings, order, database_id, size)
    return RestoreReport(database_id=database_id, journal_size=size, replaced=replaced, act=report.acts[-1])


def _look(backup: Path) -> tuple[str, int]:
    if not backup.is_file():
        raise RejectedError(f"there is no file {backup}; name a backup that `skillaudit backup` made")
    try:
        with contextlib.closing(duckdb.connect(str(backup.absolute()), read_only=True)) as copy:
            row = copy.execute(_LOOK).fetchone()
    except duckdb.Error as exc:
        raise RejectedError(
            f"{backup} is no backup of a database of this release: {str(exc).partition(chr(10))[0]}"
        ) from exc
    if row is None:
        raise RejectedError(f"{backup} has no database id; is it a backup that `skillaudit backup` made?")
    return str(row[0]), int(row[1])


def put_in_place(backup: Path, target: Path, files: contextlib.ExitStack) -> Path | None:
    """Returns where the file is now that stood there; None where none did. Until `files` is closed no other process can open
    what was there or what is there now. Raises `LockedError` where one has it.
    """
    target = target.absolute()
    if target.exists():
        with contextlib.suppress(DatabaseError):  # damaged: a reason to be here
            open_database(target).close()
        files.enter_context(held(target))
    if backup.absolute() == target:
        return None
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(backup, partial)
        _sync(partial)
        files.enter_context(held(partial))
        replaced = _keep(target)
        partial.replace(target)
        sync_directory(target.parent)
    except OSError as exc:
        raise DatabaseError(f"can't put {backup} in the place of {target}: {exc.strerror}") from exc
    finally:
        partial.unlink(missing_ok=True)
    return replaced


@contextlib.contextmanager
def held(file: Path) -> Generator[None]:
    """Keep other processes from opening a database file, under whatever name: by the lock that the engine takes. In this
    process it can be opened; when that is closed the lock is gone, as POSIX has it. Raises `LockedError`.
    """
    fd = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise LockedError(f"another process has {file}; stop it, and ask again") from exc
        yield
    finally:
        os.close(fd)


def _keep(target: Path) -> Path | None:
    """Give the file that is there another name. It keeps its own until another file takes that: nobody finds the place empty,
    and makes a new database there.
    """
    if not target.exists():
        return None
    replaced = target.with_name(f"{target.name}.replaced-{secrets.token_hex(4)}")
    log = target.with_name(target.name + ".wal")
    if log.exists():
        log.rename(replaced.with_name(replaced.name + ".wal"))
    try:
        replaced.hardlink_to(target)
    except OSError:  # a file system without links
        target.rename(replaced)
    return replaced


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


async def _record(settings: Settings, order: ActOrder, database_id: str, size: int) -> ActReport:
    async with contextlib.AsyncExitStack() as resources:
        database = await asyncio.to_thread(open_database, settings.database)
        resources.push_async_callback(asyncio.to_thread, database.close)
        materializer = await asyncio.to_thread(Materializer, database)
        resources.push_async_callback(asyncio.to_thread, materializer.close)
        await asyncio.to_thread(take_forward, settings, materializer)
        operations = FileOperations(database, materializer, settings)
        resources.push_async_callback(operations.aclose)
        scope = {"database": database_id, "journal_size": size}
        return await operations.perform(plan_note(order, ActKind.RESTORE, scope))
