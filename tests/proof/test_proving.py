"""Runs are computed again before a seal takes them in; one that differs is an incident in the journal."""

import contextlib

import orjson
import pytest
from tests.attacks.world import Store, Topic, record_fleet
from tests.proof.support import MINUTE_US, NOW_US

from skillaudit.proof import proving
from skillaudit.proof.journal import Journal
from skillaudit.proof.leaves import leaf_kind, parse_act
from skillaudit.proof.proving import HeadProver
from skillaudit.proof.sealer import Sealer


@pytest.fixture
def fleet(tmp_path):
    """Runs of three hosts, stored and not sealed."""
    topic, store = Topic(), Store(tmp_path / "audit.duckdb")
    store.take(topic, [record for stage in record_fleet(topic) for record in stage])
    yield store
    store.close()


def incidents(store):
    with contextlib.closing(store.cursor()) as cursor:
        journal = Journal(cursor)
        leaves = journal.leaves(0, journal.size())
    return [orjson.loads(parse_act(leaf)) for leaf in leaves if leaf_kind(leaf) == "act"]


def finished(store):
    with contextlib.closing(store.cursor()) as cursor:
        return cursor.execute(
            "SELECT count(*), sum(events_stored + 2) FROM store.runs WHERE completeness = 'complete'"
        ).fetchone()


def test_what_is_as_it_came_makes_no_incident(fleet):
    """All finished runs are looked at, once."""
    prover = HeadProver()
    sealer = Sealer(fleet, prover=prover)
    assert sealer.step(NOW_US).incidents == 0
    runs, events = finished(fleet)
    assert (prover.events, prover.skipped) == (events, 0)
    assert runs > 30
    sealer.step(NOW_US + 100 * MINUTE_US)
    assert prover.events == events


CHANGES = {
    "a payload": ("UPDATE store.{hot} SET payload = '{{}}' WHERE run_key = 5 AND sequence = 2", "1 event "),
    "a type": ("UPDATE store.{hot} SET event_type = 'x' WHERE run_key = 5 AND sequence = 2", "1 event "),
    "a time": (
        "UPDATE store.{hot} SET created_at = created_at + INTERVAL 1 SECOND WHERE run_key = 5",
        " events",
    ),
    "a tag": ("UPDATE store.{hot} SET tag = 7 WHERE run_key = 5 AND sequence = 2", "1 event "),
    "an event gone": ("DELETE FROM store.{hot} WHERE run_key = 5 AND sequence = 2", "head does not"),
    "an input": ("UPDATE store.runs SET inputs = '{{}}' WHERE run_key = 5", "1 event "),
    "an output": ("UPDATE store.runs SET output = 'x' WHERE run_key = 5", "1 event "),
    "a count": ("UPDATE store.runs SET tool_calls_count = 99 WHERE run_key = 5", "1 event "),
    "a salt": ("UPDATE store.runs SET salt = unhex(repeat('ab', 16)) WHERE run_key = 5", " events"),
}


@pytest.mark.parametrize(("change", "says"), CHANGES.values(), ids=CHANGES)
def test_a_run_that_differs_from_its_head_is_named(fleet, change, says):
    """By its id and the place of its row; the others are sealed as ever."""
    hot = fleet.materializer.sealer.hot.removeprefix("store.")
    with fleet.transaction("damage") as cursor:
        run_id = cursor.execute("SELECT id FROM store.runs WHERE run_key = 5").fetchone()[0]
        cursor.execute(change.format(hot=hot))
    report = Sealer(fleet, prover=HeadProver()).step(NOW_US)
    assert report.incidents == 1
    (incident,) = incidents(fleet)
    assert (incident["kind"], incident["scope"]["run"], incident["at"]) == ("incident", run_id, NOW_US)
    assert says in incident["reason"]
    assert incident["scope"]["ledger"].startswith("skillaudit.events/")


def test_what_was_redacted_is_left_to_verify(fleet):
    """Its salt is gone: that is no damage."""
    with fleet.transaction("redact") as cursor:
        cursor.execute("UPDATE store.runs SET salt = NULL WHERE run_key = 5")
    assert Sealer(fleet, prover=HeadProver()).step(NOW_US).incidents == 0


def test_chunks_are_bounded_and_near_and_leave_nothing_out():
    """Whatever the runs' sizes and keys; beyond the bounds the newest are taken."""

    def run(key, events):
        return proving._Finished(key, str(key), "p#0", b"", events)

    runs = [run(key, 1 + key % 7 * 9_000) for key in range(0, 40_000, 700)]
    chunks = list(proving._chunks(runs))
    assert sorted(r.run_key for chunk in chunks for r in chunk) == [r.run_key for r in runs]
    for chunk in chunks:
        keys = [r.run_key for r in chunk]
        assert keys == sorted(keys)
        assert keys[-1] - keys[0] <= proving.CHUNK_KEYS_MAX
        assert len(chunk) == 1 or sum(r.events for r in chunk) <= proving.CHUNK_EVENTS_MAX
    apart = [run(key, 1) for key in range(0, 100 * 20_000, 20_000)]
    taken = [r for chunk in proving._chunks(apart) for r in chunk]
    assert len(taken) == proving.CHUNKS_MAX
    assert min(r.run_key for r in taken) == apart[-proving.CHUNKS_MAX].run_key
    many = [run(key, 100_000) for key in range(50)]
    taken = [r for chunk in proving._chunks(many) for r in chunk]
    assert sum(r.events for r in taken) == proving.EVENTS_MAX
    assert list(proving._chunks([])) == []
