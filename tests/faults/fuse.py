"""A database whose owner kills itself at an exact statement: before it, while the engine runs it, or after it.

Behind the product's own interface: `Database.cursor()` gives cursors that count. What a statement belongs to (a batch, a
seal, a checkpoint, a purge, a backup, a migration) is told by the product's own texts, a COMMIT by what its transaction
did.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from skillaudit.consumer.database import STORAGE_VERSION, WAL_AUTOCHECKPOINT, Database, migrate
from skillaudit.consumer.sealing import HOT_TABLES
from skillaudit.consumer.statements import migrations, statements
from skillaudit.contract.views import views_text

BEFORE, DURING, AFTER = "before", "during", "after"
MOMENTS = (BEFORE, DURING, AFTER)
OTHER = "batch"
PURGE_STATEMENTS = frozenset(statements("purging.sql").values())
SEAL_STATEMENTS = frozenset(
    text.format(table=table)
    for name, text in statements("sealing.sql").items()
    if name != "count"  # a start counts what is hot; nothing is moved by that
    for table in HOT_TABLES
)
_BACKUP = re.compile(r"\bbackup_copy_")
_SCHEMA = re.compile(r"CREATE (SCHEMA|TABLE)|INSERT INTO store\.meta VALUES \('schema|UPDATE store\.meta")
"""What a migration executes that stands in the code."""


def _migration_statements() -> frozenset[str]:
    texts = [text for _, _, text in migrations()] + [views_text()]
    return frozenset(one.query for text in texts for one in duckdb.extract_statements(text))


MIGRATION_STATEMENTS = _migration_statements()


def phase_of(statement: str) -> str:
    """What a statement is part of, told by the texts that the product itself reads."""
    if statement in PURGE_STATEMENTS:
        return "purge"
    if statement in SEAL_STATEMENTS:
        return "seal"
    if statement == "CHECKPOINT":
        return "checkpoint"
    if statement in MIGRATION_STATEMENTS or _SCHEMA.match(statement):
        return "migration"
    return "backup" if _BACKUP.search(statement) else OTHER


@dataclass(slots=True)
class Fuse:
    """Blows at the `at`-th statement of a phase; 0: never. Safe from any thread."""

    at: int = 0
    phase: str = ""
    """Empty: any."""
    moment: str = BEFORE
    during_us: int = 0
    """How long after its beginning a statement is cut off."""
    passed: int = 0

    def meets(self, phase: str) -> bool:
        """Whether this statement is the one."""
        if not self.at or (self.phase and phase != self.phase):
            return False
        self.passed += 1
        return self.passed == self.at


def die() -> None:
    """At once, with nothing done any more."""
    os.kill(os.getpid(), signal.SIGKILL)


class FusedCursor:
    """A cursor that counts its statements; everything else is the engine's."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, fuse: Fuse) -> None:
        self._cursor = cursor
        self._fuse = fuse
        self._phase = OTHER

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, query: str, *parameters: Any) -> Any:
        """As the engine's; a text of several statements is run one by one."""
        if query.count(";") > 1 and not parameters:  # comments have some, too
            for statement in duckdb.extract_statements(query):
                self._execute(statement.query)
            return self._cursor
        return self._execute(query, *parameters)

    def _execute(self, query: str, *parameters: Any) -> Any:
        phase = self._phase_of(query)
        if not self._fuse.meets(phase):
            return self._cursor.execute(query, *parameters)
        if self._fuse.moment == BEFORE:
            die()
        if self._fuse.moment == DURING:
            threading.Timer(self._fuse.during_us / 1e6, die).start()
        found = self._cursor.execute(query, *parameters)
        die()
        return found

    def _phase_of(self, query: str) -> str:
        """A transaction is what its first statement is that is not just a batch's; so is its end."""
        if query == "BEGIN":
            self._phase = OTHER
            return OTHER
        if query in ("COMMIT", "ROLLBACK"):
            return self._phase
        phase = phase_of(query)
        if self._phase == OTHER:
            self._phase = phase
        return phase


class FusedDatabase(Database):
    """Gives such cursors."""

    def __init__(
        self, path: Path, connection: duckdb.DuckDBPyConnection, fuse: Fuse, kind: type[FusedCursor]
    ) -> None:
        super().__init__(path, connection)
        self.fuse = fuse
        self._kind = kind

    def cursor(self) -> Any:
        """A cursor that counts."""
        return self._kind(super().cursor(), self.fuse)


def open_fused(path: Path, fuse: Fuse | None = None, kind: type[FusedCursor] = FusedCursor) -> FusedDatabase:
    """As `open_database`, which makes its own; migrates, too."""
    config: dict[str, Any] = {
        "storage_compatibility_version": STORAGE_VERSION,
        "wal_autocheckpoint": WAL_AUTOCHECKPOINT,
    }
    database = FusedDatabase(path, duckdb.connect(str(path), config=config), fuse or Fuse(), kind)
    database.database_id = migrate(database)
    return database
