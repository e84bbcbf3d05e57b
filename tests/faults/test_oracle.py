"""The judge of the fault rows: what it has to notice, each at a database that is wrong in this one thing."""

import contextlib

import duckdb
import pytest
from tests.faults.oracle import Account, judge

SHA = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""Of nothing, which is every event's payload here."""


@pytest.fixture(name="cursor")
def empty_database():
    """Views of the names that the judge reads."""
    with contextlib.closing(duckdb.connect()) as cursor:
        cursor.execute("CREATE TABLE runs (run_key INT, id TEXT, completeness TEXT, liveness TEXT)")
        cursor.execute("CREATE TABLE events (run_key INT, sequence INT, payload TEXT)")
        for name in ("orphans", "conflicts", "dead_letters", "incidents"):
            cursor.execute(f"CREATE TABLE {name} (n INT)")
        yield cursor


def stored(cursor, logs: int, completeness: str = "complete", liveness: str = "finished") -> None:
    cursor.execute("INSERT INTO runs VALUES (1, 'r', ?, ?)", [completeness, liveness])
    for number in range(1, logs + 1):
        cursor.execute("INSERT INTO events VALUES (1, ?, '')", [number])


def noted(logs: int, end: int | None, lost: int = 0) -> dict[str, Account]:
    return {"r": Account("r", dict.fromkeys(range(1, logs + 1), SHA), end, lost, begun=True)}


def test_what_is_as_it_was_noted_passes(cursor):
    """A whole run."""
    stored(cursor, 3)
    assert judge(cursor, noted(3, 3))


def test_a_finished_run_holds_as_many_events_as_its_agent_recorded(cursor):
    """Whatever its lines say of the single ones."""
    stored(cursor, 3)
    assert judge(cursor, noted(3, 4)).unnamed


def test_events_declared_lost_count_for_the_number(cursor):
    """An event that was dropped has a number, and no row."""
    stored(cursor, 3, "declared-loss")
    assert judge(cursor, noted(3, 5, lost=2))
    assert judge(cursor, noted(3, 5, lost=1)).unnamed


@pytest.mark.parametrize("deaths_allowed", [False, True])
def test_a_run_that_nobody_finished_reads_finished_only_where_an_agent_may_die(cursor, deaths_allowed):
    """Killed between the return of `finish` and its line."""
    stored(cursor, 3)
    assert bool(judge(cursor, noted(3, None), deaths_allowed=deaths_allowed)) is deaths_allowed


@pytest.mark.parametrize("deaths_allowed", [False, True])
def test_an_event_that_nobody_noted_may_be_there_only_where_an_agent_may_die(cursor, deaths_allowed):
    """Killed between the return of `log` and its line; never two of them, and never behind a noted finish."""
    stored(cursor, 4, "pending", "abandoned")
    assert bool(judge(cursor, noted(3, None), deaths_allowed=deaths_allowed)) is deaths_allowed
    assert judge(cursor, noted(2, None), deaths_allowed=deaths_allowed).foreign


def test_nothing_is_behind_a_noted_finish(cursor):
    """An event too many there is nobody's, whoever died."""
    stored(cursor, 4)
    assert judge(cursor, noted(3, 4), deaths_allowed=True).foreign


def test_a_run_that_goes_on_does_not_read_complete(cursor):
    """Nobody knows yet."""
    stored(cursor, 3, "complete", "open")
    assert judge(cursor, noted(3, None), deaths_allowed=True).unnamed
