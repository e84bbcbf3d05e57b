"""From where the verifier last stood: what is new is computed whole, of the rest as much as is drawn."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.attacks.test_lawful import Fleet
from tests.attacks.world import SIGNER, names, told, violations

from skillaudit.consumer.planning import plan_redact
from skillaudit.consumer.recording import perform
from skillaudit.contract.admin import ActOrder
from skillaudit.contract.records import SkillRun
from skillaudit.contract.wire import RunLog, parse_record
from skillaudit.proof.anchors import open_anchor
from skillaudit.proof.restoring import restore_journal
from skillaudit.proof.verify import Depth, Report, VerifyRequest, runs
from skillaudit.proof.verify.state import VerifierState, read_state, write_state

OLD, NEW, LOGS = 12, 2, 4


class Auditor(Fleet):
    """A fleet whose verifier remembers where he stood."""

    def audit(self, **options) -> Report:
        state = read_state(self.directory / "seen")
        report = self.verify(**{**known(state), **options})
        write_state(self.directory / "seen", report)
        return report


def known(state: VerifierState) -> dict[str, Any]:
    asked = state.apply(VerifyRequest())
    return {name: getattr(asked, name) for name in ("sealed_from", "content_from", "database", "unsettled")}


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
    before = known(read_state(auditor.directory / "seen"))
    answers = [auditor.verify(**before, seed=seed) for seed in range(8)]
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


@pytest.fixture
def none_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found is found by rule."""
    monkeypatch.setattr(runs, "OLD_RUNS_DRAWN", 0)


def held_back(auditor: Auditor) -> tuple[bytes, bytes]:
    """Record a run of which one log is late; it is sealed without."""
    auditor.record(1, LOGS)
    items = auditor.fresh()
    [late] = [item for item in items if is_log(item[1], 2)]
    auditor.take([item for item in items if item is not late])
    auditor.seal()
    return late


def is_log(record: bytes, sequence: int) -> bool:
    event = parse_record(record)
    return isinstance(event, RunLog) and event.seq == sequence


@pytest.mark.usefixtures("none_drawn")
def test_a_log_that_comes_after_its_run_was_sealed_is_computed(auditor):
    """It makes no row of the ledger: a run that lacked something is remembered until a check has seen it whole."""
    key, record = held_back(auditor)
    report = auditor.audit()
    assert (report.exit_code, names(report)) == (4, {"RUN_OPEN", "RUN_INCOMPLETE"}), told(report)
    state = (auditor.directory / "seen").read_bytes()
    auditor.take([(key, record.replace(b"thought 1", b"thought 9"))])
    auditor.seal()
    report = auditor.audit(depth=Depth.QUICK)
    assert (report.exit_code, hashed(report)) == (6, (0, 0)), told(report)
    report = auditor.audit()
    assert (report.exit_code, violations(report)) == (5, {"EVENT_ALTERED"}), told(report)
    assert hashed(report) == (2, LOGS)
    (auditor.directory / "seen").write_bytes(state)
    with auditor.opened().transaction("put it right") as cursor:
        for table in ("store.events_hot_a", "store.events_hot_b"):
            cursor.execute(f"UPDATE {table} SET payload = replace(payload, 'thought 9', 'thought 1')")
    report = auditor.audit()
    assert (report.exit_code, hashed(report)) == (6, (2, LOGS)), told(report)
    assert hashed(auditor.audit()) == (1, 0)


@pytest.mark.usefixtures("none_drawn")
def test_more_runs_that_lack_something_than_are_remembered_make_the_next_check_compute_all(
    auditor, monkeypatch
):
    held_back(auditor)
    monkeypatch.setattr(runs, "UNSETTLED_RUNS_MAX", 0)
    assert auditor.audit().unsettled == ()
    monkeypatch.undo()
    monkeypatch.setattr(runs, "OLD_RUNS_DRAWN", 0)
    assert auditor.audit().hashed_runs == OLD + 2
    assert auditor.audit().hashed_runs == 2


def rebuilt(auditor: Auditor) -> None:
    """The database is gone, and made again from the anchor and the topic."""
    auditor.close()
    auditor.store = None
    auditor.path.unlink()
    put_forward(auditor)


def put_forward(auditor: Auditor) -> None:
    """What the database lacks comes from the anchor and the topic."""
    with contextlib.closing(open_anchor(f"file:{auditor.directory / 'anchor'}")) as anchor:
        restore_journal(auditor.opened(), anchor.objects(), [SIGNER.verifier])
    store = auditor.opened()
    ends = {name: stored.next_offset for name, stored in store.materializer.positions().items()}
    store.take(auditor.topic, [it for it in auditor.topic.records if it.offset >= ends.get(it.partition, 0)])
    auditor.seal()


@pytest.mark.usefixtures("none_drawn")
def test_of_a_database_that_was_made_again_everything_is_computed(auditor):
    """Its journal goes on with the same leaves, and what is stored under them was stored anew."""
    assert auditor.audit().exit_code == 6
    assert auditor.audit().hashed_runs == 1
    rebuilt(auditor)
    tamper(auditor)
    report = auditor.audit()
    assert (report.exit_code, violations(report)) == (5, {"EVENT_ALTERED"}), told(report)
    assert report.hashed_runs == OLD + 1
    assert "not the database of the check before" in report.scope


@pytest.mark.usefixtures("none_drawn")
def test_of_a_database_that_was_put_back_everything_is_computed(auditor):
    """Its id is the same, and its journal again what was seen: what was stored since the copy is stored anew."""
    auditor.verify()
    shutil.copy(auditor.path, auditor.directory / "older")
    go_on(auditor)
    auditor.audit()
    assert auditor.audit().hashed_runs == 1
    auditor.close()
    auditor.store = None
    shutil.copy(auditor.directory / "older", auditor.path)
    put_forward(auditor)
    assert auditor.audit().hashed_runs == 1 + OLD + NEW
    assert auditor.audit().hashed_runs == 1


def test_a_state_of_an_earlier_release_knows_no_database(auditor, none_drawn):
    auditor.audit()
    path = auditor.directory / "seen"
    members = {name: it for name, it in orjson.loads(path.read_bytes()).items() if name != "database"}
    path.write_bytes(orjson.dumps(members))
    assert auditor.audit().hashed_runs == OLD + 1
