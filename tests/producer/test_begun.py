"""A run object is one run: what happens when it is started twice."""

from dataclasses import replace

import pytest
from tests.producer.support import check_run

from skillaudit.contract.clock import uuid7
from skillaudit.contract.errors import OutboxFullError, RunStateError
from skillaudit.producer import Sink, SkillRun
from skillaudit.producer._begun import BegunRuns


def test_a_run_object_starts_once(log, sink):
    """Open or finished, as a child or not; nothing is recorded of the second, and the error names what to do."""
    template = SkillRun(skill_id="s")
    with sink.start_run(template) as run:
        with pytest.raises(RunStateError, match=r"dataclasses\.replace\(run, id=uuid7\(\)\)"):
            sink.start_run(template)
        with pytest.raises(RunStateError, match="begun already"):
            run.start_child(template)
    with pytest.raises(RunStateError, match="begun already"):
        sink.start_run(template)
    sink.start_run(replace(template, id=uuid7())).finish()
    assert [event["source_seq"] for event in log.parsed("run.started")] == [1, 2]
    check_run(log.run_records(template.id))


def test_a_run_whose_start_was_refused_may_be_started_again(full_log, settings):
    """It never was."""
    with Sink(full_log, settings=settings) as sink:
        run = SkillRun(skill_id="s")
        full_log.used_up = True
        with pytest.raises(OutboxFullError):
            sink.start_run(run)
        full_log.used_up = False
        sink.start_run(run).finish()
    check_run(full_log.run_records(run.id))


def test_a_disabled_sink_looks_at_no_ids():
    """It records nothing that could contradict itself."""
    sink, run = Sink(None), SkillRun(skill_id="s")
    sink.start_run(run).finish()
    sink.start_run(run).finish()


def test_what_is_remembered_is_bounded():
    """The newest, and all that are open however old."""
    begun = BegunRuns(runs_max=10)
    for number in range(1_000):
        begun.claim(str(number), lambda: ["0", "7"])
        assert len(begun) <= 22
    for known in ("0", "7", "999", "991"):
        with pytest.raises(RunStateError):
            begun.claim(known, list)
    begun.claim("500", list)
