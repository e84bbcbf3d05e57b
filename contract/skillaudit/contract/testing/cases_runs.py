"""Cases of `initialize`, `start_run`, `finish_run` and `get_run`."""

from __future__ import annotations

from typing import Final

import pytest

from skillaudit.contract.errors import RunNotFoundError
from skillaudit.contract.records import RunStats, Status
from skillaudit.contract.storage import Storage
from skillaudit.contract.testing.support import (
    Scope,
    at,
    finished,
    ids,
    is_utc,
    log,
    record,
    stats,
    stored,
    unique,
)

UNKNOWN_STATUS: Final = "handed over to a person"
TERMINAL: Final = (*(str(s) for s in Status if s is not Status.RUNNING), UNKNOWN_STATUS)
FULL: Final = RunStats(
    status=Status.BUDGET_EXCEEDED,
    output="the output",
    error="the error",
    tool_calls=3,
    runtime_seconds=1.25,
    input_tokens=101,
    output_tokens=102,
    thinking_tokens=103,
)


class RunCases:
    """One run: its start, its end, and what is read back."""

    async def test_initialize_again_keeps_everything(self, storage: Storage, scope: Scope) -> None:
        """`initialize` is safe to call again."""
        run = scope.run()
        await record(storage, run, status=Status.OK)
        await storage.append_log(log(run.id, 1))
        before = await storage.get_run(run.id)
        await storage.initialize()
        assert await storage.get_run(run.id) == before
        assert len(await storage.list_logs_by_run(run.id)) == 1

    async def test_a_started_run_is_read_back_whole(self, storage: Storage, scope: Scope) -> None:
        """`get_run` returns what `start_run` was given."""
        run = scope.run(parent_run_id=unique("parent"), inputs={"q": "why"}, attributes={"model": "m-1"})
        await storage.start_run(run)
        assert await storage.get_run(run.id) == run

    async def test_of_a_run_skill_id_is_enough(self, storage: Storage) -> None:
        """Everything else of a run has a default."""
        run = Scope().run(caller_id="", channel_id="")
        await storage.start_run(run)
        assert await storage.get_run(run.id) == run

    @pytest.mark.parametrize("status", ["ok", "error", "dry_run", UNKNOWN_STATUS])
    async def test_start_ignores_the_given_status(self, storage: Storage, scope: Scope, status: str) -> None:
        """`start_run` records status `running`, whatever status the run was given."""
        run = scope.run(status=status)
        await storage.start_run(run)
        assert (await storage.get_run(run.id)).status == Status.RUNNING
        assert await storage.count_runs_filtered(scope.filter(status=Status.RUNNING)) == 1
        assert await storage.count_runs_filtered(scope.filter(status=status)) == 0

    async def test_start_ignores_the_terminal_members(self, storage: Storage, scope: Scope) -> None:
        """What a reader fills in is not taken from the run that is handed in."""
        run = finished(scope.run(), FULL, at(99))
        await storage.start_run(run)
        assert await storage.get_run(run.id) == stored(run)

    async def test_a_run_never_finished_stays_running(self, storage: Storage, scope: Scope) -> None:
        """That is how a crash in mid-run shows."""
        run = scope.run()
        await storage.start_run(run)
        await storage.append_log(log(run.id, 1))
        read = await storage.get_run(run.id)
        assert (read.status, read.finished_at) == (Status.RUNNING, None)

    async def test_a_second_start_changes_nothing(self, storage: Storage, scope: Scope) -> None:
        """The first start of a run wins."""
        run, other = scope.run(inputs={"n": 1}), Scope()
        await storage.start_run(run)
        await storage.start_run(other.run(id=run.id, inputs={"n": 2}, parent_run_id="p", started_at=at(500)))
        assert await storage.get_run(run.id) == run
        assert await storage.count_runs_by_skill(scope.skill) == 1
        assert await storage.list_runs_by_skill(other.skill, 10) == []

    async def test_a_second_start_does_not_reopen_a_run(self, storage: Storage, scope: Scope) -> None:
        """A finished run stays finished."""
        run = scope.run()
        await record(storage, run, status=Status.ERROR)
        before = await storage.get_run(run.id)
        await storage.start_run(run)
        assert await storage.get_run(run.id) == before

    @pytest.mark.parametrize("status", TERMINAL)
    async def test_finish_keeps_every_terminal_status(
        self, storage: Storage, scope: Scope, status: str
    ) -> None:
        """The statuses are an open set: an unknown one is kept, never refused."""
        run = scope.run()
        await record(storage, run, status=status)
        assert (await storage.get_run(run.id)).status == status
        assert ids(await storage.list_runs_filtered(scope.filter(status=status), 0, 10)) == [run.id]
        assert await storage.count_runs_filtered(scope.filter(status=Status.RUNNING)) == 0

    async def test_finish_sets_the_terminal_members_and_no_others(
        self, storage: Storage, scope: Scope
    ) -> None:
        """Status, output, error, counts and `finished_at`; what the start said stays."""
        run = scope.run(inputs={"a": 1}, attributes={"b": 2})
        await storage.start_run(run)
        await storage.finish_run(run.id, FULL)
        read = await storage.get_run(run.id)
        assert read == finished(run, FULL, read.finished_at)

    async def test_finished_at_is_a_time_in_utc(self, storage: Storage, scope: Scope) -> None:
        """`finished_at` is timezone-aware and not before a start long ago."""
        run = scope.run()
        await record(storage, run, status=Status.OK)
        read = await storage.get_run(run.id)
        assert read.finished_at is not None
        assert is_utc(read.finished_at)
        assert read.finished_at > run.started_at

    @pytest.mark.parametrize(("first", "last"), [("ok", "error"), ("error", "ok"), ("timeout", "dry_run")])
    async def test_the_last_finish_wins(self, storage: Storage, scope: Scope, first: str, last: str) -> None:
        """Finishing again is allowed and replaces the whole terminal state."""
        run = scope.run()
        await storage.start_run(run)
        await storage.finish_run(run.id, RunStats(status=first, output="1", error="1", tool_calls=1))
        before = await storage.get_run(run.id)
        await storage.finish_run(run.id, RunStats(status=last, thinking_tokens=2))
        read = await storage.get_run(run.id)
        assert read == finished(run, RunStats(status=last, thinking_tokens=2), read.finished_at)
        assert before.finished_at is not None
        assert read.finished_at is not None
        assert read.finished_at >= before.finished_at
        assert await storage.count_runs_filtered(scope.filter(status=first)) == 0

    async def test_finishing_thrice_is_one_run(self, storage: Storage, scope: Scope) -> None:
        """Repeated finishes leave one row."""
        run = scope.run()
        await record(storage, run, status=Status.ERROR)
        await storage.finish_run(run.id, stats(Status.ERROR))
        await storage.finish_run(run.id, stats(Status.OK))
        assert ids(await storage.list_runs_by_skill(scope.skill, 10)) == [run.id]
        assert await storage.count_runs_by_skill(scope.skill) == 1

    async def test_runs_do_not_touch_each_other(self, storage: Storage, scope: Scope) -> None:
        """A finish or a log of one run changes no other."""
        left, right = scope.run(), scope.run()
        await record(storage, left, right)
        await storage.finish_run(right.id, FULL)
        await storage.append_log(log(right.id, 1))
        assert await storage.get_run(left.id) == left
        assert await storage.list_logs_by_run(left.id) == []

    @pytest.mark.parametrize("run_id", ["", "no-such-run", "%", "_", "*", "'", "\u2603", "x" * 500])
    async def test_an_unknown_run_is_not_found(self, storage: Storage, run_id: str) -> None:
        """`get_run` raises `RunNotFoundError`, a `LookupError` that carries the id."""
        with pytest.raises(RunNotFoundError) as caught:
            await storage.get_run(run_id)
        assert caught.value.run_id == run_id
        assert isinstance(caught.value, LookupError)

    async def test_changing_what_was_handed_in_changes_nothing(self, storage: Storage, scope: Scope) -> None:
        """What is stored is what the call saw."""
        inputs, payload = {"list": [1]}, {"list": [1]}
        run = scope.run(inputs=inputs)
        event = log(run.id, 1, payload=payload)
        await storage.start_run(run)
        await storage.append_log(event)
        inputs["list"].append(2)
        payload["list"].append(2)
        assert (await storage.get_run(run.id)).inputs == {"list": [1]}
        [read] = await storage.list_logs_by_run(run.id)
        assert read.payload == {"list": [1]}

    async def test_changing_what_was_read_changes_nothing(self, storage: Storage, scope: Scope) -> None:
        """Each answer is its reader's own."""
        run = scope.run(inputs={"list": [1]})
        await storage.start_run(run)
        await storage.append_log(log(run.id, 1, payload={"list": [1]}))
        (await storage.get_run(run.id)).inputs["list"].append(2)
        (await storage.list_logs_by_run(run.id))[0].payload["list"].append(2)
        assert (await storage.get_run(run.id)).inputs == {"list": [1]}
        [read] = await storage.list_logs_by_run(run.id)
        assert read.payload == {"list": [1]}
