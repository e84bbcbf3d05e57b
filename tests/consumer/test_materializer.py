"""What the materializer promises beside agreeing with the model: fences, limits, time, and what survives a failure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.consumer import streams
from tests.consumer.support import (
    RUN_A,
    RUN_B,
    SOURCE_A,
    beat,
    closed,
    finish,
    log,
    opened,
    records,
    rows,
    settle,
    start,
    value,
    whole_run,
)

from skillaudit.consumer.acts import accept_history_loss, record_stop
from skillaudit.consumer.database import Database, open_database
from skillaudit.consumer.dead_letters import (
    discard_dead_letters,
    get_dead_letter,
    list_dead_letters,
    replay_dead_letters,
)
from skillaudit.consumer.materializer import Materializer, MaterializerPolicy
from skillaudit.consumer.planning import plan_purge
from skillaudit.consumer.poison import PoisonPolicy
from skillaudit.consumer.purge import purge_older_than
from skillaudit.consumer.recording import perform
from skillaudit.contract.admin import ActOrder
from skillaudit.contract.clock import ManualClock, from_us
from skillaudit.contract.errors import FencedError, PoisonLimitError
from skillaudit.contract.runrecord import Outcome
from skillaudit.contract.sources import SourceRecord

POLICY = MaterializerPolicy(
    poison=PoisonPolicy(in_a_row_max=5, share_percent_max=101), abandon_after_ms=60_000
)
MINUTE_US = 60_000_000


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_database(tmp_path / "audit.duckdb") as database:
        yield database


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def materializer(database: Database, clock: ManualClock) -> Iterator[Materializer]:
    materializer = Materializer(database, identity="cluster", policy=POLICY, clock=clock)
    yield materializer
    materializer.close()


# Positions.


def test_what_was_consumed_is_skipped(materializer: Materializer, database: Database) -> None:
    """A source that hands records out again costs nothing; the position goes forward only."""
    batch = records(whole_run())
    assert materializer.apply(batch).outcomes[Outcome.STORED] == 5
    again = materializer.apply(batch[:3])
    assert (again.records, again.skipped, again.positions) == (3, 3, {})
    mixed = materializer.apply([*batch, *records([log(9)], first=5)])
    assert (mixed.skipped, mixed.positions) == (5, {"t/0": 6})
    assert rows(database, "SELECT next_offset, cluster, records FROM positions") == [(6, "cluster", 6)]


def test_a_position_names_its_last_record(materializer: Materializer) -> None:
    """By offset and digest, so that another log under the same name is noticed."""
    batch = records([start(), log(1)], first=7)
    materializer.apply(batch)
    stored = materializer.positions()["t/0"]
    assert (stored.next_offset, stored.last_offset, len(stored.last_digest)) == (9, 8, 64)


@pytest.mark.parametrize("known", [False, True], ids=["new partition", "known partition"])
def test_a_second_writer_is_fenced_off(database: Database, known: bool) -> None:
    """Compare and set: who comes second writes nothing, and is told to stop."""
    first, second = Materializer(database), Materializer(database)
    if known:
        first.apply(records([start()]))
        second.forget()
    first.apply(records([log(1)], first=1))
    with pytest.raises(FencedError, match="t/0"):
        second.apply(records([log(1, variant=1), log(2)], first=1))
    assert rows(database, "SELECT sequence FROM events") == [(1,)]
    assert value(database, "SELECT count(*) FROM conflicts") == 0
    second.forget()
    assert second.apply(records([log(2)], first=2)).outcomes[Outcome.STORED] == 1
    first.close()
    second.close()


def test_offsets_may_leave_gaps(materializer: Materializer, database: Database) -> None:
    """An outbox counts bytes, and a broker's log has markers."""
    at = [
        SourceRecord("outbox/s", 10, 90, 0, None, start()),
        SourceRecord("outbox/s", 90, 200, 0, None, log(1)),
    ]
    materializer.apply(at)
    assert value(database, "SELECT next_offset FROM positions") == 200


def test_topics_are_namespaces(materializer: Materializer, database: Database) -> None:
    """One team's run ids are not another's."""
    batch = [*records(whole_run(logs=1), partition="one/0"), *records(whole_run(logs=2), partition="two/0")]
    materializer.apply(batch)
    found = rows(database, "SELECT topic, events_stored, completeness FROM runs ORDER BY topic")
    assert found == [("one", 1, "complete"), ("two", 2, "complete")]


# Whole batches or nothing.


def test_a_failed_batch_leaves_nothing(materializer: Materializer, database: Database) -> None:
    """Neither rows nor memory: the same records are taken afterwards as if nothing had been."""
    materializer.apply(records([start(), log(1)]))
    materializer.policy = replace(POLICY, poison=PoisonPolicy(in_a_row_max=1))
    with pytest.raises(PoisonLimitError):
        materializer.apply(records([log(2), finish(3), start(run=1, source=1), b"{"], first=2))
    assert rows(database, "SELECT id, events_stored, status FROM runs") == [(RUN_A, 1, "running")]
    materializer.policy = POLICY
    materializer.apply(records([log(2), finish(3), start(run=1, source=1), b"{"], first=2))
    found = rows(database, "SELECT id, events_stored, completeness FROM runs ORDER BY run_key")
    assert found == [(RUN_A, 2, "complete"), (RUN_B, 0, "open")]


def test_run_keys_are_given_in_order_of_arrival(materializer: Materializer, database: Database) -> None:
    """Also within a batch: events and runs are sorted by them."""
    materializer.apply(records([log(1, run=1), start(), start(run=1, source=1), log(1)]))
    assert rows(database, "SELECT id, run_key FROM runs ORDER BY run_key") == [(RUN_B, 0), (RUN_A, 1)]


def test_a_late_batch_fills_the_gap(materializer: Materializer, database: Database) -> None:
    """No high-water mark: numbers 3 and 4 may land before 1 and 2, and restarts come between."""
    query = "SELECT completeness, missing, events_stored FROM runs"
    materializer.apply(records([start(), log(3), log(4), finish(5)]))
    assert rows(database, query) == [("incomplete", "1-2", 2)]
    materializer.forget()
    materializer.apply(records([log(2)], first=4))
    assert rows(database, query) == [("incomplete", "1", 3)]
    materializer.forget()
    materializer.apply(records([log(1)], first=5))
    assert rows(database, query) == [("complete", "", 4)]


def test_a_conflict_is_an_incident(materializer: Materializer, database: Database) -> None:
    """The bytes and where they came from are kept, and a person is told, once a run and batch."""
    materializer.apply(records(whole_run(logs=2)))
    other = [log(1, variant=1), log(2, variant=1)]
    materializer.apply(records(other, first=10, received_us=5))
    found = rows(
        database,
        "SELECT run_id, sequence, record, partition, record_offset, reason FROM conflicts ORDER BY id",
    )
    assert [row[:5] for row in found] == [(RUN_A, 1, other[0], "t/0", 10), (RUN_A, 2, other[1], "t/0", 11)]
    assert rows(database, "SELECT kind, subject FROM incidents") == [("conflict", RUN_A)]
    assert rows(database, "SELECT conflicts, completeness FROM runs") == [(2, "complete")]


# Poison.


def test_too_many_malformed_in_a_row_stop(materializer: Materializer, database: Database) -> None:
    """Before the batch that crosses the limit is committed, and after a restart as before it: nothing drains away."""
    materializer.apply(records([start(), b"1", b"2", b"3", b"4"]))
    for _ in range(2):
        with pytest.raises(PoisonLimitError, match=r"^5 records in a row or more"):
            materializer.apply(records([b"5"], first=5))
        materializer.forget()
    assert value(database, "SELECT count(*) FROM dead_letters") == 4
    materializer.apply(records([log(1), b"6", b"7"], first=5))
    materializer.apply(records([b"8", log(2)], first=8))
    assert value(database, "SELECT count(*) FROM dead_letters") == 7


def test_too_large_a_share_stops(materializer: Materializer, database: Database) -> None:
    """Single bad records among good ones are passed over, a share of the last 10,000 is not."""
    materializer.policy = replace(POLICY, poison=PoisonPolicy(in_a_row_max=10**9, share_percent_max=1))
    half = [item for seq in range(1, 81) for item in (log(seq), b"%d" % seq)]
    materializer.apply(records([start(), *half]))
    with pytest.raises(PoisonLimitError, match="of the last 10000"):
        materializer.apply(records([item for seq in range(81, 111) for item in (log(seq), b"x")], first=161))
    assert value(database, "SELECT count(*) FROM dead_letters") == 80


POISON = [b"1", b"2", b"3", b"4", b"5"]


def stop_at(materializer: Materializer, batch: Sequence[SourceRecord]) -> None:
    """As the service does it."""
    with pytest.raises(PoisonLimitError) as stopped:
        materializer.apply(batch)
    record_stop(materializer, stopped.value)


STOPS = "SELECT subject FROM incidents WHERE kind = 'PoisonLimit' ORDER BY id"


def test_a_stop_is_told_once_until_it_is_got_past(materializer: Materializer, database: Database) -> None:
    """However the records come the next time, and whatever else was told in between; the next stop says the same in words,
    and is another one.
    """
    materializer.apply(records([start(), *POISON[:2]]))
    stop_at(materializer, records(POISON, first=3))
    materializer.record_incident("conflict", "r", "something else")
    stop_at(materializer, records(POISON[:3], first=3))
    materializer.apply(records(POISON[:1], first=3))
    stop_at(materializer, records(POISON[1:], first=4))
    stop_at(materializer, records(POISON, partition="t/1"))
    assert rows(database, STOPS) == [("t/0#3",)]
    materializer.policy = replace(POLICY, poison=PoisonPolicy(10**9, 101))
    materializer.apply(records([*POISON[1:], log(1)], first=4))
    materializer.policy = POLICY
    stop_at(materializer, records(POISON, first=9))
    assert rows(database, STOPS) == [("t/0#3",), ("t/0#9",)]
    stop_at(materializer, records(POISON, partition="other/0"))
    assert rows(database, STOPS)[2:] == [("other/0#0",)]


def test_a_stop_after_a_loss_that_was_accepted_is_another_one(
    materializer: Materializer, database: Database
) -> None:
    """The topic was made anew: the offsets of before say nothing."""
    materializer.apply(records([start()], first=100))
    stop_at(materializer, records(POISON, first=101))
    assert accept_history_loss(materializer, "t/0")
    stop_at(materializer, records(POISON))
    assert rows(database, STOPS) == [("t/0#101",), ("t/0#0",)]


# Dead letters.


def test_a_dead_letter_keeps_bytes_origin_and_reason(materializer: Materializer, database: Database) -> None:
    """Also of a record without a value."""
    materializer.apply(records([b"{", None], first=3, received_us=8))
    found = list_dead_letters(database, "waiting", 10)
    assert [(d.partition, d.offset, d.record) for d in found] == [("t/0", 3, b"{"), ("t/0", 4, None)]
    assert "not JSON" in found[0].error
    assert get_dead_letter(database, found[1].id) == found[1]


def test_replay_after_a_repair(materializer: Materializer, database: Database) -> None:
    """A record that this release reads is applied as its partition's own, once; positions stay."""
    materializer.apply(records([start(), b"?", b"?"]))
    with materializer.transaction("repair") as cursor:  # as an upgraded parser would
        cursor.execute("UPDATE store.dead_letters SET record = ? WHERE record_offset = 1", [log(1)])
    ids = [letter.id for letter in list_dead_letters(database, None, 10)]
    report = replay_dead_letters(materializer, ids)
    assert (report.replayed, report.still_malformed) == (1, (ids[1],))
    assert replay_dead_letters(materializer, ids).replayed == 0
    assert rows(database, "SELECT events_stored FROM runs") == [(1,)]
    assert [letter.state for letter in list_dead_letters(database, None, 10)] == ["replayed", "waiting"]
    assert discard_dead_letters(materializer, ids) == 1
    assert [letter.state for letter in list_dead_letters(database, None, 10)] == ["replayed", "discarded"]
    assert value(database, "SELECT next_offset FROM positions") == 3


# Purges.


@pytest.mark.parametrize("sealed", [False, True])
def test_a_purge_takes_runs_and_logs_and_leaves_a_tombstone(
    materializer: Materializer, database: Database, sealed: bool
) -> None:
    """Hot and sealed rows alike; what is delivered again is counted, not stored, also after a restart."""
    materializer.apply(
        records([*whole_run(), start(run=1, source=1, variant=1), log(1, run=1), log(9, run=2)])
    )
    if sealed:
        materializer.sealer.seal()
    at = from_us(streams.BASE_US)
    assert purge_older_than(materializer, at) == 0, "strictly before"
    assert purge_older_than(materializer, at + timedelta(microseconds=1)) == 1
    assert rows(database, "SELECT id FROM runs") == [(RUN_B,)]
    assert value(database, "SELECT count(*) FROM events") == 2
    assert rows(database, "SELECT runs, events FROM purges") == [(1, 3)]
    materializer.forget()
    report = materializer.apply(records([*whole_run(), log(2, run=1)], first=20))
    assert report.outcomes[Outcome.PURGED] == 5
    assert rows(database, "SELECT id, records_dropped FROM tombstones") == [(RUN_A, 5)]
    assert rows(database, "SELECT id, events_stored FROM runs") == [(RUN_B, 2)]


def test_retention_counts_from_receipt_too(
    materializer: Materializer, database: Database, clock: ManualClock
) -> None:
    """A host's wrong clock must not delete its evidence."""
    materializer.apply(records([start()], received_us=streams.BASE_US + 10 * MINUTE_US))
    for minutes, deleted in ((1, 0), (11, 1)):
        before_us = streams.BASE_US + minutes * MINUTE_US
        plan = plan_purge(ActOrder(actor="retention"), before_us, name="retention", received=True)
        assert perform(materializer, plan).runs == deleted


# Liveness.


def _liveness(database: Database) -> dict[str, str]:
    return dict(rows(database, "SELECT id, liveness FROM runs"))


def test_a_closed_source_abandons_its_open_runs(materializer: Materializer, database: Database) -> None:
    """Finished ones stay finished, others' are untouched; a source that opens again takes it back."""
    materializer.apply(records([start(), start(run=1, source=1), closed()]))
    settle(materializer)
    assert _liveness(database) == {RUN_A: "abandoned", RUN_B: "open"}
    materializer.apply(records([opened()], first=3))
    assert _liveness(database)[RUN_A] == "open"
    materializer.apply(records([finish(1), closed()], first=4))
    assert _liveness(database)[RUN_A] == "finished"


def test_a_start_behind_its_source_s_close_is_abandoned(
    materializer: Materializer, database: Database
) -> None:
    """Partitions arrive in any order; also after a restart."""
    materializer.apply(records([closed()], partition="t/1"))
    materializer.forget()
    materializer.apply(records([start(), log(1)]))
    settle(materializer)
    assert _liveness(database) == {RUN_A: "abandoned"}


def test_silence_is_judged_in_the_broker_s_time(
    materializer: Materializer, database: Database, clock: ManualClock
) -> None:
    """Only as far as the source's partition was read: a consumer that lags an hour abandons nobody."""
    t0 = streams.BASE_US
    materializer.apply(records([start(), beat()], received_us=t0), {"t/0": 5})
    clock.advance(60 * MINUTE_US)  # this consumer stood still; three records wait
    assert materializer.tick({"t/0": 5}) == 0
    materializer.apply(records([log(1)], first=2, received_us=t0 + MINUTE_US // 2), {"t/0": 5})
    assert materializer.tick({"t/0": 5}) == 0
    materializer.apply(
        records([beat(number=2), log(2)], first=3, received_us=t0 + 60 * MINUTE_US), {"t/0": 5}
    )
    assert materializer.tick({"t/0": 5}) == 0
    assert _liveness(database) == {RUN_A: "open"}
    clock.advance(MINUTE_US + 1_000_000)  # now it is at the end, and nothing comes for longer than the limit
    assert materializer.tick({"t/0": 5}) == 1
    assert _liveness(database) == {RUN_A: "abandoned"}
    assert rows(database, f"SELECT state FROM sources WHERE source_id = '{SOURCE_A}'") == [("silent",)]
    materializer.apply(records([beat(number=3)], first=5, received_us=t0 + 70 * MINUTE_US), {"t/0": 6})
    assert _liveness(database) == {RUN_A: "open"}


def test_embedded_silence_is_judged_by_the_wall_clock(
    materializer: Materializer, database: Database, clock: ManualClock
) -> None:
    """Outboxes carry no broker's stamps."""
    materializer.apply(records([start(), beat()]), {"t/0": 2})
    clock.advance(2 * MINUTE_US)
    assert materializer.tick({"t/0": 2}) == 1
    assert _liveness(database) == {RUN_A: "abandoned"}
