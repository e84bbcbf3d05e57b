"""A run whose start never came, purged: lawful by an act that names it, and a finding by none."""

import contextlib

import pytest
from tests.attacks.test_lawful import SELF, Fleet, Later
from tests.attacks.world import DAY_US, TOPIC, Depth, names, told, violations

from skillaudit.consumer.planning import plan_hold, plan_purge, plan_purge_of
from skillaudit.consumer.recording import perform, record_acts
from skillaudit.contract.admin import ActOrder, HoldScope
from skillaudit.contract.records import SkillRun
from skillaudit.contract.wire import RunFinished, RunStarted, parse_record
from skillaudit.proof.acts import parse_act

OPS, FORCED = ActOrder(actor="ops"), ActOrder(actor="ops", force=True)
LEDGERS = {"nothing": set(), "a finish": {"finish"}, "listings": {"progress", "closed"}}
"""What the ledger has of it, and by which rows."""


@pytest.fixture
def fleet(tmp_path):
    made = Fleet(tmp_path)
    yield made
    made.close()


def query(fleet, text, *parameters):
    with contextlib.closing(fleet.opened().cursor()) as cursor:
        return cursor.execute(text, list(parameters)).fetchall()


def make_orphan(fleet, has="a finish"):
    """Some runs, and one of which no start came; returns its id and its start."""
    fleet.record()
    writer = fleet.sink.start_run(SkillRun(skill_id="s"))
    for step in range(4):
        writer.step(f"thought {step}")
    if has == "listings":
        fleet.beat()
    else:
        writer.finish(output="done")
    if has != "nothing":
        fleet.sink.close()
    items = fleet.fresh()
    start = [item for item in items if isinstance(parse_record(item[1]), RunStarted)][-1]
    finish = [item for item in items if isinstance(parse_record(item[1]), RunFinished)][-1]
    fleet.take([item for item in items if item not in (start, finish if has == "nothing" else None)])
    run_id = start[0].decode()
    kinds = {row[0] for row in query(fleet, "SELECT kind FROM ledger WHERE run_id = ?", run_id)}
    assert kinds == LEDGERS[has]
    return run_id, start


def purge_old(fleet):
    """By age: the orphan is old, and no run is."""
    materializer = fleet.opened().materializer
    with materializer.transaction("make it old") as cursor:
        cursor.execute("UPDATE store.orphans SET first_us = 1_000_000")
    assert perform(materializer, plan_purge(OPS, 2_000_000, orphans=True)).runs == 1


def assert_lawful(fleet, run_id, policy=None):
    for depth in (Depth.FULL, Depth.QUICK):
        report = fleet.verify(policy, depth=depth)
        assert (report.exit_code, names(report), report.purged) == (0, set(), 1), told(report)
    alone = fleet.verify(policy, run_id=run_id)
    assert (alone.exit_code, names(alone)) == (0, {"PURGED"}), told(alone)
    assert (alone.run["completeness"], alone.run["integrity"]) == ("purged", "unchecked")
    return told(alone)


@pytest.mark.parametrize(("has", "by_age"), [*((has, False) for has in LEDGERS), ("a finish", True)], ids=str)
def test_purged_by_an_act_it_is_lawful(fleet, tmp_path, has, by_age):
    """Whatever the ledger has of it; also when its start comes then, and in a database made again of the same records."""
    run_id, start = make_orphan(fleet, has)
    fleet.seal()
    report = fleet.verify()
    assert (report.exit_code, "RUN_INCOMPLETE" in names(report)) == (4, True), told(report)
    if by_age:
        purge_old(fleet)
    else:
        perform(fleet.opened().materializer, plan_purge_of(OPS, [run_id]))
    fleet.seal()
    assert ("has nothing of it" in assert_lawful(fleet, run_id)) is (has == "nothing")
    fleet.take([start])
    fleet.seal()
    assert "still lists it" in assert_lawful(fleet, run_id)
    assert query(fleet, "SELECT id, orphan, records_dropped FROM tombstones") == [(run_id, True, 1)]
    assert_rebuilt(fleet, tmp_path / "again", run_id)


def assert_rebuilt(fleet, directory, run_id):
    """The acts first, then all records: the same ledger and tombstone."""
    same = (
        "SELECT * FROM ledger ORDER BY partition, idx",
        "SELECT * EXCLUDE (run_key, started_at, received_at, liveness, last_event_at) FROM tombstones",
    )
    acts = [parse_act(row[0].encode()) for row in query(fleet, "SELECT act FROM acts ORDER BY journal_idx")]
    first = [query(fleet, text) for text in same]
    again = Fleet(directory)
    try:
        again.topic = fleet.topic
        record_acts(again.opened().materializer, acts)
        by_partition = sorted(fleet.topic.records, key=lambda record: record.partition)
        again.opened().take(fleet.topic, by_partition)
        assert [query(again, text) for text in same] == first
        again.seal()
        assert_lawful(again, run_id)
    finally:
        again.close()


def test_a_number_that_no_listing_explains_is_still_missed(fleet):
    """What was purged had no start, so that nobody can say that the number was its own."""
    run_id, _ = make_orphan(fleet, "nothing")
    fleet.record(1)
    fleet.sink.close()
    fleet.take()
    perform(fleet.opened().materializer, plan_purge_of(OPS, [run_id]))
    fleet.seal()
    report = fleet.verify()
    assert (report.exit_code, names(report), report.purged) == (4, {"RUN_NEVER_ARRIVED"}, 1), told(report)


def forge(fleet, table, run_id, topic=TOPIC):
    """Its rows deleted by hand, and a tombstone in their place that names the first purge."""
    row = f"FROM store.{table} WHERE id = ? AND topic = ?"
    with fleet.opened().materializer.transaction("forge") as cursor:
        for events in ("store.events_hot_a", "store.events_hot_b", "store.kept"):
            cursor.execute(f"DELETE FROM {events} WHERE run_key = (SELECT run_key {row})", [run_id, topic])
        cursor.execute(
            "INSERT INTO store.tombstones BY NAME SELECT run_key, run_hash, id, topic, '' AS source_id, 0 AS source_seq,"
            " liveness, events_stored, missing, lost, conflicts, last_event_at, make_timestamptz(1) AS started_at,"
            f" 1 AS purge_id, 0 AS records_dropped, '' AS violates, TRUE AS orphan {row}",
            [run_id, topic],
        )
        cursor.execute(f"DELETE {row}", [run_id, topic])


@pytest.mark.parametrize("has", LEDGERS)
@pytest.mark.parametrize("act", ["none", "of another run", "of an age"])
def test_a_forged_tombstone_of_one_is_a_finding(fleet, has, act):
    """Its rows deleted by hand, and a tombstone that names an act that does not name it: a purge by age names whom it takes."""
    fleet.record(9)  # so that the purge by age reaches into its partition
    run_id, start = make_orphan(fleet, has)
    other = fleet.ids()[0]
    if act != "none":
        by_age = plan_purge(OPS, query(fleet, "SELECT epoch_us(max(started_at)) + 1 FROM runs")[0][0])
        perform(
            fleet.opened().materializer, plan_purge_of(OPS, [other]) if act == "of another run" else by_age
        )
    fleet.take([start] if act == "of an age" else [])
    fleet.seal()
    forge(fleet, "runs" if act == "of an age" else "orphans", run_id)
    for options in ({}, {"run_id": run_id}):
        report = fleet.verify(**options)
        assert report.exit_code == 5, told(report)
        assert violations(report) == {"RUN_MISSING"}, told(report)
        assert run_id in told(report)


def test_one_that_was_purged_excuses_nobody_elsewhere(fleet):
    """The same id in another topic is another run, and the act does not reach it there."""
    run_id, start = make_orphan(fleet)
    mirror = [it._replace(partition=it.partition.replace(TOPIC, "mirror")) for it in fleet.topic.records]
    behind = next(it for it in reversed(mirror) if it.key == start[0])
    late = {"offset": behind.offset + 100, "next_offset": behind.offset + 101, "value": start[1]}
    materializer = fleet.opened().materializer
    materializer.apply(mirror)
    materializer.apply([behind._replace(**late)])
    purge_old(fleet)
    fleet.seal()
    assert query(fleet, "SELECT topic FROM runs WHERE id = ?", run_id) == [("mirror",)]
    forge(fleet, "runs", run_id, "mirror")
    report = fleet.verify()
    assert (report.exit_code, "RUN_MISSING" in violations(report)) == (5, True), told(report)


@pytest.mark.parametrize("change", ["orphan = FALSE", "orphan = NULL", "source_seq = 4", "source_id = 'x'"])
def test_what_is_left_of_one_says_what_it_was(fleet, change):
    """A tombstone of a run that had a start is another thing."""
    run_id, start = make_orphan(fleet)
    perform(fleet.opened().materializer, plan_purge_of(OPS, [run_id]))
    if change != "orphan = NULL":
        fleet.take([start])
    fleet.seal()
    with fleet.opened().materializer.transaction("change") as cursor:
        cursor.execute(f"UPDATE store.tombstones SET {change}")
    for options in ({}, {"run_id": run_id}):
        report = fleet.verify(**options)
        assert (report.exit_code, "COLUMN_ALTERED" in violations(report)) == (5, True), told(report)


def test_a_run_that_had_a_start_was_none(fleet):
    """The ledger has its start below where the purge reached: whoever marks its tombstone contradicts that."""
    fleet.record()
    fleet.sink.close()
    fleet.take()
    gone = fleet.ids()[1]
    perform(fleet.opened().materializer, plan_purge_of(OPS, [gone]))
    fleet.seal()
    with fleet.opened().materializer.transaction("mark") as cursor:
        cursor.execute("UPDATE store.tombstones SET orphan = TRUE, source_id = '', source_seq = 0")
    for options in ({}, {"run_id": gone}):
        report = fleet.verify(**options)
        assert (report.exit_code, violations(report)) == (5, {"COLUMN_ALTERED"}), told(report)


@pytest.mark.parametrize("scope", ["its id", "any skill"])
def test_a_purge_of_one_over_a_hold_is_shown_for_ever(fleet, scope):
    """Its skill is not known, so that a hold of any covers it; whatever its tombstone says then."""
    run_id, _ = make_orphan(fleet)
    materializer = fleet.opened().materializer
    hold = HoldScope(runs=(run_id,)) if scope == "its id" else HoldScope(skill_id="other")
    perform(materializer, plan_hold(OPS, hold))
    assert perform(materializer, plan_purge_of(OPS, [run_id])).held == 1
    perform(materializer, plan_purge_of(FORCED, [run_id]))
    with materializer.transaction("wipe") as cursor:
        cursor.execute("UPDATE store.tombstones SET violates = ''")
    fleet.seal()
    report = fleet.verify()
    assert (report.exit_code, violations(report)) == (5, {"PURGE_VIOLATES_HOLD"}), told(report)
    assert report.counts["PURGE_VIOLATES_HOLD"] == 1


@pytest.mark.parametrize("later", [False, True], ids=["young", "old enough"])
def test_its_age_counts_from_its_first_record(fleet, later):
    """Not from its start, which may come when it is purged already."""
    run_id, start = make_orphan(fleet)
    materializer = fleet.opened().materializer
    if later:
        materializer.clock = Later()
        fleet.topic.late_us = -400 * DAY_US
    perform(materializer, plan_purge_of(OPS if later else FORCED, [run_id], min_days=30))
    fleet.take([start])
    fleet.seal()
    report = fleet.verify(SELF)
    broken = set() if later else {"PURGE_VIOLATES_MINIMUM"}
    assert (violations(report), report.purged) == (broken, int(later)), told(report)


def test_a_purge_of_one_that_a_later_hold_kept_went_over_nothing(fleet):
    """It said that it would go over the minimum age; a hold of some skill came into the log before it."""
    run_id, _ = make_orphan(fleet)
    materializer = fleet.opened().materializer
    plan = plan_purge_of(FORCED, [run_id], min_days=5)(materializer)
    perform(materializer, plan_hold(OPS, HoldScope(skill_id="other")))
    record_acts(materializer, plan.acts)
    fleet.seal()
    report = fleet.verify()
    assert (report.exit_code, names(report)) == (4, {"RUN_INCOMPLETE"}), told(report)
