"""`AuditReaderConformance`: what a reader says about the record itself, beside what runs said of themselves.

For a storage that is an `AuditReader` too: the fixture `storage` is both. Use it like `StorageConformance`, alone or as
a second base class. What a Writer's runs read as is in `testing.writer`.
"""

from __future__ import annotations

from typing import Protocol

import pytest

from skillaudit.contract.errors import NotYetMaterializedError, RunNotFoundError
from skillaudit.contract.records import Completeness, Integrity, Liveness, SkillRun, Status
from skillaudit.contract.storage import AuditReader, Storage
from skillaudit.contract.testing.support import (
    PAGE_MAX,
    PURGE_BASE,
    PURGE_END,
    Scope,
    log,
    record,
    stats,
    unique,
)


class AuditedStorage(Storage, AuditReader, Protocol):
    """A storage that reports on its own record."""


class AuditReaderConformance:
    """The states of runs that were written through a bare storage, and of what has no start."""

    @pytest.fixture
    def scope(self) -> Scope:
        """Fresh names for one case."""
        return Scope()

    async def test_it_is_an_audit_reader(self, storage: AuditedStorage) -> None:
        """It has all of the protocol."""
        assert isinstance(storage, AuditReader)

    async def test_an_unknown_run_has_no_state(self, storage: AuditedStorage) -> None:
        """`RunNotFoundError`, and no key among many."""
        run_id = unique()
        with pytest.raises(RunNotFoundError):
            await storage.get_run_state(run_id)
        assert await storage.list_run_states([run_id]) == {}
        assert await storage.list_run_states([]) == {}

    async def test_a_bare_run_is_unproven(self, storage: AuditedStorage, scope: Scope) -> None:
        """Its numbers are the caller's: nothing is missing, nothing proven; it is open until it is finished."""
        run = scope.run()
        await record(storage, run)
        await storage.append_log(log(run.id, 1))
        await storage.append_log(log(run.id, 5))
        for liveness in (Liveness.OPEN, Liveness.FINISHED):
            state = await storage.get_run_state(run.id)
            assert (state.run_id, state.events, state.conflicts) == (run.id, 2, 0)
            assert (state.liveness, state.completeness) == (liveness, Completeness.UNPROVEN)
            assert (state.missing, state.lost, state.source_id) == ((), (), "")
            await storage.finish_run(run.id, stats())

    async def test_nothing_is_verified_unasked(self, storage: AuditedStorage, scope: Scope) -> None:
        """A bare run has no tags to verify."""
        run = scope.run()
        await record(storage, run, status=Status.OK)
        assert (await storage.get_run_state(run.id)).integrity is Integrity.UNCHECKED

    async def test_states_of_many(self, storage: AuditedStorage, scope: Scope) -> None:
        """Each with the state it has alone; those that are not stored have no key."""
        runs = [scope.run() for _ in range(3)]
        await record(storage, *runs)
        names = [run.id for run in runs]
        states = await storage.list_run_states([names[0], unique(), names[2], names[0]])
        assert states == {name: await storage.get_run_state(name) for name in (names[0], names[2])}

    async def test_repeats_are_no_conflicts(self, storage: AuditedStorage, scope: Scope) -> None:
        """What changes nothing by the contract of a bare storage leaves no mark."""
        run = scope.run()
        for _ in range(2):
            await storage.start_run(run)
            await storage.append_log(log(run.id, 1))
            await storage.finish_run(run.id, stats())
        await storage.start_run(scope.run(id=run.id, inputs={"other": 1}))
        await storage.append_log(log(run.id, 1, payload={"other": 1}))
        state = await storage.get_run_state(run.id)
        assert (state.events, state.conflicts) == (1, 0)

    @pytest.mark.parametrize("early", ["log", "finish"])
    async def test_an_orphan_is_reported(self, storage: AuditedStorage, scope: Scope, early: str) -> None:
        """While its start is not known it is an orphan with a state; then it is a run."""
        run = scope.run()
        await self._write_early(storage, run, early)
        state = await storage.get_run_state(run.id)
        assert state.completeness is not Completeness.COMPLETE
        assert state.events == int(early == "log")
        assert run.id in await self._orphans(storage)
        await storage.start_run(run)
        assert run.id not in await self._orphans(storage)
        assert (await storage.get_run_state(run.id)).events == int(early == "log")

    async def test_orphans_come_oldest_first_by_arrival(self, storage: AuditedStorage) -> None:
        """In the order in which something of them was first stored; what is read has been stored."""
        names = [unique(word) for word in ("c", "a", "b")]
        for name in names:
            await storage.append_log(log(name, 1))
            assert (await storage.get_run_state(name)).events == 1
        await storage.append_log(log(names[0], 2))
        found = await self._orphans(storage)
        assert [name for name in found if name in names] == names
        assert [state.run_id for state in await storage.list_orphans(1)] == found[:1]

    async def test_a_run_is_no_orphan(self, storage: AuditedStorage, scope: Scope) -> None:
        """Nor is one whose parent is not stored."""
        run = scope.run(parent_run_id=unique())
        await storage.start_run(run)
        assert not {run.id, run.parent_run_id} & set(await self._orphans(storage))

    async def test_a_purged_run_reads_purged(self, storage: AuditedStorage, scope: Scope) -> None:
        """It is gone from every list and still not unknown."""
        await storage.purge_older_than(PURGE_END)
        run = scope.run(started_at=PURGE_BASE)
        await record(storage, run, status=Status.OK)
        assert await storage.purge_older_than(PURGE_END) == 1
        state = await storage.get_run_state(run.id)
        assert (state.completeness, state.events) == (Completeness.PURGED, 0)

    async def test_positions_that_were_reached_need_no_waiting(
        self, storage: AuditedStorage, scope: Scope
    ) -> None:
        """`wait_for` what is there returns at once."""
        await record(storage, scope.run())
        await storage.wait_for({}, 0)
        await storage.wait_for(await storage.positions(), 0)

    async def test_positions_that_are_not_reached(self, storage: AuditedStorage) -> None:
        """`NotYetMaterializedError` after the time given."""
        with pytest.raises(NotYetMaterializedError):
            await storage.wait_for({unique("nowhere"): 1}, 0)

    @staticmethod
    async def _write_early(storage: AuditedStorage, run: SkillRun, early: str) -> None:
        if early == "log":
            await storage.append_log(log(run.id, 1))
        else:
            await storage.finish_run(run.id, stats())

    @staticmethod
    async def _orphans(storage: AuditedStorage) -> list[str]:
        return [state.run_id for state in await storage.list_orphans(PAGE_MAX)]
