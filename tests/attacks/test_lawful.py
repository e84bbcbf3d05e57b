"""What is lawful, or only on its way, is no violation: deliveries repeated, histories given up, topics side by side.

Each record is a small one of its own, made by the product; nothing is changed below it.
"""

import contextlib
import os
from dataclasses import replace

import orjson
import pytest
from tests.attacks.world import (
    DAY_US,
    PARTITIONS,
    SIGNER,
    TOPIC,
    Collected,
    Depth,
    Store,
    Tampered,
    Topic,
    World,
    names,
    told,
    violations,
)

from skillaudit.consumer.acts import accept_history_loss
from skillaudit.consumer.planning import plan_hold, plan_purge_of
from skillaudit.consumer.recording import perform, record_acts
from skillaudit.contract.admin import ActOrder, HoldScope
from skillaudit.contract.clock import SystemClock
from skillaudit.contract.records import SkillRun
from skillaudit.contract.wire import RunFinished, RunLog, RunStarted, SourceHeartbeat, parse_record
from skillaudit.producer import Sink
from skillaudit.producer.publisher import partition_for
from skillaudit.proof.policy import AnchorPolicy, Grade, Policy
from skillaudit.proof.verify.facts import BROKERS_APART_US_MAX

SELF = Policy()


class Fleet:
    """A store, its topic, and one source."""

    def __init__(self, directory):
        self.directory = directory
        self.topic = Topic()
        self.store = None
        self.log = Collected(f"{1:032x}")
        self.sink = Sink(self.log)
        self.sent = 0

    @property
    def path(self):
        return self.directory / "audit.duckdb"

    @property
    def policy(self):
        anchors = (AnchorPolicy(f"file:{self.directory / 'anchor'}"),)
        return Policy(grade=Grade.ANCHORED, keys=(SIGNER.verifier.text,), anchors=anchors)

    def opened(self):
        if self.store is None:
            self.store = Store(self.path)
            with contextlib.closing(self.store.cursor()) as cursor:
                row = cursor.execute("SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1").fetchone()
            self.store.state.note = row[0] if row else None
        return self.store

    def record(self, runs=3, logs=4):
        for number in range(runs):
            with self.sink.start_run(SkillRun(skill_id="s", inputs={"n": number})) as writer:
                for step in range(logs):
                    writer.step(f"thought {step}")
                writer.finish(output="done")

    def beat(self):
        source = self.sink._source_here()
        source.beat(1_800_000_000_000_000, list(source.open.values()), None)

    def fresh(self):
        items, self.sent = self.log.items[self.sent :], len(self.log.items)
        return items

    def take(self, items=None):
        self.opened().take(self.topic, self.topic.append(self.fresh() if items is None else items))

    def seal(self):
        self.opened().seal(f"file:{self.directory / 'anchor'}")

    def verify(self, policy=None, **options):
        if self.store is not None:
            self.store.close()
            self.store = None
        world = World(self.path, self.directory / "anchor", self.topic, self.path, "")
        with contextlib.closing(Tampered(world, self.path)) as t:
            return t.verify(policy=policy or self.policy, **options)

    def ids(self):
        with contextlib.closing(self.opened().cursor()) as cursor:
            return [row[0] for row in cursor.execute("SELECT id FROM runs ORDER BY run_key").fetchall()]

    def close(self):
        if self.store is not None:
            self.store.close()


@pytest.fixture
def fleet(tmp_path):
    made = Fleet(tmp_path)
    yield made
    made.close()


def test_a_heartbeat_delivered_again_after_the_last_word_changes_nothing(fleet):
    """At least once: the last heartbeat may come again behind `source.closed`, which counted more."""
    fleet.record(1)
    fleet.beat()
    fleet.record(1)
    fleet.sink.close()
    fleet.take()
    again = [item for item in fleet.log.items if isinstance(parse_record(item[1]), SourceHeartbeat)]
    fleet.take(again[-1:])
    fleet.seal()
    report = fleet.verify()
    assert (report.exit_code, names(report)) == (0, set()), told(report)


def test_one_run_id_in_two_topics_is_two_runs(fleet):
    """A topic is a namespace of its own: the same records, read from a mirror of it too, accuse nobody."""
    fleet.record()
    fleet.sink.close()
    fleet.take()
    mirror = [
        record._replace(partition=record.partition.replace(TOPIC, "mirror")) for record in fleet.topic.records
    ]
    ends = fleet.topic.ends | {name.replace(TOPIC, "mirror"): end for name, end in fleet.topic.ends.items()}
    materializer = fleet.opened().materializer
    materializer.apply(mirror, ends)
    materializer.look(ends, materializer.to_ask())
    materializer.tick(ends)
    fleet.seal()
    some = fleet.ids()[0]
    for options in ({}, {"run_id": some}):
        report = fleet.verify(**options)
        assert (report.exit_code, names(report)) == (0, set()), told(report)


def test_a_run_without_its_start_is_incomplete(fleet):
    """Of a run whose start, or all but its finish, was dropped on the way, there is no row to look at: it is missed."""
    fleet.record()
    fleet.sink.close()
    victim = next(key for key, value in fleet.log.items if isinstance(parse_record(value), RunStarted))
    kept = [
        item
        for item in fleet.log.items
        if item[0] != victim or isinstance(parse_record(item[1]), RunFinished)
    ]
    fleet.take(kept)
    fleet.seal()
    for depth in (Depth.FULL, Depth.QUICK):
        report = fleet.verify(depth=depth)
        assert (report.exit_code, names(report)) == (4, {"RUN_INCOMPLETE"}), told(report)
        assert (report.findings[0]["run_id"], report.incomplete) == (victim.decode(), 1)


def test_a_record_with_other_content_under_a_known_number_is_never_silent(fleet):
    """Not only starts and finishes: a second log of one number, with another tag, is a second statement."""
    fleet.record()
    fleet.sink.close()
    fleet.take()
    key, value = next(item for item in fleet.log.items if isinstance(parse_record(item[1]), RunLog))
    other = orjson.loads(value) | {"payload": {"content": "something else"}, "tag": "00112233aabbccdd"}
    fleet.take([(key, orjson.dumps(other))])
    fleet.seal()
    for options in ({}, {"run_id": key.decode()}):
        report = fleet.verify(**options)
        assert (report.exit_code, violations(report)) == (5, {"RUN_EQUIVOCATES"}), told(report)


class Later(SystemClock):
    """A clock that is days ahead."""

    def wall_us(self):
        return super().wall_us() + 400 * DAY_US


def test_a_purged_run_that_is_delivered_again_was_not_purged_too_early(fleet):
    """Its age counts from its first arrival."""
    fleet.record()
    fleet.sink.close()
    fleet.take()
    gone = fleet.ids()[0]
    materializer = fleet.opened().materializer
    materializer.clock = Later()
    perform(materializer, plan_purge_of(ActOrder(actor="ops"), [gone], min_days=30))
    fleet.topic.late_us = -400 * DAY_US
    fleet.take([item for item in fleet.log.items if item[0] == gone.encode()])
    fleet.seal()
    report = fleet.verify(replace(fleet.policy, min_retention_days=30))
    assert (report.exit_code, violations(report), report.purged) == (0, set(), 1), told(report)


@pytest.mark.parametrize("again", [True, False], ids=["the same records", "others"])
def test_a_history_given_up_on_purpose_is_no_altered_ledger(fleet, again):
    """The topic was made anew and that was accepted: offsets begin at 0, and the ledger's numbers go on."""
    fleet.record()
    fleet.sink.close()
    fleet.take()
    fleet.seal()
    for partition in fleet.topic.ends:
        accept_history_loss(fleet.opened().materializer, partition)
        fleet.topic.ends[partition] = 0
    report = fleet.verify(SELF)
    assert (report.exit_code, names(report)) == (0, set()), told(report)
    items = fleet.log.items
    if not again:
        fleet.log = Collected(f"{2:032x}")
        fleet.sink = Sink(fleet.log)
        fleet.record()
        fleet.sink.close()
        items = fleet.log.items
    fleet.take(items)
    for policy in (SELF, fleet.policy):
        report = fleet.verify(policy)
        assert (report.exit_code, violations(report)) == (0 if policy is SELF else 6, set()), told(report)
    fleet.seal()
    report = fleet.verify()
    assert (report.exit_code, names(report)) == (0, set()), told(report)


def test_a_run_listed_before_anything_of_it_was_read_may_be_on_its_way(fleet):
    """Partitions are read independently: a heartbeat may be read before the runs that it lists."""
    writer = fleet.sink.start_run(SkillRun(skill_id="s"))
    for step in range(6):
        writer.step(f"thought {step}")
    fleet.beat()
    items = fleet.fresh()
    heartbeat = [item for item in items if isinstance(parse_record(item[1]), SourceHeartbeat)]
    records = fleet.topic.append(heartbeat)
    rest = fleet.topic.append([item for item in items if item not in heartbeat])
    fleet.opened().materializer.apply(records, fleet.topic.ends)
    report = fleet.verify(SELF)
    assert (report.exit_code, names(report)) == (6, {"SOURCE_TAIL_UNKNOWN"}), told(report)
    fleet.opened().materializer.apply(rest, fleet.topic.ends)
    report = fleet.verify(SELF)
    assert (report.exit_code, names(report)) == (6, {"RUN_OPEN"}), told(report)


def listed_elsewhere(fleet):
    """A run of 7 events listed by a heartbeat, and that in another partition: what the source sent, what the run did."""
    for number in range(1, 100):
        fleet.log = Collected(f"{number:032x}")
        fleet.sink = Sink(fleet.log)
        writer = fleet.sink.start_run(SkillRun(skill_id="s"))
        for step in range(6):
            writer.step(f"thought {step}")
        fleet.beat()
        said = [item for item in fleet.log.items if item[0] == fleet.log.source_id.encode()]
        done = [item for item in fleet.log.items if item not in said]
        if len({partition_for(items[0][0], PARTITIONS) for items in (said, done)}) == 2:
            return said, done
    raise AssertionError("one in three of them should have been in one partition")


def test_a_run_whose_partition_is_read_behind_its_listing_is_not_cut(fleet):
    """A heartbeat is sent after what it lists, and its partition may be read first: what follows is only on its way."""
    said, done = listed_elsewhere(fleet)
    rest, records = fleet.topic.append(done), fleet.topic.append(said)
    fleet.opened().materializer.apply(records, fleet.topic.ends)
    for part in (rest[:4], rest[4:]):
        fleet.opened().materializer.apply(part, fleet.topic.ends)
        run_id = fleet.ids()[0]
        for options in ({}, {"depth": Depth.QUICK}, {"run_id": run_id}):
            report = fleet.verify(SELF, **options)
            assert (report.exit_code, names(report)) == (6, {"RUN_OPEN"}), told(report)


def test_a_listing_stamped_by_a_broker_whose_clock_is_behind_cuts_no_run(fleet):
    """It was sent after what it lists, and looks older; the rest of the run is still on its way."""
    said, done = listed_elsewhere(fleet)
    rest, records = fleet.topic.append(done), fleet.topic.append(said)
    early = [it._replace(received_us=it.received_us - BROKERS_APART_US_MAX // 2) for it in records]
    fleet.opened().materializer.apply(early, fleet.topic.ends)
    fleet.opened().materializer.apply(rest[:4], fleet.topic.ends)
    for options in ({}, {"run_id": fleet.ids()[0]}):
        report = fleet.verify(SELF, **options)
        assert (report.exit_code, names(report)) == (6, {"RUN_OPEN"}), told(report)


def test_a_run_whose_partition_is_read_past_its_listing_is_cut(fleet):
    """What was sent before the listing would have been read by then."""
    said, done = listed_elsewhere(fleet)
    fleet.take(done)
    fleet.take(said)
    later = [
        it._replace(received_us=it.received_us + 2 * BROKERS_APART_US_MAX)
        for it in fleet.topic.append(done[-1:])
    ]
    fleet.opened().take(fleet.topic, later)
    some = fleet.ids()[0]
    with contextlib.closing(fleet.opened().cursor()) as cursor:
        cursor.execute("DELETE FROM store.events_hot_a WHERE sequence > 3")
        cursor.execute("DELETE FROM store.events_hot_b WHERE sequence > 3")
        cursor.execute("UPDATE store.runs SET events_stored = 3")
    for options in ({}, {"run_id": some}):
        report = fleet.verify(SELF, **options)
        assert (report.exit_code, "RUN_TRUNCATED" in violations(report)) == (5, True), told(report)


def test_a_copied_anchor_says_the_same(fleet):
    """Whoever mirrors an anchor's directory writes its files in any order, seconds apart."""
    for _ in range(3):
        fleet.record(1)
        fleet.take()
        fleet.seal()
    fleet.sink.close()
    fleet.take()
    fleet.seal()
    objects = sorted(path for path in (fleet.directory / "anchor" / "objects").rglob("*") if path.is_file())
    now_s = objects[-1].stat().st_mtime
    for number, path in enumerate(objects):
        os.utime(path, (now_s - number, now_s - number))
    report = fleet.verify()
    assert (len(objects), report.exit_code, names(report)) == (4, 0, set()), told(report)


def test_a_runs_grade_is_that_of_its_own_seals(fleet):
    """What an anchor holds of older runs says nothing of one that came later: each is proven as far as its seals are."""
    by_self = replace(fleet.policy, grade=Grade.SELF)
    fleet.record(1)
    fleet.take()
    fleet.seal()
    fleet.record(1)
    fleet.take()
    fleet.opened().seal()  # signed, and published nowhere
    fleet.record(1)
    fleet.take()
    anchored, signed, unsealed = fleet.ids()
    for run_id, grade in ((anchored, "anchored"), (signed, "signed"), (unsealed, "self")):
        report = fleet.verify(by_self, run_id=run_id)
        assert (report.exit_code, report.grade) == (0, grade), told(report)
        assert f"grade {grade}" in list(report.lines())[2]


def test_a_forced_purge_whose_runs_a_later_hold_kept_went_over_nothing(fleet):
    """It said that it would go over the minimum age; the hold came first into the log, and nothing went."""
    fleet.record(2)
    fleet.sink.close()
    fleet.take()
    materializer = fleet.opened().materializer
    one, other = fleet.ids()
    forced = ActOrder(actor="ada", force=True)
    plans = [plan_purge_of(forced, [run_id], min_days=5)(materializer) for run_id in (one, other)]
    perform(materializer, plan_hold(ActOrder(actor="ops"), HoldScope(runs=(one,))))
    record_acts(materializer, plans[0].acts)
    fleet.seal()
    report = fleet.verify()
    assert (report.exit_code, names(report)) == (0, set()), told(report)
    record_acts(fleet.opened().materializer, plans[1].acts)
    fleet.seal()
    report = fleet.verify()
    assert violations(report) == {"PURGE_VIOLATES_MINIMUM"}, told(report)
    assert report.counts["PURGE_VIOLATES_MINIMUM"] == 1
