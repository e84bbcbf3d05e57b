"""From the hot table to the sealed one.

Batches go into one of two hot tables. When it is full the two swap, and the full one is moved, sorted by run and number,
into the sealed table and emptied, in one transaction on a cursor of its own, while the writer goes on with the other.
Readers union all three; each sees the rows exactly once, because the move is one transaction. A CHECKPOINT follows
while the writer waits: the automatic ones, which would compress hot rows for nothing, are switched off.

Rows of the events are never updated, and they are deleted only while nothing is being moved: `quiet` waits for that.
Closing does not seal: what is hot stays hot and is found again at the next start.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from enum import Enum
from threading import Condition, RLock
from typing import Final

import duckdb

from skillaudit.consumer.database import Database
from skillaudit.consumer.statements import statements
from skillaudit.contract.engine import engine_errors
from skillaudit.contract.errors import FencedError, RetryableError

_SQL: Final = statements("sealing.sql")
HOT_TABLES: Final = ("store.events_hot_a", "store.events_hot_b")
SEAL_BYTES: Final = 256 * 1024 * 1024
"""Payload bytes in the hot table at which it is sealed whatever its rows: they are in the log that a start replays."""
WAL_BYTES_MAX: Final = 512 * 1024 * 1024
"""Size of the write-ahead log at which a checkpoint is made without a seal."""
QUIET_WAIT_S: Final = 120.0
MOVE_ATTEMPTS: Final = 3


class SealState(Enum):
    """IDLE -> MOVING (the tables have swapped) -> MOVED (a checkpoint is due) -> IDLE. A failed move stays MOVING."""

    IDLE = "idle"
    MOVING = "moving"
    MOVED = "moved"


class Sealer:
    """Decides when to seal and does it. The writer's lock is `writing`; whoever writes holds it."""

    def __init__(self, database: Database, *, seal_rows: int = 400_000, seal_bytes: int = SEAL_BYTES) -> None:
        self.writing = RLock()
        self._database = database
        self._seal_rows = seal_rows
        self._seal_bytes = seal_bytes
        self._changed = Condition()
        self._state = SealState.IDLE
        self._hot = HOT_TABLES[0]
        self._rows = 0
        self._bytes = 0
        self._recover()

    def __repr__(self) -> str:
        """State and how full the hot table is."""
        return f"Sealer({self._state.name}, hot={self._hot}, rows={self._rows})"

    @property
    def state(self) -> SealState:
        """Where it stands."""
        return self._state

    @property
    def hot(self) -> str:
        """The table that batches go into; to be asked while holding `writing`."""
        return self._hot

    @property
    def hot_rows(self) -> int:
        """Rows in it."""
        return self._rows

    def note(self, rows: int, size_bytes: int) -> None:
        """A batch was committed into the hot table."""
        self._rows += rows
        self._bytes += size_bytes

    @property
    def due(self) -> bool:
        """Whether the hot table is full and can be swapped."""
        full = self._rows >= self._seal_rows or self._bytes >= self._seal_bytes
        return full and self._rows > 0 and self._state is SealState.IDLE

    def swap(self) -> bool:
        """Let the writer go on with the other hot table; False where the last one is not moved yet."""
        with self.writing, self._changed:
            if self._state is not SealState.IDLE or self._rows == 0:
                return False
            self._hot = self._cold()
            self._rows = self._bytes = 0
            self._set(SealState.MOVING)
            return True

    def move(self) -> int:
        """Move the swapped table's rows; returns how many. Runs in any thread, beside the writer."""
        if self._state is not SealState.MOVING:
            return 0
        moved = self._move_patiently()
        with self._changed:
            self._set(SealState.MOVED)
        return moved

    def _move_patiently(self) -> int:
        for _ in range(MOVE_ATTEMPTS - 1):
            with contextlib.suppress(FencedError):  # a deletion of events was faster; nothing was moved
                return self._move_once()
        return self._move_once()

    def _move_once(self) -> int:
        with contextlib.closing(self._database.cursor()) as cursor, engine_errors("seal the hot table"):
            return _move(cursor, self._cold())

    def checkpoint(self) -> None:
        """Write the log into the file while the writer waits; also ends a seal. Stays due while
        somebody reads a snapshot from before the last changes (a read under way, a backup): the engine refuses it then.
        """
        with self.writing, contextlib.closing(self._database.cursor()) as cursor:
            if self._state is SealState.MOVING:
                return
            with engine_errors("checkpoint"):
                try:
                    cursor.execute("CHECKPOINT")
                except duckdb.TransactionException:
                    return
            with self._changed:
                self._set(SealState.IDLE)

    def seal(self) -> int:
        """All of it at once, for those who have time: swap, move, checkpoint. Returns the rows moved."""
        if not self.swap() and self._state is SealState.IDLE:
            return 0
        moved = self.move()
        self.checkpoint()
        return moved

    @property
    def checkpoint_due(self) -> bool:
        """Whether a seal was moved, or the log has grown too long without one."""
        return self._state is SealState.MOVED or (
            self._state is SealState.IDLE and self._database.wal_bytes() > WAL_BYTES_MAX
        )

    @contextlib.contextmanager
    def quiet(self) -> Generator[None]:
        """Hold the writer's lock with no move in flight: for acts, purges, migrations and deletions of events."""
        with self.writing:
            self.wait_moved()
            yield

    def wait_moved(self) -> None:
        """Wait, bounded, until nothing is being moved. The mover does not need the writer's lock."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._state is not SealState.MOVING, QUIET_WAIT_S):
                raise RetryableError(f"a seal is still running after {QUIET_WAIT_S:.0f} s; try again")

    def _cold(self) -> str:
        return HOT_TABLES[1 - HOT_TABLES.index(self._hot)]

    def _set(self, state: SealState) -> None:
        self._state = state
        self._changed.notify_all()

    def _recover(self) -> None:
        """Find the hot tables as the last owner left them; one that waits to be moved is moved first."""
        with contextlib.closing(self._database.cursor()) as cursor, engine_errors("count hot rows"):
            counts = [_count(cursor, table) for table in HOT_TABLES]
        (rows_a, bytes_a), (rows_b, bytes_b) = counts
        if rows_a and rows_b:
            self._hot = HOT_TABLES[1] if rows_a >= rows_b else HOT_TABLES[0]
            self._state = SealState.MOVING
        elif rows_b:
            self._hot = HOT_TABLES[1]
        self._rows, self._bytes = (rows_b, bytes_b) if self._hot == HOT_TABLES[1] else (rows_a, bytes_a)


def _count(cursor: duckdb.DuckDBPyConnection, table: str) -> tuple[int, int]:
    row = cursor.execute(_SQL["count"].format(table=table)).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


def _move(cursor: duckdb.DuckDBPyConnection, table: str) -> int:
    cursor.execute("BEGIN")
    try:
        cursor.execute(_SQL["copy"].format(table=table))
        moved = cursor.execute(_SQL["empty"].format(table=table)).fetchone()
        cursor.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(duckdb.Error):  # the first error is the one to tell
            cursor.execute("ROLLBACK")
        raise
    return int(moved[0]) if moved else 0
