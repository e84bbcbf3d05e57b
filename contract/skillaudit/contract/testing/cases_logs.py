"""Cases of `append_log` and `list_logs_by_run`, and of logs and finishes whose start comes late."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest

from skillaudit.contract.errors import RunNotFoundError
from skillaudit.contract.records import EventType, RunFilter, SkillRun, Status
from skillaudit.contract.storage import Storage
from skillaudit.contract.testing.support import (
    EVERYTHING,
    Scope,
    at,
    finished,
    ids,
    log,
    record,
    stats,
    unique,
)

MANY: Final = 520


class LogCases:
    """The events of a run."""

    async def test_a_run_without_events_has_none(self, storage: Storage, scope: Scope) -> None:
        """An empty list, not an error."""
        run = scope.run()
        await storage.start_run(run)
        assert await storage.list_logs_by_run(run.id) == []

    @pytest.mark.parametrize("run_id", ["", "no-such-run", "%"])
    async def test_an_unknown_run_has_no_events(self, storage: Storage, run_id: str) -> None:
        """An empty list, not an error."""
        assert await storage.list_logs_by_run(run_id) == []

    async def test_an_event_is_read_back_whole(self, storage: Storage, scope: Scope) -> None:
        """`list_logs_by_run` returns what `append_log` was given, bytes of the payload included."""
        run = scope.run()
        event = log(run.id, 1, event_type=EventType.TOOL_CALL, payload={"name": "search"}, created_at=at(7))
        await storage.start_run(run)
        await storage.append_log(event)
        [read] = await storage.list_logs_by_run(run.id)
        assert read == event
        assert read.payload_json == event.payload_json

    @pytest.mark.parametrize("event_type", list(EventType))
    async def test_each_event_type_is_kept(
        self, storage: Storage, scope: Scope, event_type: EventType
    ) -> None:
        """step, tool_call, tool_result and error."""
        run = scope.run()
        await storage.start_run(run)
        await storage.append_log(log(run.id, 1, event_type=event_type))
        assert [e.event_type for e in await storage.list_logs_by_run(run.id)] == [event_type]

    @pytest.mark.parametrize(
        "sequences",
        [[1, 2, 3], [3, 2, 1], [2, 10, 1], [0, 1], [7], [5, 2**40, 2**31, 2**53 + 1, 0], [100, 9, 99, 10]],
        ids=str,
    )
    async def test_events_come_in_sequence_order(
        self, storage: Storage, scope: Scope, sequences: list[int]
    ) -> None:
        """The caller owns the sequence: any order of arrival, any gaps; read in the order of the numbers."""
        run = scope.run()
        await storage.start_run(run)
        for sequence in sequences:
            await storage.append_log(log(run.id, sequence))
        read = await storage.list_logs_by_run(run.id)
        assert [e.sequence for e in read] == sorted(sequences)
        assert [e.payload["n"] for e in read] == sorted(sequences)

    async def test_all_events_are_listed(self, storage: Storage, scope: Scope) -> None:
        """There is no limit on a run's events."""
        run = scope.run()
        await storage.start_run(run)
        await asyncio.gather(*(storage.append_log(log(run.id, n)) for n in range(1, MANY + 1)))
        assert [e.sequence for e in await storage.list_logs_by_run(run.id)] == list(range(1, MANY + 1))

    async def test_a_repeated_event_changes_nothing(self, storage: Storage, scope: Scope) -> None:
        """`(run_id, sequence)` is unique and the first one stays, whatever the second one says."""
        run = scope.run()
        first = log(run.id, 1, payload={"n": "first"})
        again = log(run.id, 1, payload={"n": "again"}, event_type=EventType.ERROR, created_at=at(9))
        await storage.start_run(run)
        for event in (first, again, log(run.id, 2), first, again):
            await storage.append_log(event)
        assert await storage.list_logs_by_run(run.id) == [first, log(run.id, 2)]

    async def test_the_same_sequence_in_two_runs_is_two_events(self, storage: Storage, scope: Scope) -> None:
        """Only within one run a sequence is unique."""
        left, right = scope.run(), scope.run()
        await record(storage, left, right)
        await storage.append_log(log(left.id, 1, payload={"of": "left"}))
        await storage.append_log(log(right.id, 1, payload={"of": "right"}))
        assert [e.payload for e in await storage.list_logs_by_run(left.id)] == [{"of": "left"}]
        assert [e.payload for e in await storage.list_logs_by_run(right.id)] == [{"of": "right"}]

    async def test_an_event_after_the_finish_is_kept(self, storage: Storage, scope: Scope) -> None:
        """A finish closes nothing for a bare storage."""
        run = scope.run()
        await record(storage, run, status=Status.OK)
        before = await storage.get_run(run.id)
        await storage.append_log(log(run.id, 1))
        assert len(await storage.list_logs_by_run(run.id)) == 1
        assert await storage.get_run(run.id) == before


class OrphanCases:
    """Logs and finishes that come before their start: kept, unseen in lists, joined when it comes."""

    async def test_a_log_before_its_start_is_kept_and_joins(self, storage: Storage, scope: Scope) -> None:
        """Nothing is dropped because it came early."""
        run = scope.run()
        await storage.append_log(log(run.id, 2))
        await storage.append_log(log(run.id, 1))
        await storage.start_run(run)
        await storage.append_log(log(run.id, 3))
        assert await storage.get_run(run.id) == run
        assert [e.sequence for e in await storage.list_logs_by_run(run.id)] == [1, 2, 3]

    async def test_a_finish_before_its_start_is_kept_and_joins(self, storage: Storage, scope: Scope) -> None:
        """The run is finished as soon as its start is there."""
        run, end = scope.run(), stats(Status.ERROR, error="early", input_tokens=5)
        await storage.finish_run(run.id, end)
        await storage.start_run(run)
        read = await storage.get_run(run.id)
        assert read == finished(run, end, read.finished_at)
        assert read.finished_at is not None

    async def test_the_last_finish_before_the_start_wins(self, storage: Storage, scope: Scope) -> None:
        """Early finishes replace each other as later ones do."""
        run = scope.run()
        await storage.finish_run(run.id, stats(Status.ERROR))
        await storage.finish_run(run.id, stats(Status.TIMEOUT))
        await storage.start_run(run)
        assert (await storage.get_run(run.id)).status == Status.TIMEOUT

    async def test_a_repeated_early_log_changes_nothing(self, storage: Storage, scope: Scope) -> None:
        """The first log of a number stays, also across the start."""
        run = scope.run()
        first = log(run.id, 1, payload={"n": "first"})
        await storage.append_log(first)
        await storage.append_log(log(run.id, 1, payload={"n": "second"}))
        await storage.start_run(run)
        await storage.append_log(log(run.id, 1, payload={"n": "third"}))
        assert await storage.list_logs_by_run(run.id) == [first]

    async def test_an_orphans_events_can_be_read(self, storage: Storage) -> None:
        """`list_logs_by_run` gives all events of a run id, also while its start is not known."""
        run_id = unique("orphan")
        await storage.append_log(log(run_id, 1))
        assert await storage.list_logs_by_run(run_id) == [log(run_id, 1)]

    @pytest.mark.parametrize("early", ["log", "finish", "both"])
    async def test_an_orphan_is_no_run_until_its_start_comes(
        self, storage: Storage, scope: Scope, early: str
    ) -> None:
        """It is not found, not listed and not counted; once its start is there, it is all of that."""
        run = scope.run()
        if early != "finish":
            await storage.append_log(log(run.id, 1))
        if early != "log":
            await storage.finish_run(run.id, stats())
        await self._assert_unseen(storage, run)
        await storage.start_run(run)
        assert ids(await storage.list_runs_by_skill(scope.skill, 10)) == [run.id]
        assert await storage.count_runs_filtered(scope.filter()) == 1

    @staticmethod
    async def _assert_unseen(storage: Storage, run: SkillRun) -> None:
        for method in (storage.get_run, storage.walk_parent_chain):
            with pytest.raises(RunNotFoundError):
                await method(run.id)
        assert await storage.list_children_by_parent(run.id) == []
        assert await storage.list_runs_by_skill(run.skill_id, 10) == []
        assert await storage.list_runs_by_caller(run.caller_id, 10) == []
        assert await storage.last_run_by_skills([run.skill_id]) == {}
        page = await storage.list_runs_filtered(RunFilter(include_dry_run=True), 0, 500)
        assert run.id not in ids(page)
        assert run.id not in ids(await storage.list_finished_runs_before(at(10**9), EVERYTHING))

    async def test_an_orphans_child_is_listed_under_it(self, storage: Storage, scope: Scope) -> None:
        """A child is a run of its own; the chain ends where the parent's start is not known."""
        parent = scope.run()
        child = scope.run(parent_run_id=parent.id)
        await storage.append_log(log(parent.id, 1))
        await storage.start_run(child)
        assert ids(await storage.list_children_by_parent(parent.id)) == [child.id]
        assert ids(await storage.walk_parent_chain(child.id)) == [child.id]
