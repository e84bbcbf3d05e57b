"""A database made again from the same logs, acts first, holds what the first one held, however the batches fell."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.acts.support import BASE_US, CONTROL, rows, state
from tests.consumer import streams

from skillaudit.consumer import planning
from skillaudit.consumer.database import Database, open_database
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.purging import DAY_US
from skillaudit.consumer.recording import take_acts
from skillaudit.contract.admin import ActOrder, HoldScope
from skillaudit.contract.clock import SystemClock
from skillaudit.contract.errors import HoldNotFoundError, RejectedError
from skillaudit.contract.sources import SourceRecord
from skillaudit.proof.acts import act_line

WORLD = streams.World(0)
ADA, FORCED = ActOrder(actor="ada"), ActOrder(actor="ada", force=True)


@dataclass(frozen=True)
class Order:
    """A wish, still without the names that only the database knows."""

    kind: str
    run: int = 0
    number: int = 0
    force: bool = False

    def plan(self, holds: Sequence[str]) -> planning.Planner:
        order, run_id = FORCED if self.force else ADA, WORLD.runs[self.run]
        made = {
            "older": lambda: planning.plan_purge(order, BASE_US + self.number),
            "old orphans": lambda: planning.plan_purge(order, BASE_US + 1_000 * self.number, orphans=True),
            "retention": lambda: planning.plan_purge(
                order, BASE_US + self.number, received=True, orphans=True
            ),
            "purge": lambda: planning.plan_purge_of(order, [run_id]),
            "purge old": lambda: planning.plan_purge_of(order, [run_id], min_days=1),
            "redact": lambda: planning.plan_redact(order, run_id, self.number, None),
            "field": lambda: planning.plan_redact(order, run_id, 0, "inputs"),
            "erase": lambda: planning.plan_erase(order, [run_id]),
            "hold": lambda: planning.plan_hold(order, HoldScope(runs=(run_id,))),
            "hold skill": lambda: planning.plan_hold(order, HoldScope(skill_id=f"s{self.run}")),
            "hold all": lambda: planning.plan_hold(order, HoldScope(everything=True)),
            "release": lambda: planning.plan_release(order, holds[-1] if holds else "none"),
        }
        return made[self.kind]()


ORDERS = st.builds(
    Order,
    st.sampled_from(
        [
            "older",
            "old orphans",
            "retention",
            "purge",
            "purge old",
            "redact",
            "redact",
            "field",
            "erase",
            "erase",
            "hold",
            "hold skill",
            "hold all",
            "release",
        ]
    ),
    st.integers(0, 2),
    st.integers(0, 6),
    st.booleans(),
)


@st.composite
def histories(draw: st.DrawFn) -> list[list[streams.Draft] | Order]:
    """Portions of a stream, and orders between them."""
    drafts = draw(streams.streams())
    found: list[list[streams.Draft] | Order] = []
    while drafts:
        size = draw(st.integers(1, 8))
        found.append(drafts[:size])
        drafts = drafts[size:]
        found += draw(st.lists(ORDERS, max_size=2))
    return found


class Yesterday(SystemClock):
    """A day after the first records: those that are a little younger are too young to be purged."""

    def wall_us(self) -> int:
        return BASE_US + DAY_US + 6


class Logs:
    """What the broker holds, or an outbox, which stamps nothing: two partitions of events, and the acts."""

    def __init__(self, topic: str = "t") -> None:
        self.topic = topic
        self.events: list[SourceRecord] = []
        self.acts: list[SourceRecord] = []
        self._ends = [0, 0]

    def add(self, drafts: Sequence[streams.Draft]) -> list[SourceRecord]:
        new: list[SourceRecord] = []
        for draft in drafts:
            run = draft.args[0] if draft.maker is not streams._malformed and draft.args else 0
            number = run % 2
            offset = self._ends[number]
            self._ends[number] = offset + 2  # offsets need not be without gaps
            received_us = 0 if self.topic == "outbox" else BASE_US + len(self.events)
            where = (f"{self.topic}/{number}", offset, offset + 2)
            new.append(SourceRecord(*where, received_us, None, draft.make(WORLD)))
        self.events += new
        return sorted(new, key=lambda record: record.partition)

    def order(self, materializer: Materializer, order: Order) -> None:
        """As an operator's wish goes: planned, written, read."""
        held = [
            row[0]
            for row in rows(materializer.database, "SELECT act_id FROM holds WHERE released_by IS NULL")
        ]
        try:
            plan = order.plan(held)(materializer)
        except (RejectedError, HoldNotFoundError):
            return
        for act in plan.acts:
            number = len(self.acts)
            self.acts.append(SourceRecord(CONTROL, number, number + 1, 0, None, act_line(act)))
        take_acts(materializer, self.acts, "control")


@contextlib.contextmanager
def opened(directory: str, name: str):
    with open_database(Path(directory) / name) as database:
        materializer = Materializer(database, clock=Yesterday())
        try:
            yield database, materializer
        finally:
            materializer.close()


def again(logs: Logs, cuts: Sequence[int], directory: str) -> dict[str, Any]:
    """A new file: the acts to their end, then the events in other portions."""
    with opened(directory, "again") as (database, materializer):
        take_acts(materializer, logs.acts, "control")
        at = 0
        for size in [*cuts, len(logs.events)]:
            portion = sorted(logs.events[at : at + size], key=lambda record: record.partition)
            materializer.apply(portion)
            at += size
        assert not rows(database, "SELECT * FROM pending_acts")
        return state(database)


def ahead(logs: Logs, directory: str) -> dict[str, Any]:
    """Another consumer that had all events before it read the acts: which runs and places are gone."""
    with opened(directory, "ahead") as (database, materializer):
        materializer.apply(sorted(logs.events, key=lambda record: record.partition))
        take_acts(materializer, logs.acts, "control")
        return gone(database)


def gone(database: Database) -> dict[str, Any]:
    return {
        "runs": rows(database, "SELECT id FROM runs ORDER BY id"),
        "orphans": rows(database, "SELECT id FROM orphans ORDER BY id"),
        "purged": rows(
            database, "SELECT id, violates, orphan, epoch_us(started_at) FROM tombstones ORDER BY id"
        ),
        "places": rows(
            database,
            "SELECT DISTINCT r.id, d.seq, d.field FROM redactions AS d JOIN runs AS r USING (run_key)"
            " WHERE NOT r.by_storage ORDER BY ALL",
        ),
        "holds": rows(database, "SELECT act_id, released_by FROM holds ORDER BY 1"),
    }


def uncount(found: dict[str, Any]) -> None:
    """Retention reaches less far than what is stored: what lies behind is counted as purged here, and as dropped in a
    rebuild.
    """
    for row in found["tombstones"]:
        del row["events_stored"], row["records_dropped"]
    for row in found["purges"]:
        del row["events"]


@given(
    history=histories(),
    cuts=st.lists(st.integers(1, 9), max_size=6),
    topic=st.sampled_from(["t", "t", "outbox"]),
)
@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_a_rebuild_gives_the_same(
    history: list[list[streams.Draft] | Order], cuts: list[int], topic: str
) -> None:
    """Runs, orphans, events, ledger, acts and their leaves, redactions, salts, tombstones and their counts, kept copies."""
    logs = Logs(topic)
    retained = any(isinstance(step, Order) and step.kind == "retention" for step in history)
    with tempfile.TemporaryDirectory() as directory:
        with opened(directory, "first") as (database, materializer):
            for step in history:
                if isinstance(step, Order):
                    logs.order(materializer, step)
                else:
                    materializer.apply(logs.add(step))
            first, left = state(database), gone(database)
        second = again(logs, cuts, directory)
        if retained:
            uncount(first), uncount(second)
        for name, content in first.items():
            assert second[name] == content, name
        assert ahead(logs, directory) == left
