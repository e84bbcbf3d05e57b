"""Asking the engine: one cursor, one snapshot at a time, stoppable from another thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, Final

import duckdb

from skillaudit.contract.engine import engine_errors
from skillaudit.contract.errors import QueryTimeoutError, SkillauditError
from skillaudit.proof.findings import Finding, Findings, Kind
from skillaudit.proof.statements import statements

CHUNK_ROWS: Final = 10_000

Row = tuple[Any, ...]

_PARSED: Final = dict[tuple[str, str], duckdb.Statement | str]()
"""By file and name: parsing takes as long as planning, and a parsed statement belongs to no connection."""


class VerifyStoppedError(QueryTimeoutError):
    """The check was told to stop before it was done: nothing is known about what it had not looked at."""


@contextlib.contextmanager
def told_where_not(findings: Findings, what: str) -> Generator[None]:
    """A part of the check: where it can't be made that is a finding, and the other parts go on. What is stored may be
    unreadable, or of a form that nobody wrote.
    """
    try:
        yield
    except VerifyStoppedError:
        raise
    except (SkillauditError, ValueError, ArithmeticError, TypeError, LookupError) as exc:
        findings.add(Finding(Kind.NOT_CHECKED, f"could not check {what}: {exc}"))


class Engine:
    """A cursor of the database to check. Nothing is ever written but temporary tables of this cursor.

    Not safe for threads, but for `stop`. The cursor stays the caller's.
    """

    def __init__(
        self, cursor: duckdb.DuckDBPyConnection, progress: Callable[[str, int, int], None] | None = None
    ) -> None:
        """`progress(what, done, of)` is called now and then in the checking thread; `of` is 0 where it is not known."""
        self._cursor = cursor
        self._progress = progress
        self._stopped = threading.Event()
        self._guard = threading.Lock()
        self._beside: duckdb.DuckDBPyConnection | None = None

    def stop(self) -> None:
        """End the check from another thread: whatever runs is interrupted. Repeat until it has ended."""
        self._stopped.set()
        self._cursor.interrupt()
        with self._guard:  # a closed cursor must not be interrupted
            if self._beside is not None:
                self._beside.interrupt()

    @contextlib.contextmanager
    def beside(self) -> Generator[Engine]:
        """Another cursor of the same database, which another thread may use meanwhile; one at a time. Stopped with this."""
        with engine_errors("check the record"):
            cursor = self._cursor.cursor()
        other = Engine(cursor)
        other._stopped = self._stopped
        self._beside = cursor
        try:
            yield other
        finally:
            with self._guard:
                self._beside = None
                cursor.close()

    @contextlib.contextmanager
    def snapshot(self) -> Generator[None]:
        """What is read inside is one state of the database. Not to be held longer than needed: while one is open, the
        file keeps what was deleted meanwhile.
        """
        with engine_errors("check the record"):
            self._cursor.execute("BEGIN TRANSACTION READ ONLY")
        try:
            yield
        except BaseException:
            with contextlib.suppress(duckdb.Error):  # an interrupted transaction is over already
                self._cursor.execute("ROLLBACK")
            raise
        with engine_errors("check the record"):
            self._cursor.execute("COMMIT")  # keeps the temporary tables

    @contextlib.contextmanager
    def part(self, findings: Findings, what: str) -> Generator[None]:
        """As `told_where_not`, inside a snapshot: an error ends the engine's transaction, so that the parts behind one that
        can't be made read a later state.
        """
        with told_where_not(findings, what):
            try:
                yield
            except BaseException:
                with contextlib.suppress(duckdb.Error):  # an interrupted transaction is over already
                    self._cursor.execute("ROLLBACK")
                with engine_errors("check the record"):
                    self._cursor.execute("BEGIN TRANSACTION READ ONLY")
                raise

    def rows(self, file: str, name: str, **parameters: Any) -> list[Row]:
        """All rows of a statement."""
        return [row for chunk in self.chunks(file, name, **parameters) for row in chunk]

    def records(self, file: str, name: str, **parameters: Any) -> list[dict[str, Any]]:
        """All rows, by the columns' names."""
        rows = self.rows(file, name, **parameters)
        names = [column[0] for column in self._cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in rows]

    def chunks(self, file: str, name: str, **parameters: Any) -> Iterator[list[Row]]:
        """The rows in lists of at most `CHUNK_ROWS`. Use one up before the next statement."""
        try:
            with engine_errors("check the record"):
                self._check()
                self._cursor.execute(self._parsed(file, name), parameters)
                chunk = self._cursor.fetchmany(CHUNK_ROWS)
                while chunk:
                    self._check()
                    yield chunk
                    chunk = self._cursor.fetchmany(CHUNK_ROWS) if len(chunk) == CHUNK_ROWS else []
        finally:
            self._check()

    def _parsed(self, file: str, name: str) -> duckdb.Statement | str:
        found = _PARSED.get((file, name))
        if found is None:
            text = statements(f"checks/{file}")[name]
            parts = self._cursor.extract_statements(text)
            found = _PARSED[file, name] = parts[0] if len(parts) == 1 else text
        return found

    def run(self, file: str, name: str, **parameters: Any) -> None:
        """A statement whose rows nobody wants."""
        self.rows(file, name, **parameters)

    def tell(self, what: str, done: int, of: int = 0) -> None:
        """Progress."""
        self._check()
        if self._progress is not None:
            self._progress(what, done, of)

    def _check(self) -> None:
        if self._stopped.is_set():
            raise VerifyStoppedError(
                "the check was stopped before it was done; allow more time, or check less at once"
            )
