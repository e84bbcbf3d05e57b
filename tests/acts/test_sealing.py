"""Acts that come while the hot table is being moved into the sealed one: they wait for it, and hold afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest
from tests.acts.support import BASE_US, Control, Run, head_of, hits, rows, take
from tests.acts.test_surfaces import ORDER, record
from tests.conformance.compositions import settings_at
from tests.consumer.support import records
from tests.support.waiting import until, until_now

from skillaudit.consumer.database import Database, open_database
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.planning import Planner, plan_erase, plan_purge, plan_redact
from skillaudit.consumer.sealing import SealState
from skillaudit.consumer.service import ConsumerService
from skillaudit.proof.acts import ActKind
from skillaudit.proof.verify import Verifier, VerifyRequest

SECRET = "Rosebud-47-11"
MOVER = "mover"
MOVERS = (MOVER, "skillaudit-sealer")
"""Threads that move: the tests' and the service's."""
EVER_US = 4_000_000_000_000_000


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
        mine = threading.current_thread().name.startswith(MOVERS)
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
    "purge by age": (ActKind.PURGE, {"started_before": BASE_US + 1}),
    "retention": (ActKind.PURGE, {"started_before": BASE_US + 9, "policy": {"name": "retention"}}),
    "redact": (ActKind.REDACT, {"run": "r", "seq": 1}),
    "redact a field": (ActKind.REDACT, {"run": "r", "seq": 2, "field": "output"}),
    "erase": (ActKind.ERASE, {"runs": ["r"]}),
}


@contextlib.contextmanager
def moving(stopped: StoppedMove) -> Iterator[Moving]:
    """Runs `r` and `other`: their rows are copied, and not committed until `end` is called."""
    with (
        contextlib.closing(Materializer(stopped)) as writer,  # type: ignore[arg-type]
        ThreadPoolExecutor(1, thread_name_prefix=MOVER) as movers,
    ):
        run, other = Run("r"), Run("other", number=2, at_us=BASE_US + 1)
        values = [run.start(), run.log(a=SECRET), run.finish(output=SECRET)]
        writer.apply(records([*values, *other.whole({"b": 1})]))
        assert writer.sealer.swap()
        move = movers.submit(writer.sealer.move)
        assert stopped.copied.wait(30)

        def end() -> None:
            assert writer.sealer.state is SealState.MOVING
            stopped.go_on.set()
            move.result(30)

        yield Moving(writer, end)


@dataclass(frozen=True)
class Moving:
    """A writer whose hot table is on its way."""

    writer: Materializer
    end: Callable[[], None]


@contextlib.contextmanager
def waiting(writer: Materializer, control: Control) -> Iterator[None]:
    """The acts are read in a thread of their own, which stands until the move has ended; they are applied behind this."""
    with ThreadPoolExecutor(1, thread_name_prefix="actor") as actors:
        threads = list[int]()

        def act() -> None:
            threads.append(threading.get_ident())
            take(writer, control)

        acted = actors.submit(act)
        until_now(lambda: threads and waits_for_the_seal(threads[0]))
        assert not acted.done()
        yield
        acted.result(30)


@pytest.mark.parametrize("name", ACTS)
def test_an_act_waits_for_a_seal_in_flight_and_holds_afterwards(stopped: StoppedMove, name: str) -> None:
    """The rows are copied and not committed when the act is asked for. It goes on only when they are, and undoes nothing
    that the seal did, nor the seal what it did.
    """
    kind, scope = ACTS[name]
    control = Control()
    control.add(kind, positions={"t/0": 3}, **scope)
    with moving(stopped) as it:
        with waiting(it.writer, control):
            assert rows(stopped, "SELECT count(*) FROM acts") == [(0,)]  # type: ignore[arg-type]
            it.end()
        it.writer.sealer.checkpoint()
        _check(stopped, it.writer, name)  # type: ignore[arg-type]


@pytest.mark.parametrize("released", [False, True], ids=["hold", "release"])
def test_a_hold_counts_at_once_and_the_acts_behind_it_wait(stopped: StoppedMove, released: bool) -> None:
    """What changes no event, a hold, its release, a key, waits for no move; what comes next finds it in force."""
    control = Control()
    hold = control.add(ActKind.HOLD, skill_id="s")
    control.add(ActKind.KEY, name="audit.example.org/new")
    if released:
        control.add(ActKind.RELEASE, hold=hold.act_id)
    with moving(stopped) as it:
        take(it.writer, control)
        assert it.writer.sealer.state is SealState.MOVING
        assert rows(stopped, "SELECT act_id FROM holds") == [(hold.act_id,)]  # type: ignore[arg-type]
        control.add(ActKind.PURGE, positions={"t/0": 3}, runs=["r"])
        control.add(ActKind.ERASE, positions={"t/0": 6}, runs=["other"])
        with waiting(it.writer, control):
            it.end()
        it.writer.sealer.checkpoint()
        for _ in range(2):
            left = rows(stopped, "SELECT id FROM runs ORDER BY id")  # type: ignore[arg-type]
            assert left == ([("other",)] if released else [("other",), ("r",)])
            assert bool(hits(stopped, SECRET)) is not released  # type: ignore[arg-type]
            assert verified(stopped) == ({"REDACTED"} if released else set())  # type: ignore[arg-type]
            it.writer.sealer.seal()


def verified(database: Database) -> set[str]:
    """What `verify` tells, which is no violation; nor that the sources of these runs said no word of themselves."""
    with contextlib.closing(database.cursor()) as cursor:
        report = Verifier(cursor).check(VerifyRequest(), BASE_US)
    assert report.exit_code in {0, 6}, report.findings
    return set(report.counts) - {"SOURCE_TAIL_UNKNOWN"}


def _check(database: Database, writer: Materializer, name: str) -> None:
    """Now, and when what is hot by then has been sealed, too."""
    gone = ACTS[name][0] is ActKind.PURGE
    for _ in range(2):
        if gone:
            assert rows(database, "SELECT id FROM runs") == [("other",)]
        elif name == "redact a field":
            assert rows(database, "SELECT output FROM runs WHERE id = 'r'") == [("[redacted]",)]
        else:
            assert "redacted" in rows(database, "SELECT payload FROM events WHERE run_key = 0")[0][0]
        if gone or name == "erase":
            assert hits(database, SECRET) == []
        assert rows(database, "SELECT count(*) FROM events WHERE run_key = 1") == [(1,)]
        if not gone:
            assert rows(database, "SELECT count(*) FROM events WHERE run_key = 0") == [(1,)]
            assert len({*head_of(database, "r")}) == 1
        assert verified(database) == (set() if gone else {"REDACTED"})
        writer.sealer.seal()


class HeldMove(ConsumerService):
    """A service whose hot table is moved when it is told to."""

    stopped: StoppedMove

    def make_materializer(self, database: Database) -> Materializer:
        self.stopped = StoppedMove(database)
        return super().make_materializer(self.stopped)


ORDERS: dict[str, Callable[[], Planner]] = {
    "purge by age": lambda: plan_purge(ORDER, EVER_US),
    "retention": lambda: plan_purge(ORDER, EVER_US, name="retention", received=True),
    "redact": lambda: plan_redact(ORDER, "a", 1, None),
    "erase": lambda: plan_erase(ORDER, ["a", "b"]),
}


@pytest.mark.parametrize("name", ORDERS)
async def test_an_order_given_to_a_service_that_seals_waits_and_holds(tmp_path: Path, name: str) -> None:
    """The whole way: planned, into the control log, read again, applied when the table has moved; and the next run is fine."""
    settings = settings_at(tmp_path)
    await record(settings, "a", "b")
    service, stop = HeldMove(settings), asyncio.Event()
    running = asyncio.ensure_future(service.run(stop))
    try:
        await asyncio.wait_for(service.caught_up.wait(), 30)
        assert await asyncio.to_thread(service.materializer.sealer.swap)
        await until(service.stopped.copied.is_set)
        order = asyncio.ensure_future(service.order(ORDERS[name]()))
        await until(lambda: any(map(waits_for_the_seal, sys._current_frames())))
        assert not order.done()
        service.stopped.go_on.set()
        report = await asyncio.wait_for(order, 30)
        assert report.runs == (1 if name == "redact" else 2)
        await record(settings, "c")
        await until(
            lambda: rows(service.database, "SELECT id FROM runs WHERE id = 'c' AND status <> 'running'")
        )
        await asyncio.to_thread(service.materializer.sealer.seal)
        told = verified(service.database)
    finally:
        service.stopped.go_on.set()
        stop.set()
        await running
    assert ("REDACTED" in told) is (name in {"redact", "erase"})


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
