"""What somebody with the database does to make a tampering look lawful, old, lost or unreadable; and what `verify` says then."""

import contextlib
import time

import pytest
from tests.attacks.forging import forge_ledger, forge_run, ledger_leaves
from tests.attacks.test_attacks import KEY, edit, remove_run, run_id
from tests.attacks.world import Depth, Tampered, build, names, told, violations

from skillaudit.proof import leaves, merkle
from skillaudit.proof.acts import Act, ActKind, act_line


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
