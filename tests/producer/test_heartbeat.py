"""Heartbeats: when they are due, what they say, in what order they stand."""

from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.producer.support import FullLog, ListLog

from skillaudit.contract.errors import RunStateError
from skillaudit.contract.outbox.acknowledgement import Acknowledgement, write_acknowledgement
from skillaudit.contract.settings import Settings
from skillaudit.contract.wire import parse_record
from skillaudit.producer import Sink, SkillRun
from skillaudit.producer.heartbeat import LISTING_INTERVAL_US, HeartbeatPlan, beat_if_due
from skillaudit.producer.outbox import OutboxLog

SECOND_US = 1_000_000


class Run:
    def __init__(self, number):
        self.source_seq = number


def runs(*numbers):
    return {number: Run(number) for number in numbers}


def test_due_while_a_run_is_open_or_something_changed():
    """Every interval then; never otherwise."""
    plan = HeartbeatPlan(1_000)
    assert not plan.due(0, 0, 0), "nothing ever happened"
    assert plan.due(0, 1, 0)
    plan.sent(0, 1, 0, 0, 0, [])
    assert not plan.due(SECOND_US - 1, 1, 0)
    assert plan.due(SECOND_US, 1, 0), "a run is open"
    assert plan.due(SECOND_US, 1, 1), "it has finished since"
    plan.sent(SECOND_US, 1, 1, 0, 0, [])
    assert not plan.due(10 * SECOND_US, 1, 1), "nothing changed"
    assert plan.due(10 * SECOND_US, 1, 1, 3), "losses did"
    assert plan.due(10 * SECOND_US, 1, 1, 0, 1), "something was refused"


@given(st.integers(1, 5), st.lists(st.tuples(st.integers(0, 400), st.sets(st.integers(1, 12))), max_size=12))
def test_runs_take_turns(runs_max, beats):
    """At most so many at a time, none twice within five minutes, those first that waited longest."""
    plan = HeartbeatPlan(1_000, runs_max=runs_max)
    now_us, listed_us = 0, {}
    for pause_s, numbers in beats:
        now_us += pause_s * SECOND_US
        listed_us = {n: at for n, at in listed_us.items() if n in numbers}
        open_runs = runs(*numbers)
        selected = plan.select(now_us, open_runs)
        chosen = [run.source_seq for run in selected]
        ready = [n for n in numbers if now_us - listed_us.get(n, -LISTING_INTERVAL_US) >= LISTING_INTERVAL_US]
        assert set(chosen) <= set(ready)
        assert len(chosen) == min(len(ready), runs_max)
        waited = [listed_us.get(n, -1) for n in ready if n not in chosen]
        assert all(listed_us.get(n, -1) <= min(waited, default=now_us) for n in chosen)
        plan.sent(now_us, 1, 0, 0, 0, selected)
        listed_us.update(dict.fromkeys(chosen, now_us))


def test_a_heartbeat_says_what_stands_before_it(clock):
    """Counts, and each open run with its events and prefix head; numbered 1, 2, 3."""
    log = ListLog()
    with Sink(log, clock=clock) as sink:
        plan = HeartbeatPlan(1_000)
        done = sink.start_run(SkillRun(skill_id="s"))
        open_run = sink.start_run(SkillRun(skill_id="s"))
        open_run.step("x")
        done.finish()
        source = sink._source_here()
        assert beat_if_due(source, plan)
        assert not beat_if_due(source, plan)
        head = open_run._run._digest.head()
        clock.advance(SECOND_US)
        assert beat_if_due(source, plan)
        open_run.finish()
        clock.advance(SECOND_US)
        assert beat_if_due(source, plan)
    first, second, third = (parse_record(r) for r in log.records if b"source.heartbeat" in r)
    assert [beat.beat for beat in (first, second, third)] == [1, 2, 3]
    assert (first.runs_started, first.runs_finished) == (2, 1)
    assert [(r.run_id, r.source_seq, r.events, r.head) for r in first.open] == [(open_run.run_id, 2, 2, head)]
    assert second.open == (), "listed less than five minutes ago"
    assert (third.runs_started, third.runs_finished) == (2, 2)
    closed = parse_record(log.records[-1])
    assert (closed.by, closed.runs_started, closed.runs_finished, closed.open) == ("process", 2, 2, ())


def test_closing_lists_the_open_runs(log, settings):
    """source.closed by the process: counts, and where each open run stood."""
    sink = Sink(log, settings=settings)
    run = sink.start_run(SkillRun(skill_id="s"))
    run.step("x")
    sink.close()
    closed = parse_record(log.records[-1])
    assert [(r.run_id, r.events) for r in closed.open] == [(run.run_id, 2)]


def test_a_heartbeat_that_finds_no_room_comes_later(clock):
    """It takes no number; what it would have said, the next one says."""
    log = FullLog()
    with Sink(log, clock=clock) as sink:
        sink.start_run(SkillRun(skill_id="s")).finish()
        plan = HeartbeatPlan(1_000)
        log.used_up = True
        assert not beat_if_due(sink._source_here(), plan)
        log.used_up = False
        assert beat_if_due(sink._source_here(), plan)
    assert [e["beat"] for e in log.parsed("source.heartbeat")] == [1]


def test_the_backlog_is_the_logs(clock):
    """A log that knows what waits in it is asked."""

    class Backlog:
        records, bytes, oldest_us, refused = 3, 400, 5, 2

    log = ListLog()
    log.backlog = Backlog
    with Sink(log, clock=clock) as sink:
        sink.start_run(SkillRun(skill_id="s")).finish()
        beat_if_due(sink._source_here(), HeartbeatPlan(1_000))
    beat = log.parsed("source.heartbeat")[0]
    assert (beat["backlog_records"], beat["backlog_bytes"], beat["oldest_us"]) == (3, 400, 5)
    assert beat["refused"] == 2


def test_what_was_refused_is_told_by_the_outbox(tmp_path, clock):
    """As the acknowledgement has it, whoever forwards; told also where nothing else has changed."""
    log = OutboxLog(Settings(data=tmp_path, kafka_bootstrap_servers="nowhere:1", outbox_free_bytes_min=0))
    plan = HeartbeatPlan(1_000)
    with Sink(log, clock=clock, start_forwarder=None) as sink:
        sink.start_run(SkillRun(skill_id="s")).finish()
        assert beat_if_due(sink._source_here(), plan)
        ack = Acknowledgement(position=log.position, records=log.records, refused=2)
        write_acknowledgement(log.source_dir, ack)
        log.notify_acknowledged(ack)
        clock.advance(SECOND_US)
        assert beat_if_due(sink._source_here(), plan)
        clock.advance(SECOND_US)
        assert not beat_if_due(sink._source_here(), plan)
        assert log.backlog().refused == 2


def test_the_last_losses_are_told(clock):
    """A process that lives shorter than its heartbeats' interval, or ends between two, tells once more what was lost."""

    class Backlog:
        records, bytes, oldest_us, refused = 0, 0, 0, 1

    log = ListLog()
    log.backlog = Backlog
    with Sink(log, clock=clock) as sink:
        sink.start_run(SkillRun(skill_id="s")).finish()
        sink._source_here().count_lost(3)
    kinds = [e["type"] for e in log.parsed("source.")]
    assert kinds == ["source.opened", "source.heartbeat", "source.closed"]
    (beat,) = log.parsed("source.heartbeat")
    assert (beat["beat"], beat["lost"], beat["refused"]) == (1, 3, 1)


def test_a_backlog_that_cant_be_looked_at_ends_no_heartbeats(clock):
    """No file descriptor left, say: this one is not sent, the next one is."""
    log = ListLog()
    with Sink(log, clock=clock) as sink:
        sink.start_run(SkillRun(skill_id="s")).finish()
        plan = HeartbeatPlan(1_000)

        def fail():
            raise OSError(24, "Too many open files")

        log.backlog = fail
        assert not beat_if_due(sink._source_here(), plan)
        log.backlog = lambda: None
        assert beat_if_due(sink._source_here(), plan)


def test_nothing_follows_the_last_word(log, settings, clock):
    """A start or heartbeat that comes while the sink is being closed is refused: it would contradict the counts."""
    sink = Sink(log, settings=settings, clock=clock)
    sink.start_run(SkillRun(skill_id="s")).finish()
    source = sink._source_here()
    source.close(clock.wall_us())
    with pytest.raises(RunStateError):
        sink.start_run(SkillRun(skill_id="late"))
    with pytest.raises(RunStateError):
        source.beat(clock.wall_us(), [], None)
    assert source.runs_started == 1
    sink.close()


def test_the_thread_beats_by_itself():
    """From the first run on, every heartbeat_interval_ms."""
    beaten = Event()

    class Log(ListLog):
        def append(self, key, record, kind, *, wait_ms):
            position = super().append(key, record, kind, wait_ms=wait_ms)
            if b"source.heartbeat" in record:
                beaten.set()
            return position

    with Sink(Log(), settings=Settings(heartbeat_interval_ms=100)) as sink:
        run = sink.start_run(SkillRun(skill_id="s"))
        assert beaten.wait(30)
        run.finish()
