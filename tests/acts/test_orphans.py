"""Runs whose start never came can go, too: by their ids, and by age; and what comes of them later stays away."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.acts.support import BASE_US, Control, Run, hits, rows, state, take
from tests.consumer.support import records

from skillaudit.consumer.database import Database, open_database
from skillaudit.consumer.materializer import Materializer, MaterializerPolicy
from skillaudit.consumer.planning import (
    Planner,
    plan_erase,
    plan_hold,
    plan_purge,
    plan_purge_of,
    plan_redact,
)
from skillaudit.consumer.purge import purge_older_than
from skillaudit.consumer.purging import DAY_US
from skillaudit.consumer.recording import perform
from skillaudit.contract.admin import ActOrder, ActReport, HoldScope
from skillaudit.contract.clock import SystemClock, from_us
from skillaudit.contract.errors import RejectedError, RunNotFoundError
from skillaudit.contract.events import OpenRun, SourceCounts, encode_heartbeat
from skillaudit.contract.runrecord import Outcome
from skillaudit.contract.sources import SourceRecord
from skillaudit.proof.acts import ActKind, act_line

SECRET = "Rosebud-47-11"
ADA, FORCED = ActOrder(actor="ada"), ActOrder(actor="ada", force=True)
EMBEDDED = "outbox/" + "ab" * 16


class Clock(SystemClock):
    """Ten days after the first records."""

    def wall_us(self) -> int:
        return BASE_US + 10 * DAY_US


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Materializer]:
    with open_database(path) as made, contextlib.closing(Materializer(made, clock=Clock())) as writer:
        yield writer


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Materializer]:
    with opened(tmp_path / "audit.duckdb") as writer:
        yield writer


@pytest.fixture
def database(writer: Materializer) -> Database:
    return writer.database


@pytest.fixture
def control() -> Control:
    return Control()


def apply(writer: Materializer, values: Sequence[bytes], *, first: int = 0, partition: str = "t/0", at_us: int = BASE_US):  # fmt: skip
    return writer.apply(records(values, first=first, partition=partition, received_us=at_us))


def tail(run_id: str = "r", **members: Any) -> list[bytes]:
    """A run's records without its start."""
    return Run(run_id, **members).whole({"a": SECRET}, {"b": 2})[1:]


def left(database: Database) -> list[tuple[Any, ...]]:
    return rows(database, "SELECT id FROM orphans ORDER BY id")


def tombstones(database: Database) -> list[tuple[Any, ...]]:
    return rows(database, "SELECT id, orphan, violates, records_dropped FROM tombstones ORDER BY id")


# by id


@pytest.mark.parametrize("parts", [slice(2), slice(2, 3), slice(3)], ids=["logs", "finish", "both"])
def test_nothing_of_it_stays_but_a_tombstone_and_the_ledger(
    database: Database, writer: Materializer, parts: slice
) -> None:
    """Logs, what was kept as it came, what claimed a place of it, and what was no event under its id. What comes later, its
    start first of all, is counted.
    """
    values = tail()
    other = [Run("r", at_us=BASE_US + 5).log(a=SECRET, more=1)] if parts.start is None else []
    apply(writer, [*values[parts], *other, b'{"run_id":"r","text":"' + SECRET.encode() + b'"}'])
    assert hits(database, SECRET)
    ledger = rows(database, "SELECT * FROM ledger ORDER BY idx")
    report = perform(writer, plan_purge_of(ADA, ["r"]))
    assert report == ActReport(acts=report.acts, runs=1, events=len(values[parts]) - (parts.stop == 3))
    assert (hits(database, SECRET), left(database), tombstones(database)) == ([], [], [("r", True, "", 0)])
    assert rows(database, "SELECT runs, events FROM purges") == [(1, report.events)]
    assert rows(database, "SELECT state, record FROM dead_letters") == [("erased", None)]
    assert rows(database, "SELECT count(*) FROM store.kept") == [(0,)]
    assert rows(database, "SELECT * FROM ledger ORDER BY idx") == ledger
    late = apply(writer, [*Run("r").whole({"a": SECRET})], first=50)
    assert +late.outcomes == {Outcome.PURGED: 3}
    assert (hits(database, SECRET), tombstones(database)) == ([], [("r", True, "", 3)])
    assert rows(database, "SELECT kind FROM ledger ORDER BY idx")[-2:] == [("start",), ("finish",)]


def test_the_next_process_counts_what_comes_too(database: Database, writer: Materializer) -> None:
    """The tombstone is what is remembered."""
    apply(writer, tail())
    perform(writer, plan_purge_of(ADA, ["r"]))
    with contextlib.closing(Materializer(database)) as later:
        assert +apply(later, Run("r").whole(), first=50).outcomes == {Outcome.PURGED: 2}
    assert (rows(database, "SELECT id FROM runs"), tombstones(database)) == ([], [("r", True, "", 2)])


def test_it_is_reached_by_its_first_record(
    database: Database, writer: Materializer, control: Control
) -> None:
    """Whatever has come of it since, and in as many batches: below the act's position it goes, from there on it stays."""
    for partition in ("t/0", "t/1", "t/2"):
        for number, value in enumerate(tail(partition)):
            apply(writer, [value], first=5 + number, partition=partition)
    control.add(ActKind.PURGE, runs=["t/0", "t/1", "t/2"], positions={"t/0": 6, "t/1": 5})
    take(writer, control)
    assert (left(database), tombstones(database)) == ([("t/1",), ("t/2",)], [("t/0", True, "", 0)])


@pytest.mark.parametrize("begins", [0, 2], ids=["with a log", "with its finish"])
def test_its_place_is_that_of_a_record_of_its_own(
    database: Database, writer: Materializer, begins: int
) -> None:
    """A heartbeat that lists it may stand before it in the same batch: place and age are what they are in any other batch."""
    counts = SourceCounts(
        runs_started=1, runs_finished=0, open=[OpenRun(run_id="r", source_seq=1, events=2, head="ef" * 32)]
    )
    said = encode_heartbeat("ab" * 16, BASE_US, 1, counts)
    batch = [
        SourceRecord("t/0", 3, 4, BASE_US + 1, None, said),
        *(
            SourceRecord("t/1", 7 + n, 8 + n, BASE_US + 2 + n, None, value)
            for n, value in enumerate(tail()[begins:])
        ),
    ]
    writer.apply(batch)
    query = "SELECT partition, record_offset, first_us, epoch_us(first_received_at) FROM orphans"
    assert rows(database, query) == [("t/1", 7, BASE_US + 2, BASE_US + 2)]


def test_runs_and_orphans_go_together(database: Database, writer: Materializer) -> None:
    """One order names both; an id that nothing has is told, and nothing is done."""
    apply(writer, [*tail("orphan"), *Run("run", number=2).whole({"a": SECRET})])
    with pytest.raises(RunNotFoundError, match="nobody"):
        perform(writer, plan_purge_of(ADA, ["run", "orphan", "nobody"]))
    assert len(perform(writer, plan_purge_of(ADA, ["run", "orphan"])).acts) == 1
    assert hits(database, SECRET) == []
    assert tombstones(database) == [("orphan", True, "", 0), ("run", False, "", 0)]
    with pytest.raises(RunNotFoundError):
        perform(writer, plan_purge_of(ADA, ["orphan"]))


@pytest.mark.parametrize("plan", [plan_erase(ADA, ["run", "r"]), plan_redact(ADA, "r", 1, None)])
def test_nothing_of_it_can_be_taken_out_alone(
    database: Database, writer: Materializer, plan: Planner
) -> None:
    """There is no salt from which a digest could be kept: the order says what to do instead, and does nothing."""
    apply(writer, [*tail(), *Run("run", number=2).whole()])
    before = state(database)
    with pytest.raises(RejectedError, match=r"never received.*`skillaudit purge r`"):
        perform(writer, plan)
    assert state(database) == before


# by age


def test_a_purge_by_age_names_the_orphans_whose_first_record_arrived_before(
    database: Database, writer: Materializer
) -> None:
    """What their hosts' clocks say does not matter where there is a broker's, and later records make none younger."""
    for number, run_id in enumerate(["a", "b", "c"]):
        values = tail(run_id, number=number + 1, at_us=BASE_US + 7 * DAY_US)
        apply(writer, values[:1], first=10 * number, at_us=BASE_US + number)
        apply(writer, values[1:], first=10 * number + 1, at_us=BASE_US + 8 * DAY_US)
    assert perform(writer, plan_purge(ADA, BASE_US + 2)).runs == 0
    assert perform(writer, plan_purge(ADA, BASE_US, orphans=True)).runs == 0
    assert perform(writer, plan_purge(ADA, BASE_US + 2, orphans=True)).runs == 2
    assert left(database) == [("c",)]
    ((act,),) = rows(database, "SELECT act ->> 'scope' FROM acts")
    assert act == '{"runs":["a","b"]}'
    assert rows(database, "SELECT id, epoch_us(started_at) - ? FROM tombstones ORDER BY id", BASE_US) == [
        ("a", 0),
        ("b", 1),
    ]


@pytest.mark.parametrize("small", [1_500, 0], ids=["decoded here", "decoded in the engine"])
@pytest.mark.parametrize("first", ["log", "finish"])
def test_without_a_broker_the_first_record_says_its_age(database: Database, small: int, first: str) -> None:
    """When it was made: a rebuild finds the same there."""
    policy = MaterializerPolicy(small_batch_records=small)
    with contextlib.closing(Materializer(database, clock=Clock(), policy=policy)) as writer:
        values = tail()[::-1] if first == "finish" else tail()
        apply(writer, values, partition=EMBEDDED, at_us=0)
        said_us = BASE_US + (3 if first == "finish" else 1)
        assert rows(database, "SELECT first_us FROM orphans") == [(said_us,)]
        assert perform(writer, plan_purge(ADA, said_us, orphans=True)).runs == 0
        assert perform(writer, plan_purge(ADA, said_us + 1, orphans=True)).runs == 1


def test_retention_takes_what_arrived_before_and_a_storages_purge_none(
    database: Database, writer: Materializer
) -> None:
    """Without a broker's time an old date alone is no age: what arrived today is kept. And `purge_older_than` of a `Storage`
    is about runs that have a start.
    """
    apply(writer, tail(), partition=EMBEDDED, at_us=0)
    order = {"received": True, "orphans": True}
    assert perform(writer, plan_purge(ADA, BASE_US + 9 * DAY_US, **order)).runs == 0
    assert purge_older_than(writer, from_us(BASE_US) + timedelta(days=11)) == 0
    assert perform(writer, plan_purge(ADA, BASE_US + 11 * DAY_US, **order)).runs == 1
    assert hits(database, SECRET) == []


def test_the_same_id_in_another_topic_is_another_run(database: Database, writer: Materializer) -> None:
    """Which is not concerned, though an orphan of its topic goes with the same order."""
    apply(writer, tail())
    apply(writer, [*Run("r").whole(), *tail("other", number=2)], partition="mirror/0")
    assert perform(writer, plan_purge(ADA, BASE_US, orphans=True)).runs == 0
    with writer.transaction("make the run young") as cursor:
        cursor.execute("UPDATE store.runs SET started_at = make_timestamptz(?)", [BASE_US + DAY_US])
    assert perform(writer, plan_purge(ADA, BASE_US + 1, orphans=True)).runs == 2
    assert rows(database, "SELECT topic, id FROM runs") == [("mirror", "r")]


# what keeps it


@pytest.mark.parametrize(
    "scope", [HoldScope(runs=("r",)), HoldScope(skill_id="any"), HoldScope(everything=True)]
)
@pytest.mark.parametrize("plan", ["named", "by age"])
def test_a_hold_keeps_it(database: Database, writer: Materializer, scope: HoldScope, plan: str) -> None:
    """Of its id, of everything, and of any skill: nobody knows of which it is. By force it goes, and that is said."""

    def planned(order: ActOrder) -> Planner:
        if plan == "named":
            return plan_purge_of(order, ["r"])
        return plan_purge(order, BASE_US + 1, orphans=True)

    apply(writer, tail(), first=4)
    (hold,) = perform(writer, plan_hold(ADA, scope)).acts
    report = perform(writer, planned(ADA))
    assert (report.runs, report.held, report.holds, left(database)) == (0, 1, (hold,), [("r",)])
    assert perform(writer, planned(FORCED)).runs == 1
    assert tombstones(database) == [("r", True, "hold", 0)]
    (said,) = rows(database, "SELECT act -> 'policy' ->> 'violates' FROM acts WHERE kind = 'purge'")
    assert said == ('{"hold":{"runs":1,"at":{"t/0":"4"},"by":["' + hold + '"]}}',)


@pytest.mark.parametrize("partition", ["t/0", EMBEDDED])
def test_the_minimum_age_keeps_it(database: Database, writer: Materializer, partition: str) -> None:
    """As long as what counts as its start is younger."""
    at_us = BASE_US if partition == "t/0" else 0
    apply(writer, tail(at_us=BASE_US if at_us else BASE_US - 1), partition=partition, at_us=at_us)
    for plan in (
        plan_purge_of(ADA, ["r"], min_days=11),
        plan_purge(ADA, BASE_US + DAY_US, min_days=11, orphans=True),
    ):
        report = perform(writer, plan)
        assert (report.runs, report.young, left(database)) == (0, 1, [("r",)])
    assert perform(writer, plan_purge_of(ADA, ["r"], min_days=10)).young == 1, "it is not a microsecond older"
    assert perform(writer, plan_purge(ADA, BASE_US + DAY_US, min_days=9, orphans=True)).runs == 1


def test_what_a_purge_that_is_forced_did_not_know_of_keeps_it(
    database: Database, writer: Materializer, control: Control
) -> None:
    """A hold that came into the log before it, of whatever skill."""
    apply(writer, tail())
    (act,) = plan_purge_of(FORCED, ["r"])(writer).acts
    control.add(ActKind.HOLD, skill_id="any")
    control.add_line(act_line(act))
    take(writer, control)
    assert (left(database), tombstones(database)) == ([("r",)], [])


# again


@pytest.mark.parametrize("skill", ["", "s"], ids=["", "with a hold of its skill"])
@pytest.mark.parametrize("force", [False, True])
def test_everybody_purges_the_same(tmp_path: Path, control: Control, skill: str, force: bool) -> None:
    """The start comes after the act: here, in a rebuild, and where both were read before the act was; and a hold of the skill
    that the start tells counts for what was known, which is none.
    """
    values = [*tail(), *Run("r").whole({"a": SECRET}), *Run("other", number=2).whole()]

    def told(writer: Materializer) -> Any:
        return (
            tombstones(writer.database)[:1] and tombstones(writer.database)[0][:3],
            rows(writer.database, "SELECT id FROM runs ORDER BY id"),
            bool(hits(writer.database, SECRET)),
        )

    if skill:
        control.add(ActKind.HOLD, skill_id=skill)
    with opened(tmp_path / "first.duckdb") as writer:
        take(writer, control)
        apply(writer, values[:3])
        for act in plan_purge_of(FORCED if force else ADA, ["r"])(writer).acts:
            control.add_line(act_line(act))
        take(writer, control)
        apply(writer, values[3:], first=3)
        first, whole = told(writer), state(writer.database)
    purged = force or not skill
    assert first[0] == (("r", True, "hold" if skill else "") if purged else [])
    with opened(tmp_path / "again.duckdb") as writer:
        take(writer, control)
        apply(writer, values)
        assert (told(writer), state(writer.database)) == (first, whole)
    with opened(tmp_path / "ahead.duckdb") as writer:
        for number, value in enumerate(values):
            apply(writer, [value], first=number)
        take(writer, control)
        assert told(writer) == first
    with opened(tmp_path / "ahead at once.duckdb") as writer:
        apply(writer, values)
        take(writer, control)
        assert told(writer) == first


def test_what_an_earlier_release_stored_is_reached_here_and_in_a_rebuild(
    tmp_path: Path, writer: Materializer, control: Control
) -> None:
    """It did not keep where the first record stands: the act names all partitions of the topic."""
    values = tail()
    apply(writer, values, first=2, partition="t/1")
    apply(writer, Run("other", number=2).whole(), partition="t/0")
    apply(writer, Run("other", number=2).whole(), partition="u/0")
    with writer.transaction("as it was") as cursor:
        cursor.execute("UPDATE store.orphans SET partition = '', record_offset = -1")
    writer.forget()
    (act,) = plan_purge_of(ADA, ["r"])(writer).acts
    assert dict(act.positions) == {"": 0, "t/0": 2, "t/1": 5}
    control.add_line(act_line(act))
    take(writer, control)
    assert tombstones(writer.database) == [("r", True, "", 0)]
    with opened(tmp_path / "again.duckdb") as rebuilt:
        take(rebuilt, control)
        apply(rebuilt, [*values, *Run("r").whole()], first=2, partition="t/1")
        assert tombstones(rebuilt.database) == [("r", True, "", 2)]
