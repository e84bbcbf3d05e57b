"""The judge of the fault rows: what it has to notice, each at a database that is wrong in this one thing."""

import asyncio
import contextlib
import hashlib

import duckdb
import pytest
from tests.conformance.compositions import settings_at
from tests.faults.agent import Plan, record
from tests.faults.notes import Notebook, finish_digest, log_digest, start_digest
from tests.faults.oracle import FINISH, Account, judge, read_accounts
from tests.faults.stage import consume_all

from skillaudit.producer import Sink

STARTED_US = 1_800_000_000_000_000
START = start_digest("s", "", "", "", "{}", "{}", STARTED_US)
LOG = log_digest("step", b"")
END = finish_digest("ok", "", "", 0, 0, 0, 0)
COLUMNS = """
run_key INT, id TEXT, completeness TEXT, liveness TEXT, skill_id TEXT DEFAULT 's', caller_id TEXT DEFAULT '',
channel_id TEXT DEFAULT '', parent_run_id TEXT DEFAULT '', inputs TEXT DEFAULT '{}', attributes TEXT DEFAULT '{}',
started_at TIMESTAMPTZ DEFAULT make_timestamptz(1800000000000000), status TEXT DEFAULT 'ok', output TEXT DEFAULT '',
error TEXT DEFAULT '', tool_calls_count INT DEFAULT 0, total_input_tokens INT DEFAULT 0, total_output_tokens INT DEFAULT 0,
total_thinking_tokens INT DEFAULT 0, finished_at TIMESTAMPTZ, runtime_us INT DEFAULT 0,
last_event_at TIMESTAMPTZ DEFAULT make_timestamptz(1800000000000000), events_stored INT, events_expected INT,
conflicts INT DEFAULT 0
"""


@pytest.fixture(name="cursor")
def empty_database():
    """Views of the names that the judge reads."""
    with contextlib.closing(duckdb.connect()) as cursor:
        cursor.execute(f"CREATE TABLE runs ({COLUMNS})")
        cursor.execute(
            "CREATE TABLE events (run_key INT, sequence INT, event_type TEXT, created_at TIMESTAMPTZ, payload TEXT)"
        )
        for name in ("orphans", "conflicts", "dead_letters", "incidents"):
            cursor.execute(f"CREATE TABLE {name} (n INT)")
        yield cursor


def stored(
    cursor, logs: int, completeness: str = "complete", liveness: str = "finished", expected=None, key: int = 0
) -> None:
    """A run with so many events, all at one time; `expected`: as many as its finish says, start and finish included."""
    finished_us = STARTED_US if liveness == "finished" else None
    cursor.execute(
        "INSERT INTO runs (run_key, id, completeness, liveness, finished_at, events_stored, events_expected) "
        "VALUES (?, ?, ?, ?, make_timestamptz(?), ?, ?)",
        [key or 1, f"r{key or ''}", completeness, liveness, finished_us, logs, expected or logs + 2],
    )
    for number in range(1, logs + 1):
        cursor.execute(
            "INSERT INTO events VALUES (?, ?, 'step', make_timestamptz(?), '')",
            [key or 1, number, STARTED_US],
        )


def noted(logs: int, end: int | None, lost: int = 0) -> dict[str, Account]:
    given = dict.fromkeys(range(1, logs + 1), LOG)
    return {"r": Account("r", given, end, lost, begun=True, start=START, finish=END)}


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
    stored(cursor, 3, "declared-loss", expected=7)
    assert judge(cursor, noted(3, 5, lost=2))
    assert judge(cursor, noted(3, 5, lost=1)).unnamed


@pytest.mark.parametrize("killed", [0, 1])
def test_a_run_that_nobody_finished_reads_finished_only_where_an_agent_may_die(cursor, killed):
    """Killed between the return of `finish` and its line."""
    stored(cursor, 3)
    assert bool(judge(cursor, noted(3, None), killed_threads=killed)) is bool(killed)


@pytest.mark.parametrize("killed", [0, 1])
def test_an_event_that_nobody_noted_may_be_there_only_where_an_agent_may_die(cursor, killed):
    """Killed between the return of `log` and its line; never two of them, and never behind a noted finish."""
    stored(cursor, 4, "pending", "abandoned")
    assert bool(judge(cursor, noted(3, None), killed_threads=killed)) is bool(killed)
    assert judge(cursor, noted(2, None), killed_threads=killed).foreign


@pytest.mark.parametrize("killed", [0, 1])
def test_a_run_that_nobody_noted_may_be_there_only_where_an_agent_may_die(cursor, killed):
    """Killed between the return of `start_run` and its line; whose it was is not known, and nothing can be in it."""
    stored(cursor, 0, "pending", "abandoned")
    assert bool(judge(cursor, {}, killed_threads=killed)) is bool(killed)
    cursor.execute("DELETE FROM runs")
    stored(cursor, 1, "pending", "abandoned")
    assert judge(cursor, {}, killed_threads=killed).foreign == ["r"]


def open_runs(cursor, *recorders: str) -> dict[str, Account]:
    """A run each, that holds one event more than was noted."""
    accounts = {}
    for key, recorder in enumerate(recorders, 1):
        stored(cursor, 2, "pending", "abandoned", key=key)
        accounts[f"r{key}"] = Account(f"r{key}", {1: LOG}, begun=True, start=START, recorder=recorder)
    return accounts


def test_a_thread_dies_once_in_all_its_runs(cursor):
    """However many of its runs are open, and however many others die."""
    accounts = open_runs(cursor, "account-1 ", "account-1 ")
    assert judge(cursor, accounts, killed_threads=2).foreign


@pytest.mark.parametrize("killed", [1, 2])
def test_no_more_threads_were_cut_off_than_were_killed(cursor, killed):
    """Of one process, or of two."""
    accounts = open_runs(cursor, "account-1 ", "account-1 beside")
    assert bool(judge(cursor, accounts, killed_threads=killed)) is (killed == 2)


def test_what_another_judge_judges_is_left_to_it(cursor):
    """By its id."""
    stored(cursor, 3)
    assert judge(cursor, {}).foreign
    assert judge(cursor, {}, elsewhere={"r"})


def test_lines_of_a_process_s_threads_are_told_apart(tmp_path):
    """By what they say themselves."""
    notes = Notebook(str(tmp_path / "account"))
    notes.note(run="a", begin=0, sha256="", at=None)
    notes.by("beside").note(run="b", begin=0, sha256="", at=None)
    notes.by("beside").untimed().note(run="c", begin=1, sha256="", at=None)
    accounts = read_accounts([tmp_path / "account"])
    assert accounts["a"].recorder != accounts["b"].recorder == accounts["c"].recorder


def test_nothing_is_behind_a_noted_finish(cursor):
    """An event too many there is nobody's, whoever died."""
    stored(cursor, 4)
    assert judge(cursor, noted(3, 4), killed_threads=1).foreign


def test_a_run_that_goes_on_does_not_read_complete(cursor):
    """Nobody knows yet."""
    stored(cursor, 3, "complete", "open")
    assert judge(cursor, noted(3, None), killed_threads=1).unnamed


RUNS = "UPDATE store.runs SET {} WHERE run_key = $key"
HOT = "UPDATE store.events_hot_a SET {} WHERE run_key = $key AND sequence = 1"
OVERWRITTEN = {
    **{
        name: RUNS.format(f"{name} = {name} || ' '")
        for name in (
            "skill_id", "caller_id", "channel_id", "parent_run_id", "inputs", "attributes", "status", "output", "error",
        )
    },
    **{
        name: RUNS.format(f"{name} = {name} + 1")
        for name in (
            "tool_calls_count", "total_input_tokens", "total_output_tokens", "total_thinking_tokens", "events_stored",
            "events_expected", "conflicts",
        )
    },
    **{
        f"{name} {way}": RUNS.format(f"{name} = {name} {way} INTERVAL 1 SECOND")
        for name in ("started_at", "finished_at", "last_event_at")
        for way in "+-"
    },
    "runtime_us": RUNS.format("runtime_us = runtime_us + 1000000"),
    "completeness": RUNS.format("completeness = 'incomplete'"),
    "liveness": RUNS.format("liveness = 'abandoned'"),
    "a finish taken away": RUNS.format("finished_at = NULL, status = 'running'"),
    "a run taken away": "DELETE FROM store.runs WHERE run_key = $key",
    "a run there twice": "INSERT INTO store.runs SELECT * FROM store.runs WHERE run_key = $key",
    "event_type": HOT.format("event_type = 'other'"),
    "payload": HOT.format("payload = payload || ' '"),
    "created_at +": HOT.format("created_at = created_at + INTERVAL 1 SECOND"),
    "created_at -": HOT.format("created_at = created_at - INTERVAL 1 SECOND"),
    "sequence": HOT.format("sequence = 1000"),
    "sequences swapped": "UPDATE store.events_hot_a SET sequence = 3 - sequence WHERE run_key = $key AND sequence <= 2",
    "an event taken away": "DELETE FROM store.events_hot_a WHERE run_key = $key AND sequence = 1",
    "an event there twice": "INSERT INTO store.events_hot_a SELECT * FROM store.events_hot_a WHERE run_key = $key AND sequence = 1",
    "an event of another run": "UPDATE store.events_hot_a SET run_key = $other WHERE run_key = $key AND sequence = 1",
}  # fmt: skip
"""What is done to a database that holds everything -> how."""


@pytest.fixture(scope="module", name="kept")
def everything_kept(tmp_path_factory):
    """A database as the product made it, and what its agent noted."""
    directory = tmp_path_factory.mktemp("kept")
    settings, account = settings_at(directory / "data"), directory / "account.jsonl"
    with Sink.from_settings(settings) as sink:
        record(sink, Plan(account="", seed=5, runs=40, logs_min=3), Notebook(str(account)), 0)
    asyncio.run(consume_all(settings))
    with contextlib.closing(duckdb.connect(str(settings.database))) as connection:
        yield connection, read_accounts([account])


def test_a_database_that_holds_everything_passes(kept):
    """Children, text that is not ASCII, sums of the Writer and of the agent, all ways to record an event."""
    cursor, accounts = kept
    verdict = judge(cursor, accounts)
    assert verdict, str(verdict)
    assert cursor.execute("SELECT count(*) > 0 FROM main.runs WHERE parent_run_id <> ''").fetchone() == (
        True,
    )
    assert {took is None for took in (account.took_us for account in accounts.values())} == {True, False}
    assert all({0, FINISH, *account.logs} == account.spans.keys() for account in accounts.values())


@pytest.mark.parametrize("what", OVERWRITTEN)
def test_whatever_is_overwritten_is_told(kept, what):
    """Each column by itself, in one row, by the least there is; in a run whose finish has the Writer's sums and in one with the
    agent's.
    """
    cursor, accounts = kept
    for took_given in (False, True):
        ids = [a.run_id for a in accounts.values() if (a.took_us is not None) is took_given]
        key, other = (
            cursor.execute("SELECT run_key FROM store.runs WHERE id = ?", [i]).fetchone()[0] for i in ids[:2]
        )
        names = {"key": key, "other": other}
        cursor.execute("BEGIN")
        try:
            cursor.execute(
                OVERWRITTEN[what], {n: v for n, v in names.items() if f"${n}" in OVERWRITTEN[what]}
            )
            verdict = judge(cursor, accounts)
        finally:
            cursor.execute("ROLLBACK")
        assert not verdict
        assert ids[0] in str(verdict), str(verdict)
    assert judge(cursor, accounts), "the next case finds everything as it was"


def test_an_event_s_type_is_no_part_of_its_payload():
    """Nor is anything of a start or finish a part of its neighbour."""
    assert log_digest("a", b"{}") == hashlib.sha256(b"a\n{}").hexdigest()
    assert start_digest("a", "bc") != start_digest("ab", "c")
