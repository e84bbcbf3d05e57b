"""The Writer's suite on `Sink(MemoryStorage())`, and the public test mode that rests on it."""

import asyncio

import pytest
import pytest_asyncio

from skillaudit.contract.memory import MemoryStorage
from skillaudit.contract.records import Liveness, SkillRun
from skillaudit.contract.testing import recorded
from skillaudit.contract.testing.writer import WriterConformance
from skillaudit.producer import Sink


class TestSinkIntoMemory(WriterConformance):
    """What is appended can be read at once."""

    @pytest_asyncio.fixture
    async def recorder(self):
        storage = MemoryStorage()
        sink = Sink(storage)
        yield sink, storage
        sink.close(timeout_s=1)


def agent(question, sink):
    with sink.start_run(SkillRun(skill_id="support", inputs={"q": question})) as run:
        run.step("let me look", input_tokens=3)
        run.tool_result("search", "found", call_id=run.tool_call("search", {"q": question}))
        with run.start_child(SkillRun(skill_id="summary")) as child:
            child.step("short")
        run.finish(output="because")


def test_recorded_shows_what_an_agent_did():
    """Runs oldest first, their events and children, and whether all is there."""
    with recorded(Sink) as audit:
        agent("why?", audit.sink)
        assert len(audit.runs) == 2
    top, child = sorted(audit.runs, key=lambda run: run.parent_run_id)
    assert (top.status, top.output, top.inputs) == ("ok", "because", {"q": "why?"})
    assert [event.event_type for event in audit.events(top)] == ["step", "tool_call", "tool_result"]
    assert audit.children(top) == [child]
    assert [event.payload["content"] for event in audit.events(child.id)] == ["short"]
    audit.assert_complete()


def test_recorded_names_what_was_left_open():
    """A run that the code under test never finished."""
    with recorded(Sink) as audit:
        left_open = audit.sink.start_run(SkillRun(skill_id="s"))
    assert audit.state(left_open.run_id).liveness is Liveness.ABANDONED
    with pytest.raises(AssertionError, match=left_open.run_id):
        audit.assert_complete()


async def test_recorded_inside_an_event_loop():
    """Its members are plain functions there too."""
    with recorded(lambda storage: Sink(storage, encoding="strict")) as audit:
        await asyncio.to_thread(agent, "why?", audit.sink)
        assert len(audit.runs) == 2
    audit.assert_complete()
