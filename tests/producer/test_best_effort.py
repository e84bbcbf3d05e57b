"""`outbox_on_full=count`: logs may be dropped; every loss has its number and is declared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.producer.support import FullLog, check_run

from skillaudit.contract.settings import Settings
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
