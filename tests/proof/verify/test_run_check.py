"""The set-wise check, the check of one run and `contract.digests` agree bit for bit: on the golden vectors, and on runs with
lost, refused and redacted events, in any mixture.
"""

import contextlib
import json
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.acts.support import Run
from tests.attacks.world import Collected

from skillaudit.consumer.database import open_database
from skillaudit.consumer.materializer import Materializer
from skillaudit.contract import events
from skillaudit.contract.records import SkillRun
from skillaudit.contract.sources import SourceRecord
from skillaudit.contract.wire import RunLog, parse_record
from skillaudit.producer import Sink
from skillaudit.proof.findings import Findings, Kind
from skillaudit.proof.verify import Depth, Verifier, VerifyRequest
from skillaudit.proof.verify.engine import Engine
from skillaudit.proof.verify.facts import read_facts
from skillaudit.proof.verify.judging import judge_run
from skillaudit.proof.verify.runs import REDACTED, RunsCheck, RunTotals

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "digests.json").read_text(encoding="utf-8"))[
    "runs"
]
NOW_US = 1_895_000_000_000_000
STATES = {Kind.RUN_OPEN, Kind.RUN_ABANDONED, Kind.RUN_DECLARED_LOSS}


class Loaded:
    """A database with these records in it."""

    def __init__(self, path, values):
        self.database = open_database(path)
        self.materializer = Materializer(self.database, identity="test")
        records = [SourceRecord("t/0", n, n + 1, NOW_US + n, None, value) for n, value in enumerate(values)]
        self.materializer.apply(records)
        self.cursor = self.database.cursor()

    def facts(self):
        engine = Engine(self.cursor)
        keys = [row[0] for row in self.cursor.execute("SELECT run_key FROM runs ORDER BY run_key").fetchall()]
        with engine.snapshot():
            return [
                read_facts(engine, engine.records("one.sql", "run_of_key", run_key=key)[0]) for key in keys
            ]

    def chunk(self):
        """The set-wise check alone: how many runs, and which are to be looked at."""
        engine = Engine(self.cursor)
        with engine.snapshot():
            engine.run("runs.sql", "make_picked")
            engine.run("runs.sql", "make_marks", first=0, last=1 << 40)
            scope = {"since_us": None, "until_us": None, "part": "all"}
            scope |= {"first": 0, "last": 1 << 40, "long": []}
            return engine.records("runs.sql", "chunk", **scope, **REDACTED, examples=5, ahead_us=1 << 50)[0]

    def close(self):
        self.cursor.close()
        self.materializer.close()
        self.database.close()


@pytest.fixture
def load(tmp_path):
    with contextlib.ExitStack() as stack:
        yield lambda values: stack.enter_context(contextlib.closing(Loaded(tmp_path / "a.duckdb", values)))


def test_the_golden_vectors_pass_in_sql_and_in_python(load):
    """Every head of every vector is what both find; nothing is off."""
    loaded = load([event["record"].encode() for run in VECTORS for event in run["events"]])
    answer = loaded.chunk()
    assert (answer["runs"], answer["off"], answer["told"]) == (len(VECTORS), None, None)
    by_id = {facts.run_id: facts for facts in loaded.facts()}
    for run in VECTORS:
        facts = by_id[run["run_id"]]
        assert facts.head.hex() == run["events"][-1]["head"]
        assert not [finding for finding in judge_run(facts) if finding.kind is not Kind.RUN_DECLARED_LOSS]


@pytest.mark.parametrize(
    "change",
    ["payload = payload || ' '", "created_at = created_at + INTERVAL 1 MICROSECOND", "tag = tag + 1"],
)
def test_each_altered_event_of_the_vectors_is_named(load, change):
    """Set-wise the run is flagged, one by one the event is named: for every log of every vector."""
    loaded = load([event["record"].encode() for run in VECTORS for event in run["events"]])
    loaded.cursor.execute(f"UPDATE store.events_hot_a SET {change} WHERE sequence % 3 = 1")
    hit = {
        row[0]
        for row in loaded.cursor.execute(
            "SELECT DISTINCT run_key FROM events WHERE sequence % 3 = 1"
        ).fetchall()
    }
    assert set(loaded.chunk()["off"]) == hit
    for facts in loaded.facts():
        expected = [seq for low, high in facts.logs for seq in range(low, high + 1) if seq % 3 == 1]
        assert [it.seq for it in facts.altered] == expected[:100]


def recorded(logs, refused=(), spaced=()):
    """The records of one run; those numbers in `refused` as the forwarder replaces them."""
    log = Collected("7" * 32)
    with Sink(log) as sink, sink.start_run(SkillRun(skill_id="s", id="run-ü")) as run:
        for n in range(logs):
            run.step(f"{n} é")
    values = [value for _, value in log.items]
    return [_replaced(value, refused, spaced) for value in values]


def _replaced(value, refused, spaced):
    event = parse_record(value)
    if isinstance(event, RunLog) and event.seq in refused:
        return events.encode_refused(
            event.run_id, event.seq, event.at_us, f"{event.tag:016x}", "too large", 9
        )
    if isinstance(event, RunLog) and event.seq in spaced:
        return value.replace(b'"seq":', b'"seq": ')
    return value


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    logs=st.integers(0, 12),
    refused=st.sets(st.integers(1, 12), max_size=3),
    dropped=st.sets(st.integers(0, 14), max_size=2),
    data=st.data(),
)
def test_what_the_set_wise_check_passes_has_nothing_to_tell(tmp_path_factory, logs, refused, dropped, data):
    """Whatever arrived, was refused, lost or repeated: a run that the engine does not point out has no finding but its
    state, and one that it does point out has.
    """
    values = recorded(logs, refused)
    values = [value for n, value in enumerate(values) if n not in dropped]
    values = list(data.draw(st.permutations(values))) + values[:2]
    with contextlib.closing(Loaded(tmp_path_factory.mktemp("x") / "a.duckdb", values)) as loaded:
        answer = loaded.chunk()
        pointed = {*(answer["off"] or ()), *(answer["told"] or ())}
        for facts in loaded.facts():
            told = [finding for finding in judge_run(facts) if finding.kind not in STATES]
            assert not [f for f in told if f.severity.name == "VIOLATION"], told
            assert bool(told) <= (facts.row["run_key"] in pointed)
            assert not answer["off"]


def test_a_long_run_is_read_row_by_row_and_judged_the_same(load, monkeypatch):
    """A run beyond the chunk's bound never has its manifest in memory."""
    import skillaudit.proof.verify.runs as module

    loaded = load(recorded(40))
    monkeypatch.setattr(module, "LONG_RUN_EVENTS", 10)
    for change, code in ((None, 0), ("UPDATE store.events_hot_a SET payload = '{}' WHERE sequence = 30", 5)):
        if change:
            loaded.cursor.execute(change)
        findings, totals = Findings(), RunTotals()
        RunsCheck(Engine(loaded.cursor), VerifyRequest(), findings, totals).check_all(content=True)
        assert (findings.exit_code(), totals.altered) == (code, int(code == 5))


def test_runs_beyond_the_bound_are_counted(load, monkeypatch):
    """After a flood of damage verify stays bounded: some runs are told one by one, the others counted."""
    import skillaudit.proof.verify.runs as module

    log = Collected("7" * 32)
    with Sink(log) as sink:
        for _ in range(6):
            with sink.start_run(SkillRun(skill_id="s")) as run:
                run.step("x")
    loaded = load([value for _, value in log.items])
    loaded.cursor.execute("UPDATE store.events_hot_a SET payload = '{}'")
    monkeypatch.setattr(module, "LOOKED_AT_MAX", 2)
    report = Verifier(loaded.cursor).check(VerifyRequest(), NOW_US)
    assert (report.exit_code, report.altered) == (5, 6)
    assert report.counts == {"EVENT_ALTERED": 2, "RUN_SUSPECT": 4}


def test_refused_runs_beyond_the_bound_are_not_incomplete(load, monkeypatch):
    """What the broker refused was declared lost, however many runs there are of it: exit code 6, not 4."""
    import skillaudit.proof.verify.runs as module

    log = Collected("7" * 32)
    with Sink(log) as sink:
        for _ in range(6):
            with sink.start_run(SkillRun(skill_id="s")) as run:
                run.step("x")
                run.step("y")
    values = [_replaced(value, {1}, ()) for _, value in log.items]
    loaded = load(values)
    monkeypatch.setattr(module, "LOOKED_AT_MAX", 2)
    report = Verifier(loaded.cursor).check(VerifyRequest(), NOW_US)
    assert (report.exit_code, report.incomplete, report.counts) == (6, 0, {"RUN_DECLARED_LOSS": 6})


def test_bare_runs_and_open_runs_are_not_proven(load):
    """Exit code 6: nothing wrong, and not all is proven."""
    bare = events.encode_storage_start(SkillRun(skill_id="b", id="bare"), NOW_US, "call-1")
    open_run = recorded(3)[:-2]  # without finish and last word
    loaded = load([bare, *open_run])
    report = Verifier(loaded.cursor).check(VerifyRequest(), NOW_US)
    assert report.exit_code == 6
    assert {"RUN_UNPROVEN", "RUN_OPEN"} <= set(report.counts)


def test_a_run_of_a_replayed_dead_letter_is_unproven(load):
    """It has no row in the ledger and never will: not forged, and not proven either."""
    loaded = load(recorded(2))
    run_id = loaded.cursor.execute("SELECT id FROM runs").fetchone()[0]
    loaded.cursor.execute("DELETE FROM store.ledger WHERE run_id <> ''")
    loaded.cursor.execute("UPDATE store.ledger SET idx = 0")
    loaded.cursor.execute("UPDATE store.positions SET ledger_next = 1")
    assert "RUN_UNLISTED" in Verifier(loaded.cursor).check(VerifyRequest(), NOW_US).counts
    loaded.cursor.execute(
        "INSERT INTO store.dead_letters SELECT 1, partition, record_offset, record_offset + 1, NULL, ''::BLOB, 0, now(), '',"
        " 'replayed', now() FROM store.runs"
    )
    report = Verifier(loaded.cursor).check(VerifyRequest(), NOW_US)
    assert "RUN_UNLISTED" not in report.counts
    assert report.counts["RUN_UNPROVEN"] == 1
    alone = Verifier(loaded.cursor).check(VerifyRequest(run_id=run_id), NOW_US)
    assert (alone.exit_code, alone.counts["RUN_UNPROVEN"]) == (6, 1)


def test_the_scope_limits_what_is_looked_at(load):
    """--since and --until by the run's start."""
    loaded = load(recorded(2))
    at_us = loaded.cursor.execute("SELECT epoch_us(started_at) FROM runs").fetchone()[0]
    for since, until, runs in (
        (at_us, None, 1),
        (at_us + 1, None, 0),
        (None, at_us, 0),
        (at_us, at_us + 1, 1),
    ):
        for depth in Depth:
            request = VerifyRequest(since_us=since, until_us=until, depth=depth, sample=1)
            assert Verifier(loaded.cursor).check(request, NOW_US).runs == runs


def test_nothing_is_written(tmp_path, load):
    """On a file opened read-only every check works."""
    loaded = load(recorded(3))
    path = loaded.database.path
    loaded.close()
    with contextlib.closing(duckdb.connect(str(path), read_only=True)) as connection:
        assert Verifier(connection).check(VerifyRequest(), NOW_US).runs == 1


@pytest.mark.parametrize("depth", [Depth.FULL, Depth.SAMPLE])
def test_a_clock_that_ran_backwards_within_a_run_is_named_with_the_event(load, depth):
    """Nothing is altered: an agent of another make, or a clock put back. Told, with the first event that is older than
    the one before it, and no violation.
    """
    run = Run("back", at_us=NOW_US - 1_000_000)
    values = [run.start(), run.log(n=1), run.log(n=2)]
    run.at_us -= 500_000
    values += [run.log(n=3), run.log(n=4)]
    run.at_us += 500_000
    loaded = load([*values, run.finish(), *Run("forth", number=2, at_us=NOW_US).whole({"n": 1})])
    for options in ({"depth": depth, "sample": 2}, {"run_id": "back"}):
        report = Verifier(loaded.cursor).check(VerifyRequest(**options), NOW_US)
        jumps = [(it["run_id"], it["sequence"]) for it in report.findings if it["kind"] == Kind.CLOCK_JUMP]
        assert (report.exit_code, jumps) == (6, [("back", 3)]), report.findings
        assert set(report.counts) <= {Kind.CLOCK_JUMP, Kind.SOURCE_TAIL_UNKNOWN}
    assert Verifier(loaded.cursor).check(VerifyRequest(run_id="forth"), NOW_US).exit_code == 0
