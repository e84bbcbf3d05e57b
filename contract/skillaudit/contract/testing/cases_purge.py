"""Cases of `purge_older_than`. They live between 1990 and 2000, and each begins by purging that time."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from skillaudit.contract.errors import RunNotFoundError
from skillaudit.contract.records import SkillRun, Status
from skillaudit.contract.storage import Storage
from skillaudit.contract.testing.support import (
    EVERYTHING,
    PURGE_BASE,
    PURGE_END,
    US,
    Scope,
    at,
    ids,
    log,
    record,
    stats,
)


def old(days: int = 0, *, us: int = 0) -> datetime:
    """A time in the cases' decade."""
    return PURGE_BASE + timedelta(days=days, microseconds=us)


async def clear(storage: Storage) -> None:
    """Leave no run of that decade, whatever other cases put there."""
    await storage.purge_older_than(PURGE_END)


async def _gone(storage: Storage, run: SkillRun) -> bool:
    try:
        await storage.get_run(run.id)
    except RunNotFoundError:
        return True
    return False


class PurgeCases:
    """What is deleted, what stays, and that it stays deleted."""

    async def test_nothing_to_purge(self, storage: Storage) -> None:
        """No runs, none deleted; again too."""
        await clear(storage)
        assert await storage.purge_older_than(PURGE_END) == 0
        assert await storage.purge_older_than(PURGE_END) == 0

    @pytest.mark.parametrize(("us", "purged"), [(-1, 1), (0, 0), (1, 0)])
    async def test_the_bound_is_strict(self, storage: Storage, scope: Scope, us: int, purged: int) -> None:
        """`started_at` strictly before `t`, to the microsecond."""
        await clear(storage)
        run = scope.run(started_at=old(1, us=us))
        await storage.start_run(run)
        assert await storage.purge_older_than(old(1)) == purged
        assert await _gone(storage, run) is bool(purged)

    async def test_the_answer_counts_runs(self, storage: Storage, scope: Scope) -> None:
        """Not events; of any status and skill."""
        await clear(storage)
        runs = [scope.run(started_at=old(n)) for n in range(4)]
        await record(storage, *runs[:2], status=Status.OK)
        await record(storage, runs[2], status=Status.DRY_RUN)
        await record(storage, runs[3])
        for sequence in (1, 2, 3):
            await storage.append_log(log(runs[0].id, sequence))
        assert await storage.purge_older_than(old(9)) == 4
        assert await storage.purge_older_than(old(9)) == 0

    async def test_younger_runs_stay_whole(self, storage: Storage, scope: Scope) -> None:
        """With their events, in every list."""
        await clear(storage)
        purged, kept = scope.run(started_at=old(1)), scope.run(started_at=old(3))
        await record(storage, purged, kept, status=Status.OK)
        await storage.append_log(log(kept.id, 1))
        before = await storage.get_run(kept.id)
        assert await storage.purge_older_than(old(2)) == 1
        assert await storage.get_run(kept.id) == before
        assert await storage.list_logs_by_run(kept.id) == [log(kept.id, 1)]
        assert ids(await storage.list_runs_by_skill(scope.skill, 10)) == [kept.id]
        assert await storage.count_runs_filtered(scope.filter()) == 1

    async def test_a_purged_run_is_nowhere(self, storage: Storage, scope: Scope) -> None:
        """No list, no count, no chain, no child, no event shows it."""
        await clear(storage)
        run = scope.run(started_at=old(1), parent_run_id="p" + scope.skill)
        await record(storage, run, status=Status.OK)
        await storage.append_log(log(run.id, 1))
        assert await storage.purge_older_than(old(2)) == 1
        assert await storage.list_logs_by_run(run.id) == []
        with pytest.raises(RunNotFoundError):
            await storage.walk_parent_chain(run.id)
        assert await storage.list_runs_by_skill(scope.skill, 10) == []
        assert await storage.list_runs_by_skill_paginated(scope.skill, 0, 10, True) == []
        assert await storage.count_runs_by_skill(scope.skill, True) == 0
        assert await storage.list_runs_by_caller(scope.caller, 10) == []
        assert await storage.count_runs_filtered(scope.filter(include_dry_run=True)) == 0
        assert await storage.list_children_by_parent(run.parent_run_id) == []
        assert await storage.last_run_by_skills([scope.skill]) == {}
        assert run.id not in ids(await storage.list_finished_runs_before(at(10**9), EVERYTHING))

    async def test_running_runs_are_purged_too(self, storage: Storage, scope: Scope) -> None:
        """Only the start counts."""
        await clear(storage)
        run = scope.run(started_at=old(1))
        await storage.start_run(run)
        assert await storage.purge_older_than(old(2)) == 1
        assert await _gone(storage, run)

    async def test_the_finish_does_not_count(self, storage: Storage, scope: Scope) -> None:
        """A run that began long ago and finished just now is old."""
        await clear(storage)
        run = scope.run(started_at=old(1))
        await record(storage, run, status=Status.OK)
        assert await storage.purge_older_than(old(1, us=1)) == 1

    async def test_children_of_a_purged_run_stay(self, storage: Storage, scope: Scope) -> None:
        """Each run goes by its own start; the chain of what stays ends where the parent was."""
        await clear(storage)
        parent = scope.run(started_at=old(1))
        child = scope.run(started_at=old(3), parent_run_id=parent.id)
        await record(storage, parent, child)
        assert await storage.purge_older_than(old(2)) == 1
        assert ids(await storage.list_children_by_parent(parent.id)) == [child.id]
        assert ids(await storage.walk_parent_chain(child.id)) == [child.id]

    async def test_a_parent_stays_without_its_purged_child(self, storage: Storage, scope: Scope) -> None:
        """The other way round."""
        await clear(storage)
        parent = scope.run(started_at=old(3))
        child = scope.run(started_at=old(1), parent_run_id=parent.id)
        await record(storage, parent, child)
        assert await storage.purge_older_than(old(2)) == 1
        assert await storage.list_children_by_parent(parent.id) == []
        assert not await _gone(storage, parent)

    async def test_the_last_run_moves_when_others_are_purged(self, storage: Storage, scope: Scope) -> None:
        """Not with the older ones; to nothing with the last."""
        await clear(storage)
        await record(storage, scope.run(started_at=old(1)), scope.run(started_at=old(3)))
        await storage.purge_older_than(old(2))
        assert await storage.last_run_by_skills([scope.skill]) == {scope.skill: old(3)}
        await storage.purge_older_than(old(4))
        assert await storage.last_run_by_skills([scope.skill]) == {}

    @pytest.mark.parametrize("late", ["log", "finish", "start", "all"])
    async def test_what_comes_later_does_not_bring_a_run_back(
        self, storage: Storage, scope: Scope, late: str
    ) -> None:
        """Late and repeated records of a purged run are not stored; the run stays gone."""
        await clear(storage)
        run = scope.run(started_at=old(1))
        await record(storage, run)
        assert await storage.purge_older_than(old(2)) == 1
        if late in ("log", "all"):
            await storage.append_log(log(run.id, 1))
        if late in ("finish", "all"):
            await storage.finish_run(run.id, stats())
        if late in ("start", "all"):
            await storage.start_run(run)
        assert await _gone(storage, run)
        assert await storage.list_logs_by_run(run.id) == []
        assert await storage.count_runs_filtered(scope.filter(include_dry_run=True)) == 0
        assert await storage.purge_older_than(old(2)) == 0

    async def test_a_run_started_after_a_purge_is_stored_however_old(
        self, storage: Storage, scope: Scope
    ) -> None:
        """A purge deletes what is there; it is no rule for what comes."""
        await clear(storage)
        run = scope.run(started_at=old(1))
        assert await storage.purge_older_than(old(2)) == 0
        await storage.start_run(run)
        assert await storage.get_run(run.id) == run
        assert await storage.purge_older_than(old(2)) == 1

    async def test_a_bound_in_another_zone(self, storage: Storage, scope: Scope) -> None:
        """The instant counts, not the spelling."""
        await clear(storage)
        run = scope.run(started_at=old(1))
        await storage.start_run(run)
        zone = timezone(timedelta(hours=13))
        assert await storage.purge_older_than(old(1).astimezone(zone)) == 0
        assert await storage.purge_older_than((old(1) + US).astimezone(zone)) == 1

    async def test_an_orphan_is_not_purged(self, storage: Storage, scope: Scope) -> None:
        """It has no `started_at` yet; when its start comes, it is a run with its events."""
        await clear(storage)
        run = scope.run(started_at=old(1))
        await storage.append_log(log(run.id, 1, created_at=old(1)))
        assert await storage.purge_older_than(old(2)) == 0
        await storage.start_run(run)
        assert len(await storage.list_logs_by_run(run.id)) == 1
