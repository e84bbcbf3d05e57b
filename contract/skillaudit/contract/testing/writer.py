"""`WriterConformance`: what is read of the runs that a Sink recorded, whatever lies between the Sink and the reader.

A subclass, or its module, supplies the fixture `recorder`: a pair of a Sink with the encoding "coerce" and no mask, and
an `AuditReader` that reads what that Sink has recorded without being told to wait. Loop scopes are as in
`testing.storage`. The Writer's methods are plain functions, so cases may call them between two awaits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import pytest

from skillaudit.contract.errors import RejectedError, RunNotFoundError, RunStateError
from skillaudit.contract.records import Completeness, Liveness, SkillRun, SkillRunLog, Status
from skillaudit.contract.storage import AuditReader
from skillaudit.contract.testing.support import Scope, at, exact_json, ids, newest_first, unique

Recorder: TypeAlias = tuple[Any, AuditReader]

CALL = {"id": "c-1", "type": "function", "function": {"name": "search", "arguments": '{"q": "why"}'}}
USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 20,
    "total_tokens": 30,
    "completion_tokens_details": {"reasoning_tokens": 5},
}


class Interruption(BaseException):
    """Leaves a block as a signal would."""


async def _events(reader: AuditReader, run_id: str) -> list[SkillRunLog]:
    return await reader.list_logs_by_run(run_id)


async def _types(reader: AuditReader, run_id: str) -> list[str]:
    return [event.event_type for event in await _events(reader, run_id)]


async def _assert_complete(reader: AuditReader, run_id: str, events: int) -> None:
    state = await reader.get_run_state(run_id)
    assert (state.completeness, state.liveness) == (Completeness.COMPLETE, Liveness.FINISHED)
    assert (state.events, state.missing, state.lost, state.conflicts) == (events, (), (), 0)


class WriterConformance:
    """Recording a run."""

    @pytest.fixture
    def scope(self) -> Scope:
        """Fresh names for one case."""
        return Scope()

    # A run.

    async def test_a_started_run_is_read_back_whole(self, recorder: Recorder, scope: Scope) -> None:
        """It is running, with all that the start said, exact to the microsecond."""
        sink, reader = recorder
        run = scope.run(
            inputs={"q": "\u2603", "n": [1, 2.5]}, attributes={"model": "m"}, started_at=at(us=123_457)
        )
        writer = sink.start_run(run)
        assert writer.run_id == run.id
        assert await reader.get_run(run.id) == run
        assert (await reader.get_run_state(run.id)).completeness is Completeness.OPEN
        writer.finish()

    async def test_the_run_itself_is_not_changed_by_its_events(
        self, recorder: Recorder, scope: Scope
    ) -> None:
        """It stays running until it is finished."""
        sink, reader = recorder
        run = scope.run()
        writer = sink.start_run(run)
        writer.step("s", input_tokens=5)
        assert await reader.get_run(run.id) == run
        writer.finish()

    async def test_a_run_without_events_is_complete(self, recorder: Recorder, scope: Scope) -> None:
        """A start and a finish are all it needs."""
        sink, reader = recorder
        with sink.start_run(scope.run()) as writer:
            pass
        assert await _events(reader, writer.run_id) == []
        await _assert_complete(reader, writer.run_id, events=0)

    async def test_runs_are_listed_as_any_other(self, recorder: Recorder, scope: Scope) -> None:
        """By skill, caller and filter, newest first."""
        sink, reader = recorder
        runs = [scope.run() for _ in range(5)]
        for run in runs:
            sink.start_run(run).finish()
        expected = ids(newest_first(runs))
        assert ids(await reader.list_runs_by_skill(scope.skill, 10)) == expected
        assert ids(await reader.list_runs_by_caller(scope.caller, 10)) == expected
        assert ids(await reader.list_runs_filtered(scope.filter(status="ok"), 0, 10)) == expected

    async def test_nothing_is_recorded_of_a_run_that_was_refused(self, recorder: Recorder) -> None:
        """A start that raises leaves nothing behind."""
        sink, reader = recorder
        run = SkillRun(skill_id=unique(), id="x" * 513)
        with pytest.raises(RejectedError):
            sink.start_run(run)
        assert await reader.list_runs_by_skill(run.skill_id, 10) == []

    # Events.

    async def test_events_are_numbered_in_the_order_of_the_calls(
        self, recorder: Recorder, scope: Scope
    ) -> None:
        """1, 2, 3 ... without gaps, whatever their kinds."""
        sink, reader = recorder
        with sink.start_run(scope.run()) as writer:
            writer.step("thinking")
            call_id = writer.tool_call("search", {"q": 1})
            writer.tool_result("search", "found", call_id=call_id)
            writer.error("Timeout", "slow")
            writer.step("done")
        events = await _events(reader, writer.run_id)
        assert [event.sequence for event in events] == [1, 2, 3, 4, 5]
        assert [e.event_type for e in events] == ["step", "tool_call", "tool_result", "error", "step"]
        assert [e.created_at for e in events] == sorted(e.created_at for e in events)
        await _assert_complete(reader, writer.run_id, events=5)

    async def test_what_an_event_says(self, recorder: Recorder, scope: Scope) -> None:
        """The well-known members of each kind, and further ones as they are."""
        sink, reader = recorder
        with sink.start_run(scope.run()) as writer:
            writer.step(
                "text",
                model="m",
                finish_reason="stop",
                input_tokens=1,
                output_tokens=2,
                thinking_tokens=3,
                seed=7,
            )
            writer.tool_call("search", {"q": [1]}, call_id="c-9")
            writer.tool_result("search", {"hits": 0}, call_id="c-9", is_error=True)
            writer.error("ValueError", "bad")
        step, call, result, error = (event.payload for event in await _events(reader, writer.run_id))
        assert step == {
            "content": "text",
            "model": "m",
            "finish_reason": "stop",
            "input_tokens": 1,
            "output_tokens": 2,
            "thinking_tokens": 3,
            "seed": 7,
        }
        assert call == {"name": "search", "call_id": "c-9", "arguments": {"q": [1]}}
        assert result == {"name": "search", "call_id": "c-9", "content": {"hits": 0}, "is_error": True}
        assert error == {"type": "ValueError", "message": "bad"}

    async def test_an_exception_is_an_error_event(self, recorder: Recorder, scope: Scope) -> None:
        """With its type and its text; the run goes on."""
        sink, reader = recorder
        with sink.start_run(scope.run()) as writer:
            writer.error(KeyError("missing"))
        [event] = await _events(reader, writer.run_id)
        assert (event.event_type, event.payload["type"]) == ("error", "KeyError")
        assert "missing" in event.payload["message"]
        assert (await reader.get_run(writer.run_id)).status == Status.OK

    async def test_made_call_ids_differ(self, recorder: Recorder, scope: Scope) -> None:
        """Each call that is given no id has one of its own, the one that is returned."""
        sink, reader = recorder
        with sink.start_run(scope.run()) as writer:
            made = [writer.tool_call("t") for _ in range(3)]
        assert len(set(made)) == 3
        assert [event.payload["call_id"] for event in await _events(reader, writer.run_id)] == made

    @pytest.mark.parametrize(
        "content",
        [
            "",
            "\u2603 \U0001f600",
            'quotes " and \\ and \n',
            [1, 2.5, None, {"a": []}],
            {"deep": [[[[{"x": 2**63 - 1}]]]]},
            0.1,
            True,
        ],
        ids=repr,
    )
    async def test_content_is_kept_as_it_is(self, recorder: Recorder, scope: Scope, content: Any) -> None:
        """Any JSON value, exactly."""
        sink, reader = recorder
        with sink.start_run(scope.run()) as writer:
            writer.tool_result("t", content)
        [event] = await _events(reader, writer.run_id)
        assert exact_json(event.payload["content"]) == exact_json(content)

    async def test_what_json_cannot_hold_is_kept_as_text_and_named(
        self, recorder: Recorder, scope: Scope
    ) -> None:
        """Never silently null: the paths are in `_coerced`."""
        sink, reader = recorder
        with sink.start_run(scope.run()) as writer:
            writer.tool_result("t", {"ok": 1, "nan": float("nan"), "big": 2**70})
        [event] = await _events(reader, writer.run_id)
        assert event.payload["content"] == {"ok": 1, "nan": "NaN", "big": str(2**70)}
        assert sorted(event.payload["_coerced"]) == ["/content/big", "/content/nan"]

    # Messages.

    async def test_an_assistants_message_is_a_step_and_its_calls(
        self, recorder: Recorder, scope: Scope
    ) -> None:
        """In that order, with model and usage."""
        sink, reader = recorder
        message = {"role": "assistant", "content": "let me see", "tool_calls": [CALL, {**CALL, "id": "c-2"}]}
        with sink.start_run(scope.run()) as writer:
            writer.message(message, model="m-1", usage=USAGE)
            writer.message({"role": "tool", "tool_call_id": "c-1", "content": "because"})
        events = await _events(reader, writer.run_id)
        assert [e.event_type for e in events] == ["step", "tool_call", "tool_call", "tool_result"]
        step, first, second, result = (event.payload for event in events)
        assert (step["content"], step["model"], step["input_tokens"]) == ("let me see", "m-1", 10)
        assert first == {"name": "search", "call_id": "c-1", "arguments": {"q": "why"}}
        assert second["call_id"] == "c-2"
        assert result == {"name": "search", "call_id": "c-1", "content": "because"}
        run = await reader.get_run(writer.run_id)
        assert run.tool_calls_count == 2
        assert (run.total_input_tokens, run.total_output_tokens, run.total_thinking_tokens) == (10, 20, 5)
        await _assert_complete(reader, writer.run_id, events=4)

    async def test_what_the_model_was_told_is_kept(self, recorder: Recorder, scope: Scope) -> None:
        """System and user messages are recorded too: nothing of a conversation is dropped."""
        sink, reader = recorder
        with sink.start_run(scope.run()) as writer:
            writer.message({"role": "system", "content": "rule 4711"})
            writer.message({"role": "user", "content": "question 4712"})
            writer.message({"role": "assistant", "content": "answer 4713"})
            writer.message({"role": "user", "content": "thanks 4714"})
        text = b"".join(event.payload_json for event in await _events(reader, writer.run_id))
        assert [word in text for word in (b"4711", b"4712", b"4713", b"4714")] == [True] * 4

    # Sums and the finish.

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
        await _assert_complete(reader, writer.run_id, events=0)

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
        assert await _types(reader, writer.run_id) == ["step"]
        await _assert_complete(reader, writer.run_id, events=1)

    # Leaving the block.

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
            await _assert_complete(reader, writer.run_id, events=1)

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
        await _assert_complete(reader, writer.run_id, events=1)

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

    # Sub-runs, and several at once.

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
            await _assert_complete(reader, writer.run_id, events)

    async def test_threads_share_a_writer(self, recorder: Recorder, scope: Scope) -> None:
        """Every event once, numbered without gaps; each thread's own in its order."""
        sink, reader = recorder
        with sink.start_run(scope.run()) as writer, ThreadPoolExecutor(4) as pool:

            def work(thread: int) -> None:
                for n in range(10):
                    writer.step([thread, n], output_tokens=1)

            list(pool.map(work, range(4)))
        events = await _events(reader, writer.run_id)
        assert [event.sequence for event in events] == list(range(1, 41))
        for thread in range(4):
            own = [e.payload["content"][1] for e in events if e.payload["content"][0] == thread]
            assert own == list(range(10))
        assert (await reader.get_run(writer.run_id)).total_output_tokens == 40
        await _assert_complete(reader, writer.run_id, events=40)

    async def test_tasks_share_a_writer(self, recorder: Recorder, scope: Scope) -> None:
        """As threads do."""
        sink, reader = recorder
        with sink.start_run(scope.run()) as writer:

            async def work(task: int) -> None:
                for n in range(5):
                    writer.step([task, n])
                    await asyncio.sleep(0)

            await asyncio.gather(*(work(task) for task in range(4)))
        assert [event.sequence for event in await _events(reader, writer.run_id)] == list(range(1, 21))
        await _assert_complete(reader, writer.run_id, events=20)

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
            contents = [e.payload["content"] for e in await _events(reader, writer.run_id)]
            assert contents == [[index, 0], [index, 1], [index, 2]]
            run = await reader.get_run(writer.run_id)
            assert (run.output, run.total_input_tokens) == (str(index), 3 * index)
            await _assert_complete(reader, writer.run_id, events=3)

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
        await _assert_complete(reader, writer.run_id, events=1)

    # No target.

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
