"""DuckDB's exceptions become ours here, for every part that speaks to the engine. Importing it loads the engine.

One mapping for all: what a full disk or a faster writer means must not depend on whose statement met it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Generator
from typing import Final

import duckdb

from skillaudit.contract.errors import DatabaseError, DiskFullError, FencedError, SkillauditError

FULL_WORDS: Final = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
"""How the engine passes on that a file system is full, in whatever exception: it gives the system's words."""


@contextlib.contextmanager
def engine_errors(doing: str) -> Generator[None]:
    """Map DuckDB's exceptions to ours; `doing` completes "can't ..."."""
    try:
        yield
    except duckdb.Error as exc:
        raise translate(doing, exc) from exc


def translate(doing: str, exc: duckdb.Error) -> SkillauditError:
    """`DiskFullError` where a file system is full, `FencedError` where another writer was faster, else `DatabaseError`."""
    if any(words in str(exc) for words in FULL_WORDS):
        return DiskFullError(
            f"can't {doing}: the database's disk is full ({first_line(exc)}); free some space"
        )
    # Our keys are taken by nobody else in this process: one that is there already came with another writer's commit.
    twice = isinstance(exc, duckdb.ConstraintException) and "Duplicate key" in str(exc)
    if twice or isinstance(exc, duckdb.TransactionException):
        return FencedError(f"can't {doing}: another writer was faster ({first_line(exc)})")
    return DatabaseError(f"can't {doing}: {first_line(exc)}")


def first_line(exc: BaseException) -> str:
    """What it says, without the engine's advice behind it."""
    return str(exc).partition("\n")[0]
