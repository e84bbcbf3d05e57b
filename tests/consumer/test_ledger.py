"""The ledger as the consumer writes it: numbered per partition without gaps, in the transaction of the rows, the same
whatever the batching.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.consumer import streams
from tests.consumer.support import RUN_A, beat, closed, finish, log, records, rows, start, value

from skillaudit.consumer.acts import accept_history_loss
from skillaudit.consumer.database import Database, open_database
from skillaudit.consumer.dead_letters import replay_dead_letters
from skillaudit.consumer.materializer import Materializer, MaterializerPolicy
from skillaudit.consumer.poison import PoisonPolicy
from skillaudit.consumer.staging import parse_value
from skillaudit.contract.errors import FencedError, InvalidRecordError
from skillaudit.contract.sources import SourceRecord
from skillaudit.contract.wire import Event
from skillaudit.proof.ledger import rows_of

LENIENT = PoisonPolicy(in_a_row_max=10**9, share_percent_max=101)
LEDGER = "SELECT * FROM main.ledger ORDER BY partition, idx"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_database(tmp_path / "audit.duckdb") as opened:
        yield opened


def expected(stream: Sequence[SourceRecord]) -> list[tuple[object, ...]]:
    """What the ledger has to hold: record by record, by partition, in order."""
    found: dict[str, list[tuple[object, ...]]] = {}
    for record in stream:
        part = found.setdefault(record.partition, [])
        for entry in rows_of(record.value):
            found_by = int(sha256(entry.run_id.encode()).hexdigest()[:16], 16)
            part.append((record.partition, len(part), *entry, record.received_us, record.offset, found_by))
    return [row for partition in sorted(found) for row in found[partition]]


def whole(received_us: int = 0) -> list[SourceRecord]:
    return records([start(), log(1), beat(), finish(2), closed()], received_us=received_us)


@pytest.mark.parametrize("small", [0, 1_500])
def test_a_run_leaves_its_rows(database: Database, small: int) -> None:
    """Start, listings, finish and final count, numbered from 0 in offset order, with the broker's time of each."""
    policy = MaterializerPolicy(small_batch_records=small)
    with contextlib.closing(Materializer(database, policy=policy)) as materializer:
        materializer.apply(whole(received_us=7))
    assert rows(database, LEDGER) == expected(whole(received_us=7))
    assert rows(database, "SELECT kind, idx, run_id, received_us FROM main.ledger ORDER BY idx") == [
        ("start", 0, RUN_A, 7),
        ("finish", 1, RUN_A, 7),
        ("closed", 2, "", 7),
    ]


def test_where_there_is_no_brokers_time_it_is_0(database: Database) -> None:
    """The consumer's clock has no say in the ledger."""
    with contextlib.closing(Materializer(database)) as materializer:
        materializer.apply(whole())
    assert value(database, "SELECT max(received_us) FROM main.ledger") == 0


def test_repeats_conflicts_and_orphans_have_their_rows_too(database: Database) -> None:
    """Whatever becomes of a record, its rows are made."""
    stream = records([finish(2), start(), start(), start(variant=1), finish(2), b"{", b"\xff", start()])
    policy = MaterializerPolicy(poison=LENIENT)
    with contextlib.closing(Materializer(database, policy=policy)) as materializer:
        materializer.apply(stream)
    assert value(database, "SELECT count(*) FROM conflicts") == 1
    assert value(database, "SELECT count(*) FROM dead_letters") == 2
    assert rows(database, LEDGER) == expected(stream)
    assert value(database, "SELECT count(*) FROM main.ledger") == 6


def test_a_batch_that_comes_again_changes_nothing(database: Database) -> None:
    """After a crash between commit and acknowledgement."""
    stream = whole()
    with contextlib.closing(Materializer(database)) as materializer:
        materializer.apply(stream[:3])
    with contextlib.closing(Materializer(database)) as materializer:
        materializer.apply(stream)
        materializer.apply(stream[1:])
    assert rows(database, LEDGER) == expected(stream)


def test_a_batch_that_fails_leaves_no_number_behind(database: Database) -> None:
    """The next one takes the numbers that it had taken."""
    stream = whole()
    strict = MaterializerPolicy(poison=PoisonPolicy(in_a_row_max=1, share_percent_max=100))
    with contextlib.closing(Materializer(database, policy=strict)) as materializer:
        with contextlib.suppress(Exception):
            materializer.apply([*stream, *records([b"{", b"{"], first=5)])
        assert value(database, "SELECT count(*) FROM main.ledger") == 0
        materializer.apply(stream)
    assert rows(database, LEDGER) == expected(stream)


def test_of_two_writers_one_is_fenced_off(database: Database) -> None:
    """The numbers move with the position, by the same compare-and-set."""
    stream = whole()
    first, second = Materializer(database), Materializer(database)
    with contextlib.closing(first), contextlib.closing(second):
        first.apply(stream[:2])
        with pytest.raises(FencedError):
            second.apply(stream)
    assert rows(database, LEDGER) == expected(stream[:2])


def test_numbers_go_on_where_a_position_was_given_up(database: Database) -> None:
    """History may be lost; what is in the ledger stays numbered."""
    with contextlib.closing(Materializer(database)) as materializer:
        materializer.apply(whole())
        accept_history_loss(materializer, "t/0")
        materializer.apply(records([start(1)], first=90))
        materializer.forget()
        materializer.apply(records([finish(1, 1)], first=91))
    assert [row[0] for row in rows(database, "SELECT idx FROM main.ledger ORDER BY idx")] == [0, 1, 2, 3, 4]


class Liberal:
    """A parser of a later release: it takes a number for a text, another version for ours, and knows more types."""

    def __call__(self, value: bytes | None) -> Event:
        try:
            return parse_value(value)
        except InvalidRecordError:
            members = orjson.loads(value or b"") | {"v": 1}
            members["type"] = LATER.get(members["type"], members["type"])
            if members["type"] == "run.started":
                members["skill_id"] = str(members["skill_id"])
            return parse_value(orjson.dumps(members))


def later(value: bytes) -> bytes:
    """The record under a type that only a later release knows."""
    members = orjson.loads(value)
    name = next(new for new, old in LATER.items() if old == members["type"])
    return orjson.dumps(members | {"type": name})


LATER = {"run.begun": "run.started", "run.ended": "run.finished", "source.pulse": "source.heartbeat"}
ODD = [
    orjson.dumps(orjson.loads(start(0)) | {"skill_id": 7}),
    orjson.dumps(orjson.loads(start(1)) | {"v": 2}),
    start(2),
    finish(1, 1),
    later(finish(1, 2)),
    later(beat()),
]


def test_a_parser_that_accepts_more_changes_no_row(database: Database, tmp_path: Path) -> None:
    """Else a rebuild by a newer release would not meet what an older one sealed."""
    policy = MaterializerPolicy(poison=LENIENT)
    with (
        contextlib.closing(Materializer(database, policy=policy)) as strict,
        open_database(tmp_path / "liberal.duckdb") as other,
        contextlib.closing(Materializer(other, policy=policy, parse=Liberal())) as liberal,
    ):
        strict.apply(records(ODD))
        liberal.apply(records(ODD))
        assert value(database, "SELECT count(*) FROM runs") == 1
        assert value(other, "SELECT count(*) FROM runs") == 3
        finished = "SELECT count(*) FROM runs WHERE status <> 'running'"
        assert (value(database, finished), value(other, finished)) == (0, 2)
        heard = "SELECT count(*) FROM main.sources WHERE beat_at IS NOT NULL"
        assert (value(database, heard), value(other, heard)) == (0, 1)
        assert rows(database, LEDGER) == rows(other, LEDGER) == expected(records(ODD))


def test_a_dead_letter_that_is_replayed_makes_no_row(database: Database) -> None:
    """It had its place in the order, and made none there."""
    policy = MaterializerPolicy(poison=LENIENT)
    with contextlib.closing(Materializer(database, policy=policy)) as materializer:
        materializer.apply(records(ODD))
    before = rows(database, LEDGER)
    with contextlib.closing(Materializer(database, policy=policy, parse=Liberal())) as materializer:
        assert replay_dead_letters(materializer, [1, 2, 3, 4]).replayed == 4
    assert value(database, "SELECT count(*) FROM runs") == 3
    assert rows(database, LEDGER) == before


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Materializer]:
    """One database for all examples, kept apart by topics."""
    with (
        open_database(tmp_path_factory.mktemp("ledger") / "audit.duckdb") as database,
        contextlib.closing(Materializer(database, policy=MaterializerPolicy(poison=LENIENT))) as writer,
    ):
        yield writer


NUMBERS = itertools.count(1)


def laid_out(drafts: Sequence[streams.Draft], partitions: Sequence[int], topic: str) -> list[SourceRecord]:
    """The drafts as records of two partitions."""
    ends = [0, 0]
    found: list[SourceRecord] = []
    for draft, partition in zip(drafts, partitions, strict=True):
        value = draft.make(streams.World(0))
        ends[partition] += 1
        found.append(
            SourceRecord(f"{topic}/{partition}", ends[partition] - 1, ends[partition], 5, None, value)
        )
    return found


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_ledger_is_the_same_whatever_the_batching(writer: Materializer, data: st.DataObject) -> None:
    """It is a function of each partition's records as they lie there: duplicates, conflicts, orphans, rubbish, and where
    a batch ends, change no row.
    """
    drafts = data.draw(streams.streams())
    partitions = data.draw(st.lists(st.integers(0, 1), min_size=len(drafts), max_size=len(drafts)))
    for small in (0, 1_500):
        topic = f"w{next(NUMBERS)}"
        stream = laid_out(drafts, partitions, topic)
        writer.policy = replace(writer.policy, small_batch_records=small)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=4)))
        for low, high in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            writer.apply(sorted(stream[max(low - 2, 0) : high], key=lambda record: record.partition))
        found = rows(
            writer.database, LEDGER.replace("ORDER", f"WHERE starts_with(partition, '{topic}/') ORDER")
        )
        assert found == expected(stream)
