"""Acts that come while the hot table is being moved into the sealed one: they wait for it, and hold afterwards."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pytest
from tests.acts.support import BASE_US, Control, Run, head_of, hits, rows, take
from tests.consumer.support import records
from tests.support.waiting import until_now

from skillaudit.consumer.database import Database, open_database
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.sealing import SealState
from skillaudit.proof.acts import ActKind

SECRET = "Rosebud-47-11"
MOVER = "mover"


class StoppingCursor:
    """A cursor of the mover's thread that stops before it commits: everything is copied then, and nobody sees it."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, stop: Callable[[], None]) -> None:
        self._cursor = cursor
        self._stop = stop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, query: str, *parameters: Any) -> Any:
        if query == "COMMIT":
            self._stop()
        return self._cursor.execute(query, *parameters)


class StoppedMove:
    """A database whose hot table is moved as far as the commit, until it is let go on."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.copied, self.go_on = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def cursor(self) -> Any:
        cursor = self._database.cursor()
        mine = threading.current_thread().name.startswith(MOVER)
        return StoppingCursor(cursor, self._stop) if mine else cursor

    def _stop(self) -> None:
        self.copied.set()
        assert self.go_on.wait(30)


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[StoppedMove]:
    with open_database(tmp_path / "audit.duckdb") as database:
        stopped = StoppedMove(database)
        yield stopped
        stopped.go_on.set()


def waits_for_the_seal(thread: int) -> bool:
    """Whether a thread stands where an act waits until nothing is moved."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_code.co_name == "wait_moved":
            return True
        frame = frame.f_back
    return False


ACTS = {
    "purge": (ActKind.PURGE, {"runs": ["r"]}),
    "redact": (ActKind.REDACT, {"run": "r", "seq": 1}),
    "redact a field": (ActKind.REDACT, {"run": "r", "seq": 2, "field": "output"}),
    "erase": (ActKind.ERASE, {"runs": ["r"]}),
}


@pytest.mark.parametrize("name", ACTS)
def test_an_act_waits_for_a_seal_in_flight_and_holds_afterwards(stopped: StoppedMove, name: str) -> None:
    """The rows are copied and not committed when the act is asked for. It goes on only when they are, and undoes nothing
    that the seal did, nor the seal what it did.
    """
    kind, scope = ACTS[name]
    with (
        contextlib.closing(Materializer(stopped)) as writer,  # type: ignore[arg-type]
        ThreadPoolExecutor(1, thread_name_prefix=MOVER) as moving,
        ThreadPoolExecutor(1, thread_name_prefix="actor") as acting,
    ):
        run, other = Run("r"), Run("other", number=2, at_us=BASE_US + 1)
        values = [run.start(), run.log(a=SECRET), run.finish(output=SECRET)]
        writer.apply(records([*values, *other.whole({"b": 1})]))
        assert writer.sealer.swap()
        move = moving.submit(writer.sealer.move)
        assert stopped.copied.wait(30)
        control, threads = Control(), list[int]()
        control.add(kind, positions={"t/0": 3}, **scope)

        def act() -> None:
            threads.append(threading.get_ident())
            take(writer, control)

        acted = acting.submit(act)
        until_now(lambda: threads and waits_for_the_seal(threads[0]))
        assert writer.sealer.state is SealState.MOVING
        assert rows(stopped, "SELECT count(*) FROM acts") == [(0,)]  # type: ignore[arg-type]
        assert not acted.done()
        stopped.go_on.set()
        move.result(30)
        acted.result(30)
        writer.sealer.checkpoint()
        _check(stopped, writer, name)  # type: ignore[arg-type]


def _check(database: Database, writer: Materializer, name: str) -> None:
    """Now, and when what is hot by then has been sealed, too."""
    for _ in range(2):
        if name == "purge":
            assert rows(database, "SELECT id FROM runs") == [("other",)]
        elif name == "redact a field":
            assert rows(database, "SELECT output FROM runs WHERE id = 'r'") == [("[redacted]",)]
        else:
            assert "redacted" in rows(database, "SELECT payload FROM events WHERE run_key = 0")[0][0]
        if name in {"purge", "erase"}:
            assert hits(database, SECRET) == []
        assert rows(database, "SELECT count(*) FROM events WHERE run_key = 1") == [(1,)]
        if name != "purge":
            assert rows(database, "SELECT count(*) FROM events WHERE run_key = 0") == [(1,)]
            assert len({*head_of(database, "r")}) == 1
        writer.sealer.seal()


def test_an_update_in_its_place_would_be_undone_in_silence(stopped: StoppedMove) -> None:
    """Why acts wait, and why rows are deleted and inserted: an update of a row that is being copied is accepted by the
    engine, and gone with the old table. Should this test fail one day, the engine has changed.
    """
    with (
        contextlib.closing(Materializer(stopped)) as writer,  # type: ignore[arg-type]
        ThreadPoolExecutor(1, thread_name_prefix=MOVER) as moving,
        contextlib.closing(stopped.cursor()) as rash,
    ):
        writer.apply(records(Run("r").whole({"a": SECRET})))
        assert writer.sealer.swap()
        move = moving.submit(writer.sealer.move)
        assert stopped.copied.wait(30)
        rash.execute("UPDATE store.events_hot_a SET payload = '{}' WHERE run_key = 0")
        assert rash.execute("SELECT payload FROM events").fetchall() == [("{}",)]
        stopped.go_on.set()
        move.result(30)
        (payload,) = rash.execute("SELECT payload FROM events").fetchone()
        assert SECRET in payload
