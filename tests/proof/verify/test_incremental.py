"""From where the verifier last stood: what is new is computed whole, of the rest as much as is drawn."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from tests.attacks.test_lawful import Fleet
from tests.attacks.world import names, told, violations

from skillaudit.consumer.planning import plan_redact
from skillaudit.consumer.recording import perform
from skillaudit.contract.admin import ActOrder
from skillaudit.contract.records import SkillRun
from skillaudit.proof.verify import Depth, Report, runs
from skillaudit.proof.verify.state import read_state, write_state

OLD, NEW, LOGS = 12, 2, 4


class Auditor(Fleet):
    """A fleet whose verifier remembers where he stood."""

    def audit(self, **options) -> Report:
        state = read_state(self.directory / "seen")
        known = {"sealed_from": state.sealed_to, "content_from": state.content_to}
        report = self.verify(**{**known, **options})
        write_state(self.directory / "seen", report)
        return report


@pytest.fixture
def auditor(tmp_path: Path):
    with contextlib.closing(Auditor(tmp_path)) as made:
        made.left = made.sink.start_run(SkillRun(skill_id="open"))
        made.record(OLD, LOGS)
        made.take()
        made.seal()
        yield made


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> int:
    """How many of the old runs are computed again; the record has more."""
    monkeypatch.setattr(runs, "OLD_RUNS_DRAWN", 3)
    return 3


def hashed(report: Report) -> tuple[int, int]:
    return report.hashed_runs, report.hashed_events


def go_on(auditor: Auditor) -> None:
    auditor.record(NEW, LOGS)
    auditor.take()
    auditor.seal()


def test_only_what_is_new_and_a_share_of_the_old_is_computed(auditor, drawn):
    """New runs, and those that were open; everything is counted, and what is said is said once."""
    first = auditor.audit()
    assert (hashed(first), first.runs, first.events) == ((OLD + 1, OLD * LOGS), OLD + 1, OLD * LOGS)
    go_on(auditor)
    second = auditor.audit()
    assert hashed(second) == (1 + NEW + drawn, (NEW + drawn) * LOGS), told(second)
    assert (second.runs, second.events) == (OLD + 1 + NEW, (OLD + NEW) * LOGS)
    assert second.counts["RUN_OPEN"] == 1
    auditor.left.finish()
    auditor.take()
    auditor.seal()
    third = auditor.audit()
    assert (third.exit_code, hashed(third)) == (0, (1 + drawn, drawn * LOGS)), told(third)
    fourth = auditor.audit()
    assert (fourth.exit_code, fourth.hashed_runs) == (0, drawn), told(fourth)
    assert "content of 3 runs" in next(fourth.lines())


def test_what_no_check_has_computed_is_not_known(auditor, drawn):
    """A quick check, a sample, and one of a part of the time leave the content to the next."""
    for options in ({"depth": Depth.QUICK}, {"depth": Depth.SAMPLE, "sample": 2}, {"since_us": 5}):
        auditor.audit(**options)
    assert auditor.audit().hashed_runs == OLD + 1
    go_on(auditor)
    assert auditor.audit(depth=Depth.QUICK).hashed_runs == 0
    assert auditor.audit().hashed_runs == 1 + NEW + drawn


def test_what_was_redacted_since_is_computed_again(auditor, drawn, monkeypatch):
    monkeypatch.setattr(runs, "OLD_RUNS_DRAWN", 0)
    auditor.audit()
    perform(auditor.opened().materializer, plan_redact(ActOrder(actor="dpo"), auditor.ids()[4], 2, None))
    auditor.seal()
    report = auditor.audit()
    assert hashed(report) == (2, LOGS), told(report)


def tamper(auditor: Auditor) -> None:
    """In one of the old runs; what is stored of it beside its content agrees."""
    with auditor.opened().transaction("tamper") as cursor:
        cursor.execute("UPDATE store.events_hot_a SET payload = '{}' WHERE run_key = 3 AND sequence = 2")
        cursor.execute("UPDATE store.events_hot_b SET payload = '{}' WHERE run_key = 3 AND sequence = 2")


def test_an_old_run_that_is_altered_is_found_when_it_is_drawn(auditor, drawn):
    """By an incremental check with some luck, and by one of everything always."""
    auditor.audit()
    go_on(auditor)
    tamper(auditor)
    state = read_state(auditor.directory / "seen")
    known = {"sealed_from": state.sealed_to, "content_from": state.content_to}
    answers = [auditor.verify(**known, seed=seed) for seed in range(8)]
    assert {report.exit_code for report in answers} == {5, 6}, [names(report) for report in answers]
    assert all(violations(report) <= {"EVENT_ALTERED"} for report in answers)
    whole = auditor.verify()
    assert (whole.exit_code, violations(whole)) == (5, {"EVENT_ALTERED"})


def test_all_of_a_small_record_is_drawn(auditor):
    """A thousand: in a record that has no more an incremental check computes everything."""
    auditor.audit()
    go_on(auditor)
    tamper(auditor)
    report = auditor.verify(sealed_from=1, content_from=1)
    assert hashed(report) == (1 + OLD + NEW, (OLD + NEW) * LOGS)
    assert violations(report) == {"EVENT_ALTERED"}
