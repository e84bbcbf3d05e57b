"""Stored events against the records that Kafka still holds: which event it is, when everything else was made anew."""

import contextlib
import time
from dataclasses import asdict, replace

import orjson
import pytest
from tests.attacks.forging import forge_checkpoints, forge_ledger, forge_run, forge_seals
from tests.attacks.test_attacks import forge_new_run, remove_run
from tests.attacks.test_lawful import Fleet
from tests.attacks.world import PARTITIONS, TOPIC, Topic, build, copy_of
from tests.support.records import MemoryRecords

from skillaudit.consumer.acts import accept_history_loss
from skillaudit.consumer.dead_letters import list_dead_letters, replay_dead_letters
from skillaudit.consumer.planning import plan_erase, plan_purge_of, plan_redact
from skillaudit.consumer.recording import perform
from skillaudit.contract.admin import ActOrder
from skillaudit.contract.events import encode_refused
from skillaudit.contract.records import SkillRun
from skillaudit.contract.wire import RunFinished, RunLog, RunStarted, parse_record
from skillaudit.producer import Sink
from skillaudit.proof.findings import Severity
from skillaudit.proof.verify import Verifier, VerifyRequest, sentence
from skillaudit.proof.verify.against import AgainstCheck
from skillaudit.proof.verify.engine import Engine

KEY = 5
"""The run that is attacked."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build(tmp_path_factory.mktemp("world"))


@pytest.fixture
def attacked(world, tmp_path):
    with copy_of(world, tmp_path) as tampered:
        yield tampered


def memory(topic: Topic, **options) -> MemoryRecords:
    return MemoryRecords(topic.records, topic.ends, **options)


def compared(cursor, records, *, edge=0, **options) -> AgainstCheck:
    """The comparison alone."""
    check = AgainstCheck(Engine(cursor), VerifyRequest(**options), records, edge_records=edge)
    check.check()
    return check


def told(check: AgainstCheck) -> list[tuple]:
    """Name, run and number of what was found."""
    found = check.findings.kept()
    return sorted((str(it.kind), it.subject.get("run_id"), it.subject.get("sequence")) for it in found)


def says(check: AgainstCheck) -> str:
    return "\n".join(it.sentence() for it in check.findings.kept())


def run_id(t, key=KEY):
    return t.one("SELECT id FROM store.runs WHERE run_key = ?", key)


def place_of(world, wanted, seq):
    """Where Kafka holds a run's log of this number."""
    for it in world.topic.records:
        event = parse_record(it.value)
        if isinstance(event, RunLog) and (event.run_id, event.seq) == (wanted, seq):
            return f"{it.partition}@{it.offset}"
    raise LookupError(seq)


def both(attacked, world, **options):
    """All runs, and the attacked one alone: they have to say the same of it."""
    run = run_id(attacked)
    whole = compared(attacked.connection, memory(world.topic), **options)
    alone = compared(attacked.connection, memory(world.topic), run_id=run, **options)
    assert told(alone) == told(whole), f"{says(alone)}\n{says(whole)}"
    return whole, alone


def test_the_untampered_record_is_what_kafka_holds(attacked, world):
    """Every run compared, nothing found, all records read once."""
    check = compared(attacked.connection, memory(world.topic))
    assert (told(check), check.totals.runs, check.totals.compared) == ([], 36, 36), says(check)
    assert check.totals.records == len(world.topic.records)
    alone = compared(attacked.connection, memory(world.topic), run_id=run_id(attacked))
    assert (told(alone), alone.totals.runs, alone.totals.compared) == ([], 1, 1)
    assert alone.totals.records < len(world.topic.records) / 2  # from the start's record on, in its partition


def rewrite(t):
    """Payload, tag, head, ledger, journal: as thorough as can be."""
    t.events(
        'UPDATE {events} SET payload = \'{"content":"nothing happened"}\' WHERE run_key = ? AND sequence = 3',
        KEY,
    )
    forge_ledger(t, run_id(t), forge_run(t, KEY))
    forge_seals(t)
    forge_checkpoints(t)


def test_an_event_rewritten_with_everything_that_proves_it_is_named(attacked, world):
    """Without an anchor nothing else would say a word."""
    run = run_id(attacked)
    before = Verifier(attacked.connection.cursor()).check(VerifyRequest(), 0)
    assert before.exit_code == 0, "the untampered one is fine"
    rewrite(attacked)
    records = memory(world.topic)
    request = VerifyRequest(against_kafka=True)
    blind = Verifier(attacked.connection.cursor()).check(replace(request, against_kafka=False), 0)
    assert blind.exit_code == 0
    report = Verifier(attacked.connection.cursor(), records=lambda: records).check(request, 0)
    assert records.closed
    assert (report.exit_code, report.altered, report.grade) == (5, 1, "self")
    found = [it for it in report.findings if it["severity"] == "violation"]
    # The head is of all digests, so that the finish is another one's too: its own tag does not hold the head.
    assert [(it["kind"], it["run_id"], it["sequence"]) for it in found] == [("EVENT_ALTERED", run, 3)]
    assert place_of(world, run, 3) in found[0]["says"]
    assert next(iter(report.lines())).startswith("integrity     FAIL  1 of 36 runs")
    assert list(report.lines())[3].startswith("kafka         FAIL  36 of 36 runs compared; ")
    _, alone = both(attacked, world)
    assert "differs in payload" in says(alone)


@pytest.mark.parametrize(
    ("change", "kind", "seq"),
    [
        ("UPDATE {events} SET tag = tag + 1 WHERE run_key = 5 AND sequence = 3", "EVENT_ALTERED", 3),
        ("DELETE FROM {events} WHERE run_key = 5 AND sequence = 3", "EVENT_MISSING", 3),
        ("UPDATE {events} SET sequence = 77 WHERE run_key = 5 AND sequence = 3", "EVENT_EXTRA", 77),
    ],
)
def test_each_number_is_told(attacked, world, change, kind, seq):
    attacked.events(change)
    whole, _ = both(attacked, world)
    assert (kind, run_id(attacked), seq) in told(whole)
    assert len(told(whole)) == (2 if kind == "EVENT_EXTRA" else 1), says(whole)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("start_tag = 7", [("EVENT_ALTERED", 0)]),
        ("finish_tag = 7", [("EVENT_ALTERED", None)]),
        ("finish_seq = NULL, finish_tag = NULL, finished_at = NULL", [("EVENT_MISSING", None)]),
        ("by_storage = true", [("RUN_REWRITTEN", None)]),
    ],
)
def test_starts_and_finishes_are_held_against_their_records(attacked, world, change, expected):
    last = attacked.one("SELECT finish_seq FROM store.runs WHERE run_key = 5")
    attacked.sql(f"UPDATE store.runs SET {change} WHERE run_key = 5")
    whole, _ = both(attacked, world)
    run = run_id(attacked)
    by = "by_storage" in change
    assert told(whole) == [
        (kind, run, (None if by else last) if seq is None else seq) for kind, seq in expected
    ]


def test_a_value_that_its_tag_does_not_show_is_named_where_one_run_is_checked(attacked, world):
    """The tag was left as it was: every byte of one run is compared."""
    attacked.events("UPDATE {events} SET payload = '{}' WHERE run_key = 5 AND sequence = 3")
    attacked.sql(
        "UPDATE store.runs SET output = 'none', started_at = started_at + INTERVAL 1 SECOND WHERE run_key = 5"
    )
    alone = compared(attacked.connection, memory(world.topic), run_id=run_id(attacked))
    last = attacked.one("SELECT finish_seq FROM store.runs WHERE run_key = 5")
    run = run_id(attacked)
    assert told(alone) == [("EVENT_ALTERED", run, seq) for seq in (0, 3, last)], says(alone)
    assert all(word in says(alone) for word in ("in payload", "in output", "in started_at"))


def test_a_deleted_run_is_missing(attacked, world):
    """With the ledger's rows, so that nothing here knows of it."""
    run = run_id(attacked)
    remove_run(attacked)
    attacked.sql("DELETE FROM store.ledger WHERE run_id = ?", run)
    for options in ({}, {"run_id": run}):
        check = compared(attacked.connection, memory(world.topic), **options)
        assert told(check) == [("RUN_MISSING", run, None)], says(check)
    verifier = Verifier(attacked.connection.cursor(), records=lambda: memory(world.topic))
    report = verifier.check(VerifyRequest(run_id=run, against_kafka=True), 0)
    assert (report.exit_code, report.run["integrity"]) == (5, "altered")


def test_a_forged_run_is_brought_by_no_record(attacked, world):
    forge_new_run(attacked, source_seq=99)
    forged = attacked.one("SELECT id FROM store.runs ORDER BY run_key DESC LIMIT 1")
    attacked.sql(f"UPDATE store.runs SET partition = '{TOPIC}/1', record_offset = 3 WHERE id = ?", forged)
    for options in ({}, {"run_id": forged}):
        check = compared(attacked.connection, memory(world.topic), **options)
        assert told(check) == [("RUN_UNLISTED", forged, None)], says(check)


def test_a_start_moved_out_of_what_kafka_holds_hides_nothing(attacked, world):
    """Where a run begins is what the database says; its records are found all the same."""
    run = run_id(attacked)
    rewrite(attacked)
    attacked.sql(f"UPDATE store.runs SET partition = '{TOPIC}/9', record_offset = 0 WHERE run_key = 5")
    whole, _ = both(attacked, world)
    assert told(whole) == [("EVENT_ALTERED", run, 3)], says(whole)


def test_a_salt_made_anew_with_all_tags_alters_every_event(attacked, world):
    """Digests come of the salt that Kafka's start carries, not of the row's."""
    attacked.sql("UPDATE store.runs SET salt = '\\x01'::BLOB || salt[2:] WHERE run_key = 5")
    forge_run(attacked, KEY)
    whole, _ = both(attacked, world)
    last = attacked.one("SELECT finish_seq FROM store.runs WHERE run_key = 5")
    assert [it[2] for it in told(whole)] == list(range(last + 1)), says(whole)
    for it in world.topic.records:
        event = parse_record(it.value)
        if isinstance(event, RunLog) and event.run_id == run_id(attacked):
            assert f"{it.partition}@{it.offset} brought: that one's tag is {event.tag:016x}" in says(whole)


# What retention took.


def test_what_kafka_no_longer_holds_is_counted_and_nothing_else(attacked, world):
    """The first half of each partition is gone: no finding; and what is left of a run is compared all the same."""
    begins = {name: end // 2 for name, end in world.topic.ends.items()}
    check = compared(attacked.connection, memory(world.topic, begins=begins))
    totals = check.totals
    assert (told(check), totals.runs) == ([], 36), says(check)
    assert 0 < totals.compared < 36
    assert 0 < totals.partly < 36 - totals.compared
    starts = {
        it.key: it.offset >= begins[it.partition]
        for it in world.topic.records
        if isinstance(parse_record(it.value), RunStarted)
    }
    assert totals.compared == sum(starts.values())
    cut = next(
        it
        for it in world.topic.records
        if it.offset >= begins[it.partition]
        and isinstance(parse_record(it.value), RunLog)
        and not starts[it.key]
    )
    seq = parse_record(cut.value).seq
    key = attacked.one("SELECT run_key FROM store.runs WHERE id = ?", cut.key.decode())
    attacked.events("UPDATE {events} SET tag = tag + 1 WHERE run_key = ? AND sequence = ?", key, seq)
    records = memory(world.topic, begins=begins)
    assert told(compared(attacked.connection, records)) == [("EVENT_ALTERED", cut.key.decode(), seq)]
    attacked.events("DELETE FROM {events} WHERE run_key = ? AND sequence = ?", key, seq)
    for options in ({}, {"run_id": cut.key.decode()}):
        check = compared(attacked.connection, memory(world.topic, begins=begins), **options)
        assert told(check) == [("EVENT_MISSING", cut.key.decode(), seq)], says(check)


def test_nothing_left_to_compare_is_said(attacked, world):
    """No finding, the exit code stays; the line says that nothing was compared."""
    records = memory(world.topic, begins=world.topic.ends)
    report = Verifier(attacked.connection.cursor(), records=lambda: records).check(
        VerifyRequest(against_kafka=True), 0
    )
    assert report.exit_code == 0
    line = list(report.lines())[3]
    assert line.startswith("kafka         none  0 of 36 runs compared; 36 older than Kafka keeps; 0 records")


def test_retention_that_goes_on_while_it_is_read_accuses_nobody(attacked, world):
    """What was read before is not all there any more, so it proves no event to be too many."""
    records = memory(world.topic)

    def forget():
        records.begins = {name: 2 * end // 3 for name, end in world.topic.ends.items()}

    records.meanwhile = forget
    check = compared(attacked.connection, records)
    assert (told(check), check.totals.compared < 36) == ([], True), says(check)


def test_right_behind_the_edge_of_retention_nothing_is_too_much(attacked, world):
    """A batch may land before an earlier one: of a run that starts at the edge, earlier records may be gone."""
    begins = {name: end // 2 for name, end in world.topic.ends.items()}
    check = compared(attacked.connection, memory(world.topic, begins=begins), edge=10_000)
    assert (told(check), check.totals.compared) == ([], 0)


# Lawful.


@pytest.fixture
def fleet(tmp_path):
    with contextlib.closing(Fleet(tmp_path)) as made:
        yield made


def lawful(fleet, **expected):
    """Nothing is found of all runs, nor of each alone."""
    with contextlib.closing(fleet.opened().cursor()) as cursor:
        check = compared(cursor, memory(fleet.topic))
        assert told(check) == [], says(check)
        assert expected.items() <= asdict(check.totals).items(), check.totals
        for run in fleet.ids():
            alone = compared(cursor, memory(fleet.topic), run_id=run)
            assert told(alone) == [], says(alone)
    return check


def tamper(fleet, text, *parameters):
    with fleet.opened().transaction("tamper") as cursor:
        for table in ("store.events_hot_a", "store.events_hot_b"):
            cursor.execute(text.replace("{events}", table), list(parameters))


def logs_of(fleet):
    return [item for item in fleet.log.items if isinstance(parse_record(item[1]), RunLog)]


def other(value, **members):
    return orjson.dumps(orjson.loads(value) | {"tag": "00112233aabbccdd"} | members)


def test_duplicates_and_conflicts_are_lawful(fleet):
    """The first record of a number wins, as it did in the consumer; what came later is no other truth."""
    fleet.record()
    fleet.sink.close()
    fleet.take()
    fleet.take(fleet.log.items)
    key, value = logs_of(fleet)[0]
    start = next(it for it in fleet.log.items if isinstance(parse_record(it[1]), RunStarted))
    finish = next(it for it in fleet.log.items if isinstance(parse_record(it[1]), RunFinished))
    said = parse_record(finish[1])
    later = other(finish[1], seq=said.seq + 1, events=said.events + 1)
    fleet.take([(key, other(value)), (start[0], other(start[1])), (finish[0], later)])
    lawful(fleet, runs=3, compared=3)
    tamper(fleet, "UPDATE {events} SET tag = ? WHERE tag = ?", 0x00112233AABBCCDD, parse_record(value).tag)
    with contextlib.closing(fleet.opened().cursor()) as cursor:
        check = compared(cursor, memory(fleet.topic))
    assert told(check) == [("EVENT_ALTERED", key.decode(), parse_record(value).seq)], (
        "the later one took its place"
    )


def test_numbers_that_the_broker_refused_are_lawful(fleet):
    """A record that comes after its refusal is not stored."""
    fleet.record(1)
    fleet.sink.close()
    key, value = logs_of(fleet)[1]
    log = parse_record(value)
    refused = encode_refused(log.run_id, log.seq, log.at_us, f"{log.tag:016x}", "too large", 9)
    items = [(key, refused) if it == (key, value) else it for it in fleet.fresh()]
    fleet.take([*items, (key, value)])
    lawful(fleet, compared=1)


def test_acts_are_lawful(fleet):
    """A purged, an erased and a redacted run; what was taken out is not missed, and what is left is compared."""
    fleet.record(4)
    fleet.sink.close()
    fleet.take()
    materializer, order = fleet.opened().materializer, ActOrder(actor="ops", reason="asked")
    gone, erased, redacted, _ = fleet.ids()
    perform(materializer, plan_purge_of(order, [gone]))
    perform(materializer, plan_erase(order, [erased]))
    perform(materializer, plan_redact(order, redacted, 2, None))
    fleet.take([it for it in fleet.log.items if it[0] == gone.encode()])
    lawful(fleet, runs=3, compared=3)
    with contextlib.closing(fleet.opened().cursor()) as cursor:
        assert told(compared(cursor, memory(fleet.topic), run_id=gone)) == []
        key = cursor.execute("SELECT run_key FROM runs WHERE id = ?", [redacted]).fetchone()[0]
    tamper(fleet, "UPDATE {events} SET tag = tag + 1 WHERE run_key = ? AND sequence = 3", key)
    with contextlib.closing(fleet.opened().cursor()) as cursor:
        assert told(compared(cursor, memory(fleet.topic))) == [("EVENT_ALTERED", redacted, 3)]
    with fleet.opened().transaction("tamper") as cursor:
        cursor.execute("DELETE FROM store.tombstones")
    with contextlib.closing(fleet.opened().cursor()) as cursor:
        assert ("RUN_MISSING", gone, None) in told(compared(cursor, memory(fleet.topic)))


def test_orphans_and_dead_letters_are_lawful(fleet):
    """A start that is a dead letter leaves its run's events kept without one; one replayed brings the run."""
    fleet.record(2)
    fleet.sink.close()
    starts = [it for it in fleet.log.items if isinstance(parse_record(it[1]), RunStarted)]
    newer = {it[1]: orjson.dumps(orjson.loads(it[1]) | {"v": 2}) for it in starts}
    items = [(key, newer.get(value, value)) for key, value in fleet.fresh()]
    fleet.take([*items, (b"k", b"no event"), (b"k", None)])
    lawful(fleet, runs=0, compared=0)
    # As a later release would: it reads what this one could not, and the offsets are the old ones.
    upgraded = Topic(ends=fleet.topic.ends)
    old = {new: was for was, new in newer.items()}
    upgraded.records = [it._replace(value=old.get(it.value, it.value)) for it in fleet.topic.records]
    with contextlib.closing(fleet.opened().cursor()) as cursor:
        check = compared(cursor, memory(upgraded))
        assert told(check) == [], "they wait as dead letters"
    letters = list_dead_letters(fleet.opened().database, None, 10)
    with fleet.opened().transaction("repair") as cursor:
        for was, new in zip(old.values(), old, strict=True):
            cursor.execute("UPDATE store.dead_letters SET record = ? WHERE record = ?", [was, new])
    replay_dead_letters(fleet.opened().materializer, [it.id for it in letters])
    fleet.topic.records = upgraded.records
    lawful(fleet, runs=2, compared=2)


@pytest.mark.parametrize("first", [True, False], ids=["replayed first", "replayed last"])
def test_a_dead_letter_comes_when_it_is_replayed(fleet, first):
    """Another record claims its number, before or after that: whichever was a record first holds it."""
    fleet.record(1)
    fleet.sink.close()
    key, value = logs_of(fleet)[0]
    dead, claim = orjson.dumps(orjson.loads(value) | {"v": 2}), (key, other(value))
    fleet.take([(key, dead if it == value else it) for key, it in fleet.fresh()])
    if not first:
        fleet.take([claim])
    with fleet.opened().transaction("repair") as cursor:
        cursor.execute("UPDATE store.dead_letters SET record = ?", [value])
    [letter] = list_dead_letters(fleet.opened().database, None, 10)
    replay_dead_letters(fleet.opened().materializer, [letter.id])
    if first:
        fleet.take([claim])
    fleet.topic.records = [
        it._replace(value=value if it.value == dead else it.value) for it in fleet.topic.records
    ]
    with contextlib.closing(fleet.opened().cursor()) as cursor:
        check = compared(cursor, memory(fleet.topic))
    # The other's content is not that of its tag, which is told of what is stored, and not that it is another's.
    wrong = [] if first else [("EVENT_ALTERED", key.decode(), parse_record(value).seq)]
    assert (told(check), "is not what Kafka's record" in says(check)) == (wrong, False), says(check)


def test_a_bare_storages_records_are_lawful(fleet):
    """Nothing proves them, but a run that is gone is gone."""
    fleet.record(1)
    fleet.sink.close()
    at = {"v": 1, "run_id": "bare", "at_us": 1_800_000_000_000_000, "by": "storage"}
    text = {"caller_id": "", "channel_id": "", "parent_run_id": ""}
    records = [
        at | {"type": "run.started", "call_id": "a", "skill_id": "s", "inputs": {}, "attributes": {}} | text,
        at | {"type": "run.log", "call_id": "b", "seq": 1, "event_type": "step", "payload": {}},
        at | {"type": "run.log", "call_id": "c", "seq": 1, "event_type": "step", "payload": {"n": 2}},
    ]
    fleet.take([*fleet.fresh(), *((b"bare", orjson.dumps(it)) for it in records)])
    assert "bare" in fleet.ids()
    lawful(fleet, runs=2, compared=2)
    with fleet.opened().transaction("tamper") as cursor:
        cursor.execute("DELETE FROM store.runs WHERE id = 'bare'")
    with contextlib.closing(fleet.opened().cursor()) as cursor:
        assert told(compared(cursor, memory(fleet.topic))) == [("RUN_MISSING", "bare", None)]


@pytest.mark.parametrize("again", [True, False], ids=["the same records", "others"])
def test_a_history_given_up_on_purpose_is_not_missed(fleet, again):
    """The topic was made anew, and that was accepted: what came before is not in Kafka, and is no forgery."""
    fleet.record()
    fleet.sink.close()
    fleet.take()
    for partition in fleet.topic.ends:
        accept_history_loss(fleet.opened().materializer, partition)
        fleet.topic.ends[partition] = 0
    fleet.topic.records.clear()
    items = fleet.log.items
    if not again:
        fleet.log.__init__(f"{2:032x}")
        fleet.sink = Sink(fleet.log)
        fleet.record(4)
        fleet.sink.close()
        items = fleet.log.items
    fleet.take(items)
    lawful(fleet, runs=3 if again else 7, compared=3 if again else 4)


def test_what_came_before_the_start_is_the_runs_too(fleet):
    """A batch may land before an earlier one: the start comes last."""
    fleet.record(1)
    fleet.sink.close()
    items = fleet.fresh()
    start = [it for it in items if isinstance(parse_record(it[1]), RunStarted)]
    fleet.take([*(it for it in items if it not in start), *start])
    lawful(fleet, runs=1, compared=1)


def test_records_of_a_run_delivered_to_another_partition_too_are_lawful(fleet):
    """Some tool copied a part of it there: what is not there is where it belongs."""
    fleet.record(3)
    fleet.sink.close()
    fleet.take()
    run = fleet.ids()[0]
    own = [it for it in fleet.topic.records if it.key == run.encode()]
    there = next(name for name in fleet.topic.ends if name != own[0].partition)
    again = []
    for it in own[:3]:
        at = fleet.topic.ends[there]
        again.append(it._replace(partition=there, offset=at, next_offset=at + 1))
        fleet.topic.ends[there] = at + 1
    fleet.topic.records += again
    fleet.opened().take(fleet.topic, again)
    lawful(fleet, runs=3, compared=3)


def test_a_record_that_was_altered_in_kafka_is_named(fleet):
    """Its content does not match the tag that it carries; the database holds what came."""
    fleet.record(1)
    fleet.sink.close()
    key, value = logs_of(fleet)[1]
    bent = orjson.dumps(orjson.loads(value) | {"payload": {"content": "something else"}})
    fleet.take([(key, bent if it == value else it) for key, it in fleet.fresh()])
    with contextlib.closing(fleet.opened().cursor()) as cursor:
        check = compared(cursor, memory(fleet.topic))
    assert told(check) == [("EVENT_ALTERED", key.decode(), parse_record(value).seq)]
    assert "does not match its own tag" in says(check)


# A live consumer, and what can't be compared.


def test_records_that_are_not_consumed_yet_are_no_findings(fleet):
    """They lie beyond the position, and are counted."""
    fleet.record(9)
    fleet.take()
    assert len({it.partition for it in fleet.topic.records}) == 3
    fleet.record(2)
    fleet.sink.close()
    late = fleet.topic.append(fleet.fresh())
    with contextlib.closing(fleet.opened().cursor()) as cursor:
        check = compared(cursor, memory(fleet.topic))
    assert (told(check), check.totals.runs, check.totals.compared) == ([], 9, 9), says(check)
    assert check.totals.beyond == len(late)


def test_a_consumer_that_goes_on_meanwhile_accuses_nobody(fleet):
    """Whatever it takes between the reading and the snapshot is read, too."""
    writer = fleet.sink.start_run(SkillRun(skill_id="open"))
    writer.step("one")
    fleet.take()
    assert len({it.partition for it in fleet.topic.records}) < PARTITIONS
    records = memory(fleet.topic)

    def go_on():
        writer.step("two")
        writer.finish(output="done")
        fleet.record(9)
        fleet.sink.close()
        fleet.take()

    records.meanwhile = go_on
    with contextlib.closing(fleet.opened().cursor()) as cursor:
        check = compared(cursor, records)
    assert told(check) == [], says(check)
    assert check.totals.beyond == 0
    assert (check.totals.runs, check.totals.compared) == (10, 10), "and what came is compared"


def only_unchecked(check, text):
    assert check.findings.of(*Severity) == check.findings.of(Severity.UNCHECKED) > 0, says(check)
    assert check.findings.exit_code() == 7
    assert text in says(check), says(check)


def test_another_cluster_is_not_compared(attacked, world):
    check = compared(attacked.connection, memory(world.topic, cluster="kafka:other"))
    only_unchecked(check, "was consumed from attacks, and this is kafka:other; set kafka_bootstrap_servers")
    assert check.totals.unchecked == 3


def test_a_broker_that_is_away_is_told_with_what_else_was_found(attacked, world):
    """7, and never silent; the other checks are made."""
    records = memory(world.topic)
    records.away = True
    verifier = Verifier(attacked.connection.cursor(), records=lambda: records)
    report = verifier.check(VerifyRequest(against_kafka=True), int(time.time() * 1e6))
    assert (report.exit_code, report.runs, report.kafka["unchecked"]) == (7, 36, 1)
    assert "nobody answers; start the broker" in sentence(report.findings[0])
    assert list(report.lines())[3].startswith("kafka         part  0 of 36 runs") or report.kafka["runs"] == 0


def test_a_topic_made_anew_is_not_compared(attacked, world):
    """With fewer records, with others under the same offsets, with fewer partitions, with none."""
    ends = {name: end - 1 for name, end in world.topic.ends.items()}
    only_unchecked(compared(attacked.connection, MemoryRecords(world.topic.records, ends)), "made anew?")
    others = [it._replace(value=(it.value or b"") + b" ") for it in world.topic.records]
    only_unchecked(
        compared(attacked.connection, MemoryRecords(others, world.topic.ends)), "holds another record at"
    )
    two = {name: end for name, end in world.topic.ends.items() if not name.endswith("/2")}
    only_unchecked(
        compared(attacked.connection, MemoryRecords(world.topic.records, two)), "has no such partition"
    )
    none = MemoryRecords([], {"another/0": 0})
    only_unchecked(compared(attacked.connection, none), "has consumed nothing of another")


def test_runs_of_topics_that_nobody_reads_are_told(attacked, world):
    attacked.sql("UPDATE store.runs SET topic = 'elsewhere', partition = 'elsewhere/0' WHERE run_key = 5")
    check = compared(attacked.connection, memory(world.topic))
    assert "could not check 1 run against Kafka: of elsewhere" in says(check)


# Scope.


def test_a_part_of_the_time_reads_a_part_of_the_records(fleet):
    """From where the broker's times and the database say; what lies outside is not spoken of."""
    fleet.topic.late_us = 3_600_000_000
    fleet.record(3)
    fleet.take()
    fleet.topic.late_us = 0
    since_us = time.time_ns() // 1000
    fleet.record(3)
    fleet.sink.close()
    fleet.take()
    early, late = fleet.ids()[:3], fleet.ids()[3:]
    scope = {"since_us": since_us}
    with contextlib.closing(fleet.opened().cursor()) as cursor:
        records = memory(fleet.topic)
        check = compared(cursor, records, **scope)
        assert (told(check), check.totals.runs, check.totals.compared) == ([], 3, 3)
        assert check.totals.records < len(fleet.topic.records)
    with fleet.opened().transaction("tamper") as cursor:
        cursor.execute("DELETE FROM store.runs WHERE id IN (?, ?)", [early[0], late[0]])
    with contextlib.closing(fleet.opened().cursor()) as cursor:
        check = compared(cursor, memory(fleet.topic), **scope)
        assert told(check) == [("RUN_MISSING", late[0], None)], says(check)
    with fleet.opened().transaction("tamper") as cursor:  # moved out of the time
        cursor.execute(
            "UPDATE store.runs SET started_at = '2020-01-01', start_tag = 7 WHERE id = ?", [late[1]]
        )
    with contextlib.closing(fleet.opened().cursor()) as cursor:
        check = compared(cursor, memory(fleet.topic), **scope)
        assert ("EVENT_ALTERED", late[1], 0) in told(check), says(check)
