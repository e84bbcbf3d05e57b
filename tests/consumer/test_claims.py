"""What sources say counts once every partition is read past the end seen after it: not sooner, and it is never lost."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.consumer import streams
from tests.consumer.support import (
    RUN_A,
    SOURCE_A,
    SOURCE_B,
    beat,
    closed,
    finish,
    log,
    records,
    rows,
    settle,
    start,
)

from skillaudit.consumer.database import Database, open_database
from skillaudit.consumer.materializer import Materializer
from skillaudit.contract import events
from skillaudit.proof.verify.engine import Engine

GAPS = "SELECT first_seq, last_seq FROM main.source_gaps ORDER BY 1"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_database(tmp_path / "audit.duckdb") as opened:
        yield opened


@pytest.fixture
def materializer(database: Database) -> Iterator[Materializer]:
    with contextlib.closing(Materializer(database)) as made:
        yield made


def liveness(database: Database) -> dict[str, str]:
    return dict(rows(database, "SELECT id, liveness FROM runs"))


def due(database: Database) -> tuple[int, int, str]:
    [row] = rows(database, f"SELECT claimed, due, state FROM sources WHERE source_id = '{SOURCE_A}'")
    return row


def tick_all(materializer: Materializer) -> None:
    """Time passes, and nobody asks for ends."""
    materializer.tick()
    materializer.tick()


def test_a_finish_in_another_partition_is_no_abandoned_run(
    materializer: Materializer, database: Database
) -> None:
    """The source closed, and that is read before its last run's finish: the run stays open until it is finished."""
    materializer.apply(records([start(), log(1)], partition="t/0"))
    materializer.apply(records([closed()], partition="t/1"))
    tick_all(materializer)
    assert due(database) == (1, 0, "closing")
    settle(materializer, {"t/0": 3, "t/1": 1})
    assert liveness(database) == {RUN_A: "open"}
    materializer.apply(records([finish(2)], first=2, partition="t/0"))
    assert liveness(database) == {RUN_A: "finished"}
    materializer.tick()
    assert due(database) == (1, 1, "closed")
    assert liveness(database) == {RUN_A: "finished"}


def test_a_run_that_its_source_left_open_is_abandoned_once_all_is_read(
    materializer: Materializer, database: Database
) -> None:
    """Once, and for good."""
    materializer.apply(records([start(), log(1)], partition="t/0"))
    materializer.apply(records([closed()], partition="t/1"))
    settle(materializer, {"t/0": 3, "t/1": 1, "t/2": 0})
    assert liveness(database) == {RUN_A: "open"}
    materializer.apply(records([start(run=1, source=1)], first=2, partition="t/0"))
    materializer.tick()
    assert liveness(database)[RUN_A] == "abandoned"


def test_a_claim_survives_a_restart(database: Database) -> None:
    """What is not due waits again, for a later look."""
    with contextlib.closing(Materializer(database)) as first:
        first.apply(records([start(), beat(number=3)]))
        first.look({"t/0": 2, "t/1": 7}, first.to_ask())
        first.tick()
    assert due(database) == (3, 0, "live")
    with contextlib.closing(Materializer(database)) as second:
        second.tick()
        assert due(database) == (3, 0, "live")
        settle(second, {"t/0": 2})
    assert due(database) == (3, 3, "live")
    assert rows(database, GAPS) == [(2, 3)]


def test_what_is_said_while_a_look_is_under_way_waits_for_the_next(
    materializer: Materializer, database: Database
) -> None:
    """Its ends were asked for before that was read."""
    materializer.apply(records([start(), beat(number=1)]))
    materializer.look({"t/0": 4}, materializer.to_ask())
    assert not materializer.to_ask()
    materializer.apply(records([beat(number=5), closed()], first=2))
    materializer.tick()
    assert due(database) == (5, 1, "closing")
    assert liveness(database) == {RUN_A: "open"}
    settle(materializer)
    assert due(database) == (5, 5, "closed")


def test_what_is_said_between_asking_and_looking_goes_on_waiting(
    materializer: Materializer, database: Database
) -> None:
    """An answer says nothing about what was read after the question."""
    materializer.apply(records([beat(source=0, number=1), beat(source=1, number=1)]))
    asked = materializer.to_ask()
    materializer.apply(records([beat(source=0, number=2)], first=2))
    materializer.look({"t/0": 3}, asked)
    materializer.tick()
    found = dict(rows(database, "SELECT source_id, due FROM sources"))
    assert found == {SOURCE_A: 0, SOURCE_B: 1}


def test_a_source_with_a_partition_of_its_own_waits_for_nobody(
    materializer: Materializer, database: Database
) -> None:
    """Embedded: its records lie in the order in which it wrote them."""
    partition = f"outbox/{SOURCE_A}"
    materializer.apply(records([start(), beat(number=2)], partition=partition))
    assert due(database) == (2, 2, "live")
    assert rows(database, GAPS) == [(2, 2)]
    materializer.apply(records([closed()], first=2, partition=partition))
    assert due(database) == (2, 2, "closed")
    assert liveness(database) == {RUN_A: "abandoned"}


def test_numbers_that_never_came_are_named(materializer: Materializer, database: Database) -> None:
    """As ranges: a source that claims very many makes one row. A finish alone shows that the run was there."""
    materializer.apply(records([finish(3, run=1), beat(number=5)]))
    assert rows(database, GAPS) == []
    settle(materializer)
    assert rows(database, GAPS) == [(1, 1), (3, 5)]
    materializer.apply(records([start(run=0), start(run=2)], first=2))
    assert rows(database, GAPS) == [(4, 5)]
    counts = events.SourceCounts(runs_started=2**63 - 1, runs_finished=0)
    materializer.apply(records([events.encode_heartbeat(SOURCE_A, streams.BASE_US, 6, counts)], first=4))
    settle(materializer)
    assert rows(database, GAPS) == [(4, 2**63 - 1)]


def test_what_counts_as_arrived_is_what_verify_counts(materializer: Materializer, database: Database) -> None:
    """A run without a row of the ledger did not come by a record, unless it came by a dead letter that was replayed."""
    materializer.apply(records([start(run=0), start(run=1), beat(number=2)]))
    settle(materializer)
    assert rows(database, GAPS) == []
    with contextlib.closing(database.cursor()) as cursor:
        cursor.execute("DELETE FROM store.ledger WHERE kind = 'start'")
    with contextlib.closing(database.cursor()) as cursor, Engine(cursor).snapshot():
        verified = [row[:3] for row in Engine(cursor).rows("sources.sql", "gaps")]
    assert rows(database, GAPS) == [row[1:] for row in verified] == [(1, 2)]


def test_nothing_is_missed_before_it_is_due(materializer: Materializer, database: Database) -> None:
    """Runs 1 and 3 are here, 2 may be on its way: nobody said yet that it was sent."""
    materializer.apply(records([start(run=0), start(run=2)]))
    settle(materializer)
    assert rows(database, GAPS) == []


def test_a_heartbeat_that_comes_again_takes_nothing_back(
    materializer: Materializer, database: Database
) -> None:
    """The highest number that was ever said counts."""
    materializer.apply(records([beat(number=4), beat(number=2)]))
    settle(materializer)
    assert due(database)[:2] == (4, 4)


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Materializer]:
    with (
        open_database(tmp_path_factory.mktemp("claims") / "audit.duckdb") as database,
        contextlib.closing(Materializer(database)) as made,
    ):
        yield made


NUMBERS = itertools.count(1_000)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_gap_and_no_abandoned_run_shows_that_time_takes_back(
    writer: Materializer, data: st.DataObject
) -> None:
    """A source writes its runs, counts them and closes; its records lie in three partitions and are read in any
    interleaving. Whatever `source_gaps` and `abandoned` show at any moment is still there at the end.
    """
    world = streams.World(next(NUMBERS))
    topic = f"c{world.number}"
    sent = [streams._start(world, run, 0, 0) for run in (0, 1, 2)]
    sent += [streams._finish(world, run, 0, 1, 0) for run in data.draw(st.sets(st.integers(0, 2)))]
    lost = data.draw(st.sets(st.integers(0, len(sent) - 1), max_size=2))
    parts: list[list[bytes]] = [[], [], []]
    for place, record in enumerate(sent):
        if place not in lost:
            parts[data.draw(st.integers(0, 2))].append(record)
    parts[0] += [streams._source(world, 0, "beat", 3, []), streams._source(world, 0, "closed", 3, [])]
    ends = {f"{topic}/{n}": len(part) for n, part in enumerate(parts)}
    at = [0, 0, 0]
    gaps = f"SELECT first_seq, last_seq FROM main.source_gaps WHERE topic = '{topic}' ORDER BY 1"
    abandoned = f"SELECT id FROM main.runs WHERE topic = '{topic}' AND liveness = 'abandoned'"
    shown: list[list[tuple[object, ...]]] = []
    while any(place < len(part) for place, part in zip(at, parts, strict=True)):
        n = data.draw(st.sampled_from([n for n in range(3) if at[n] < len(parts[n])]))
        size = data.draw(st.integers(1, len(parts[n]) - at[n]))
        writer.apply(records(parts[n][at[n] : at[n] + size], first=at[n], partition=f"{topic}/{n}"))
        at[n] += size
        match data.draw(st.sampled_from(["", "tick", "look", "forget"])):
            case "tick":
                writer.tick()
            case "look":
                writer.look(ends, writer.to_ask())
            case "forget":
                writer.forget()
            case _:
                pass
        shown += [rows(writer.database, query) for query in (gaps, abandoned)]
    settle(writer, ends)
    settle(writer, ends)
    last = [rows(writer.database, query) for query in (gaps, abandoned)]
    for found, final in zip(shown, itertools.cycle(last)):
        assert found in ([], final)
