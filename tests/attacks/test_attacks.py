"""What somebody with write access to the database may do to it, and what `verify` must say. Numbers as in docs/verify.md.

Each attack works on a copy, below the product. Asserted are the names of the violations found and the exit code.
"""

import contextlib
import os
import shutil
import time
from dataclasses import replace

import orjson
import pytest
from tests.attacks.forging import forge_checkpoints, forge_ledger, forge_run, forge_seals, renumber_ledger
from tests.attacks.world import SIGNER, SOURCES, Depth, Tampered, build, names, told, violations
from tests.proof.support import signer

from skillaudit.contract.digests import (
    FINISH_FIELDS,
    START_FIELDS,
    event_digest,
    event_salt,
    field_salt,
    log_header,
    run_hash,
)
from skillaudit.contract.wire import RunFinished, RunStarted, parse_record
from skillaudit.proof import leaves
from skillaudit.proof.checkpoint import Checkpoint
from skillaudit.proof.policy import AnchorPolicy, Grade, Policy
from skillaudit.proof.verify import Verifier, VerifyRequest, runs
from skillaudit.proof.verify.runs import DRAWN_ONE_BY_ONE_MAX

KEY = 5
"""The run that is attacked: finished, sealed, anchored."""


def run_id(t, key=KEY):
    return t.one("SELECT id FROM store.runs WHERE run_key = ?", key)


def found(t, *expected, **options):
    """The whole record and, where the attack is on a run that is still there, that run alone."""
    report = t.verify(**options)
    assert violations(report) == set(expected), told(report)
    assert report.exit_code == 5
    return report


def test_the_untampered_record_is_proven(world, attacked):
    """Nothing to find, in each depth: exit code 0 to the grade `anchored`."""
    for depth in Depth:
        report = attacked.verify(depth=depth, sample=5)
        assert (report.exit_code, names(report)) == (0, {"RUN_ABANDONED"}), told(report)
        assert (report.grade, report.runs, report.sources, report.started) == ("anchored", 36, SOURCES, 36)
    alone = attacked.verify(run_id=run_id(attacked))
    assert (alone.exit_code, alone.run["integrity"], alone.run["completeness"]) == (0, "verified", "complete")


# 1 to 6: content


def edit(t, column, value, seq=3, key=KEY):
    t.events(f"UPDATE {{events}} SET {column} = {value} WHERE run_key = ? AND sequence = ?", key, seq)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("payload", "replace(payload, 'thought', 'thouhgt')"),
        ("created_at", "created_at + INTERVAL 1 MICROSECOND"),
        ("event_type", "'error'"),
        ("tag", "0"),
    ],
    ids=["1 payload", "5 time", "6 type", "28 tag"],
)
def test_an_event_edited_in_place_is_named(attacked, column, value):
    """1, 5, 6, 28: content, time, type or tag of one event."""
    edit(attacked, column, value)
    report = found(attacked, "EVENT_ALTERED")
    assert [(f["run_id"], f["sequence"]) for f in report.findings if f["kind"] == "EVENT_ALTERED"] == [
        (run_id(attacked), 3)
    ]
    alone = found(attacked, "EVENT_ALTERED", run_id=run_id(attacked))
    assert alone.run["integrity"] == "altered"


def rewrite(t):
    edit(t, "payload", '\'{"content":"nothing happened"}\'')
    return forge_run(t, KEY)


def test_a_run_rewritten_with_its_tags_is_named_by_the_ledger(attacked):
    """2: payload edited, tags and head recomputed."""
    rewrite(attacked)
    report = found(attacked, "RUN_REWRITTEN")
    assert report.findings[0]["run_id"] == run_id(attacked)
    found(attacked, "RUN_REWRITTEN", run_id=run_id(attacked))
    found(attacked, "RUN_REWRITTEN", depth=Depth.QUICK)


def test_a_run_rewritten_with_its_ledger_rows_is_named_by_the_seal(attacked):
    """3: and the ledger's head."""
    forge_ledger(attacked, run_id(attacked), rewrite(attacked))
    report = found(attacked, "LEDGER_ALTERED")
    assert "journal_idx" in report.findings[0]
    found(attacked, "LEDGER_ALTERED", run_id=run_id(attacked))


def rewrite_everything(t):
    forge_ledger(t, run_id(t), rewrite(t))
    forge_seals(t)
    forge_checkpoints(t)


def test_a_history_rewritten_with_its_journal_is_named_by_the_anchor(attacked):
    """4: and the roots in the journal, signed again with the right key."""
    rewrite_everything(attacked)
    report = found(attacked, "JOURNAL_REWRITTEN", "CHECKPOINT_FORK")
    assert "leaf" in told(report)


def test_without_an_anchor_a_careful_rewrite_passes_and_the_grade_says_so(attacked):
    """What `--explain` admits: who has database and key and no anchor to fear is believed, to the grade `signed`."""
    rewrite_everything(attacked)
    policy = Policy(grade=Grade.SIGNED, keys=(SIGNER.verifier.text,))
    report = attacked.verify(policy=policy)
    assert (report.exit_code, report.grade) == (0, "signed")
    assert attacked.verify(policy=replace(policy, grade=Grade.ANCHORED)).exit_code == 6


# 7 to 13: numbers


def delete(t, condition, key=KEY):
    t.events(f"DELETE FROM {{events}} WHERE run_key = {key} AND {condition}")


def test_a_deleted_event_is_missing(attacked):
    """7: an event out of the middle."""
    delete(attacked, "sequence = 3")
    report = found(attacked, "EVENT_MISSING")
    assert (report.findings[0]["run_id"], report.findings[0]["sequence"]) == (run_id(attacked), 3)
    found(attacked, "EVENT_MISSING", depth=Depth.QUICK)
    found(attacked, "EVENT_MISSING", run_id=run_id(attacked))


def test_a_deleted_event_that_the_run_admits_is_incomplete_and_altered(attacked):
    """7: and the row says that it never came: the verdict is not ok, whatever the words."""
    delete(attacked, "sequence = 3")
    attacked.sql(
        "UPDATE store.runs SET missing = '3', completeness = 'incomplete', events_stored = events_stored - 1 WHERE run_key = ?",
        KEY,
    )
    report = attacked.verify()
    assert (report.exit_code, names(report)) == (4, {"RUN_INCOMPLETE", "RUN_ABANDONED"}), told(report)


def test_renumbered_events_are_altered_from_there_on(attacked):
    """8: the rest renumbered."""
    delete(attacked, "sequence = 3")
    attacked.events("UPDATE {events} SET sequence = sequence - 1 WHERE run_key = ? AND sequence > 3", KEY)
    report = found(attacked, "EVENT_ALTERED", "EVENT_MISSING")
    assert min(f["sequence"] for f in report.findings if f["kind"] == "EVENT_ALTERED") == 3


def test_a_truncated_run_is_named_with_what_the_ledger_says(attacked):
    """9: a finished run cut at #4 and made to look unfinished, everything in its row recomputed."""
    delete(attacked, "sequence >= 4")
    attacked.sql(
        "UPDATE store.runs SET finish_seq = NULL, finish_tag = NULL, head = NULL, finished_at = NULL, status = 'running',"
        " output = '', error = '', tool_calls_count = 0, runtime_us = 0, total_input_tokens = 0, total_output_tokens = 0,"
        " events_expected = NULL, events_stored = 3, completeness = 'open', liveness = 'open',"
        f" last_event_at = (SELECT max(created_at) FROM events WHERE run_key = {KEY}) WHERE run_key = ?",
        KEY,
    )
    report = attacked.verify()
    assert violations(report) == {"RUN_TRUNCATED"}, told(report)
    assert report.exit_code == 5
    assert next(f["sequence"] for f in report.findings if f["kind"] == "RUN_TRUNCATED") == 4
    assert violations(attacked.verify(run_id=run_id(attacked))) == {"RUN_TRUNCATED"}
    assert violations(attacked.verify(depth=Depth.QUICK)) == {"RUN_TRUNCATED"}


def test_an_open_run_cut_below_its_mark_is_truncated(world, attacked):
    """10: its source said that it has 7 events."""
    key = attacked.one("SELECT run_key FROM store.runs WHERE id = ?", world.abandoned)
    delete(attacked, "sequence >= 4", key)
    attacked.sql(
        "UPDATE store.runs SET events_stored = 3, known = 0, received = '0-3',"
        f" last_event_at = (SELECT max(created_at) FROM events WHERE run_key = {key}) WHERE run_key = ?",
        key,
    )
    report = attacked.verify()
    assert "RUN_TRUNCATED" in violations(report), told(report)
    assert report.exit_code == 5
    assert "the ledger says it has 7" in told(report)


def test_swapped_events_are_altered_both(attacked):
    """11: two events change places."""
    attacked.events(
        "UPDATE {events} SET sequence = 7 - sequence WHERE run_key = ? AND sequence IN (3, 4)", KEY
    )
    report = found(attacked, "EVENT_ALTERED")
    assert {f["sequence"] for f in report.findings if f["kind"] == "EVENT_ALTERED"} >= {3, 4}


def test_an_event_of_another_run_is_altered(attacked):
    """12: copied over the original, with its tag."""
    table = attacked.table_of(KEY)
    attacked.sql(
        f"UPDATE {table} AS e SET payload = o.payload, event_type = o.event_type, created_at = o.created_at, tag = o.tag"
        " FROM (SELECT * FROM events WHERE run_key = 6 AND sequence = 3) AS o WHERE e.run_key = ? AND e.sequence = 3",
        KEY,
    )
    report = found(attacked, "EVENT_ALTERED")
    assert {f.get("sequence") for f in report.findings if f["kind"] == "EVENT_ALTERED"} == {3}


def test_an_event_after_the_finish_is_extra(attacked):
    """13: appended behind the finish; and one given a number that is taken."""
    end = attacked.one("SELECT finish_seq FROM store.runs WHERE run_key = ?", KEY)
    table = attacked.table_of(KEY)
    copy = f"INSERT INTO {table} SELECT run_key, ?, event_type, created_at, tag, payload FROM events WHERE run_key = ? AND sequence = 3"
    attacked.sql(copy, end + 1, KEY)
    assert "EVENT_EXTRA" in violations(found(attacked, "EVENT_EXTRA", "EVENT_ALTERED", "COLUMN_ALTERED"))
    attacked.events("DELETE FROM {events} WHERE run_key = ? AND sequence > ?", KEY, end)
    attacked.sql(copy, 3, KEY)
    assert "EVENT_EXTRA" in violations(attacked.verify())


def test_an_event_of_no_run_is_extra(attacked):
    """Events of a run key that nothing has."""
    attacked.sql(
        f"INSERT INTO {attacked.table_of(KEY)} BY NAME SELECT * REPLACE (999 AS run_key) FROM events WHERE run_key = ? AND sequence = 1",
        KEY,
    )
    found(attacked, "EVENT_EXTRA")


# 14 to 20: runs


def remove_run(t, key=KEY):
    t.events("DELETE FROM {events} WHERE run_key = ?", key)
    t.sql("DELETE FROM store.runs WHERE run_key = ?", key)


def test_a_deleted_run_is_missing(attacked):
    """14: run and events deleted."""
    gone = run_id(attacked)
    remove_run(attacked)
    report = found(attacked, "RUN_MISSING")
    assert report.findings[0]["run_id"] == gone
    found(attacked, "RUN_MISSING", run_id=gone)


def test_a_deleted_run_row_leaves_events_without_a_run(attacked):
    """14: only its row."""
    attacked.sql("DELETE FROM store.runs WHERE run_key = ?", KEY)
    found(attacked, "RUN_MISSING", "EVENT_EXTRA")


def remove_listed_run(t):
    gone = run_id(t)
    remove_run(t)
    t.sql("DELETE FROM store.ledger WHERE run_id = ?", gone)


def test_a_run_deleted_with_its_ledger_rows_leaves_holes(attacked):
    """15: holes in the ledger, and a number that its source gave."""
    remove_listed_run(attacked)
    report = found(attacked, "LEDGER_ENTRY_MISSING")
    assert "RUN_NEVER_ARRIVED" in names(report)


def test_a_run_deleted_with_everything_is_named_by_anchor_and_numbering(attacked):
    """16: ledger renumbered, sealed and signed again."""
    remove_listed_run(attacked)
    renumber_ledger(attacked)
    forge_seals(attacked, shrink=True)
    forge_checkpoints(attacked)
    report = found(attacked, "JOURNAL_REWRITTEN", "CHECKPOINT_FORK", "LEDGER_ALTERED")
    assert "RUN_NEVER_ARRIVED" in names(report)


def dropped(kind, seq):
    """A broker's administrator: all records of a source's run vanish before anybody reads them."""
    victims = set()

    def drop(key, value):
        event = parse_record(value)
        if isinstance(event, RunStarted) and (event.source_id, event.source_seq) == (f"{kind:032x}", seq):
            victims.add(key)
        return key in victims

    return drop


def test_a_run_dropped_before_the_ledger_is_named_by_its_source(tmp_path):
    """17: everything else is consistent and anchored."""
    lossy = build(tmp_path / "w", drop=dropped(1, 5))
    t = Tampered(lossy, lossy.path)
    report = t.verify()
    t.close()
    assert (report.exit_code, violations(report)) == (4, set())
    missing = [f for f in report.findings if f["kind"] == "RUN_NEVER_ARRIVED"]
    assert [(f["source_id"], f["source_seq"]) for f in missing] == [(f"{1:032x}", 5)]


def test_a_run_that_is_listed_and_never_came_is_told_once(tmp_path):
    """Its source numbered it, and lists it: one run, one finding, with its number, its id and how many events it had."""
    lost = []

    def drop(key, value):
        record = parse_record(value)
        if isinstance(record, RunStarted) and record.skill_id == "abandoned":
            lost.append(key)
        return key in lost

    lossy = build(tmp_path / "w", drop=drop)
    t = Tampered(lossy, lossy.path)
    report = t.verify()
    t.close()
    [missing] = [f for f in report.findings if f["kind"] == "RUN_NEVER_ARRIVED"]
    assert (report.exit_code, report.counts["RUN_NEVER_ARRIVED"], report.never_arrived) == (4, 1, 1)
    assert (missing["source_id"], missing["source_seq"], missing["run_id"]) == (
        f"{1:032x}",
        1,
        lost[0].decode(),
    )
    assert "7 events" in missing["says"]


@pytest.mark.parametrize("sample", [DRAWN_ONE_BY_ONE_MAX, DRAWN_ONE_BY_ONE_MAX + 1])
def test_a_run_that_is_drawn_is_counted_once(attacked, sample):
    """`--sample` looks at numbers of all runs and at the content of some, one by one or, of many, set-wise: what both see is
    one finding.
    """
    edit(attacked, "payload", "replace(payload, 'thought', 'thouhgt')")
    attacked.events("DELETE FROM {events} WHERE run_key = ? AND sequence = 2", 8)
    attacked.sql("UPDATE store.runs SET missing = '3', completeness = 'incomplete' WHERE run_key = 11")
    attacked.events("DELETE FROM {events} WHERE run_key = ? AND sequence = 3", 11)
    whole, drawn = attacked.verify(), attacked.verify(depth=Depth.SAMPLE, sample=sample)
    assert {"EVENT_ALTERED", "EVENT_MISSING", "RUN_INCOMPLETE", "RUN_ABANDONED"} <= names(whole)
    assert drawn.counts == whole.counts
    assert (drawn.altered, drawn.incomplete) == (whole.altered, whole.incomplete)
    assert (drawn.runs, drawn.events) == (whole.runs, whole.events)
    assert (drawn.hashed_runs, drawn.hashed_events) == (whole.hashed_runs, whole.hashed_events)


def test_a_large_sample_is_computed_set_wise(attacked, monkeypatch):
    """No run is read by itself, as many are computed as were asked for, and of the others numbers and heads are looked at."""
    monkeypatch.setattr(runs, "DRAWN_ONE_BY_ONE_MAX", 4)
    told = set()
    for sample, one_by_one in ((4, True), (5, False)):
        told.clear()
        request = VerifyRequest(depth=Depth.SAMPLE, sample=sample, seed=3)
        with contextlib.closing(attacked.connection.cursor()) as cursor:
            verifier = Verifier(cursor, lambda what, *_: told.add(what))
            report = verifier.check(request, time.time_ns() // 1000)
        assert (report.runs, report.hashed_runs, "runs drawn" in told) == (36, sample, one_by_one)


def test_a_sources_last_runs_dropped_are_its_missing_tail(tmp_path):
    """18: the source's last word counts 12."""
    lossy = build(tmp_path / "w", drop=dropped(2, 12))
    t = Tampered(lossy, lossy.path)
    report = t.verify()
    t.close()
    assert (report.exit_code, violations(report)) == (4, set())
    tail = [f for f in report.findings if f["kind"] == "SOURCE_TAIL_MISSING"]
    assert [(f["source_id"], f["source_seq"]) for f in tail] == [(f"{2:032x}", 12)]


def forge_new_run(t, *, source_seq):
    """A run that never was: a copy of one under another id, consistent in itself."""
    t.sql(
        "INSERT INTO store.runs BY NAME SELECT * REPLACE (900 AS run_key, 'forged' AS id, ?::UBIGINT AS run_hash, ? AS source_seq)"
        " FROM store.runs WHERE run_key = ?",
        run_hash("forged"), source_seq, KEY,
    )  # fmt: skip
    t.sql(
        f"INSERT INTO {t.table_of(KEY)} BY NAME SELECT * REPLACE (900 AS run_key) FROM events WHERE run_key = ?",
        KEY,
    )
    return forge_run(t, 900)


def test_a_forged_run_is_in_no_ledger(attacked):
    """19: a run that came by no record."""
    forge_new_run(attacked, source_seq=99)
    found(attacked, "RUN_UNLISTED")
    found(attacked, "RUN_UNLISTED", run_id="forged")


def test_a_forged_run_in_the_ledger_takes_a_number_twice(attacked):
    """20: with ledger rows, in a number that its alleged source gave to another."""
    seq = attacked.one("SELECT source_seq FROM store.runs WHERE run_key = ?", KEY)
    heads = forge_new_run(attacked, source_seq=seq)
    last = max(heads)
    for kind, events in (("start", 1), ("finish", last)):
        attacked.sql(
            "INSERT INTO store.ledger SELECT partition, (SELECT max(idx) + 1 FROM store.ledger WHERE partition = l.partition),"
            " kind, 'forged', source_id, source_seq, ?, ?, received_us,"
            " (SELECT max(record_offset) FROM store.ledger WHERE partition = l.partition),"
            " ('0x' || left(sha256('forged'), 16))::UBIGINT FROM store.ledger AS l WHERE run_id = ? AND kind = ?",
            events, heads[events], run_id(attacked), kind,
        )  # fmt: skip
    attacked.sql(
        "UPDATE store.positions AS p SET ledger_next = (SELECT count(*) FROM store.ledger WHERE partition = p.partition)"
    )
    report = attacked.verify()
    assert violations(report) >= {"SOURCE_EQUIVOCATES"}, told(report)
    assert report.exit_code == 5


# 21: the whole database


def test_an_older_copy_is_rolled_back(world, tmp_path):
    """21: the database was put back to a copy of before the last seal."""
    path = tmp_path / "older.duckdb"
    shutil.copy(world.older, path)
    t = Tampered(world, path)
    report = found(t, "JOURNAL_ROLLED_BACK")
    t.close()
    assert "has 3 leaves, anchored are 4" in told(report)


# 25 to 29: salts, redactions, sources


def test_content_taken_out_without_an_act_is_named(attacked):
    """25: the digest is stored, the salt gone, all as a redaction would; no act does that."""
    forge_redaction(attacked, "no-such-act")
    report = found(attacked, "REDACTED_WITHOUT_ACT")
    assert report.findings[0]["sequence"] == 3
    found(attacked, "REDACTED_WITHOUT_ACT", run_id=run_id(attacked))


def forge_redaction(t, act_id, seq=3):
    """All that a redaction does, but the act."""
    salt = t.one("SELECT lower(hex(salt)) FROM store.runs WHERE run_key = ?", KEY)
    at_us, kind, payload = t.sql(
        "SELECT epoch_us(created_at), event_type, payload FROM events WHERE run_key = ? AND sequence = ?",
        KEY,
        seq,
    )[0]
    digest = event_digest(event_salt(salt, seq), log_header(seq, at_us, kind), payload.encode())
    t.sql("INSERT INTO store.redactions VALUES (?, ?, NULL, ?, ?)", KEY, seq, bytes.fromhex(digest), act_id)
    end = t.one("SELECT finish_seq FROM store.runs WHERE run_key = ?", KEY)
    left = [(number, None, event_salt(salt, number)) for number in range(end + 1) if number != seq]
    for number, fields in ((0, START_FIELDS), (end, FINISH_FIELDS)):
        left += [(number, name, field_salt(salt, number, name)) for name in fields]
    for number, name, own in left:
        t.sql("INSERT INTO store.run_salts VALUES (?, ?, ?, ?)", KEY, number, name, own.decode())
    t.sql("UPDATE store.runs SET salt = NULL WHERE run_key = ?", KEY)
    edit(t, "payload", f"""'{{"_redacted":{{"act":"{act_id}"}}}}'""", seq)


def test_something_put_in_the_place_of_redacted_content_is_named(attacked):
    """25: what was taken out leaves its mark, and nothing else may stand there."""
    forge_redaction(attacked, "no-such-act")
    edit(attacked, "payload", '\'{"content":"harmless"}\'')
    found(attacked, "REDACTED_WITHOUT_ACT", "EVENT_ALTERED")


def test_the_header_of_a_redacted_event_stays_proven(attacked):
    """26: its time or type edited: the head is no longer the ledger's."""
    forge_redaction(attacked, "no-such-act")
    edit(attacked, "event_type", "'tool_call'")
    assert "RUN_REWRITTEN" in violations(attacked.verify())


def test_an_overwritten_salt_alters_every_event(attacked):
    """27."""
    attacked.sql(
        "UPDATE store.runs SET salt = unhex('00112233445566778899aabbccddeeff') WHERE run_key = ?", KEY
    )
    report = attacked.verify()
    assert violations(report) == {"EVENT_ALTERED", "RUN_REWRITTEN"} - ({"RUN_REWRITTEN"} - violations(report))
    assert report.counts["EVENT_ALTERED"] > 5


def test_a_forgotten_salt_is_no_redaction(attacked):
    """27: the salt deleted: nothing can be checked, and nothing says why."""
    attacked.sql("UPDATE store.runs SET salt = NULL WHERE run_key = ?", KEY)
    found(attacked, "EVENT_ALTERED")


def test_a_moved_source_number_is_named(attacked):
    """29: the run claims another number of its source."""
    attacked.sql("UPDATE store.runs SET source_seq = source_seq + 1 WHERE run_key = ?", KEY)
    found(attacked, "SOURCE_ALTERED", "EVENT_ALTERED")
    assert "SOURCE_ALTERED" in violations(attacked.verify(depth=Depth.QUICK))


@pytest.mark.parametrize(
    "change",
    [
        "runs_started = runs_started - 1, claimed = claimed - 1, due = due - 1",
        "state = 'live'",
        "claimed = NULL",
        "due = NULL",
    ],
)
def test_a_sources_own_row_is_held_against_its_last_word(attacked, change):
    """29: the counts that make a missing tail show."""
    attacked.sql(f"UPDATE store.sources SET {change} WHERE source_id = ?", f"{2:032x}")
    found(attacked, "SOURCE_ALTERED")


def test_a_deleted_source_is_named(attacked):
    attacked.sql("DELETE FROM store.sources WHERE source_id = ?", f"{2:032x}")
    found(attacked, "SOURCE_ALTERED")


def test_a_writers_run_made_to_look_bare_is_named(attacked):
    """Nothing proves a bare Storage's run: so a run must not become one."""
    attacked.sql(
        "UPDATE store.runs SET by_storage = TRUE, salt = NULL, head = NULL, source_id = '', source_seq = 0, completeness = 'unproven'"
        " WHERE run_key = ?", KEY,
    )  # fmt: skip
    found(attacked, "RUN_REWRITTEN")


@pytest.mark.parametrize(
    "change",
    [
        "run_hash = run_hash + 1",
        "events_expected = events_expected - 1",
        "events_stored = events_stored - 1",
        "completeness = 'declared-loss'",
        "last_event_at = last_event_at + INTERVAL 1 SECOND",
        "received_at = received_at - INTERVAL 1 DAY",
        "liveness = 'open'",
        "conflicts = 1",
    ],
)
def test_a_column_that_can_be_computed_is(attacked, change):
    """Columns that no digest covers and that lists show: they must be what the records say."""
    attacked.sql(f"UPDATE store.runs SET {change} WHERE run_key = ?", KEY)
    for depth in (Depth.FULL, Depth.QUICK):
        assert attacked.verify(depth=depth).exit_code == 5


def test_a_state_that_is_none_is_no_abandoned_run(world, attacked):
    """A word that no release writes passed as `abandoned`, which is proven where the source closed with the run listed."""
    attacked.sql("UPDATE store.runs SET liveness = 'abando~ed' WHERE id = ?", world.abandoned)
    for options in ({}, {"depth": Depth.QUICK}, {"run_id": world.abandoned}):
        found(attacked, "COLUMN_ALTERED", **options)


# Journal, checkpoints, anchors


def test_two_checkpoints_of_one_size_are_a_fork(attacked):
    """A signer that tells two stories of one size."""
    size = attacked.one("SELECT max(size) FROM store.checkpoints")
    note = Checkpoint(SIGNER.verifier.name, size, bytes(32)).signed([SIGNER])
    attacked.sql("INSERT INTO store.checkpoints VALUES (?, ?, 0, '{}')", size, note)
    found(attacked, "CHECKPOINT_FORK", "JOURNAL_REWRITTEN")


def test_a_bad_signature_is_named(attacked):
    """A signature in the name of a known key that is not over this text."""
    attacked.sql(
        "UPDATE store.checkpoints SET note = replace(note, chr(10) || size || chr(10), chr(10) || (size + 1) || chr(10)) WHERE size = 2"
    )
    assert "SIGNATURE_BAD" in violations(attacked.verify())


def test_an_unknown_key_proves_nothing(attacked):
    """Signed by somebody, but by none of the policy's keys."""
    stranger = signer(seed=9)
    policy = Policy(
        grade=Grade.ANCHORED,
        keys=(stranger.verifier.text,),
        anchors=(AnchorPolicy(f"file:{attacked.anchor}"),),
    )
    report = attacked.verify(policy=policy)
    assert report.exit_code == 6
    assert names(report) >= {"UNKNOWN_KEY", "NOT_ANCHORED", "NOT_SIGNED"}
    assert report.grade == "self"


def test_a_seal_taken_out_leaves_a_gap(attacked):
    """A seal replaced by one of nothing, signed again: the next seal does not go on where the one before ended."""
    leaf = leaves.SealLeaf(
        leaves.parse_seal(bytes(attacked.one("SELECT leaf FROM store.journal WHERE idx = 1"))).at_us
    ).encode()
    attacked.sql("UPDATE store.journal SET leaf = ? WHERE idx = 1", leaf)
    forge_checkpoints(attacked)
    assert violations(attacked.verify()) >= {"SEAL_GAP", "JOURNAL_REWRITTEN"}


def test_a_journal_leaf_deleted_is_named(attacked):
    attacked.sql("DELETE FROM store.journal WHERE idx = 1")
    assert violations(attacked.verify()) >= {"JOURNAL_ALTERED"}


def test_a_stale_anchor_proves_too_little(world, attacked):
    """Older than the policy allows: whoever deletes everything, anchors included, is missed by his silence."""
    anchor = attacked.path.parent / "old-anchor"
    shutil.copytree(world.anchor, anchor)
    then = time.time() - 9_000
    for path in anchor.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))
    attacked.anchor = anchor
    report = attacked.verify()
    assert (report.exit_code, names(report)) == (6, {"ANCHOR_STALE", "RUN_ABANDONED"})


def test_an_anchor_object_older_than_its_neighbour_is_named(world, attacked):
    """An object put into the anchor after its successor."""
    anchor = attacked.path.parent / "anchor"
    shutil.copytree(world.anchor, anchor)
    files = sorted(path for path in (anchor / "objects").rglob("*") if path.is_file())
    os.utime(files[-1], (1, 1))
    attacked.anchor = anchor
    assert violations(attacked.verify()) == {"CHECKPOINT_OLDER"}


def test_an_anchor_with_foreign_content_is_named(world, attacked):
    anchor = attacked.path.parent / "anchor"
    shutil.copytree(world.anchor, anchor)
    files = sorted(path for path in (anchor / "objects").rglob("*") if path.is_file())
    files[-1].write_bytes(b"nothing of ours")
    attacked.anchor = anchor
    assert violations(attacked.verify()) == {"ANCHOR_ALTERED"}


def test_an_anchor_out_of_reach_leaves_a_check_undone(world, attacked):
    policy = replace(world.policy, anchors=(AnchorPolicy("kafka://127.0.0.1:1/skillaudit.checkpoints"),))
    report = attacked.verify(policy=policy)
    assert report.exit_code == 7
    assert "ANCHOR_UNREACHABLE" in names(report)


def test_an_empty_anchor_proves_nothing(world, attacked):
    empty = attacked.path.parent / "empty"
    empty.mkdir()
    policy = replace(world.policy, anchors=(AnchorPolicy(f"file:{empty}"),))
    report = attacked.verify(policy=policy)
    assert (report.exit_code, "NOT_ANCHORED" in names(report)) == (6, True)


def test_an_expected_host_that_was_never_heard_is_missed(world, attacked):
    report = attacked.verify(policy=replace(world.policy, expected_hosts=("agent-that-never-was",)))
    assert (report.exit_code, "SOURCE_MISSING" in names(report)) == (4, True)


# Records


def test_a_replay_with_other_content_is_an_equivocation(tmp_path):
    """A finish under a known run's id, with another head: both are kept, and it is never silent."""
    made = build(tmp_path / "w")
    from tests.attacks.world import Store

    store = Store(made.path)
    finish = next(
        record
        for record in reversed(made.topic.records)
        if isinstance(parse_record(record.value), RunFinished)
    )
    members = orjson.loads(finish.value)
    members |= {"output": "another answer", "tag": "0123456789abcdef", "head": "ab" * 32}
    store.take(made.topic, made.topic.append([(finish.key, orjson.dumps(members))]))
    store.seal(f"file:{made.anchor}")
    store.close()
    t = Tampered(made, made.path)
    report = t.verify()
    t.close()
    assert (report.exit_code, "RUN_EQUIVOCATES" in violations(report)) == (5, True)


def test_a_record_altered_in_flight_does_not_match_its_tag(tmp_path):
    """Bytes changed in Kafka, before the consumer: the tag is the agent's."""

    def drop(key, value):
        return False

    made = build(
        tmp_path / "w", drop=drop, alter=lambda key, value: value.replace(b'"thought 3', b'"thouhgt 3', 1)
    )
    t = Tampered(made, made.path)
    report = t.verify()
    t.close()
    assert (report.exit_code, violations(report)) == (5, {"EVENT_ALTERED"})


def test_a_clock_that_jumped_is_told(tmp_path):
    """A host's clock was an hour ahead: nothing is lost or altered, and its times are not to be believed."""
    made = build(tmp_path / "w", late_us=3_600_000_000)
    t = Tampered(made, made.path)
    report = t.verify()
    t.close()
    assert report.exit_code == 6
    assert "CLOCK_JUMP" in names(report)
