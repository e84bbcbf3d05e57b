"""Cases of `list_children_by_parent` and `walk_parent_chain`."""

from __future__ import annotations

import pytest

from skillaudit.contract.errors import RunNotFoundError
from skillaudit.contract.records import MAX_PARENT_CHAIN_DEPTH, SkillRun, Status
from skillaudit.contract.storage import Storage
from skillaudit.contract.testing.support import Scope, at, ids, record, record_as_given, stats, unique

CHILDREN_MANY = 55


class ChildrenCases:
    """The runs that a run started."""

    async def test_a_run_without_children(self, storage: Storage, scope: Scope) -> None:
        """An empty list; for an unknown run too."""
        run = scope.run()
        await storage.start_run(run)
        assert await storage.list_children_by_parent(run.id) == []
        assert await storage.list_children_by_parent(unique()) == []

    async def test_children_come_oldest_first(self, storage: Storage, scope: Scope) -> None:
        """By `started_at`, whatever arrived first."""
        parent = unique()
        runs = [scope.run(parent_run_id=parent, started_at=at(seconds)) for seconds in (3, 1, 2)]
        await record(storage, *runs)
        assert await storage.list_children_by_parent(parent) == [runs[1], runs[2], runs[0]]

    async def test_ties_of_children_are_broken_by_id_ascending(self, storage: Storage, scope: Scope) -> None:
        """Oldest first all the way: the reverse of the other lists."""
        parent, prefix = unique(), unique()
        names = [f"{prefix}{tail}" for tail in ("b", "B", "10", "9", "\uffee", "\U0001f600")]
        await record(storage, *(scope.run(id=i, parent_run_id=parent, started_at=at(1)) for i in names))
        assert ids(await storage.list_children_by_parent(parent)) == sorted(names)

    async def test_all_children_are_listed(self, storage: Storage, scope: Scope) -> None:
        """There is no limit on them, and every status counts."""
        parent = unique()
        statuses = ("running", "ok", "dry_run", "error", "odd")
        runs = [scope.run(parent_run_id=parent, status=statuses[n % 5]) for n in range(CHILDREN_MANY)]
        await record_as_given(storage, runs)
        assert ids(await storage.list_children_by_parent(parent)) == ids(runs)

    async def test_the_empty_parent_matches_nothing(self, storage: Storage, scope: Scope) -> None:
        """Top-level runs are nobody's children."""
        await record(storage, scope.run(parent_run_id=""))
        assert await storage.list_children_by_parent("") == []

    async def test_only_children(self, storage: Storage, scope: Scope) -> None:
        """No grandchildren, not the run itself."""
        top = scope.run()
        child = scope.run(parent_run_id=top.id)
        grandchild = scope.run(parent_run_id=child.id)
        await record(storage, top, child, grandchild)
        assert ids(await storage.list_children_by_parent(top.id)) == [child.id]
        assert ids(await storage.list_children_by_parent(child.id)) == [grandchild.id]

    async def test_children_of_a_parent_that_is_not_stored(self, storage: Storage, scope: Scope) -> None:
        """What a run says of its parent needs no parent to be true."""
        child = scope.run(parent_run_id=unique())
        await storage.start_run(child)
        assert ids(await storage.list_children_by_parent(child.parent_run_id)) == [child.id]

    async def test_a_childs_end_shows(self, storage: Storage, scope: Scope) -> None:
        """Children are whole runs, as `get_run` gives them."""
        child = scope.run(parent_run_id=unique())
        await record(storage, child)
        await storage.finish_run(child.id, stats(Status.ERROR, error="e"))
        assert await storage.list_children_by_parent(child.parent_run_id) == [await storage.get_run(child.id)]


async def _chain(storage: Storage, scope: Scope, length: int) -> list[SkillRun]:
    """Start a chain of runs, root first."""
    runs: list[SkillRun] = []
    for _ in range(length):
        runs.append(scope.run(parent_run_id=runs[-1].id if runs else ""))
    await record(storage, *runs)
    return runs


class ChainCases:
    """A run and its ancestors."""

    async def test_an_unknown_run_has_no_chain(self, storage: Storage) -> None:
        """`RunNotFoundError`."""
        for run_id in (unique(), ""):
            with pytest.raises(RunNotFoundError):
                await storage.walk_parent_chain(run_id)

    async def test_a_top_level_run_is_its_own_chain(self, storage: Storage, scope: Scope) -> None:
        """The run itself, whole."""
        [run] = await _chain(storage, scope, 1)
        assert await storage.walk_parent_chain(run.id) == [run]

    async def test_root_first_run_last(self, storage: Storage, scope: Scope) -> None:
        """From any run of the chain, never its descendants."""
        runs = await _chain(storage, scope, 4)
        for length in (1, 2, 3, 4):
            assert await storage.walk_parent_chain(runs[length - 1].id) == runs[:length]

    @pytest.mark.parametrize("extra", [-1, 0, 1, 3])
    async def test_at_most_32_runs(self, storage: Storage, scope: Scope, extra: int) -> None:
        """Of a longer chain the runs nearest to the asked one."""
        runs = await _chain(storage, scope, MAX_PARENT_CHAIN_DEPTH + extra)
        chain = await storage.walk_parent_chain(runs[-1].id)
        assert ids(chain) == ids(runs)[-MAX_PARENT_CHAIN_DEPTH:]

    @pytest.mark.parametrize("length", [1, 2, 3, 5])
    async def test_a_cycle_ends_the_walk(self, storage: Storage, scope: Scope, length: int) -> None:
        """Corrupted data may hold one: each of its runs is given once, the asked one last."""
        names = [unique() for _ in range(length)]
        runs = [scope.run(id=name, parent_run_id=names[n - 1]) for n, name in enumerate(names)]
        await record(storage, *runs)
        assert ids(await storage.walk_parent_chain(names[-1])) == names

    async def test_a_cycle_above_the_run(self, storage: Storage, scope: Scope) -> None:
        """A run whose ancestors run in a circle is not part of it."""
        left, right = unique(), unique()
        run = scope.run(parent_run_id=left)
        await record(
            storage, scope.run(id=left, parent_run_id=right), scope.run(id=right, parent_run_id=left)
        )
        await storage.start_run(run)
        assert ids(await storage.walk_parent_chain(run.id)) == [right, left, run.id]

    async def test_a_missing_parent_ends_the_walk(self, storage: Storage, scope: Scope) -> None:
        """Not an error."""
        run = scope.run(parent_run_id=unique())
        child = scope.run(parent_run_id=run.id)
        await record(storage, run, child)
        assert ids(await storage.walk_parent_chain(child.id)) == [run.id, child.id]

    async def test_a_parent_that_arrives_late(self, storage: Storage, scope: Scope) -> None:
        """Once it is there, the chain goes through it."""
        parent = scope.run()
        child = scope.run(parent_run_id=parent.id)
        await storage.start_run(child)
        assert ids(await storage.walk_parent_chain(child.id)) == [child.id]
        await storage.start_run(parent)
        assert ids(await storage.walk_parent_chain(child.id)) == [parent.id, child.id]

    async def test_every_status_is_part_of_a_chain(self, storage: Storage, scope: Scope) -> None:
        """Dry runs, failed and running ones; as `get_run` gives them."""
        runs = await _chain(storage, scope, 3)
        await storage.finish_run(runs[0].id, stats(Status.DRY_RUN))
        await storage.finish_run(runs[1].id, stats(Status.ERROR))
        chain = await storage.walk_parent_chain(runs[2].id)
        assert chain == [await storage.get_run(run.id) for run in runs]
