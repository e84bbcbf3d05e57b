"""One open Sink numbers the runs of a log; the next one goes on behind it."""

import os

import pytest
from tests.producer.support import ListLog

from skillaudit.contract.errors import RunStateError
from skillaudit.contract.memory import MemoryStorage
from skillaudit.contract.records import Completeness, Liveness
from skillaudit.contract.settings import Settings
from skillaudit.producer import Sink, SkillRun
from skillaudit.producer.outbox import OutboxLog


def test_a_second_open_sink_on_a_log_is_refused(log, settings):
    """At its first run, with the remedy; nothing is recorded of it, the first is unharmed, another log is free."""
    with Sink(log, settings=settings) as first, Sink(log, settings=settings) as second:
        first.start_run(SkillRun(skill_id="s")).finish()
        run = SkillRun(skill_id="s")
        with pytest.raises(RunStateError, match="close it first"):
            second.start_run(run)
        first.start_run(run).finish()
        with Sink(ListLog(), settings=settings) as third:
            third.start_run(SkillRun(skill_id="s")).finish()
    assert [event["source_seq"] for event in log.parsed("run.started")] == [1, 2]


def test_a_sink_that_recorded_nothing_holds_nothing(log, settings):
    """Not even an open one."""
    Sink(log, settings=settings)
    with Sink(log, settings=settings) as sink:
        sink.start_run(SkillRun(skill_id="s")).finish()


async def test_sinks_one_after_another_number_on():
    """On a log that takes more: no number stands for two runs, and what the first left open stays counted as that."""
    storage, left = MemoryStorage(), SkillRun(skill_id="s")
    runs = []
    for number in range(3):
        with Sink(storage) as sink:
            with sink.start_run(SkillRun(skill_id="s")) as run:
                run.step("x")
            runs.append(run.run_id)
            if not number:
                sink.start_run(left)
            with pytest.raises(RunStateError, match="begun already"):
                sink.start_run(left)
    for run_id in runs:
        state = await storage.get_run_state(run_id)
        assert (state.completeness, state.conflicts) == (Completeness.COMPLETE, 0)
    assert (await storage.get_run_state(left.id)).liveness is Liveness.ABANDONED


def test_the_source_is_opened_again_by_the_next_sink(log, settings):
    """Its counts go on: started and finished of all of them."""
    for _ in range(2):
        with Sink(log, settings=settings) as sink:
            sink.start_run(SkillRun(skill_id="s")).finish()
            sink.start_run(SkillRun(skill_id="left open"))
    assert [event["type"].partition(".")[2] for event in log.parsed("source.")] == ["opened", "closed"] * 2
    assert [event["source_seq"] for event in log.parsed("run.started")] == [1, 2, 3, 4]
    assert [(e["runs_started"], e["runs_finished"]) for e in log.parsed("source.closed")] == [(2, 1), (4, 2)]


def in_child(work) -> int:
    """Its exit code: 0 where `work` returned True."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if work() else 2)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def starts(sink: Sink) -> bool:
    try:
        sink.start_run(SkillRun(skill_id="s")).finish()
    except RunStateError:
        return False
    return True


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_holds_for_itself(tmp_path, log, settings):
    """With the inherited Sink, or another one where its log has a source of its own there."""
    with Sink(log, settings=settings) as sink:
        assert starts(sink)
        assert in_child(lambda: starts(sink)) == 0
        assert in_child(lambda: starts(Sink(log, settings=settings))) == 2, (
            "the same source_id as the parent's"
        )
    outbox = OutboxLog(Settings(data=tmp_path, outbox_free_bytes_min=0))
    with Sink(outbox, settings=settings) as sink:
        assert starts(sink)
        assert in_child(lambda: starts(Sink(outbox, settings=settings))) == 0
        assert in_child(lambda: starts(sink) and not starts(Sink(outbox, settings=settings))) == 0
