"""Storages driven at random beside the plain model: through reopenings, seals and retired segments nothing changes."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test
from tests.conformance import compositions
from tests.support.waiting import until

from skillaudit.contract.clock import to_us, uuid7
from skillaudit.contract.eventlog import RecordKind
from skillaudit.contract.events import encode_storage_log
from skillaudit.contract.testing.stateful import StorageStateMachine, moments
from skillaudit.contract.testing.support import PURGE_BASE, log
from skillaudit.storage import open_storage

SEAL_ROWS = 1_000
FLOOD = 700
"""Two of them fill a hot table, and each fills several segments."""
EXAMPLES = settings(
    max_examples=7,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


class ReopenedMachine(StorageStateMachine):
    """Every example in a directory of its own, opened as often as the rules want it."""

    def __init__(self):
        self.directory = tempfile.TemporaryDirectory()
        super().__init__()

    def target(self):
        raise NotImplementedError

    async def open_storage(self):
        self.manager = open_storage(self.target(), segment_bytes=64 * 1024, seal_rows=SEAL_ROWS)
        return await self.manager.__aenter__()

    async def close_storage(self, storage):
        await storage.aclose()
        await self.manager.__aexit__(None, None, None)

    def teardown(self):
        try:
            super().teardown()
        finally:
            self.directory.cleanup()

    def sealed(self):
        with self.cursor() as cursor:
            return cursor.execute("SELECT count(*) FROM store.events_sealed").fetchone()[0]

    def archived(self):
        return list(Path(self.directory.name, "archive").rglob("*.gz"))

    @rule()
    def reopen(self):
        """What was written is there again; nothing is there twice."""
        self.run(self.close_storage(self.storage))
        self.storage = self.run(self.open_storage())

    @rule(run_id=StorageStateMachine.run_ids, first=st.sampled_from([0, 1, FLOOD]), at=moments)
    def flood(self, run_id, first, at):
        """Many events at once, some of them repeated: enough to fill segments and hot tables."""
        events = [log(run_id, first + n, created_at=at) for n in range(FLOOD)]
        # One transaction straight on the database, one call of the outbox: the Storage's own way would be 700 of them.
        items = [
            (run_id, encode_storage_log(event, to_us(at), uuid7()), RecordKind.LOG) for event in events[:-1]
        ]
        self.storage._writer._log.append_many(items, wait_ms=0)
        self.run(self.storage.append_log(events[-1]))
        for event in events:
            self.run(self.model.append_log(event))


class Embedded(ReopenedMachine):
    def target(self):
        return compositions.settings_at(Path(self.directory.name))

    def cursor(self):
        return self.storage._admin.cursor()


class Direct(ReopenedMachine):
    def target(self):
        return f"duckdb://{self.directory.name}/audit.duckdb"

    def cursor(self):
        return self.storage._admin._materializer.database.cursor()


@pytest.mark.parametrize("machine", [Embedded, Direct])
def test_floods_seal_and_retire(machine):
    """The machine's rules do reach what they are for."""
    driven = machine()
    try:
        for first in (0, FLOOD):
            driven.flood("a-run", first, PURGE_BASE)
        driven.run(until(lambda: driven.sealed() > FLOOD))
        if machine is Embedded:
            driven.run(until(driven.archived))
    finally:
        driven.teardown()


@pytest.mark.parametrize("machine", [Embedded, Direct])
def test_a_storage_is_its_model(machine):
    """Whatever happens in whatever order, readers say what the model says."""
    run_state_machine_as_test(machine, settings=EXAMPLES)
