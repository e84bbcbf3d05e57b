"""`outbox_on_full=count`: logs may be dropped; every loss has its number and is declared."""

import logging
from threading import Event, Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.producer.support import FullLog, check_run

from skillaudit.contract.settings import Settings
from skillaudit.contract.telling import TELL_INTERVAL_S
from skillaudit.contract.wire import parse_record
from skillaudit.producer import Sink, SkillRun
from skillaudit.producer._numbering import LOST_RANGES_MAX

BEST_EFFORT = Settings(outbox_on_full="count", outbox_block_ms_max=600_000)


@given(st.lists(st.booleans(), max_size=60))
def test_losses_are_declared(pattern):
    """Whatever is refused when: later records carry the ranges so far, the finish all; manifest and head say the same."""
    log = FullLog()
    lost = []
    with Sink(log, settings=BEST_EFFORT) as sink:
        run = sink.start_run(SkillRun(skill_id="s"))
        for number, full in enumerate(pattern, 1):
            log.full = full
            run.step("x", input_tokens=1)
            lost += [number] if full else []
        log.full = True
        run.finish()
        assert sink.flush().lost == len(lost)
    check_run(log.run_records(run.run_id))
    for record in log.run_records(run.run_id):
        event = parse_record(record)
        if event.seq > 0:
            declared = [n for low, high in event.lost_ranges for n in range(low, high + 1)]
            assert declared == [n for n in lost if n < event.seq]
    assert log.events(run.run_id)[-1]["input_tokens"] == len(pattern)


def test_a_message_is_lost_as_a_whole():
    """A step never stays without its tool calls."""
    log = FullLog()
    with Sink(log, settings=BEST_EFFORT) as sink:
        run = sink.start_run(SkillRun(skill_id="s"))
        log.full = True
        run.message(
            {"role": "assistant", "content": "x", "tool_calls": [{"id": "1", "function": {"name": "f"}}]}
        )
        log.full = False
        run.step("y")
        run.finish()
    assert [e["seq"] for e in log.events(run.run_id)] == [0, 3, 4]
    assert log.events(run.run_id)[-1]["lost"] == "1-2"
    check_run(log.run_records(run.run_id))


def test_the_list_of_losses_is_bounded():
    """After so many separate losses the last one goes on to the finish: each record carries the list."""
    log = FullLog()
    with Sink(log, settings=BEST_EFFORT) as sink:
        run = sink.start_run(SkillRun(skill_id="s"))
        for number in range(4 * LOST_RANGES_MAX):
            log.full = number % 2 == 0
            run.step("x")
        log.full = False
        run.finish()
    finish = parse_record(log.run_records(run.run_id)[-1])
    assert len(finish.lost_ranges) == LOST_RANGES_MAX
    assert finish.lost_ranges[-1][1] == 4 * LOST_RANGES_MAX
    check_run(log.run_records(run.run_id))


def test_starts_and_finishes_are_never_dropped():
    """They have the reserve; where even that is used up they raise."""
    log = FullLog()
    with Sink(log, settings=Settings(outbox_on_full="count", outbox_block_ms_max=0)) as sink:
        run = sink.start_run(SkillRun(skill_id="s"))
        log.used_up = True
        with pytest.raises(Exception, match="full"):
            run.finish()
        log.used_up = False
        run.finish()
    check_run(log.run_records(run.run_id))


def test_a_heartbeat_counts_the_losses(clock):
    """`lost` of the source's heartbeat."""
    from skillaudit.producer.heartbeat import HeartbeatPlan, beat_if_due

    log = FullLog()
    with Sink(log, settings=BEST_EFFORT, clock=clock) as sink:
        run = sink.start_run(SkillRun(skill_id="s"))
        run.step("kept")
        log.full = True
        run.step("lost")
        run.step("lost")
        assert beat_if_due(sink._source_here(), HeartbeatPlan(1_000))
        beat = log.parsed("source.heartbeat")[0]
        assert beat["lost"] == 2
        assert beat["open"][0]["events"] == 2, "a prefix ends with the last event that is there"
        run.finish()


def test_losses_are_said_in_the_log(clock, caplog):
    """At once the first time; then once per interval with all since, at a loss or a heartbeat; the rest at the close."""
    from skillaudit.producer.heartbeat import Heart

    def said():
        found = [record.getMessage() for record in caplog.records if record.name == "skillaudit.producer"]
        caplog.clear()
        return [text.partition("`count`: ")[2].partition(", and")[0] for text in found]

    log = FullLog()
    with Sink(log, settings=BEST_EFFORT, clock=clock) as sink:
        run = sink.start_run(SkillRun(skill_id="s"))
        heart = Heart(sink._source_here(), 1_000)
        log.full = True
        run.step("x")
        assert said() == ["1 event dropped"]
        for _ in range(1_000):
            run.step("x")
        heart._beat()
        assert said() == []
        clock.now_us += int(TELL_INTERVAL_S * 1_000_000)
        run.step("x")
        assert said() == ["1,001 events dropped"]
        run.step("x")
        clock.now_us += int(TELL_INTERVAL_S * 1_000_000)
        heart._beat()
        assert said() == ["1 event dropped"], "also where nothing more is lost"
        run.step("x")
        run.step("x")
        log.full = False
        run.finish()
    assert said() == ["2 events dropped"]


class RecordingHandler(logging.Handler):
    """An application's own: what is logged becomes an event, under the handler's lock."""

    def __init__(self, run):
        super().__init__()
        self.run, self.entered, self.go_on = run, Event(), Event()

    def emit(self, record):
        self.entered.set()
        self.go_on.wait(10)
        self.run.step(record.getMessage())


def test_a_log_that_records_does_not_stand_in_the_way():
    """One thread is in the handler and wants the run, another one has lost an event of the run and wants to say so: the
    run's lock is not held then.
    """
    log, done = FullLog(), []
    with Sink(log, settings=BEST_EFFORT) as sink:
        run = sink.start_run(SkillRun(skill_id="s"))
        handler, logger = RecordingHandler(run), logging.getLogger("skillaudit")
        logger.addHandler(handler)
        try:
            log.full = True
            threads = [
                Thread(target=lambda: done.append(logger.warning("said")), daemon=True),
                Thread(target=lambda: done.append(run.step("lost")), daemon=True),
            ]
            threads[0].start()
            assert handler.entered.wait(10)
            threads[1].start()
            handler.go_on.set()
            for thread in threads:
                thread.join(10)
        finally:
            logger.removeHandler(handler)
        assert len(done) == 2, "a thread waits for ever"
        log.full = False
        run.finish()
        assert sink.flush().lost == 3, "two that were recorded, and what the handler made of the loss"
