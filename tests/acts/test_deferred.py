"""Acts that were recorded without a place in the journal: they get it where the control log holds them, and only there."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

from tests.acts.support import rows

from skillaudit.consumer.control_file import FileControlLog
from skillaudit.consumer.database import Database, open_database
from skillaudit.consumer.following import ControlFollower
from skillaudit.consumer.materializer import Materializer, MaterializerPolicy
from skillaudit.consumer.planning import plan_hold
from skillaudit.consumer.recording import UNLISTED
from skillaudit.contract.admin import ActOrder, HoldScope
from skillaudit.proof.acts import Act, ActKind, act_line

T = TypeVar("T")
ORDER = ActOrder(actor="ops")
PLACES = "SELECT act_id, journal_idx FROM store.acts ORDER BY rowid"


@contextlib.asynccontextmanager
async def opened(path: Path, *, journal: bool) -> AsyncIterator[tuple[Database, ControlFollower]]:
    """A database and its control log, read to its end."""
    with open_database(path / "a.duckdb") as database:
        policy = MaterializerPolicy(journal_acts=journal)
        with contextlib.closing(Materializer(database, policy=policy)) as materializer:

            async def in_writer(work: Callable[[Materializer], T]) -> T:
                return work(materializer)

            follower = ControlFollower(FileControlLog(path / "control.jsonl"), in_writer)
            await follower.open()
            yield database, follower
            await follower.close()


def forged(number: int, kind: ActKind = ActKind.PURGE) -> tuple[str, str]:
    """Id and line of an act that nobody ordered."""
    scopes: dict[ActKind, dict[str, Any]] = {ActKind.PURGE: {"runs": ["r"]}, ActKind.CUT: {"t/0": 1}}
    scope = scopes.get(kind, {"database": "d", "schema": 1})
    act = Act(
        act_id=f"own-{number}", kind=kind, actor="ops", at_us=1, scope=scope, positions={"t/0": 1 << 40}
    )
    return act.act_id, act_line(act).decode()


async def test_what_a_reading_command_applied_gets_its_place_later(tmp_path: Path) -> None:
    """In the log's order, and before what is ordered then."""
    async with opened(tmp_path, journal=False) as (database, follower):
        for run_id in ("a", "b"):
            await follower.order(plan_hold(ORDER, HoldScope(runs=(run_id,))))
        assert [place for _, place in rows(database, PLACES)] == [None, None]
    async with opened(tmp_path, journal=True) as (database, follower):
        assert [place for _, place in rows(database, PLACES)] == [0, 1]
        await follower.order(plan_hold(ORDER, HoldScope(runs=("c",))))
        assert [place for _, place in rows(database, PLACES)] == [0, 1, 2]
        assert rows(database, "SELECT * FROM incidents") == []


async def test_an_act_that_the_log_does_not_hold_gets_no_place(tmp_path: Path) -> None:
    """Whoever writes the database could have put it there: the sealer must not sign it for him. Wherever it says that it
    stands: a database without a log has such acts, too, and this one has a log.
    """
    async with opened(tmp_path, journal=False) as (database, follower):
        await follower.order(plan_hold(ORDER, HoldScope(runs=("a",))))
        with contextlib.closing(database.cursor()) as cursor:
            for number, partition in enumerate(("control/0", "local/0")):
                act_id, line = forged(number)
                cursor.execute(
                    "INSERT INTO store.acts VALUES (?, 0, ?, 'purge', ?, NULL, 1)", [partition, act_id, line]
                )
    for _ in range(2):
        async with opened(tmp_path, journal=True) as (database, follower):
            places = dict(rows(database, PLACES))
            assert (places["own-0"], places["own-1"]) == (None, None)
            assert rows(database, "SELECT count(*) FROM journal") == [(1,)]
            told = rows(database, "SELECT kind, subject FROM incidents ORDER BY ALL")
            assert told == [(UNLISTED, "own-0"), (UNLISTED, "own-1")]


async def test_a_cut_gets_no_place_by_way_of_an_act(tmp_path: Path) -> None:
    """Whatever it is called in the database, and although the log holds it: the sealer could sign nothing behind it any more."""
    act_id, line = forged(0, ActKind.CUT)
    (tmp_path / "control.jsonl").write_text(line + "\n")
    async with opened(tmp_path, journal=False) as (database, _):
        with contextlib.closing(database.cursor()) as cursor:
            for place, kind in (("control/0", "hold"), ("local/0", "genesis")):
                cursor.execute(
                    "INSERT INTO store.acts VALUES (?, 0, ?, ?, ?, NULL, 1)", [place, act_id, kind, line]
                )
    async with opened(tmp_path, journal=True) as (database, _):
        assert rows(database, PLACES) == [(act_id, None), (act_id, None)]
        assert rows(database, "SELECT * FROM journal") == []


async def test_another_line_under_an_ordered_acts_id_gets_no_place(tmp_path: Path) -> None:
    """The bytes count, not the name."""
    async with opened(tmp_path, journal=False) as (database, follower):
        await follower.order(plan_hold(ORDER, HoldScope(runs=("a",))))
        with contextlib.closing(database.cursor()) as cursor:
            cursor.execute("UPDATE store.acts SET act = replace(act, '\"a\"', '\"b\"')")
    async with opened(tmp_path, journal=True) as (database, _):
        assert [place for _, place in rows(database, PLACES)] == [None]


async def test_what_a_database_says_of_its_own_life_needs_no_log(tmp_path: Path) -> None:
    """It is no act upon the record."""
    async with opened(tmp_path, journal=False) as (database, _):
        act_id, line = forged(0, ActKind.GENESIS)
        with contextlib.closing(database.cursor()) as cursor:
            cursor.execute(
                "INSERT INTO store.acts VALUES ('local/0', 0, ?, 'genesis', ?, NULL, 1)", [act_id, line]
            )
    async with opened(tmp_path, journal=True) as (database, _):
        assert rows(database, PLACES) == [(act_id, 0)]
