"""Cases of a Writer: sums, the finish, leaving the block, sub-runs, several at once, no target."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from skillaudit.contract.errors import RunNotFoundError, RunStateError
from skillaudit.contract.records import Completeness, Liveness, Status
from skillaudit.contract.testing.support import (
    Recorder,
    Scope,
    assert_complete,
    events_of,
    ids,
)


class Interruption(BaseException):
    """Leaves a block as a signal would."""


class WriterEndCases:
    """How a run ends."""

    async def test_the_writer_adds_up(self, recorder: Recorder, scope: Scope) -> None:
        """Tool calls and the three kinds of tokens."""
        sink, reader = recorder
        with sink.start_run(scope.run()) as writer:
            for n in (1, 2, 3):
                writer.step(f"s{n}", input_tokens=n, output_tokens=10 * n, thinking_tokens=100 * n)
                writer.tool_call("t")
            writer.tool_result("t", "r")
        run = await reader.get_run(writer.run_id)
        assert (run.total_input_tokens, run.total_output_tokens, run.total_thinking_tokens) == (6, 60, 600)
        assert run.tool_calls_count == 3

    async def test_the_caller_may_know_better(self, recorder: Recorder, scope: Scope) -> None:
        """Each sum that is given to `finish` goes over the Writer's; the others stay."""
        sink, reader = recorder
        writer = sink.start_run(scope.run())
        writer.step("s", input_tokens=1, output_tokens=2, thinking_tokens=3)
        writer.tool_call("t")
        writer.finish(tool_calls=0, output_tokens=2**62, runtime_seconds=1.234567)
        run = await reader.get_run(writer.run_id)
        assert (run.total_input_tokens, run.total_output_tokens, run.total_thinking_tokens) == (1, 2**62, 3)
        assert (run.tool_calls_count, run.runtime_seconds) == (0, 1.234567)

    async def test_the_runtime_is_measured(self, recorder: Recorder, scope: Scope) -> None:
        """The finish is not before the start, and the run's time not below zero."""
        sink, reader = recorder
        with sink.start_run(scope.run()) as writer:
            writer.step("s")
        run = await reader.get_run(writer.run_id)
        assert run.runtime_seconds >= 0
        assert run.finished_at is not None
        assert run.finished_at >= run.started_at

    @pytest.mark.parametrize(
        "status", [*(s for s in Status if s is not Status.RUNNING), "handed over to a person"]
    )
    async def test_every_terminal_status_is_kept(self, recorder: Recorder, scope: Scope, status: str) -> None:
        """Status, output and error as they were given."""
        sink, reader = recorder
        writer = sink.start_run(scope.run())
        writer.finish(status, output="o \u2603", error="e \n")
        run = await reader.get_run(writer.run_id)
        assert (run.status, run.output, run.error) == (status, "o \u2603", "e \n")
        await assert_complete(reader, writer.run_id, events=0)

    async def test_a_finished_run_takes_nothing_more(self, recorder: Recorder, scope: Scope) -> None:
        """Every call raises `RunStateError` and changes nothing."""
        sink, reader = recorder
        writer = sink.start_run(scope.run())
        writer.step("s")
        writer.finish("error")
        before = await reader.get_run(writer.run_id)
        late: tuple[Callable[[], object], ...] = (
            lambda: writer.step("late"),
            lambda: writer.tool_call("late"),
            lambda: writer.tool_result("late", ""),
            lambda: writer.error("late"),
            lambda: writer.message({"role": "assistant", "content": "late"}),
            lambda: writer.finish("ok"),
            lambda: writer.start_child(scope.run()),
        )
        for call in late:
            with pytest.raises(RunStateError):
                call()
        assert await reader.get_run(writer.run_id) == before
        assert [e.event_type for e in await events_of(reader, writer.run_id)] == ["step"]
        await assert_complete(reader, writer.run_id, events=1)

    async def test_leaving_normally_is_ok(self, recorder: Recorder, scope: Scope) -> None:
        """Without `finish`, by `with` and by `async with`."""
        sink, reader = recorder
        with sink.start_run(scope.run()) as plain:
            plain.step("s")
        async with sink.start_run(scope.run()) as awaited:
            awaited.step("s")
        for writer in (plain, awaited):
            run = await reader.get_run(writer.run_id)
            assert (run.status, run.error) == (Status.OK, "")
            await assert_complete(reader, writer.run_id, events=1)

    async def test_leaving_after_finish_changes_nothing(self, recorder: Recorder, scope: Scope) -> None:
        """What `finish` said stays."""
        sink, reader = recorder
        with sink.start_run(scope.run()) as writer:
            writer.finish("budget_exceeded", output="o")
        run = await reader.get_run(writer.run_id)
        assert (run.status, run.output) == ("budget_exceeded", "o")

    @pytest.mark.parametrize(
        ("raised", "status"),
        [
            (ValueError("v-4711"), "error"),
            (TimeoutError("t-4711"), "timeout"),
            (asyncio.CancelledError("c-4711"), "preempted"),
            (KeyboardInterrupt("k-4711"), "preempted"),
            (Interruption("i-4711"), "preempted"),
        ],
        ids=["error", "timeout", "cancelled", "interrupt", "other"],
    )
    @pytest.mark.parametrize("form", ["with", "async with"])
    async def test_leaving_by_an_exception(
        self, recorder: Recorder, scope: Scope, raised: BaseException, status: str, form: str
    ) -> None:
        """`error`; `timeout` for a timeout, `preempted` for a cancellation. The exception goes on."""
        sink, reader = recorder
        writer = sink.start_run(scope.run())
        with pytest.raises(type(raised)) as caught:
            await self._leave(writer, raised, form)
        assert caught.value is raised
        run = await reader.get_run(writer.run_id)
        assert run.status == status
        assert "4711" in run.error
        await assert_complete(reader, writer.run_id, events=1)

    @staticmethod
    async def _leave(writer: Any, raised: BaseException, form: str) -> None:
        if form == "with":
            with writer:
                writer.step("s")
                raise raised
        async with writer:
            writer.step("s")
            raise raised

    async def test_a_cancelled_task_is_preempted(self, recorder: Recorder, scope: Scope) -> None:
        """As it happens: somebody cancels the task that runs the agent."""
        sink, reader = recorder
        writer, entered = sink.start_run(scope.run()), asyncio.Event()

        async def agent() -> None:
            async with writer:
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(agent())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await reader.get_run(writer.run_id)).status == Status.PREEMPTED

    async def test_a_time_limit_is_a_timeout(self, recorder: Recorder, scope: Scope) -> None:
        """`asyncio.timeout` around the agent's work inside the block."""
        sink, reader = recorder
        writer = sink.start_run(scope.run())

        async def agent() -> None:
            async with writer, asyncio.timeout(0):
                await asyncio.Event().wait()

        with pytest.raises(TimeoutError):
            await agent()
        assert (await reader.get_run(writer.run_id)).status == Status.TIMEOUT


class WriterCrowdCases:
    """Sub-runs, and several at once."""

    async def test_children_name_their_parent(self, recorder: Recorder, scope: Scope) -> None:
        """`start_child` sets `parent_run_id`; chain and children are read back."""
        sink, reader = recorder
        with (
            sink.start_run(scope.run()) as top,
            top.start_child(scope.run()) as child,
            child.start_child(scope.run()) as grandchild,
        ):
            grandchild.step("s")
        assert ids(await reader.list_children_by_parent(top.run_id)) == [child.run_id]
        chain = await reader.walk_parent_chain(grandchild.run_id)
        assert ids(chain) == [top.run_id, child.run_id, grandchild.run_id]
        for writer, events in ((top, 0), (child, 0), (grandchild, 1)):
            await assert_complete(reader, writer.run_id, events)

    async def test_threads_share_a_writer(self, recorder: Recorder, scope: Scope) -> None:
        """Every event once, numbered without gaps; each thread's own in its order."""
        sink, reader = recorder
        with sink.start_run(scope.run()) as writer, ThreadPoolExecutor(4) as pool:

            def work(thread: int) -> None:
                for n in range(10):
                    writer.step([thread, n], output_tokens=1)

            list(pool.map(work, range(4)))
        events = await events_of(reader, writer.run_id)
        assert [event.sequence for event in events] == list(range(1, 41))
        for thread in range(4):
            own = [e.payload["content"][1] for e in events if e.payload["content"][0] == thread]
            assert own == list(range(10))
        assert (await reader.get_run(writer.run_id)).total_output_tokens == 40
        await assert_complete(reader, writer.run_id, events=40)

    async def test_tasks_share_a_writer(self, recorder: Recorder, scope: Scope) -> None:
        """As threads do."""
        sink, reader = recorder
        with sink.start_run(scope.run()) as writer:

            async def work(task: int) -> None:
                for n in range(5):
                    writer.step([task, n])
                    await asyncio.sleep(0)

            await asyncio.gather(*(work(task) for task in range(4)))
        assert [event.sequence for event in await events_of(reader, writer.run_id)] == list(range(1, 21))
        await assert_complete(reader, writer.run_id, events=20)

    async def test_interleaved_runs_keep_to_themselves(self, recorder: Recorder, scope: Scope) -> None:
        """Each run has its own numbers, sums and end."""
        sink, reader = recorder
        writers = [sink.start_run(scope.run()) for _ in range(6)]
        for n in range(3):
            for index, writer in enumerate(writers):
                writer.step([index, n], input_tokens=index)
        for index, writer in enumerate(writers):
            writer.finish(output=str(index))
        for index, writer in enumerate(writers):
            contents = [e.payload["content"] for e in await events_of(reader, writer.run_id)]
            assert contents == [[index, 0], [index, 1], [index, 2]]
            run = await reader.get_run(writer.run_id)
            assert (run.output, run.total_input_tokens) == (str(index), 3 * index)
            await assert_complete(reader, writer.run_id, events=3)

    async def test_an_unfinished_run_is_open(self, recorder: Recorder, scope: Scope) -> None:
        """Running, with what was recorded so far; nothing is missing yet."""
        sink, reader = recorder
        writer = sink.start_run(scope.run())
        writer.step("s")
        state = await reader.get_run_state(writer.run_id)
        assert (state.liveness, state.completeness) == (Liveness.OPEN, Completeness.OPEN)
        assert (state.events, state.missing) == (1, ())
        assert (await reader.get_run(writer.run_id)).status == Status.RUNNING
        writer.finish()
        await assert_complete(reader, writer.run_id, events=1)


class NullSinkCases:
    """A Sink without a target."""

    async def test_a_sink_without_a_target_audits_nothing(self, recorder: Recorder, scope: Scope) -> None:
        """The same surface, and nothing of it is recorded anywhere."""
        sink, reader = recorder
        nothing = type(sink)(None)
        run = scope.run()
        with nothing.start_run(run) as writer:
            writer.step("s", input_tokens=1)
            writer.tool_result("t", "r", call_id=writer.tool_call("t", {}))
            writer.message({"role": "assistant", "content": "m"})
            writer.error("E", "m")
            with writer.start_child(scope.run()) as child:
                child.finish("error")
            writer.finish(output="o")
        report = nothing.flush(timeout_s=0)
        assert (report.acknowledged, report.pending, report.complete) == (0, 0, True)
        nothing.close(timeout_s=0)
        with pytest.raises(RunNotFoundError):
            await reader.get_run(run.id)

    async def test_a_sink_without_a_target_hides_no_exception(self, recorder: Recorder, scope: Scope) -> None:
        """What leaves the block goes on."""
        sink, _ = recorder
        with pytest.raises(LookupError), type(sink)(None).start_run(scope.run()):
            raise LookupError
