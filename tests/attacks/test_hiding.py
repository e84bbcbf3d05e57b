"""What somebody with the database does to make a tampering look lawful, old, lost or unreadable; and what `verify` says then."""

import contextlib
import shutil
import time
from dataclasses import replace

import duckdb
import pytest
from tests.attacks.forging import forge_ledger, forge_run, ledger_leaves
from tests.attacks.test_attacks import KEY, edit, remove_run, run_id
from tests.attacks.world import Depth, Store, Tampered, build, names, told, violations

from skillaudit.proof import leaves, merkle
from skillaudit.proof.acts import Act, ActKind, act_line
from skillaudit.proof.verify.logged import ControlReading, control_members, logged_act, parse_control


def bury(t, purge_id):
    """Delete the run and leave a tombstone in its place."""
    t.sql(
        "INSERT INTO store.tombstones BY NAME SELECT run_key, run_hash, id, topic, source_id, source_seq, liveness, events_stored,"
        " missing, lost, conflicts, last_event_at, started_at, received_at, ?::BIGINT AS purge_id, 0::BIGINT AS records_dropped,"
        " '' AS violates FROM store.runs WHERE run_key = ?",
        purge_id, KEY,
    )  # fmt: skip
    remove_run(t)


def test_an_act_appended_behind_what_is_anchored_proves_nothing(attacked):
    """A purge of one's own, in the journal without seal or signature: it must not pass as lawful."""
    gone = run_id(attacked)
    partition = attacked.one("SELECT partition FROM store.runs WHERE run_key = ?", KEY)
    now_us = time.time_ns() // 1000
    act = Act(
        act_id="own", kind=ActKind.PURGE, actor="ops", at_us=now_us, scope={"runs": [gone]}, policy={"name": "requested"},
        positions={partition: 1 << 40},
    )  # fmt: skip
    line = act_line(act)
    idx = attacked.one("SELECT count(*) FROM store.journal")
    attacked.sql("INSERT INTO store.journal VALUES (?, ?, 'act', ?)", idx, now_us, leaves.encode_act(line))
    attacked.sql(
        "INSERT INTO store.acts VALUES ('local/0', 0, 'own', 'purge', ?, ?, ?)", line.decode(), idx, now_us
    )
    attacked.sql("INSERT INTO store.purges VALUES (77, now(), now(), 'requested', 1, 9, 'own')")
    bury(attacked, 77)
    report = attacked.verify()
    assert (report.exit_code, names(report)) == (6, {"ACT_UNPROVEN", "RUN_ABANDONED"}), told(report)
    alone = attacked.verify(run_id=gone)
    assert (alone.exit_code, names(alone)) == (6, {"ACT_UNPROVEN", "PURGED"}), told(alone)


def forge_signed_purge(t):
    """Before the next seal: an act of one's own appended, the run taken out, and whoever seals next signs all of it."""
    gone = run_id(t)
    partition = t.one("SELECT partition FROM store.runs WHERE run_key = ?", KEY)
    act = Act(
        act_id="own", kind=ActKind.PURGE, actor="ops", at_us=time.time_ns() // 1000, scope={"runs": [gone]},
        policy={"name": "requested"}, positions={partition: 1 << 40},
    )  # fmt: skip
    line = act_line(act)
    idx = t.one("SELECT count(*) FROM store.journal")
    t.sql("INSERT INTO store.journal VALUES (?, ?, 'act', ?)", idx, act.at_us, leaves.encode_act(line))
    row = ["skillaudit.control/0", 3, "own", "purge", line.decode(), idx, act.at_us]
    t.sql("INSERT INTO store.acts VALUES (?, ?, ?, ?, ?, ?, ?)", *row)
    t.sql("INSERT INTO store.purges VALUES (77, now(), now(), 'requested', 1, 9, 'own')")
    bury(t, 77)
    note = t.sql("SELECT note FROM store.checkpoints ORDER BY size DESC LIMIT 1")[0][0]
    t.connection.execute("CHECKPOINT")
    t.connection.close()
    store = Store(t.path)
    store.state.note = note
    store.seal(f"file:{t.anchor}")
    store.close()
    t.connection = duckdb.connect(str(t.path))
    return line


def test_an_act_that_was_signed_and_never_ordered_is_not_in_the_control_log(world, tmp_path):
    """Journal, signature and anchor agree: what shows it is the log in which every act stands before it is done."""
    path, anchor = tmp_path / "copy.duckdb", tmp_path / "anchor"
    shutil.copy(world.path, path)
    shutil.copytree(world.anchor, anchor)
    with contextlib.closing(Tampered(world, path, anchor)) as t:
        line = forge_signed_purge(t)
        assert t.verify().exit_code == 0, "as --explain says"
        log = ControlReading(partition="skillaudit.control/0")
        report = t.verify(control=log)
        assert (report.exit_code, violations(report)) == (5, {"ACT_UNLISTED"}), told(report)
        ordered = replace(log, acts=(logged_act(line, 3),))
        assert t.verify(control=ordered).exit_code == 0
        other = replace(log, acts=(logged_act(line.replace(b"ops", b"ceo"), 3),))
        assert violations(t.verify(control=other)) == {"ACT_UNLISTED"}


def test_an_act_of_the_control_log_that_was_read_past_and_not_recorded_is_named(attacked):
    """A hold, say, that somebody wants forgotten; one behind what was read is still to come."""
    act = Act(act_id="h", kind=ActKind.HOLD, actor="dpo", at_us=1, scope={"all": True})
    log = ControlReading(partition="skillaudit.control/0", acts=(logged_act(act_line(act), 4),))
    assert attacked.verify(control=log).exit_code == 0
    attacked.sql(
        "INSERT INTO store.positions BY NAME SELECT * REPLACE ('skillaudit.control/0' AS partition, 5 AS next_offset,"
        " 0 AS ledger_next) FROM store.positions LIMIT 1"
    )
    report = attacked.verify(control=log)
    assert (report.exit_code, violations(report)) == (5, {"ACT_ALTERED"}), told(report)
    assert "skillaudit.control/0#4" in told(report)


def test_a_cut_in_the_control_log_is_told_and_nobodys_act(attacked):
    """No database applies it, so that it is in none; who may write there is somebody's question."""
    act = Act(act_id="c", kind=ActKind.CUT, actor="x", at_us=1, scope={"t/0": 1}, positions={"t/0": 9})
    log = ControlReading(partition="skillaudit.control/0", acts=(logged_act(act_line(act), 4),))
    attacked.sql(
        "INSERT INTO store.positions BY NAME SELECT * REPLACE ('skillaudit.control/0' AS partition, 5 AS next_offset,"
        " 0 AS ledger_next) FROM store.positions LIMIT 1"
    )
    report = attacked.verify(control=parse_control(control_members(log)))
    assert (report.exit_code, names(report)) == (0, {"INCIDENT", "RUN_ABANDONED"}), told(report)
    assert "skillaudit.control/0#4" in told(report)


def test_a_control_log_that_cannot_be_read_leaves_a_check_undone(attacked):
    report = attacked.verify(control=ControlReading(partition="c/0", error="the cluster is away"))
    assert (report.exit_code, "NOT_CHECKED" in names(report)) == (7, True)
    assert "the cluster is away" in told(report)


BROKEN = "CREATE OR REPLACE VIEW main.{0} AS SELECT * REPLACE (error('bad block') AS {1}) FROM store.{0}"


NEWER = "UPDATE store.meta SET value = '99' WHERE name = 'schema_version'"


@pytest.mark.parametrize(
    ("view", "column", "part"),
    [
        ("sources", "host", "the sources"),
        ("checkpoints", "note", "the journal"),
        ("positions", "next_offset", "the ledger"),
    ],
)
def test_a_part_that_cannot_be_checked_says_so_and_the_others_go_on(attacked, view, column, part):
    """One unreadable table: exit code 7 and its cause, not the end of the check; what the others find counts as ever."""
    attacked.sql(BROKEN.format(view, column))
    attacked.sql(NEWER)  # whose views nobody here knows: else this one is a violation by itself
    report = attacked.verify()
    assert (report.exit_code, violations(report), report.grade) == (7, set(), "self"), told(report)
    assert f"could not check {part}" in told(report)
    assert "bad block" in told(report)
    assert next(report.lines()).startswith("integrity     part  36 runs")
    edit(attacked, "payload", "replace(payload, 'thought', 'thouhgt')")
    report = attacked.verify()
    assert (report.exit_code, violations(report)) == (5, {"EVENT_ALTERED"}), told(report)
    assert f"could not check {part}" in told(report)


def test_runs_that_cannot_be_read_are_not_called_checked(attacked):
    """Nor does it keep what was found elsewhere from being told."""
    attacked.sql(
        "CREATE OR REPLACE VIEW main.events AS SELECT * REPLACE (CASE WHEN run_key = 9 THEN error('bad block') ELSE payload END"
        " AS payload) FROM (SELECT * FROM store.events_hot_a UNION ALL SELECT * FROM store.events_sealed)"
    )
    attacked.sql("UPDATE store.ledger SET head = NULL WHERE idx = 3")
    report = attacked.verify()
    assert (report.exit_code, "LEDGER_ALTERED" in violations(report)) == (5, True), told(report)
    assert "could not check the runs with keys" in told(report)


def test_a_number_that_is_stored_was_not_refused(attacked):
    """A refused record leaves a run whose head can't be computed: that must not hide a rewritten one."""
    edit(attacked, "payload", '\'{"content":"nothing happened"}\'', 4)
    head = attacked.one("SELECT head FROM store.runs WHERE run_key = ?", KEY)
    forge_run(attacked, KEY)
    refused = b'{"v":1,"type":"run.refused","run_id":"%b","seq":3}' % run_id(attacked).encode()
    attacked.sql("INSERT INTO store.kept VALUES (1, ?, ?, 'skillaudit.events/0', 1, 0)", KEY, refused)
    attacked.sql(
        "UPDATE store.runs SET lost = '3', completeness = 'declared-loss', refused = TRUE, head = ? WHERE run_key = ?",
        head, KEY,
    )  # fmt: skip
    for options in ({}, {"depth": Depth.QUICK}, {"run_id": run_id(attacked)}):
        report = attacked.verify(**options)
        assert report.exit_code == 5, told(report)


def test_an_incremental_check_compares_some_of_the_old_seals_again(attacked):
    """What was changed, with its ledger rows, behind an earlier check: all seals of a short journal are compared again."""
    before = attacked.verify()
    edit(attacked, "payload", '\'{"content":"nothing happened"}\'')
    forge_ledger(attacked, run_id(attacked), forge_run(attacked, KEY))
    report = attacked.verify(sealed_from=before.sealed_to)
    assert (report.exit_code, violations(report)) == (5, {"LEDGER_ALTERED"}), told(report)


@pytest.mark.parametrize(
    "change", ["leaf = 'no text \\xFF'::BLOB", "idx = 9223372036854775807", "leaf = ''::BLOB"]
)
def test_a_journal_that_cannot_be_read_is_altered(attacked, change):
    """Bytes that are no text, numbers that can't be counted on from: named, not given up on."""
    attacked.sql(f"UPDATE store.journal SET {change} WHERE idx = 1")
    report = attacked.verify()
    assert (report.exit_code, "JOURNAL_ALTERED" in violations(report)) == (5, True), told(report)


def test_a_number_of_the_ledger_beyond_all_numbers_is_named(attacked):
    attacked.sql("UPDATE store.ledger SET idx = 9223372036854775807 WHERE idx = 3")
    report = attacked.verify()
    assert (report.exit_code, "LEDGER_ENTRY_MISSING" in violations(report)) == (5, True), told(report)


def test_a_record_older_than_the_ledger_can_not_be_claimed_at_will(attacked):
    """Runs of an earlier release have no rows and are unproven; so a deleted or forged run must not become one of these."""
    partition = attacked.one("SELECT partition FROM store.runs WHERE run_key = ?", KEY)
    attacked.sql("INSERT INTO store.ledger_from VALUES (?, 1, ?)", partition, KEY + 1)
    bury(attacked, 77)
    report = attacked.verify()
    assert (report.exit_code, violations(report)) == (5, {"LEDGER_ALTERED"}), told(report)
    attacked.sql("UPDATE store.ledger_from SET record_offset = 1000000")
    assert violations(attacked.verify()) == {"LEDGER_ALTERED"}


@pytest.mark.parametrize(
    "record",
    [b"\xff\x00", b"no record", b'{"type":"run.refused","seq":"first"}', b'{"type":"run.refused"}'],
    ids=["no text", "no JSON", "no number", "none"],
)
def test_a_kept_record_that_cannot_be_read_hides_nothing(attacked, record):
    """What is kept of unread or refused records is asked for numbers; what has none must not end the check."""
    attacked.sql("INSERT INTO store.kept VALUES (1, ?, ?, 'x/0', 1, 0)", KEY, record)
    edit(attacked, "payload", '\'{"content":"nothing happened"}\'', 4)
    for options in ({}, {"depth": Depth.QUICK}, {"run_id": run_id(attacked)}):
        report = attacked.verify(**options)
        expected = set() if options == {"depth": Depth.QUICK} else {"EVENT_ALTERED"}
        assert violations(report) == expected, told(report)


def test_a_source_of_which_only_runs_arrived_is_unknown(tmp_path):
    """Its own words dropped on the way, nobody knows how many runs there were: never exit code 0."""

    def own_word(key, value):
        return b'"type":"source.' in value and key == b"0" * 31 + b"2"

    world = build(tmp_path / "unknown", drop=own_word)
    with contextlib.closing(Tampered(world, world.path)) as t:
        report = t.verify()
        assert (report.exit_code, "SOURCE_TAIL_UNKNOWN" in names(report)) == (6, True), told(report)


def test_a_seal_appended_behind_what_is_anchored_stands_for_no_other(attacked):
    """The true seal is moved away in time and one of one's own takes its place: the true one is found anyway."""
    edit(attacked, "payload", '\'{"content":"nothing happened"}\'')
    forge_ledger(attacked, run_id(attacked), forge_run(attacked, KEY))
    partition = attacked.one("SELECT partition FROM store.runs WHERE run_key = ?", KEY)
    rows = attacked.one("SELECT count(*) FROM store.ledger WHERE partition = ?", partition)
    root = merkle.root_of(b"".join(map(merkle.leaf_hash, ledger_leaves(attacked, partition, 0, rows))))
    idx, at_us = attacked.sql("SELECT count(*), min(at_us) FROM store.journal")[0]
    seal = leaves.SealLeaf(at_us, (leaves.SealedRange(partition, 0, rows, root, 1 << 40),)).encode()
    attacked.sql("UPDATE store.journal SET at_us = 1")
    attacked.sql("INSERT INTO store.journal VALUES (?, ?, 'seal', ?)", idx, at_us, seal)
    for options in ({}, {"run_id": run_id(attacked)}):
        report = attacked.verify(**options)
        assert report.exit_code == 5, told(report)


TWO_FACED = """CREATE OR REPLACE VIEW main.events AS
SELECT e.run_key, e.sequence, e.event_type,
    CASE WHEN contains(current_query(), 'tag') THEN coalesce(o.payload, e.payload) ELSE e.payload END AS payload,
    e.created_at, e.tag
FROM (
    SELECT * FROM store.events_sealed UNION ALL SELECT * FROM store.events_hot_a UNION ALL SELECT * FROM store.events_hot_b
) AS e LEFT JOIN store.originals AS o ON e.run_key = o.run_key AND e.sequence = o.sequence"""
SCHEMA_ATTACKS = {
    "two-faced view": TWO_FACED,
    "all runs arrived": "CREATE OR REPLACE VIEW main.source_arrivals AS SELECT source_id, unnest(range(1, 99)) AS source_seq FROM store.sources",
    "a function of the engine's name": "CREATE MACRO sha256(x) AS system.main.sha256(x)",
    "a view in a table's place": "ALTER TABLE store.runs RENAME TO runs_; CREATE VIEW store.runs AS SELECT * FROM store.runs_",
    "a computed column": "CREATE TABLE store.holds_ (act_id VARCHAR GENERATED ALWAYS AS (current_query()), x INTEGER)",
    "a view that is gone": "DROP VIEW main.source_gaps",
}


@pytest.mark.parametrize("attack", SCHEMA_ATTACKS)
def test_views_that_answer_a_check_and_a_reader_differently_never_zero(attacked, attack):
    """No row says so: the event that readers are told is another one than the one that is checked."""
    attacked.sql(
        "CREATE TABLE store.originals AS SELECT run_key, sequence, payload FROM events WHERE run_key = ?", KEY
    )
    if attack == "two-faced view":
        edit(attacked, "payload", '\'{"content":"nothing happened"}\'')
    for statement in SCHEMA_ATTACKS[attack].split(";"):
        attacked.sql(statement)
    for options in ({}, {"depth": Depth.QUICK}, {"run_id": run_id(attacked)}):
        report = attacked.verify(**options)
        assert (report.exit_code, "SCHEMA_ALTERED" in names(report)) == (5, True), told(report)


def test_what_an_analyst_adds_is_no_violation(attacked):
    """Views, tables and functions by names of their own take the place of nothing."""
    attacked.sql("CREATE VIEW main.long_runs AS SELECT id FROM main.runs WHERE events_stored > 5")
    attacked.sql("CREATE TABLE main.notes (note VARCHAR); CREATE MACRO minutes_of(x) AS x / 60")
    assert attacked.verify().exit_code == 0


def test_a_newer_schema_is_not_vouched_for(attacked):
    """Nobody knows its views: 7, never 0."""
    attacked.sql(NEWER)
    report = attacked.verify()
    assert (report.exit_code, names(report) - {"RUN_ABANDONED"}) == (7, {"NOT_CHECKED"}), told(report)
