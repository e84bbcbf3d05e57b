"""The materializer against the plain model: the same records, in any order and any batches, give the same record."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.consumer.streams import World, streams
from tests.consumer.support import settle

from skillaudit.consumer.database import Database, open_database
from skillaudit.consumer.hashes import KnownHashes
from skillaudit.consumer.materializer import Materializer, MaterializerPolicy
from skillaudit.consumer.poison import PoisonPolicy
from skillaudit.consumer.staging import SMALL_BATCH_RECORDS
from skillaudit.contract.clock import to_us
from skillaudit.contract.events import format_ranges
from skillaudit.contract.memory import MemoryStorage
from skillaudit.contract.records import RunFilter, RunState, SkillRun
from skillaudit.contract.sources import SourceRecord

LENIENT = MaterializerPolicy(poison=PoisonPolicy(in_a_row_max=10**9, share_percent_max=101))


class Bench:
    """One database for all examples, kept apart by topics: a topic is a namespace of run ids."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._numbers = itertools.count(1)
        self.database: Database
        self.materializer: Materializer
        self._open()

    def _open(self) -> None:
        self.database = open_database(self._path)
        self.materializer = Materializer(self.database, policy=LENIENT)

    def close(self) -> None:
        self.materializer.close()
        self.database.close()

    def reopen(self) -> None:
        self.close()
        self._open()

    def world(self) -> World:
        return World(next(self._numbers))

    def decode_in_engine(self, always: bool) -> None:
        """Small batches are decoded otherwise than large ones; both must agree with the model."""
        small = 0 if always else SMALL_BATCH_RECORDS
        self.materializer.policy = replace(LENIENT, small_batch_records=small)
        if always:  # and new runs are told from stored ones as in a large database
            self.materializer.remembered.known = KnownHashes(runs_min=0, recent_max=5)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("model") / "audit.duckdb")
    yield bench
    bench.close()


def _runs(bench: Bench, topic: str) -> dict[str, tuple[object, ...]]:
    cursor = bench.database.cursor()
    rows = cursor.execute(
        """SELECT id, skill_id, caller_id, channel_id, inputs, epoch_us(started_at), epoch_us(finished_at), status, output,
                  error, tool_calls_count, runtime_us, parent_run_id, total_input_tokens, total_output_tokens,
                  total_thinking_tokens, attributes
           FROM runs WHERE topic = ?""",
        [topic],
    ).fetchall()
    cursor.close()
    found = {row[0]: row[1:] for row in rows}
    assert len(found) == len(rows), "one row a run"
    return found


def _model_run(run: SkillRun, inputs: bytes, attributes: bytes) -> tuple[object, ...]:
    return (
        run.skill_id,
        run.caller_id,
        run.channel_id,
        inputs.decode(),
        to_us(run.started_at),
        to_us(run.finished_at) if run.finished_at else None,
        run.status,
        run.output,
        run.error,
        run.tool_calls_count,
        round(run.runtime_seconds * 1_000_000),
        run.parent_run_id,
        run.total_input_tokens,
        run.total_output_tokens,
        run.total_thinking_tokens,
        attributes.decode(),
    )


def _states(bench: Bench, topic: str, view: str) -> dict[str, tuple[object, ...]]:
    cursor = bench.database.cursor()
    rows = cursor.execute(
        f"""SELECT id, liveness, completeness, events_stored, missing, lost, conflicts, source_id, epoch_us(last_event_at)
            FROM {view} WHERE topic = ?""",
        [topic],
    ).fetchall()
    cursor.close()
    return {row[0]: row[1:] for row in rows}


def _model_state(state: RunState) -> tuple[object, ...]:
    return (
        state.liveness,
        state.completeness,
        state.events,
        format_ranges(state.missing),
        format_ranges(state.lost),
        state.conflicts,
        state.source_id,
        to_us(state.last_event_at) if state.last_event_at else None,
    )


def _logs(bench: Bench, topic: str) -> dict[str, list[tuple[object, ...]]]:
    cursor = bench.database.cursor()
    rows = cursor.execute(
        """SELECT k.id, e.sequence, e.event_type, e.payload, epoch_us(e.created_at), e.tag
           FROM events e JOIN (SELECT run_key, id, topic FROM runs UNION ALL SELECT run_key, id, topic FROM orphans) k
           USING (run_key) WHERE k.topic = ? ORDER BY e.sequence""",
        [topic],
    ).fetchall()
    cursor.close()
    found: dict[str, list[tuple[object, ...]]] = {}
    for row in rows:
        found.setdefault(row[0], []).append(row[1:])
    return found


async def _check(bench: Bench, model: MemoryStorage, topic: str) -> None:
    records = model._runs
    runs = await model.list_runs_filtered(RunFilter(include_dry_run=True), 0, 50)
    starts = {r.run_id: r.start for r in records.values() if r.start}
    assert _runs(bench, topic) == {
        run.id: _model_run(run, starts[run.id].inputs_json, starts[run.id].attributes_json) for run in runs
    }
    states = await model.list_run_states([run.id for run in runs])
    assert _states(bench, topic, "runs") == {run_id: _model_state(state) for run_id, state in states.items()}
    orphans = await model.list_orphans(50)
    assert _states(bench, topic, "orphans") == {state.run_id: _model_state(state) for state in orphans}
    assert _logs(bench, topic) == {
        run_id: [
            (log.seq, log.event_type, log.payload_json.decode(), log.at_us, log.tag)
            for _, log in sorted(r.logs.items())
        ]
        for run_id, r in records.items()
        if r.logs
    }
    _check_beside(bench, model, topic)


def _check_beside(bench: Bench, model: MemoryStorage, topic: str) -> None:
    cursor = bench.database.cursor()
    conflicts = cursor.execute(
        "SELECT run_id, count(*) FROM conflicts WHERE topic = ? GROUP BY ALL", [topic]
    ).fetchall()
    assert dict(conflicts) == {r.run_id: r.conflicts for r in model._runs.values() if r.conflicts}
    dead = cursor.execute(
        "SELECT record, error FROM dead_letters WHERE partition = ? ORDER BY id", [f"{topic}/0"]
    ).fetchall()
    cursor.close()
    assert dead == model.dead_letters


@given(data=st.data())
@settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
async def test_same_records_give_the_same_record(bench: Bench, data: st.DataObject) -> None:
    """Whatever comes, in whatever order and batches, with seals and restarts between: model and database agree."""
    world = bench.world()
    topic = f"topic{world.number}"
    model = MemoryStorage()
    records = [draft.make(world) for draft in data.draw(streams())]
    outcomes: Counter[object] = Counter()
    expected: Counter[object] = Counter()
    place = 0
    in_engine = data.draw(st.booleans(), label="in the engine")
    bench.decode_in_engine(in_engine)
    while place < len(records):
        size = data.draw(st.integers(1, len(records) - place), label="batch")
        batch = [
            SourceRecord(f"{topic}/0", place + i, place + i + 1, 0, None, v)
            for i, v in enumerate(records[place : place + size])
        ]
        outcomes.update(bench.materializer.apply(batch).outcomes)
        expected.update(model.apply(record.value or b"") for record in batch)
        place += size
        between = data.draw(st.sampled_from(["", "", "", "", "seal", "forget", "reopen"]), label="between")
        if between == "seal":
            bench.materializer.sealer.seal()
        elif between == "forget":
            bench.materializer.forget()
        elif between == "reopen":
            bench.reopen()
            bench.decode_in_engine(in_engine)
    settle(bench.materializer)
    await _check(bench, model, topic)
    assert +outcomes == +expected
