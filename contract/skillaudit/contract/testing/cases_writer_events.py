"""Cases of a Writer: its start, its events, messages."""

from __future__ import annotations

from typing import Any

import pytest

from skillaudit.contract.errors import RejectedError
from skillaudit.contract.records import Completeness, SkillRun, Status
from skillaudit.contract.testing.support import (
    Recorder,
    Scope,
    assert_complete,
    at,
    events_of,
    exact_json,
    ids,
    newest_first,
    unique,
)

CALL = {"id": "c-1", "type": "function", "function": {"name": "search", "arguments": '{"q": "why"}'}}
USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 20,
    "total_tokens": 30,
    "completion_tokens_details": {"reasoning_tokens": 5},
}


class WriterEventCases:
    """What is recorded while a run goes on."""

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
        assert await events_of(reader, writer.run_id) == []
        await assert_complete(reader, writer.run_id, events=0)

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
        events = await events_of(reader, writer.run_id)
        assert [event.sequence for event in events] == [1, 2, 3, 4, 5]
        assert [e.event_type for e in events] == ["step", "tool_call", "tool_result", "error", "step"]
        assert [e.created_at for e in events] == sorted(e.created_at for e in events)
        await assert_complete(reader, writer.run_id, events=5)

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
        step, call, result, error = (event.payload for event in await events_of(reader, writer.run_id))
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
        [event] = await events_of(reader, writer.run_id)
        assert (event.event_type, event.payload["type"]) == ("error", "KeyError")
        assert "missing" in event.payload["message"]
        assert (await reader.get_run(writer.run_id)).status == Status.OK

    async def test_made_call_ids_differ(self, recorder: Recorder, scope: Scope) -> None:
        """Each call that is given no id has one of its own, the one that is returned."""
        sink, reader = recorder
        with sink.start_run(scope.run()) as writer:
            made = [writer.tool_call("t") for _ in range(3)]
        assert len(set(made)) == 3
        assert [event.payload["call_id"] for event in await events_of(reader, writer.run_id)] == made

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
        [event] = await events_of(reader, writer.run_id)
        assert exact_json(event.payload["content"]) == exact_json(content)

    async def test_what_json_cannot_hold_is_kept_as_text_and_named(
        self, recorder: Recorder, scope: Scope
    ) -> None:
        """Never silently null: the paths are in `_coerced`."""
        sink, reader = recorder
        with sink.start_run(scope.run()) as writer:
            writer.tool_result("t", {"ok": 1, "nan": float("nan"), "big": 2**70})
        [event] = await events_of(reader, writer.run_id)
        assert event.payload["content"] == {"ok": 1, "nan": "NaN", "big": str(2**70)}
        assert sorted(event.payload["_coerced"]) == ["/content/big", "/content/nan"]


class WriterMessageCases:
    """Chat messages and what becomes of them."""

    async def test_an_assistants_message_is_a_step_and_its_calls(
        self, recorder: Recorder, scope: Scope
    ) -> None:
        """In that order, with model and usage."""
        sink, reader = recorder
        message = {"role": "assistant", "content": "let me see", "tool_calls": [CALL, {**CALL, "id": "c-2"}]}
        with sink.start_run(scope.run()) as writer:
            writer.message(message, model="m-1", usage=USAGE)
            writer.message({"role": "tool", "tool_call_id": "c-1", "content": "because"})
        events = await events_of(reader, writer.run_id)
        assert [e.event_type for e in events] == ["step", "tool_call", "tool_call", "tool_result"]
        step, first, second, result = (event.payload for event in events)
        assert (step["content"], step["model"], step["input_tokens"]) == ("let me see", "m-1", 10)
        assert first == {"name": "search", "call_id": "c-1", "arguments": {"q": "why"}}
        assert second["call_id"] == "c-2"
        assert result == {"name": "search", "call_id": "c-1", "content": "because"}
        run = await reader.get_run(writer.run_id)
        assert run.tool_calls_count == 2
        assert (run.total_input_tokens, run.total_output_tokens, run.total_thinking_tokens) == (10, 20, 5)
        await assert_complete(reader, writer.run_id, events=4)

    async def test_what_the_model_was_told_is_kept(self, recorder: Recorder, scope: Scope) -> None:
        """System and user messages are recorded too: nothing of a conversation is dropped."""
        sink, reader = recorder
        with sink.start_run(scope.run()) as writer:
            writer.message({"role": "system", "content": "rule 4711"})
            writer.message({"role": "user", "content": "question 4712"})
            writer.message({"role": "assistant", "content": "answer 4713"})
            writer.message({"role": "user", "content": "thanks 4714"})
        text = b"".join(event.payload_json for event in await events_of(reader, writer.run_id))
        assert [word in text for word in (b"4711", b"4712", b"4713", b"4714")] == [True] * 4
