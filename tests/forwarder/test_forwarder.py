"""The forwarder against a topic in memory: order, acknowledgements, resending, refusals, gates, adoption."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path

import pytest
from tests.forwarder.support import (
    FAST,
    HandwrittenSource,
    TopicInMemory,
    TopicThatDropsBatches,
    TopicThatForgetsAcks,
    TopicThatHoldsBack,
    TopicThatIsAway,
    TopicThatRefuses,
    TopicWithoutLeader,
    forward_all,
    forwarding,
    until,
)

from skillaudit.contract.clock import ManualClock
from skillaudit.contract.errors import OutboxMismatchError
from skillaudit.contract.outbox.locks import FileLock
from skillaudit.contract.outbox.refused import list_refused, read_refused
from skillaudit.producer.forwarder import Forwarder
from skillaudit.producer.forwarder_core import ForwarderLimits, ForwarderState
from skillaudit.producer.forwarder_files import read_incidents
from skillaudit.producer.forwarder_source import GATED_MAX
from skillaudit.producer.forwarder_sources import Scope
from skillaudit.producer.forwarder_trouble import Trouble, Troubles
from skillaudit.producer.publisher import partition_for


def interleaved(source: HandwrittenSource, runs: int = 5, logs: int = 20) -> None:
    """Several runs side by side, finished."""
    all_runs = [source.run(f"run-{n}") for n in range(runs)]
    for _ in range(logs):
        for run in all_runs:
            run.log()
    for run in all_runs:
        run.finish()


def distinct(values: list[bytes]) -> list[bytes]:
    return list(dict.fromkeys(values))


async def test_every_record_arrives_once_in_order_under_its_key(tmp_path: Path):
    """Without faults: each run's records, byte for byte, in order, in one partition, once."""
    source = HandwrittenSource(tmp_path, alive=True)
    interleaved(source)
    topic = TopicInMemory()
    await forward_all(tmp_path, topic, count=source.lines)
    for run in source.runs.values():
        assert topic.of_key(run.run_id) == run.records
    ack = source.acknowledgement()
    assert ack.records == source.lines
    assert ack.positions == {f"t/{n}": len(log) for n, log in topic.partitions.items() if log}
    source.die()


@pytest.mark.parametrize(
    "make_topic",
    [
        lambda: TopicThatForgetsAcks(every=2),
        lambda: TopicThatForgetsAcks(every=3),
        lambda: TopicThatDropsBatches(count=7),
        lambda: TopicThatIsAway(attempts=5),
    ],
    ids=["forgets every 2nd ack", "forgets every 3rd ack", "drops batches", "is away"],
)
async def test_faults_cost_duplicates_at_most(tmp_path: Path, make_topic):
    """Whatever the publisher loses, every record is stored, in order; repeats are the same bytes again."""
    source = HandwrittenSource(tmp_path, alive=True)
    interleaved(source)
    topic = make_topic()
    limits = ForwarderLimits(**{**FAST.__dict__, "batch_bytes_max": 2_000})
    await forward_all(tmp_path, topic, count=source.lines, limits=limits)
    for run in source.runs.values():
        assert distinct(topic.of_key(run.run_id)) == run.records
    assert source.acknowledgement().records == source.lines
    source.die()


async def test_an_outage_is_one_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Many attempts, one line at the change; one when it goes on; the reason is in the repr meanwhile."""
    source = HandwrittenSource(tmp_path, alive=True)
    source.run("r").log()
    topic = TopicThatIsAway(attempts=40)
    with caplog.at_level(logging.WARNING):
        async with forwarding(tmp_path, topic) as forwarder:
            await until(lambda: "connection refused" in repr(forwarder))
            await until(lambda: forwarder.report.acknowledged == 2)
            assert forwarder.outage == ""
    assert [r.getMessage().split(": ")[0].split(" ")[-1] for r in caplog.records] == ["waits", "on"]
    source.die()


async def test_acknowledgements_that_cant_be_saved_are_one_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """However many batches are acknowledged meanwhile; one more when the disk takes them, and only then."""
    source = HandwrittenSource(tmp_path, alive=True)
    run = source.run("r")
    in_the_way = source.dir / f"ack.{os.getpid()}.tmp"
    in_the_way.mkdir()
    with caplog.at_level(logging.WARNING):
        async with forwarding(tmp_path, TopicInMemory()) as forwarder:
            for count in range(2, 22):
                run.log()
                await until(lambda count=count: forwarder.report.acknowledged == count)
            await until(lambda: "no acknowledgement can be saved" in forwarder.outage)
            assert len(caplog.records) == 1
            in_the_way.rmdir()
            run.log()
            await until(lambda: (a := source.acknowledgement()) is not None and a.records == 22)
            await until(lambda: forwarder.outage == "")
    assert [r.getMessage().split(": ")[0].split(" ")[-1] for r in caplog.records] == ["waits", "on"]
    source.die()


def test_troubles_are_said_once_and_at_intervals(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Each kind by itself, however many sources it is of; that all is well again once the last has gone."""
    clock = ManualClock()
    troubles = Troubles(tmp_path, clock, log_interval_ms=1_000)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            troubles.begin(Trouble.SAVING, "full", "a")
            troubles.begin(Trouble.SAVING, "full", "b")
            troubles.end(Trouble.PUBLISHING)
        assert len(caplog.records) == 1
        clock.advance(1_000_000)
        for _ in range(5):
            troubles.begin(Trouble.SAVING, "still full", "a")
        troubles.begin(Trouble.PUBLISHING, "away")
        assert len(caplog.records) == 3
        troubles.end(Trouble.SAVING, "a")
        assert troubles.reason
        troubles.end(Trouble.SAVING, "b")
        assert troubles.reason == "away"
        assert len(caplog.records) == 3
        troubles.end(Trouble.PUBLISHING)
    assert troubles.reason == ""
    assert caplog.records[-1].getMessage().endswith("goes on")


async def test_the_acknowledgement_stops_at_the_first_gap(tmp_path: Path):
    """Later acknowledgements count for nothing while an earlier record is under way."""
    source = HandwrittenSource(tmp_path, alive=True)
    first, second = two_keys_in_different_partitions()
    source.run(first)
    for _ in range(10):
        source.runs[second].log() if second in source.runs else source.run(second)
    topic = TopicThatHoldsBack(held=[partition_for(first.encode(), 3)])
    async with forwarding(tmp_path, topic) as forwarder:
        await until(lambda: forwarder.report.acknowledged == 10)
        ack = source.acknowledgement()
        assert ack is None or ack.records == 0
        topic.held[partition_for(first.encode(), 3)].set()
        await until(lambda: (a := source.acknowledgement()) is not None and a.records == 11)
    source.die()


def two_keys_in_different_partitions() -> tuple[str, str]:
    other = next(n for n in range(100) if partition_for(b"k%d" % n, 3) != partition_for(b"k0", 3))
    return "k0", f"k{other}"


async def test_a_heartbeat_waits_for_everything_before_it(tmp_path: Path):
    """It counts what was sent before it, so it goes out only when all of that is acknowledged."""
    source = HandwrittenSource(tmp_path, alive=True)
    source.run("k0")
    beat = source.heartbeat()
    after = source.runs["k0"].log()
    topic = TopicThatHoldsBack(held=[partition_for(b"k0", 3)])
    async with forwarding(tmp_path, topic) as forwarder:
        await until(lambda: topic.waiting)
        for _ in range(20):
            forwarder.nudge()
            await until(lambda: True)
        assert beat not in topic.values
        topic.held[partition_for(b"k0", 3)].set()
        await until(lambda: beat in topic.values and after in topic.values)
    source.die()


async def test_a_partition_without_a_leader_holds_up_no_other(tmp_path: Path):
    """Its records wait, in order, and are tried again; the publisher is not opened anew for that."""
    source = HandwrittenSource(tmp_path, alive=True)
    waits, goes_on = two_keys_in_different_partitions()
    for key in (waits, goes_on):
        source.run(key)
    topic = TopicWithoutLeader(leaderless=[partition_for(waits.encode(), 3)])
    async with forwarding(tmp_path, topic) as forwarder:
        for _ in range(5):
            for run in source.runs.values():
                run.log()
            await until(lambda: topic.of_key(goes_on) == source.runs[goes_on].records)
        await until(lambda: topic.turned_away > 5)
        assert topic.of_key(waits) == []
        assert "has no leader" in forwarder.outage
        topic.leaderless.clear()
        await until(lambda: forwarder.report.acknowledged == 12)
        assert forwarder.outage == ""
    assert topic.of_key(waits) == source.runs[waits].records
    assert topic.opened == 1
    source.die()


async def test_nothing_waits_for_a_heartbeat_that_waits(tmp_path: Path):
    """What comes behind it goes on, but is not acknowledged before it."""
    source = HandwrittenSource(tmp_path, alive=True)
    waits, goes_on = two_keys_in_different_partitions()
    source.run(waits)
    beats = [source.heartbeat(1)]
    source.run(goes_on)
    beats += [source.heartbeat(2), source.close()]
    topic = TopicWithoutLeader(leaderless=[partition_for(waits.encode(), 3)])
    async with forwarding(tmp_path, topic) as forwarder:
        await until(lambda: topic.of_key(goes_on) == source.runs[goes_on].records)
        assert topic.of_key(source.source_id) == []
        ack = source.acknowledgement()
        assert ack is None or ack.records == 0
        topic.leaderless.clear()
        await until(lambda: forwarder.report.acknowledged == 5)
    assert topic.of_key(source.source_id) == beats
    assert source.acknowledgement().records == 5
    source.die()


async def test_only_so_many_heartbeats_wait(tmp_path: Path):
    """Then the source is read no further until they go."""
    source = HandwrittenSource(tmp_path, alive=True)
    waits, goes_on = two_keys_in_different_partitions()
    source.run(waits)
    beats = [source.heartbeat(n) for n in range(GATED_MAX + 1)]
    source.run(goes_on)
    topic = TopicWithoutLeader(leaderless=[partition_for(waits.encode(), 3)])
    async with forwarding(tmp_path, topic) as forwarder:
        await until(lambda: topic.turned_away > 20)
        assert topic.values == []
        topic.leaderless.clear()
        await until(lambda: forwarder.report.acknowledged == GATED_MAX + 3)
    assert topic.of_key(source.source_id) == beats
    source.die()


async def test_a_record_refused_for_good_is_kept_and_replaced(tmp_path: Path):
    """Its bytes go to refused/, a small run.refused takes its number, its neighbours arrive in order."""
    source = HandwrittenSource(tmp_path, alive=True)
    run = source.run("r")
    run.log()
    big = run.log(size=5_000)
    run.log()
    topic = TopicThatRefuses(bytes_max=1_000)
    report = await forward_all(tmp_path, topic, count=source.lines)
    assert report.refused == 1
    stored = [json.loads(v) for v in distinct(topic.of_key("r"))]
    assert [(m["type"], m["seq"]) for m in stored] == [
        ("run.started", 0),
        ("run.log", 1),
        ("run.refused", 2),
        ("run.log", 3),
    ]
    assert stored[2]["tag"] == json.loads(big)["tag"]
    assert stored[2]["bytes"] == len(big)
    (kept,) = list_refused(source.dir)
    assert (kept.run_id, kept.seq) == ("r", 2)
    assert "MessageSizeTooLarge" in kept.reason
    assert read_refused(Path(kept.path))[1] == big
    assert source.acknowledgement().refused == 1
    source.die()


async def test_a_refused_source_event_is_only_kept(tmp_path: Path):
    """There is no run whose number it could hold."""
    source = HandwrittenSource(tmp_path, alive=True)
    event = json.loads(source.heartbeat())
    source.append(json.dumps({**event, "beat": 2, "pad": "x" * 5_000}, separators=(",", ":")).encode())
    source.heartbeat(3)
    topic = TopicThatRefuses(bytes_max=1_000)
    async with forwarding(tmp_path, topic):
        await until(lambda: (a := source.acknowledgement()) is not None and a.records == 3)
    assert [m["beat"] for m in topic.of_type("source.heartbeat")] == [1, 3]
    assert len(list_refused(source.dir)) == 1
    source.die()


async def test_a_batch_that_is_too_much_together_shrinks(tmp_path: Path):
    """Nothing is refused when each record fits alone; later batches are smaller, so that it doesn't repeat for ever."""
    source = HandwrittenSource(tmp_path, alive=True)
    run = source.run("r")
    for _ in range(500):
        run.log(size=100)
    topic = TopicThatRefuses(bytes_max=1_000, batch_bytes_max=20_000)
    report = await forward_all(tmp_path, topic, count=source.lines)
    assert report.refused == 0
    assert topic.refusals <= 4
    assert distinct(topic.of_key("r")) == run.records
    source.die()


async def test_the_partition_count_is_kept_for_life(tmp_path: Path):
    """A topic that grew meanwhile doesn't move a source's keys; a new source uses the new count."""
    old, runs = HandwrittenSource(tmp_path, 1, alive=True), 20
    for n in range(runs):
        old.run(f"run-{n}")
    await forward_all(tmp_path, TopicInMemory(partitions=3), count=runs)
    for run in old.runs.values():
        run.log()
    new = HandwrittenSource(tmp_path, 2, alive=True)
    for n in range(runs):
        new.run(f"new-{n}")
    grown = TopicInMemory(partitions=8)
    await forward_all(tmp_path, grown, count=2 * runs)
    for n in range(runs):
        assert json.loads(grown.partitions[partition_for(b"run-%d" % n, 3)][0][1])
        assert grown.of_key(f"run-{n}") == [old.runs[f"run-{n}"].records[-1]]
        assert (f"new-{n}".encode(), new.runs[f"new-{n}"].records[0]) in grown.partitions[
            partition_for(b"new-%d" % n, 8)
        ]
    old.die()
    new.die()


async def test_consumed_segments_go(tmp_path: Path):
    """A segment is deleted once all of it is acknowledged and its successor is being read; never the last."""
    source = HandwrittenSource(tmp_path, alive=True)
    interleaved(source)
    source.next_segment()
    source.run("late")
    await forward_all(tmp_path, TopicInMemory(), count=source.lines)
    assert [p.name for p in source.dir.glob("*.seg")] == ["00000002.seg"]
    source.die()


async def test_a_dead_source_is_closed_by_its_adopter_and_removed(tmp_path: Path):
    """Read to its end, it is said so once, with number and head of each open run; then its directory goes."""
    source = HandwrittenSource(tmp_path)
    source.run("done").finish()
    first, second = source.run("open-1"), source.run("open-2")
    first.log()
    second.log()
    second.log(lost=(2, 4))
    topic = TopicInMemory()
    report = await forward_all(tmp_path, topic)
    (closed,) = topic.of_type("source.closed")
    assert closed["by"] == "adopter"
    assert closed["source_id"] == source.source_id
    assert (closed["runs_started"], closed["runs_finished"]) == (3, 1)
    assert closed["open"] == [first.is_open_entry(), second.is_open_entry()]
    assert report.sources_finished == 1
    assert not source.dir.exists()


async def test_heads_of_open_runs_outlive_deleted_segments(tmp_path: Path):
    """An open run whose beginning was consumed and deleted long ago is closed with the head of all its events, also
    when several forwarders took turns.
    """
    source = HandwrittenSource(tmp_path, alive=True)
    long_run = source.run("long")
    for n in range(4):
        long_run.log()
        short = source.run(f"short-{n}")
        short.log()
        if n < 3:
            short.finish()
        source.next_segment()
        long_run.log()
        lines = source.lines
        topic = TopicInMemory()
        async with forwarding(tmp_path, topic):
            await until(
                lambda lines=lines: (a := source.acknowledgement()) is not None and a.records == lines
            )
        assert len(list(source.dir.glob("*.seg"))) == 1
    source.die()
    topic = TopicInMemory()
    await forward_all(tmp_path, topic)
    (closed,) = topic.of_type("source.closed")
    assert (closed["runs_started"], closed["runs_finished"]) == (5, 3)
    assert closed["open"] == [long_run.is_open_entry(), source.runs["short-3"].is_open_entry()]


async def test_a_source_that_closed_itself_is_not_closed_again(tmp_path: Path):
    """Its own source.closed is the last word."""
    source = HandwrittenSource(tmp_path)
    source.run("r").finish()
    own = source.close()
    topic = TopicInMemory()
    await forward_all(tmp_path, topic)
    assert [json.dumps(m, separators=(",", ":")).encode() for m in topic.of_type("source.closed")] == [own]


async def test_a_closing_that_was_interrupted_repeats_the_same_bytes(tmp_path: Path):
    """An adopter that dies after preparing source.closed is followed by one that sends the very same record."""
    source = HandwrittenSource(tmp_path)
    source.run("r")
    topic = TopicThatHoldsBack(held=[partition_for(source.source_id.encode(), 3)])
    async with forwarding(tmp_path, topic):
        await until(
            lambda: topic.waiting == {partition_for(source.source_id.encode(), 3)} and prepared(source)
        )
    prepared_bytes = (source.dir / "closed").read_bytes()
    topic = TopicInMemory()
    await forward_all(tmp_path, topic)
    assert [v for v in topic.values if b"source.closed" in v] == [prepared_bytes]


def prepared(source: HandwrittenSource) -> bool:
    return (source.dir / "closed").exists()


async def test_what_was_refused_stays_when_the_source_goes(tmp_path: Path):
    """A finished source leaves its refused records; nobody takes the rest of the directory for a source again."""
    source = HandwrittenSource(tmp_path)
    source.run("r").log(size=5_000)
    topic = TopicThatRefuses(bytes_max=1_000)
    await forward_all(tmp_path, topic)
    assert len(list_refused(source.dir)) == 1
    assert not list(source.dir.glob("*.seg"))
    again = TopicInMemory()
    async with forwarding(tmp_path, again) as forwarder:
        await until(lambda: forwarder.state is ForwarderState.FORWARDING)
        await until(lambda: again.opened == 1)
        assert forwarder.report.sources == 0


async def test_only_dead_sources_are_adopted_beside_the_own(tmp_path: Path):
    """In an agent's process, another living process's source is left to that process."""
    own, living = HandwrittenSource(tmp_path, 1, alive=True), HandwrittenSource(tmp_path, 2, alive=True)
    dead = HandwrittenSource(tmp_path, 3)
    for source in (own, living, dead):
        source.run(f"run-{source.source_id[-1]}")
    topic = TopicInMemory()
    async with forwarding(tmp_path, topic, scope=Scope.OWN_AND_DEAD, own=own.dir):
        await until(lambda: not dead.dir.exists() and topic.of_key("run-1") != [])
        assert topic.of_key("run-2") == []
        assert len(topic.of_key("run-3")) == 1
    own.die()
    living.die()


async def test_a_source_that_somebody_else_reads_is_left_alone(tmp_path: Path):
    """One forwarder per source: the `reader` lock decides."""
    source = HandwrittenSource(tmp_path)
    source.run("r")
    lock = FileLock(source.dir / "reader")
    assert lock.try_acquire()
    topic = TopicInMemory()
    async with forwarding(tmp_path, topic) as forwarder:
        await until(lambda: forwarder.state is ForwarderState.FORWARDING)
        assert forwarder.report.sources == 0
        lock.release()
        await until(lambda: not source.dir.exists())
    assert len(topic.of_key("r")) == 1


async def test_an_outbox_of_another_topic_is_refused(tmp_path: Path):
    """Two readers would each get a part of the events."""
    await forward_all(tmp_path, TopicInMemory(), count=0)
    other = TopicInMemory()
    other.topic = "another"
    with pytest.raises(OutboxMismatchError, match="kafka:cluster-1:t"):
        await Forwarder(tmp_path, other, limits=FAST).run(asyncio.Event())


async def test_damage_is_an_incident_and_the_rest_arrives(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A line with a wrong checksum is named, kept on record, and its neighbours are forwarded."""
    source = HandwrittenSource(tmp_path, alive=True)
    run = source.run("r")
    damaged = run.log()
    run.log()
    path = source.dir / "00000001.seg"
    path.write_bytes(path.read_bytes().replace(damaged, damaged.replace(b"xxx", b"yyy")))
    topic = TopicInMemory()
    async with forwarding(tmp_path, topic) as forwarder:
        await until(lambda: (a := source.acknowledgement()) is not None and a.records == 3)
        assert forwarder.report.incidents == 1
    assert topic.of_key("r") == [run.records[0], run.records[2]]
    assert [i["kind"] for i in read_incidents(source.dir)] == ["altered"]
    assert "xxx" not in caplog.text
    caplog.clear()
    source.die()


async def test_lines_behind_damage_wait_until_it_can_be_put_on_record(tmp_path: Path):
    """Where the incident can't be written (a full disk), they are sent, and nothing past it is acknowledged."""
    source = HandwrittenSource(tmp_path, alive=True)
    run = source.run("r")
    damaged = run.log()
    run.log()
    path = source.dir / "00000001.seg"
    path.write_bytes(path.read_bytes().replace(damaged, damaged.replace(b"xxx", b"yyy")))
    (source.dir / "incidents.jsonl").mkdir()
    topic = TopicInMemory()
    async with forwarding(tmp_path, topic) as forwarder:
        await until(lambda: topic.of_key("r") == [run.records[0], run.records[2]])
        await until(lambda: forwarder.outage)
        assert (a := source.acknowledgement()) is None or a.records <= 1
        (source.dir / "incidents.jsonl").rmdir()
        await until(lambda: (a := source.acknowledgement()) is not None and a.records == 3)
    assert [i["kind"] for i in read_incidents(source.dir)] == ["altered"]
    source.die()


async def test_a_refused_record_that_cant_be_kept_holds_its_partition_up(tmp_path: Path):
    """Nothing goes past it until its bytes are in `refused/`; then the rest goes on by itself."""
    source = HandwrittenSource(tmp_path, alive=True)
    run = source.run("r")
    run.log(5_000)
    run.log()
    (source.dir / "refused").write_text("in the way")
    topic = TopicThatRefuses()
    async with forwarding(tmp_path, topic) as forwarder:
        await until(lambda: "can't be kept" in forwarder.outage)
        assert topic.of_key("r") == run.records[:1]
        (source.dir / "refused").unlink()
        await until(lambda: (a := source.acknowledgement()) is not None and a.records == 3)
    assert [json.loads(r)["type"] for r in topic.of_key("r")] == ["run.started", "run.refused", "run.log"]
    assert [r.seq for r in list_refused(source.dir)] == [1]
    source.die()


async def test_a_line_that_is_no_event_stops_nothing(tmp_path: Path):
    """It is sent as it is, for the consumer's dead letters; its dead source is closed, with its open run's head."""
    source = HandwrittenSource(tmp_path)
    run = source.run("r")
    garbage = source.append(b"no json")
    foreign = source.append(b'{"v":2,"type":"run.started","source_seq":"?","run_id":"f"}')
    run.log()
    topic = TopicInMemory()
    await forward_all(tmp_path, topic)
    assert {garbage, foreign} <= set(topic.values)
    closed = [json.loads(v) for v in topic.values if b'"source.closed"' in v]
    assert [c["open"] for c in closed] == [[run.is_open_entry()]]


async def test_a_source_that_cant_be_begun_stops_no_other(tmp_path: Path):
    """A full disk, say, takes no pinned partition count for a new source; those under way relieve it."""
    bad, good = HandwrittenSource(tmp_path, 1, alive=True), HandwrittenSource(tmp_path, 2, alive=True)
    (bad.dir / "partitions").mkdir()
    run = good.run("r")
    topic = TopicInMemory()
    async with forwarding(tmp_path, topic):
        await until(lambda: topic.of_key("r") == run.records)
    bad.die()
    good.die()


async def test_a_stop_saves_what_is_acknowledged_and_lets_go(tmp_path: Path):
    """Afterwards the acknowledgement is on the disk and the source is free for another forwarder."""
    source = HandwrittenSource(tmp_path, alive=True)
    interleaved(source)
    limits = ForwarderLimits(**{**FAST.__dict__, "ack_interval_ms": 3_600_000})
    async with forwarding(tmp_path, TopicInMemory(), limits=limits) as forwarder:
        await until(lambda: forwarder.report.acknowledged == source.lines)
        assert source.acknowledgement() is None
    assert source.acknowledgement().records == source.lines
    assert forwarder.state is ForwarderState.STOPPED
    assert FileLock(source.dir / "reader").try_acquire()
    source.die()


async def test_what_is_under_way_is_bounded(tmp_path: Path):
    """While nothing is acknowledged, no more than the bounds is read."""
    source = HandwrittenSource(tmp_path, alive=True)
    interleaved(source, runs=5, logs=100)
    topic = TopicThatHoldsBack(held=range(3))
    limits = ForwarderLimits(**{**FAST.__dict__, "records_in_flight_max": 50, "drain_timeout_ms": 1})
    async with forwarding(tmp_path, topic, limits=limits) as forwarder:
        await until(lambda: forwarder.report.pending == 50)
        for _ in range(20):
            forwarder.nudge()
            await until(lambda: True)
        assert forwarder.report.pending == 50
        for event in topic.held.values():
            event.set()
        await until(lambda: forwarder.report.acknowledged == source.lines)
    source.die()
