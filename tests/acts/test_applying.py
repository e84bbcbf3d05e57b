"""What acts do to what is stored, and what stays of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.acts.support import BASE_US, CONTROL, Control, Run, file_holds, head_of, hits, rows, state, take
from tests.attacks.world import Store
from tests.consumer.support import records

from skillaudit.consumer.backup import back_up
from skillaudit.consumer.database import Database, open_database
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.planning import plan_purge, plan_purge_of
from skillaudit.consumer.recording import perform, record_life, report_of
from skillaudit.contract.admin import ActOrder
from skillaudit.contract.runrecord import Outcome
from skillaudit.contract.sources import SourceRecord
from skillaudit.proof.acts import ActKind, act_line, parse_act

SECRET = "Rosebud-47-11"
ALL = {"t/0": 1_000}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_database(tmp_path / "audit.duckdb") as database:
        yield database


@pytest.fixture
def writer(database: Database) -> Iterator[Materializer]:
    with contextlib.closing(Materializer(database)) as writer:
        yield writer


def apply(writer: Materializer, values: list[bytes], *, first: int = 0, partition: str = "t/0"):
    return writer.apply(records(values, first=first, partition=partition, received_us=BASE_US))


@pytest.fixture
def control() -> Control:
    return Control()


# purge


def test_a_purge_leaves_a_tombstone_the_ledger_and_the_act(
    database: Database, writer: Materializer, control: Control
) -> None:
    """What comes again of the run is counted, not stored."""
    old, new = Run("old").whole({"a": SECRET}), Run("new", number=2, at_us=BASE_US + 9_000).whole({"a": 1})
    apply(writer, [*old, *new])
    ledger = rows(database, "SELECT * FROM ledger ORDER BY idx")
    act = control.add(ActKind.PURGE, started_before=BASE_US + 9_000, positions={"t/0": 6})
    take(writer, control)
    assert rows(database, "SELECT id FROM runs") == [("new",)]
    assert rows(database, "SELECT count(*) FROM events") == [(1,)]
    assert rows(database, "SELECT id, events_stored, violates FROM tombstones") == [("old", 1, "")]
    assert rows(database, "SELECT act_id, runs, events FROM purges") == [(act.act_id, 1, 1)]
    assert rows(database, "SELECT * FROM ledger ORDER BY idx") == ledger
    assert hits(database, SECRET) == []
    assert apply(writer, old, first=6).outcomes[Outcome.PURGED] == 3
    assert rows(database, "SELECT id, records_dropped FROM tombstones") == [("old", 3)]
    assert hits(database, SECRET) == []


def test_a_purge_reaches_as_far_as_its_positions(
    database: Database, writer: Materializer, control: Control
) -> None:
    """What started behind the position, or in a partition that it does not name, is not concerned."""
    apply(writer, Run("a").whole())
    apply(writer, Run("b", number=2).whole(), first=2)
    apply(writer, Run("c", number=3).whole(), partition="t/1")
    control.add(ActKind.PURGE, started_before=BASE_US + 1, positions={"t/0": 2})
    take(writer, control)
    assert rows(database, "SELECT id FROM runs ORDER BY id") == [("b",), ("c",)]


def test_holds_and_the_minimum_age_keep_runs(
    database: Database, writer: Materializer, control: Control
) -> None:
    """A hold names runs, a skill, or everything, stored or still to come; it counts until it is released."""
    day_us = 86_400_000_000
    values = [
        *Run("held").whole(),
        *Run("of a held skill", number=2, skill_id="held").whole(),
        *Run("young", number=3, at_us=BASE_US + day_us).whole(),
        *Run("free", number=4).whole(),
    ]
    hold = control.add(ActKind.HOLD, runs=["held", "not yet known"])
    skill = control.add(ActKind.HOLD, skill_id="held")
    take(writer, control)
    apply(writer, values)
    now_us, minimum = BASE_US + 3 * day_us, {"min_retention_days": 2}
    everything = {"started_before": now_us, "positions": ALL}
    control.add(ActKind.PURGE, at_us=now_us, policy=minimum, **everything)
    take(writer, control)
    writer.settle_acts({"t/0": 1_000})
    assert rows(database, "SELECT id FROM runs ORDER BY id") == [("held",), ("of a held skill",), ("young",)]
    control.add(ActKind.RELEASE, hold=hold.act_id)
    control.add(ActKind.PURGE, at_us=now_us, policy=minimum, started_before=now_us, positions={"t/0": 8})
    take(writer, control)
    assert rows(database, "SELECT id FROM runs ORDER BY id") == [("of a held skill",), ("young",)]
    assert rows(database, "SELECT act_id, released_by FROM holds ORDER BY act_id") == [
        (hold.act_id, "act-3"),
        (skill.act_id, None),
    ]


def test_force_goes_over_both_and_is_seen_for_ever(
    database: Database, writer: Materializer, control: Control
) -> None:
    """The tombstone says what stood against it."""
    day_us = 86_400_000_000
    apply(writer, [*Run("held").whole(), *Run("young", number=2, at_us=BASE_US + day_us).whole()])
    control.add(ActKind.HOLD, runs=["held"])
    policy = {"min_retention_days": 2, "force": True}
    control.add(
        ActKind.PURGE, at_us=BASE_US + 2 * day_us, policy=policy, runs=["held", "young"], positions={"t/0": 4}
    )
    take(writer, control)
    assert rows(database, "SELECT id, violates FROM tombstones ORDER BY id") == [
        ("held", "hold"),
        ("young", "minimum"),
    ]


def test_a_forced_purge_of_a_run_without_a_place_is_counted(
    database: Database, writer: Materializer, control: Control
) -> None:
    """An earlier release stored runs without their records' offsets: the act says how many it goes over, and of them no place."""
    apply(writer, [*Run("old").whole(), *Run("new", number=2).whole()])
    hold = control.add(ActKind.HOLD, runs=["old", "new"])
    take(writer, control)
    with writer.transaction("as an earlier release left it") as cursor:
        cursor.execute("UPDATE store.runs SET record_offset = -1 WHERE id = 'old'")
    perform(writer, plan_purge_of(ActOrder(actor="ada", force=True), ["old", "new"]))
    (act,) = (
        parse_act(row[0].encode()) for row in rows(database, "SELECT act FROM acts WHERE kind = 'purge'")
    )
    assert act.violates is not None
    assert {kind: (it.runs, dict(it.places)) for kind, it in act.violates.items()} == {
        "hold": (2, {"t/0": ((2, 2),)})
    }
    assert hold.act_id
    assert rows(database, "SELECT id FROM tombstones ORDER BY id") == [("new",), ("old",)]


@pytest.mark.parametrize("named", [True, False])
def test_a_hold_that_a_forced_purge_did_not_know_of_keeps_its_runs(
    tmp_path: Path, database: Database, writer: Materializer, control: Control, named: bool
) -> None:
    """It came into the log while the purge was on its way, so that the act says nothing of it. What the act says that it goes over
    goes; and in a database made again, too.
    """
    values = [
        *Run("free").whole(),
        *Run("known", number=2, skill_id="billing").whole(),
        *Run("late", number=3, skill_id="case").whole(),
        *Run("both", number=4, skill_id="case").whole(),
    ]
    apply(writer, values)
    control.add(ActKind.HOLD, runs=["known", "both"])
    take(writer, control)
    order, ids = ActOrder(actor="ada", force=True), ["free", "known", "late", "both"]
    plan = (plan_purge_of(order, ids) if named else plan_purge(order, BASE_US + 9_000_000))(writer)
    late = control.add(ActKind.HOLD, skill_id="case")
    (act,) = plan.acts
    control.add_line(act_line(act))
    take(writer, control)
    gone = [("both", "hold"), ("free", ""), ("known", "hold")]
    assert rows(database, "SELECT id, violates FROM tombstones ORDER BY id") == gone
    assert act.violates is not None
    assert act.violates["hold"].runs == 2
    report = report_of(writer.acting, plan)
    assert (report.runs, report.held, late.act_id in report.holds) == (3, 1, True)
    with open_database(tmp_path / "again.duckdb") as again, contextlib.closing(Materializer(again)) as other:
        take(other, control)
        apply(other, values)
        other.settle_acts({"t/0": 1_000})
        assert rows(again, "SELECT id, violates FROM tombstones ORDER BY id") == gone
        assert rows(again, "SELECT id FROM runs") == [("late",)]


def test_a_forced_purge_that_knew_of_no_hold_goes_over_none(
    database: Database, writer: Materializer, control: Control
) -> None:
    """Also where the hold that it names is none; one that names none is an earlier release's, and goes over all."""
    apply(writer, [*Run("a").whole(), *Run("b", number=2).whole()])
    control.add(ActKind.HOLD, all=True)
    for last_hold in ("", "nobody's"):
        policy = {"force": True, "violates": {}, "last_hold": last_hold}
        control.add(ActKind.PURGE, policy=policy, runs=["a"], positions=ALL)
    control.add(ActKind.PURGE, policy={"force": True}, runs=["b"], positions={"t/0": 4})
    take(writer, control)
    writer.settle_acts({"t/0": 1_000})
    assert rows(database, "SELECT id FROM runs") == [("a",)]


# redact


def test_a_redacted_payload_is_gone_and_the_head_stays_proven(
    database: Database, writer: Materializer, control: Control
) -> None:
    """Its digest is kept, its salt is forgotten, and the run's own salt with it: nobody can find it by trying."""
    run = Run("r")
    apply(writer, run.whole({"a": 1}, {"b": SECRET}, {"c": 3}))
    act = control.add(ActKind.REDACT, run="r", seq=2, positions={"t/0": 5})
    take(writer, control)
    assert hits(database, SECRET) == []
    payloads = rows(database, "SELECT payload FROM events ORDER BY sequence")
    assert orjson.loads(payloads[1][0]) == {"_redacted": {"act": act.act_id}}
    assert [orjson.loads(payloads[n][0]) for n in (0, 2)] == [{"a": 1}, {"c": 3}]
    assert rows(database, "SELECT salt FROM runs") == [(None,)]
    assert rows(database, "SELECT seq, field, act_id FROM redactions") == [(2, None, act.act_id)]
    assert (2, None) not in rows(database, "SELECT seq, field FROM run_salts")
    stored, computed = head_of(database, "r")
    assert stored == computed


@pytest.mark.parametrize("field", ["caller_id", "inputs", "output", "error"])
def test_a_redacted_field_is_gone_and_the_others_stay_proven(
    database: Database, writer: Materializer, control: Control, field: str
) -> None:
    """Of a start or finish one field can go alone."""
    run = Run("r")
    content = {"caller": SECRET, "inputs": {"q": SECRET}}
    ending = {"output": SECRET, "error": SECRET}
    apply(writer, [run.start(**content), run.log(a=1), run.finish(**ending)])
    seq = 2 if field in ending else 0
    control.add(ActKind.REDACT, run="r", seq=seq, field=field, positions={"t/0": 3})
    take(writer, control)
    ((value, other),) = rows(
        database, f"SELECT {field}, {'output' if field != 'output' else 'error'} FROM runs"
    )
    assert SECRET not in value
    assert SECRET in other
    assert len({*head_of(database, "r")}) == 1


def test_redacting_again_changes_nothing_and_more_can_follow(
    database: Database, writer: Materializer, control: Control
) -> None:
    """Several redactions of one run: each keeps what is left proven."""
    apply(writer, Run("r").whole({"a": 1}, {"b": SECRET}, {"c": SECRET}))
    control.add(ActKind.REDACT, run="r", seq=2, positions={"t/0": 5})
    take(writer, control)
    before = state(database)
    control.add(ActKind.REDACT, run="r", seq=2, positions={"t/0": 5})
    take(writer, control)
    after = state(database)
    assert {name for name in before if before[name] != after[name]} == {"acts", "leaves"}
    control.add(ActKind.REDACT, run="r", seq=3, positions={"t/0": 5})
    control.add(ActKind.REDACT, run="r", seq=0, positions={"t/0": 5})
    take(writer, control)
    assert hits(database, SECRET) == []
    assert rows(database, "SELECT seq, field FROM redactions WHERE seq > 0 ORDER BY 1") == [
        (2, None),
        (3, None),
    ]
    assert rows(database, "SELECT count(*) FROM redactions WHERE seq = 0") == [(4,)]
    assert len({*head_of(database, "r")}) == 1


def test_an_open_run_keeps_its_salt_until_it_ends(
    database: Database, writer: Materializer, control: Control
) -> None:
    """Events that are still to come need it; with the finish it goes, in the same transaction."""
    run = Run("r")
    apply(writer, [run.start(), run.log(a=SECRET)])
    control.add(ActKind.REDACT, run="r", seq=1, positions={"t/0": 2})
    take(writer, control)
    assert hits(database, SECRET) == []
    assert rows(database, "SELECT salt IS NULL FROM runs") == [(False,)]
    apply(writer, [run.log(b=2), run.finish()], first=2)
    assert rows(database, "SELECT salt IS NULL FROM runs") == [(True,)]
    assert len({*head_of(database, "r")}) == 1


def test_a_record_delivered_again_brings_nothing_back(
    database: Database, writer: Materializer, control: Control
) -> None:
    """It is told by number and tag as before, and is no conflict."""
    run = Run("r")
    values = [run.start(caller=SECRET), run.log(a=SECRET), run.finish(output=SECRET)]
    apply(writer, values)
    for seq in (0, 1, 2):
        control.add(ActKind.REDACT, run="r", seq=seq, positions={"t/0": 3})
    take(writer, control)
    report = apply(writer, values, first=3)
    assert +report.outcomes == {Outcome.DUPLICATE: 3}
    assert rows(database, "SELECT conflicts FROM runs") == [(0,)]
    assert hits(database, SECRET) == []


def test_copies_in_conflicts_and_dead_letters_lose_it_too(
    database: Database, writer: Materializer, control: Control
) -> None:
    """Another record that claims the place, and one that was no event: their place stays, their content goes."""
    run, forged = Run("r"), Run("r", at_us=BASE_US + 7)
    apply(writer, [run.start(), run.log(a=SECRET), run.log(b="other"), run.finish()])
    forged.start()
    malformed = forged.log(a=SECRET, x=1).replace(b'"seq":1', b'"seq":1.0')
    apply(
        writer,
        [Run("r", at_us=BASE_US + 3).log(a=SECRET, y=2), malformed, b"\xff r " + SECRET.encode()],
        first=4,
    )
    assert {name.partition(".")[2] for name in hits(database, SECRET)} >= {"conflicts", "dead_letters"}
    control.add(ActKind.REDACT, run="r", seq=1, positions={"t/0": 7})
    take(writer, control)
    assert hits(database, SECRET) == []
    assert rows(database, "SELECT conflicts FROM runs") == [(1,)]
    assert rows(database, "SELECT state, record FROM dead_letters") == [("erased", None)] * 2
    again = apply(writer, [Run("r", at_us=BASE_US + 3).log(a=SECRET, y=2)], first=7)
    assert +again.outcomes == {Outcome.DUPLICATE: 1}, "what was kept aside is still known by number and tag"


def test_a_hold_keeps_a_run_from_being_redacted(
    database: Database, writer: Materializer, control: Control
) -> None:
    """Unless it is forced."""
    apply(writer, Run("r").whole({"a": SECRET}))
    control.add(ActKind.HOLD, all=True)
    control.add(ActKind.REDACT, run="r", seq=1, positions={"t/0": 3})
    take(writer, control)
    assert hits(database, SECRET)
    control.add(ActKind.REDACT, run="r", seq=1, policy={"force": True}, positions={"t/0": 3})
    take(writer, control)
    assert not hits(database, SECRET)


# erase


def test_an_erased_run_keeps_its_head_and_nothing_else_that_was_said(
    database: Database, writer: Materializer, control: Control
) -> None:
    """Payloads and fields of start and finish go, those that come later too."""
    run = Run("r")
    first = [run.start(caller=SECRET, inputs={"q": SECRET}), run.log(a=SECRET)]
    rest = [run.log(b=SECRET), run.finish(output=SECRET, error=SECRET)]
    apply(writer, first)
    act = control.add(ActKind.ERASE, runs=["r"], positions={"t/0": 2})
    take(writer, control)
    assert hits(database, SECRET) == []
    apply(writer, rest, first=2)
    assert hits(database, SECRET) == []
    assert rows(database, "SELECT DISTINCT act_id FROM redactions") == [(act.act_id,)]
    assert rows(database, "SELECT count(*) FROM redactions") == [(2 + 4 + 2,)]
    assert rows(database, "SELECT salt, completeness FROM runs") == [(None, "complete")]
    assert len({*head_of(database, "r")}) == 1


def test_what_is_no_event_and_comes_after_the_erasure_loses_its_bytes(
    database: Database, writer: Materializer, control: Control
) -> None:
    """By its key, by the run's id in it, or where it can't be read; of other runs it stays, for the repair."""
    apply(writer, [*Run("r").whole({"a": SECRET}), *Run("other", number=2).whole()])
    control.add(ActKind.ERASE, runs=["r"], positions=ALL)
    take(writer, control)
    writer.settle_acts({"t/0": 1_000})
    late = [
        (b"r", b'{"v":99,"payload":"%s"}' % SECRET.encode()),
        (None, b'{"v":99,"run_id":"r","payload":"%s"}' % SECRET.encode()),
        (b"other", b'{"v":99,"run_id":"other","payload":"of r"}'),
        (None, b"[1]"),
    ]
    found = [
        SourceRecord("t/0", 1_000 + n, 1_001 + n, BASE_US, key, value) for n, (key, value) in enumerate(late)
    ]
    writer.apply(found)
    states = rows(database, "SELECT state FROM dead_letters ORDER BY record_offset")
    assert states == [("erased",), ("erased",), ("waiting",), ("waiting",)]
    assert hits(database, SECRET) == []
    torn = SourceRecord(
        "t/0", 1_010, 1_011, BASE_US, None, b'{"v":99,"run_id":"r","payload":"' + SECRET.encode()
    )
    writer.apply([torn])
    assert hits(database, SECRET) == []


def test_a_missing_event_that_comes_after_the_erasure_is_erased(
    database: Database, writer: Materializer, control: Control
) -> None:
    """Its salt was kept for that, and goes then."""
    run = Run("r")
    values = [run.start(), run.log(a=1), run.log(b=SECRET), run.finish()]
    apply(writer, [values[0], values[1], values[3]])
    control.add(ActKind.ERASE, runs=["r"], positions={"t/0": 3})
    take(writer, control)
    assert rows(database, "SELECT seq FROM run_salts WHERE seq = 2") == [(2,)]
    apply(writer, [values[2]], first=3)
    assert hits(database, SECRET) == []
    assert rows(database, "SELECT seq FROM run_salts WHERE seq = 2") == []
    assert len({*head_of(database, "r")}) == 1


# order, once, and what is no act


def test_an_act_is_applied_once_however_often_it_is_read(
    database: Database, writer: Materializer, control: Control
) -> None:
    """By the log's position, and by its id where a line was written twice."""
    apply(writer, Run("r").whole({"a": 1}))
    control.add(ActKind.HOLD, all=True)
    take(writer, control)
    take(writer, control)
    control.add_line(control.records[0].value or b"")
    take(writer, control)
    assert rows(database, "SELECT act_id, journal_idx FROM acts") == [("act-0", 0)]
    assert rows(database, "SELECT count(*) FROM journal") == [(1,)]
    assert writer.positions()[CONTROL].next_offset == 2


def test_the_leaf_is_the_line_as_it_came(database: Database, writer: Materializer, control: Control) -> None:
    """Byte for byte, white space included."""
    line = (
        b'{"act_id":"x", "kind":"incident","actor":"a","at":1,"reason":"","scope":{"\xc3\xbc":"1"},'
        b'"policy":{},"positions":{}}'
    )
    control.add_line(line)
    take(writer, control)
    assert rows(database, "SELECT leaf FROM journal") == [(b"skillaudit act 1\n" + line + b"\n",)]
    assert rows(database, "SELECT act FROM acts") == [(line.decode(),)]


def test_a_line_that_is_no_act_is_kept_and_said(
    database: Database, writer: Materializer, control: Control
) -> None:
    """And those behind it count."""
    control.add_line(b'{"kind":"burn"}')
    control.add(ActKind.HOLD, all=True)
    take(writer, control)
    assert rows(database, "SELECT partition, record_offset, record FROM dead_letters") == [
        (CONTROL, 0, b'{"kind":"burn"}')
    ]
    assert rows(database, "SELECT kind, subject FROM incidents") == [("no-act", "control/0#0")]
    assert rows(database, "SELECT act_id FROM acts") == [("act-1",)]


@pytest.mark.parametrize(
    ("kind", "scope"), [(ActKind.CUT, {"t/0": 1}), (ActKind.GENESIS, {}), (ActKind.SCHEMA, {"database": "d"})]
)
def test_what_a_database_says_of_itself_is_nobodys_order(
    tmp_path: Path, control: Control, kind: ActKind, scope: dict[str, Any]
) -> None:
    """A cut, above all, excuses rows that are gone: in a control log it was written by somebody else. It gets no leaf, the acts
    behind it count, and the sealer signs.
    """
    control.add(kind, **scope)
    control.add(ActKind.HOLD, all=True)
    with contextlib.closing(Store(tmp_path / "signed.duckdb")) as store:
        database = store.database
        take(store.materializer, control)
        assert rows(database, "SELECT record_offset FROM dead_letters") == [(0,)]
        [(subject, detail)] = rows(database, "SELECT subject, detail FROM incidents WHERE kind = 'no-act'")
        assert (subject, kind.value in detail) == ("control/0#0", True)
        record_life(store.materializer)
        assert rows(database, "SELECT act_id FROM acts") == [("act-1",)]
        assert [checkpoint.size for checkpoint in store.sealer.step(1).signed] == [1]


def test_an_act_waits_for_the_events_it_reaches(
    database: Database, writer: Materializer, control: Control
) -> None:
    """Read before them, as in a rebuild: it is applied exactly at its position, in the middle of a batch."""
    control.add(ActKind.PURGE, runs=["r"], positions={"t/0": 2})
    take(writer, control)
    assert rows(database, "SELECT act_id, partition, position FROM pending_acts") == [("act-0", "t/0", 2)]
    run = Run("r")
    report = apply(writer, run.whole({"a": 1}, {"b": 2}))
    assert rows(database, "SELECT id, events_stored, records_dropped FROM tombstones") == [("r", 1, 2)]
    assert rows(database, "SELECT count(*) FROM pending_acts") == [(0,)]
    assert report.records == 4
    assert report.positions == {"t/0": 4}


def test_a_log_that_begins_behind_the_position_is_not_waited_for(
    database: Database, writer: Materializer, control: Control
) -> None:
    """Retention took what the act was about."""
    control.add(ActKind.PURGE, runs=["r"], positions={"t/0": 20})
    take(writer, control)
    apply(writer, Run("r").whole(), first=30)
    assert rows(database, "SELECT id FROM runs") == [("r",)]
    assert rows(database, "SELECT count(*) FROM pending_acts") == [(0,)]


def test_an_acts_partition_comes_up_while_another_waits(
    database: Database, writer: Materializer, control: Control
) -> None:
    """Each partition is reached by itself; the purge is one."""
    control.add(ActKind.PURGE, started_before=BASE_US + 1, positions={"t/0": 2, "t/1": 2})
    take(writer, control)
    apply(writer, Run("a").whole())
    assert rows(database, "SELECT partition FROM pending_acts") == [("t/1",)]
    apply(writer, Run("b", number=2).whole(), partition="t/1")
    assert rows(database, "SELECT id, purge_id FROM tombstones ORDER BY id") == [("a", 1), ("b", 1)]
    assert rows(database, "SELECT runs FROM purges") == [(2,)]


def test_what_is_pending_survives_the_process(tmp_path: Path, control: Control) -> None:
    """It stands in the file, with the position that it waits for."""
    control.add(ActKind.REDACT, run="r", seq=1, positions={"t/0": 3})
    path, values = tmp_path / "a.duckdb", Run("r").whole({"a": SECRET})
    with open_database(path) as database, contextlib.closing(Materializer(database)) as writer:
        take(writer, control)
        apply(writer, values[:1])
    with open_database(path) as database, contextlib.closing(Materializer(database)) as writer:
        writer.apply([SourceRecord("t/0", n, n + 1, 0, None, value) for n, value in enumerate(values)])
        assert hits(database, SECRET) == []
        assert len({*head_of(database, "r")}) == 1


class WatchedDatabase:
    """A database that looks, right after each commit of the writer's, whether a text can be read in it."""

    def __init__(self, database: Database, text: str) -> None:
        self._database, self._text = database, text
        self.looks = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def cursor(self) -> Any:
        return WatchedCursor(self._database.cursor(), self._look)

    def _look(self) -> None:
        self.looks += 1
        assert hits(self._database, self._text) == []


class WatchedCursor:
    def __init__(self, cursor: Any, look: Callable[[], None]) -> None:
        self._cursor, self._look = cursor, look

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, query: str, *parameters: Any) -> Any:
        result = self._cursor.execute(query, *parameters)
        if query == "COMMIT":
            self._look()
        return result


@pytest.mark.parametrize("kind", [ActKind.PURGE, ActKind.ERASE])
def test_a_rebuild_never_shows_what_an_act_took_out(
    database: Database, control: Control, kind: ActKind
) -> None:
    """The act is applied in the transaction of the events that it waits for."""
    control.add(kind, runs=["r"], positions={"t/0": 3})
    watched = WatchedDatabase(database, SECRET)
    with contextlib.closing(Materializer(watched)) as writer:  # type: ignore[arg-type]
        take(writer, control)
        run = Run("r")
        apply(writer, [run.start(), run.log(a=SECRET), run.log(b=SECRET), run.log(c=SECRET), run.finish()])
        assert watched.looks >= 3


@pytest.mark.parametrize("sealed", [False, True], ids=["hot", "sealed"])
def test_a_backup_made_after_an_erasure_holds_no_byte_of_it(
    database: Database, writer: Materializer, control: Control, tmp_path: Path, sealed: bool
) -> None:
    """The engine frees the blocks that held it and does not overwrite them: in the database's own file bytes may stay until
    the blocks are used again. A backup is written anew, and put back it is the file without them.
    """
    run = Run("r")
    text = SECRET + "q8Zk3Vw9" * 4
    apply(writer, [run.start(caller=text, inputs={"q": text}), run.log(a=text), run.finish(output=text)])
    if sealed:
        writer.sealer.seal()
    writer.sealer.checkpoint()
    assert sealed or file_holds(database.path, text)
    control.add(ActKind.ERASE, runs=["r"], positions={"t/0": 3})
    take(writer, control)
    back_up(database, tmp_path / "backup")
    assert not file_holds(tmp_path / "backup", text)
