"""Lawful acts pass and are counted; acts that broke a rule, and effects without an act, are named for ever."""

import contextlib
import shutil
from dataclasses import replace

import pytest
from tests.attacks.forging import forge_checkpoints
from tests.attacks.world import Depth, Store, Tampered, names, told, violations

from skillaudit.consumer import planning
from skillaudit.consumer.planning import (
    plan_erase,
    plan_hold,
    plan_purge,
    plan_purge_of,
    plan_redact,
    plan_release,
)
from skillaudit.consumer.recording import perform
from skillaudit.contract.admin import ActOrder, HoldScope
from skillaudit.contract.digests import event_salt
from skillaudit.proof import leaves

KEY = 5
ORDER = ActOrder(actor="dpo", reason="asked for by the person concerned")
FORCED = replace(ORDER, force=True)


class Record:
    """A copy of the record and of its anchor, to be changed by the product first and below it then."""

    def __init__(self, world, directory):
        self.world = world
        self.path = directory / "copy.duckdb"
        self.anchor = directory / "anchor"
        shutil.copy(world.path, self.path)
        shutil.copytree(world.anchor, self.anchor)
        self._stack = contextlib.ExitStack()

    def run_id(self, key=KEY):
        with contextlib.closing(Tampered(self.world, self.path)) as t:
            return t.one("SELECT id FROM store.runs WHERE run_key = ?", key)

    def act(self, *plans):
        """Performed in order, then sealed, signed and anchored."""
        store = Store(self.path)
        with contextlib.closing(store.cursor()) as cursor:
            store.state.note = cursor.execute(
                "SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1"
            ).fetchone()[0]
        try:
            reports = [perform(store.materializer, plan) for plan in plans]
            store.seal(f"file:{self.anchor}")
        finally:
            store.close()
        return reports

    def open(self):
        return self._stack.enter_context(contextlib.closing(Tampered(self.world, self.path, self.anchor)))

    def close(self):
        self._stack.close()


@pytest.fixture
def record(world, tmp_path):
    made = Record(world, tmp_path)
    yield made
    made.close()


def test_a_purge_by_an_act_is_lawful_and_counted(record):
    """22: the run is gone, its ledger rows stay, and verify says by which act."""
    gone = record.run_id()
    record.act(plan_purge_of(ORDER, [gone]))
    t = record.open()
    report = t.verify()
    assert (report.exit_code, report.purged, report.runs) == (0, 1, 35), told(report)
    alone = t.verify(run_id=gone)
    assert (alone.exit_code, alone.run["completeness"], names(alone)) == (0, "purged", {"PURGED"})
    assert alone.grade == "anchored"


def test_a_redaction_by_an_act_is_lawful_and_counted(record):
    """24: one event's payload and one field; everything else of the run is proven as before."""
    run = record.run_id()
    record.act(plan_redact(ORDER, run, 3, None), plan_redact(ORDER, run, 0, "inputs"))
    t = record.open()
    report = t.verify()
    assert (report.exit_code, report.redacted > 0, names(report)) == (
        0,
        True,
        {"REDACTED", "RUN_ABANDONED"},
    ), told(report)
    alone = t.verify(run_id=run)
    assert (alone.exit_code, alone.run["integrity"], alone.run["redactions"]) == (0, "verified", 2)


def test_an_erased_run_is_lawful_and_its_head_is_proven(record):
    """All content and the salt are gone; digests and head are there."""
    record.act(plan_erase(ORDER, [record.run_id()]))
    report = record.open().verify()
    assert (report.exit_code, names(report)) == (0, {"REDACTED", "RUN_ABANDONED"}), told(report)


def test_an_edit_beside_a_redaction_is_found(record):
    """What is left of a redacted run is as proven as any other."""
    record.act(plan_redact(ORDER, record.run_id(), 3, None))
    t = record.open()
    t.events("UPDATE {events} SET payload = '{}' WHERE run_key = ? AND sequence = 5", KEY)
    assert "EVENT_ALTERED" in violations(t.verify())


def test_a_salt_put_back_beside_a_redaction_is_found(record):
    """It went with the content, so that nobody can find that by trying: one that stands there again is not its own."""
    run_id = record.run_id()
    record.act(plan_redact(ORDER, run_id, 3, None))
    t = record.open()
    t.sql("UPDATE store.runs SET salt = '\\x01'::BLOB WHERE run_key = ?", KEY)
    for options in ({}, {"depth": Depth.QUICK}, {"run_id": run_id}):
        report = t.verify(**options)
        assert (violations(report), report.exit_code) == ({"COLUMN_ALTERED"}, 5), told(report)


def test_a_digest_put_in_the_place_of_a_redacted_one_is_found(record):
    record.act(plan_redact(ORDER, record.run_id(), 3, None))
    t = record.open()
    t.sql("UPDATE store.redactions SET digest = unhex(repeat('ab', 32))")
    assert violations(t.verify()) >= {"EVENT_ALTERED"}


def test_a_purge_over_a_hold_is_shown_for_ever(record):
    """23: forced, with an act: allowed, and a violation."""
    run = record.run_id()
    record.act(plan_hold(ORDER, HoldScope(runs=(run,))), plan_purge_of(FORCED, [run]))
    report = record.open().verify()
    assert (report.exit_code, violations(report)) == (5, {"PURGE_VIOLATES_HOLD"}), told(report)


SKILL = "skill-2"
EVER_US = 1 << 60


def held(record):
    """Ids of the runs of one skill, in their order."""
    with contextlib.closing(Tampered(record.world, record.path)) as t:
        return [row[0] for row in t.sql("SELECT id FROM store.runs WHERE skill_id = ? ORDER BY 1", SKILL)]


def accused(report, kind="PURGE_VIOLATES_HOLD"):
    return sorted(it.get("run_id", "") for it in report.findings if it["kind"] == kind)


@pytest.mark.parametrize(
    "scope", [HoldScope(skill_id=SKILL), HoldScope(everything=True)], ids=["skill", "everything"]
)
def test_a_purge_over_a_hold_is_shown_whatever_its_tombstone_says(record, scope):
    """The act says what it went over; what is left of the run can be rewritten, and its skill is gone with it."""
    run = held(record)[1]
    record.act(plan_hold(ORDER, scope), plan_purge_of(FORCED, [run]))
    t = record.open()
    for change in ("violates = violates", "violates = ''", "violates = 'minimum'", "started_at = NULL"):
        t.sql(f"UPDATE store.tombstones SET {change}")
        for options in ({}, {"run_id": run}):
            report = t.verify(**options)
            assert (report.exit_code, accused(report)) == (5, [run]), told(report)


def test_a_purge_by_age_over_a_hold_names_each_run_that_was_held(record):
    """And none of the others, which went with them lawfully."""
    runs = held(record)
    record.act(plan_hold(ORDER, HoldScope(skill_id=SKILL)), plan_purge(FORCED, EVER_US))
    t = record.open()
    assert t.one("SELECT count(*) FROM store.tombstones") == 36
    t.sql("UPDATE store.tombstones SET violates = ''")
    report = t.verify()
    assert (report.exit_code, accused(report), report.purged) == (5, runs, 36 - len(runs)), told(report)


def test_a_purge_before_the_minimum_age_is_shown_whatever_its_tombstone_says(record):
    """The act's own word: also where no broker's time says how young the run was."""
    run = record.run_id()
    record.act(plan_purge_of(FORCED, [run], min_days=1))
    t = record.open()
    assert '"minimum":{"runs":1,"at":' in t.one("SELECT act FROM store.acts")
    t.sql("UPDATE store.tombstones SET violates = '', started_at = make_timestamptz(0)")
    report = t.verify()
    assert (report.exit_code, accused(report, "PURGE_VIOLATES_MINIMUM")) == (5, [run]), told(report)


def test_runs_that_the_act_has_no_room_for_are_counted(record, monkeypatch):
    """How many there are it always says."""
    monkeypatch.setattr(planning, "VIOLATIONS_BYTES_PER_ACT_MAX", 0)
    runs = held(record)
    record.act(plan_hold(ORDER, HoldScope(skill_id=SKILL)), plan_purge_of(FORCED, runs))
    t = record.open()
    assert accused(t.verify()) == runs
    t.sql("UPDATE store.tombstones SET violates = ''")
    report = t.verify()
    assert (report.exit_code, accused(report)) == (5, [""]), told(report)
    assert f"{len(runs)} more runs that were held" in told(report)
    assert t.verify(run_id=runs[0]).exit_code == 5


def test_an_act_that_does_not_say_what_it_goes_over_is_read_as_before(record):
    """An earlier release's: what is left of the run says it."""
    run = held(record)[0]

    def silent(materializer):
        plan = plan_purge_of(FORCED, [run])(materializer)
        return replace(plan, acts=[replace(act, policy={"force": True}) for act in plan.acts])

    record.act(plan_hold(ORDER, HoldScope(skill_id=SKILL)), silent)
    report = record.open().verify()
    assert (report.exit_code, accused(report)) == (5, [run]), told(report)


@pytest.mark.parametrize("word", ["'x'", "NULL", "'minimum'"])
def test_what_is_left_of_a_lawfully_purged_run_says_nothing_against_it(record, word):
    """A word that no purge writes is a change, and one that it writes accuses."""
    record.act(plan_purge_of(ORDER, [record.run_id()]))
    t = record.open()
    t.sql(f"UPDATE store.tombstones SET violates = {word}")
    report = t.verify()
    expected = "PURGE_VIOLATES_MINIMUM" if word == "'minimum'" else "COLUMN_ALTERED"
    assert (report.exit_code, violations(report)) == (5, {expected}), told(report)


def test_a_purge_after_the_release_of_a_hold_is_lawful(record):
    run = record.run_id()
    held = record.act(plan_hold(ORDER, HoldScope(runs=(run,))))[0].acts[0]
    record.act(plan_release(ORDER, held), plan_purge_of(ORDER, [run]))
    report = record.open().verify()
    assert (report.exit_code, report.purged) == (0, 1), told(report)


def test_a_purge_of_a_young_run_is_shown_for_ever(record):
    """Younger than the minimum: by the act's own policy, and by the verifier's even where the act's says nothing."""
    run = record.run_id()
    record.act(plan_purge_of(FORCED, [run], min_days=1))
    t = record.open()
    report = t.verify()
    assert (report.exit_code, violations(report)) == (5, {"PURGE_VIOLATES_MINIMUM"}), told(report)


def test_the_verifiers_own_minimum_counts(record):
    record.act(plan_purge_of(ORDER, [record.run_id()]))
    t = record.open()
    policy = replace(
        record.world.policy, anchors=(replace(record.world.policy.anchors[0], uri=f"file:{record.anchor}"),)
    )
    assert t.verify(policy=policy).exit_code == 0
    report = t.verify(policy=replace(policy, min_retention_days=183))
    assert (report.exit_code, violations(report)) == (5, {"PURGE_VIOLATES_MINIMUM"}), told(report)


def test_a_redaction_over_a_hold_is_shown_for_ever(record):
    run = record.run_id()
    record.act(plan_hold(ORDER, HoldScope(runs=(run,))), plan_redact(FORCED, run, 3, None))
    report = record.open().verify()
    assert (report.exit_code, violations(report)) == (5, {"REDACTION_VIOLATES_HOLD"}), told(report)


def test_a_tombstone_without_an_act_is_no_purge(record):
    """A forged purge: rows deleted by hand, and a tombstone that names an act of something else."""
    other = record.run_id(7)
    record.act(plan_purge_of(ORDER, [other]))
    t = record.open()
    row = t.sql("SELECT run_key, run_hash, id, source_id, source_seq FROM store.runs WHERE run_key = ?", KEY)[
        0
    ]
    t.sql("CREATE TEMP TABLE forged AS SELECT * FROM store.tombstones")
    t.sql("UPDATE forged SET run_key = ?, run_hash = ?, id = ?, source_id = ?, source_seq = ?", *row)
    t.sql("INSERT INTO store.tombstones SELECT * FROM forged")
    t.events("DELETE FROM {events} WHERE run_key = ?", KEY)
    t.sql("DELETE FROM store.runs WHERE run_key = ?", KEY)
    report = t.verify()
    assert (report.exit_code, violations(report)) == (5, {"RUN_MISSING"}), told(report)
    alone = t.verify(run_id=row[2])
    assert (alone.exit_code, violations(alone)) == (5, {"RUN_MISSING"})


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE store.acts SET act = replace(act, 'dpo', 'ceo')",
        "UPDATE store.acts SET kind = 'export'",
        "UPDATE store.acts SET act_id = 'other'",
        "DELETE FROM store.acts",
        "UPDATE store.holds SET released_by = 'x'",
        "DELETE FROM store.holds",
        "UPDATE store.holds SET scope = '{\"all\":true}'",
    ],
)
def test_an_act_is_what_the_journal_holds(record, change):
    """Neither an act nor a hold can be changed, taken away or explained away in the database alone."""
    record.act(plan_hold(ORDER, HoldScope(runs=(record.run_id(),))))
    t = record.open()
    t.sql(change)
    report = t.verify()
    assert (report.exit_code, violations(report)) == (5, {"ACT_ALTERED"}), told(report)


def test_an_act_rewritten_in_the_journal_is_named_by_the_anchor(record):
    """The hold rewritten where it is proven, everything signed again."""
    record.act(plan_hold(ORDER, HoldScope(runs=(record.run_id(),))))
    t = record.open()
    idx, line = t.sql("SELECT journal_idx, act FROM store.acts")[0]
    line = line.replace("dpo", "ceo")
    t.sql("UPDATE store.acts SET act = ?", line)
    t.sql("UPDATE store.journal SET leaf = ? WHERE idx = ?", leaves.encode_act(line.encode()), idx)
    forge_checkpoints(t)
    assert violations(t.verify()) == {"JOURNAL_REWRITTEN", "CHECKPOINT_FORK"}


def test_an_act_that_waits_for_its_place_in_the_journal_is_unproven(record):
    """A command that only reads applies what it finds in the log and leaves the journal to the service."""
    gone = record.run_id()
    store = Store(record.path)
    try:
        store.materializer.acting.journal = False
        perform(store.materializer, plan_purge_of(ORDER, [gone]))
    finally:
        store.close()
    t = record.open()
    report = t.verify()
    assert report.purged == 1
    assert (report.exit_code, names(report)) == (6, {"ACT_UNPROVEN", "RUN_ABANDONED"}), told(report)
    alone = t.verify(run_id=gone)
    assert (alone.exit_code, violations(alone)) == (6, set()), told(alone)


@pytest.mark.parametrize("own", [True, False])
def test_a_salt_that_should_not_be_kept_is_named(record, own):
    """Of a run that has its own they follow from that; of a place that was taken out the content could be guessed by it."""
    if not own:
        record.act(plan_redact(ORDER, record.run_id(), 2, None))
    t = record.open()
    salt = t.one("SELECT lower(hex(salt)) FROM store.runs WHERE run_key = ?", KEY) or "ab" * 16
    t.sql("INSERT INTO store.run_salts VALUES (?, 2, NULL, ?)", KEY, event_salt(salt, 2).decode())
    report = t.verify()
    assert violations(report) == {"COLUMN_ALTERED"}, told(report)
    assert ("has its own salt" if own else "could be guessed") in told(report)


def test_salts_of_no_run_are_named(record):
    t = record.open()
    t.sql("INSERT INTO store.run_salts VALUES (999, 2, 'inputs', ?)", "ab" * 16)
    assert violations(t.verify()) == {"COLUMN_ALTERED"}
