"""What somebody writes into the database to excuse a run that nothing proves, is cut, or hidden: the check of that run says no
less than the check of all.
"""

import contextlib
import time
from dataclasses import replace

import pytest
from tests.attacks.forging import forge_run
from tests.attacks.test_attacks import KEY, delete, edit, run_id
from tests.attacks.world import Collected, Store, Tampered, Topic, World, build, names, told, violations

from skillaudit.contract.errors import RunNotFoundError
from skillaudit.contract.records import SkillRun
from skillaudit.contract.sources import SourceRecord
from skillaudit.producer import Sink
from skillaudit.proof.acts import Act, ActKind, act_line
from skillaudit.proof.policy import Policy
from skillaudit.proof.verify import Depth, Verifier, VerifyRequest
from skillaudit.proof.verify.logged import ControlReading, control_members, parse_control
from skillaudit.proof.verify.witness import read_anchors

REPLAYED = """
    INSERT INTO store.dead_letters
    VALUES (1, 'skillaudit.events/0', 1, 2, encode(?), NULL, 0, now(), 'was no event then', 'replayed', now())
"""
BARE = """
    UPDATE store.runs
    SET by_storage = true, salt = NULL, head = NULL, source_id = '', source_seq = 0, completeness = 'unproven'
    WHERE run_key = ?
"""


def both(t, run):
    """The check of all, and of the run alone."""
    return t.verify(), t.verify(run_id=run)


def dead_letter(t):
    t.sql(REPLAYED, run_id(t))


def cut(t):
    partition = t.one("SELECT partition FROM store.runs WHERE run_key = ?", KEY)
    t.sql("INSERT INTO store.ledger_cuts VALUES (?, 1, ?, NULL, NULL, 0)", partition, 1 << 40)


def earlier_release(t):
    partition = t.one("SELECT partition FROM store.runs WHERE run_key = ?", KEY)
    t.sql("INSERT INTO store.ledger_from VALUES (?, 1000000, ?)", partition, KEY + 1)


def bare_storage(t):
    t.sql(BARE, KEY)


@pytest.mark.parametrize("excuse", [dead_letter, cut, earlier_release, bare_storage])
def test_a_run_that_is_said_to_need_no_row_is_held_against_the_whole_ledger(attacked, excuse):
    """Rewritten, its rows deleted, and a reason put there why it has none: rows are gone, and maybe its own."""
    run = run_id(attacked)
    edit(attacked, "payload", '\'{"content":"nothing happened"}\'')
    forge_run(attacked, KEY)
    attacked.sql("DELETE FROM store.ledger WHERE run_id = ?", run)
    excuse(attacked)
    for report in both(attacked, run):
        assert (report.exit_code, "LEDGER_ENTRY_MISSING" in violations(report)) == (5, True), told(report)


def test_a_forged_run_is_not_excused_by_a_cut_that_nobody_signed(attacked):
    """Every row of the ledger is there, and the run has none."""
    forged = "forged-run"
    columns = (
        "99 AS run_key, ? AS id, CAST('0x' || left(sha256(?), 16) AS UBIGINT) AS run_hash, 1 AS record_offset"
    )
    attacked.sql(
        f"INSERT INTO store.runs BY NAME SELECT * REPLACE ({columns}) FROM store.runs WHERE run_key = ?",
        forged, forged, KEY,
    )  # fmt: skip
    attacked.sql("DELETE FROM store.ledger_cuts")
    cut(attacked)
    for report in both(attacked, forged):
        assert (report.exit_code, "LEDGER_ALTERED" in violations(report)) == (5, True), told(report)


@pytest.fixture
def listed_elsewhere(tmp_path):
    """An open run with six logs in one partition, and in another its source, which says so."""
    store, log = Store(tmp_path / "audit.duckdb"), Collected(f"{1:032x}")
    sink = Sink(log)
    run = sink.start_run(SkillRun(skill_id="s"))
    for number in range(6):
        run.step(f"thought {number}")
    source = sink._source_here()
    source.beat(time.time_ns() // 1000, list(source.open.values()), None)
    now_us = time.time_ns() // 1000
    for partition, of_source in (("t/0", False), ("t/1", True)):
        values = [value for _, value in log.items if (b'"type":"source.' in value) is of_source]
        store.materializer.apply(
            [SourceRecord(partition, n, n + 1, now_us + n, None, value) for n, value in enumerate(values)]
        )
    store.close()
    path = store.database.path
    with contextlib.closing(Tampered(World(path, tmp_path, Topic(), path, ""), path)) as t:
        yield t


@pytest.mark.parametrize("said_us", [0, 1], ids=["none", "too early"])
def test_how_far_a_partition_was_read_excuses_nothing_that_the_ledger_proves(listed_elsewhere, said_us):
    """An open run cut below what its source counted: with no time, or one before rows of the partition itself, it read as if
    its last events were on their way.
    """
    t = listed_elsewhere
    [(run, key)] = t.sql("SELECT id, run_key FROM store.runs")
    delete(t, "sequence >= 4", key)
    t.sql(
        "UPDATE store.runs SET events_stored = 3, known = 0, received = '0-3', missing = '', completeness = 'open',"
        " last_event_at = (SELECT max(created_at) FROM events)"
    )
    t.sql("UPDATE store.positions SET read_to_us = read_to_us + 3600000000")
    assert "RUN_TRUNCATED" in violations(t.verify(run_id=run, policy=Policy()))
    t.sql("UPDATE store.positions SET read_to_us = ? WHERE partition = 't/0'", said_us)
    for options in ({}, {"run_id": run}):
        report = t.verify(policy=Policy(), **options)
        assert (report.exit_code, "RUN_TRUNCATED" in violations(report)) == (5, True), told(report)


class Dropping:
    """All records of one run, by its key: a broker's administrator keeps them."""

    def __init__(self):
        self.key = None

    def __call__(self, key, value):
        if b'"skill_id":"abandoned"' in value:
            self.key = key
        return key == self.key


def test_a_run_of_which_only_its_source_speaks_never_arrived(tmp_path):
    """Nothing was received, so nothing is missing of what was: 4, by either check; later, or not yet due, it is unknown."""
    drop = Dropping()
    world = build(tmp_path / "listed", drop=drop)
    run = drop.key.decode()
    with contextlib.closing(Tampered(world, world.path)) as t:
        for report in both(t, run):
            assert (report.exit_code, "RUN_NEVER_ARRIVED" in names(report)) == (4, True), told(report)
            assert [it["run_id"] for it in report.findings if it["kind"] == "RUN_NEVER_ARRIVED"] == [run]
            assert not violations(report)
        source = t.one("SELECT source_id FROM store.ledger WHERE run_id = ?", run)
        t.sql("UPDATE store.sources SET due = 0 WHERE source_id = ?", source)
        for report in both(t, run):
            assert "SOURCE_TAIL_UNKNOWN" in names(report), told(report)
        t.sql(
            "UPDATE store.ledger SET source_seq = 2 WHERE run_id = ?", run
        )  # a number under which another run came
        for report in both(t, run):
            assert (report.exit_code, "SOURCE_EQUIVOCATES" in names(report)) == (5, True), told(report)


def test_a_run_that_views_hide_is_not_merely_not_found(attacked):
    """What is told of the record is altered: that wins over there being no such run."""
    run = run_id(attacked)
    for view, name in (("runs", "id"), ("ledger", "run_id")):
        attacked.sql(
            f"CREATE OR REPLACE VIEW main.{view} AS SELECT * FROM store.{view} WHERE {name} <> '{run}'"
        )
    report = attacked.verify(run_id=run)
    assert (report.exit_code, "SCHEMA_ALTERED" in violations(report)) == (5, True), told(report)
    assert report.run["run_id"] == run
    assert list(report.lines())


def test_a_run_that_never_was_is_not_found(attacked):
    """Where nothing is altered."""
    with pytest.raises(RunNotFoundError):
        attacked.verify(run_id="never-was")


def test_a_control_log_that_is_not_there_is_an_empty_one_as_long_as_no_act_is_known(attacked):
    """Before the first act nobody has written a log. As soon as the database knows of one, its absence leaves a check undone."""
    log = ControlReading(partition="control/0", error="there is no control.jsonl", absent=True)
    assert parse_control(control_members(log)) == log
    report = attacked.verify(control=log, depth=Depth.QUICK)
    assert (report.exit_code, names(report)) == (0, {"RUN_ABANDONED"}), told(report)
    line = act_line(Act(act_id="h", kind=ActKind.HOLD, actor="dpo", at_us=1, scope={"all": True})).decode()
    attacked.sql("INSERT INTO store.acts VALUES ('control/0', 0, 'h', 'hold', ?, NULL, 1)", line)
    assert "NOT_CHECKED" in names(attacked.verify(control=log, depth=Depth.QUICK))
    attacked.sql("DELETE FROM store.acts")
    attacked.sql(
        "INSERT INTO store.positions BY NAME SELECT * REPLACE ('control/0' AS partition, 5 AS next_offset,"
        " 0 AS ledger_next) FROM store.positions LIMIT 1"
    )
    assert "NOT_CHECKED" in names(attacked.verify(control=log, depth=Depth.QUICK))


def test_an_anchor_that_anybody_may_append_to_is_told_by_the_journals_leaves(world, attacked):
    """What its newest object says of the time it is from decides whether a newer one is looked for: forged, it is named."""
    [reading] = read_anchors(world.policy, newest_only=True)
    newest = reading.checkpoints[0]
    there = replace(reading, uri="kafka:skillaudit.checkpoints")
    forged = replace(there, checkpoints=(newest._replace(leaf_hashes=(bytes(32), *newest.leaf_hashes[1:])),))
    for run in (None, run_id(attacked)):
        request = VerifyRequest(policy=world.policy, anchors=(there,), run_id=run)
        with contextlib.closing(attacked.connection.cursor()) as cursor:
            assert Verifier(cursor).check(request, time.time_ns() // 1000).exit_code == 0
            report = Verifier(cursor).check(replace(request, anchors=(forged,)), time.time_ns() // 1000)
        assert (report.exit_code, violations(report)) == (5, {"ANCHOR_ALTERED"}), told(report)
