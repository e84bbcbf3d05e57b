"""Cases of many tasks on one storage, and of reading one's own writes. No sleeps: every read follows its write."""

from __future__ import annotations

import asyncio

import pytest

from skillaudit.contract.errors import RunNotFoundError
from skillaudit.contract.records import SkillRun, Status
from skillaudit.contract.storage import Storage
from skillaudit.contract.testing.support import Scope, at, ids, log, newest_first, record, stats, unique

TASKS = 12


async def _record_whole(storage: Storage, run: SkillRun, events: int = 4) -> None:
    await storage.start_run(run)
    for sequence in range(1, events + 1):
        await storage.append_log(log(run.id, sequence))
    await storage.finish_run(run.id, stats(output=run.id))


class ConcurrencyCases:
    """One object, many tasks of one event loop."""

    async def test_many_tasks_record_runs(self, storage: Storage, scope: Scope) -> None:
        """Each run has its own events and its own end."""
        runs = [scope.run() for _ in range(TASKS)]
        await asyncio.gather(*(_record_whole(storage, run) for run in runs))
        listed = await storage.list_runs_by_skill(scope.skill, 50)
        assert ids(listed) == ids(newest_first(runs))
        assert all(run.status == Status.OK and run.output == run.id for run in listed)
        for run in runs:
            assert [e.sequence for e in await storage.list_logs_by_run(run.id)] == [1, 2, 3, 4]

    async def test_many_tasks_write_events_of_one_run(self, storage: Storage, scope: Scope) -> None:
        """Every event once, in sequence order."""
        run = scope.run()
        await storage.start_run(run)
        await asyncio.gather(*(storage.append_log(log(run.id, n)) for n in range(1, 41)))
        assert [e.sequence for e in await storage.list_logs_by_run(run.id)] == list(range(1, 41))

    async def test_one_of_many_starts_wins(self, storage: Storage, scope: Scope) -> None:
        """Of many starts of one run at once one is stored whole, and stays."""
        run_id = unique()
        runs = [scope.run(id=run_id, inputs={"n": n}) for n in range(TASKS)]
        await asyncio.gather(*(storage.start_run(run) for run in runs))
        read = await storage.get_run(run_id)
        assert read in runs
        assert await storage.get_run(run_id) == read
        assert await storage.count_runs_by_skill(scope.skill) == 1

    async def test_one_of_many_logs_of_a_number_wins(self, storage: Storage, scope: Scope) -> None:
        """Of many events of one sequence at once one is stored whole, and stays."""
        run = scope.run()
        events = [log(run.id, 1, payload={"n": n}, created_at=at(n)) for n in range(TASKS)]
        await storage.start_run(run)
        await asyncio.gather(*(storage.append_log(event) for event in events))
        [read] = await storage.list_logs_by_run(run.id)
        assert read in events
        assert await storage.list_logs_by_run(run.id) == [read]

    async def test_one_of_many_finishes_wins(self, storage: Storage, scope: Scope) -> None:
        """Of many finishes at once one is stored whole, never a mixture."""
        run = scope.run()
        await storage.start_run(run)
        await asyncio.gather(
            *(storage.finish_run(run.id, stats(f"s{n}", output=f"o{n}", tool_calls=n)) for n in range(TASKS))
        )
        read = await storage.get_run(run.id)
        assert (read.output, read.tool_calls_count) == (f"o{read.status[1:]}", int(read.status[1:]))

    async def test_readers_beside_writers(self, storage: Storage, scope: Scope) -> None:
        """Each answer is consistent in itself: ordered, no run twice, none that was seen is gone later."""
        runs = [scope.run() for _ in range(TASKS)]
        writing = asyncio.gather(*(_record_whole(storage, run, events=2) for run in runs))
        seen: set[str] = set()
        while not writing.done():
            page = ids(await storage.list_runs_filtered(scope.filter(), 0, 50))
            assert page == [run.id for run in newest_first(runs) if run.id in set(page)]
            assert seen <= set(page)
            seen |= set(page)
            await asyncio.sleep(0)
        await writing
        assert await storage.count_runs_filtered(scope.filter(status=Status.OK)) == TASKS

    async def test_readers_beside_readers(self, storage: Storage, scope: Scope) -> None:
        """Many reads at once all get the whole answer."""
        runs = [scope.run() for _ in range(5)]
        await record(storage, *runs, status=Status.OK)
        answers = await asyncio.gather(*(storage.list_runs_by_skill(scope.skill, 10) for _ in range(TASKS)))
        assert all(ids(answer) == ids(newest_first(runs)) for answer in answers)

    async def test_parents_and_children_at_once(self, storage: Storage, scope: Scope) -> None:
        """A tree written in any order is a tree."""
        top = scope.run()
        children = [scope.run(parent_run_id=top.id) for _ in range(TASKS)]
        await asyncio.gather(*(storage.start_run(run) for run in (*children, top)))
        assert ids(await storage.list_children_by_parent(top.id)) == ids(children)


class OwnWritesCases:
    """What this object has written, this object reads: at once, without hooks or waiting."""

    async def test_every_write_is_read_at_once(self, storage: Storage, scope: Scope) -> None:
        """A start, each event and the finish, one after the other."""
        run = scope.run()
        with pytest.raises(RunNotFoundError):
            await storage.get_run(run.id)
        await storage.start_run(run)
        assert await storage.get_run(run.id) == run
        for sequence in (1, 2):
            await storage.append_log(log(run.id, sequence))
            assert len(await storage.list_logs_by_run(run.id)) == sequence
        await storage.finish_run(run.id, stats())
        assert (await storage.get_run(run.id)).status == Status.OK

    async def test_lists_and_counts_follow_at_once(self, storage: Storage, scope: Scope) -> None:
        """Whatever method reads first after the write."""
        await storage.start_run(scope.run(parent_run_id=scope.skill))
        assert len(await storage.list_runs_by_skill(scope.skill, 10)) == 1
        await storage.start_run(scope.run(parent_run_id=scope.skill))
        assert await storage.count_runs_by_skill(scope.skill) == 2
        await storage.start_run(scope.run(parent_run_id=scope.skill))
        assert len(await storage.list_runs_by_caller(scope.caller, 10)) == 3
        await storage.start_run(scope.run(parent_run_id=scope.skill))
        assert await storage.count_runs_filtered(scope.filter()) == 4
        await storage.start_run(scope.run(parent_run_id=scope.skill))
        assert len(await storage.list_children_by_parent(scope.skill)) == 5
        await storage.start_run(scope.run(started_at=at(99)))
        assert await storage.last_run_by_skills([scope.skill]) == {scope.skill: at(99)}

    async def test_each_task_reads_its_own_writes(self, storage: Storage, scope: Scope) -> None:
        """Also while others write."""

        async def work(number: int) -> None:
            run = scope.run(caller_id=f"{scope.caller}/{number}")
            await storage.start_run(run)
            assert await storage.get_run(run.id) == run
            await storage.append_log(log(run.id, 1))
            assert len(await storage.list_logs_by_run(run.id)) == 1
            await storage.finish_run(run.id, stats())
            [read] = await storage.list_runs_by_caller(run.caller_id, 10)
            assert read.status == Status.OK

        await asyncio.gather(*(work(number) for number in range(TASKS)))
