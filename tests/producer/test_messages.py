"""Chat messages become events, and nothing of them is lost."""

import dataclasses
from types import SimpleNamespace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.producer.support import FullLog, ListLog, check_run

from skillaudit.contract.errors import InvalidRecordError, OutboxFullError
from skillaudit.contract.settings import Settings
from skillaudit.producer import Sink, SkillRun
from skillaudit.producer.messages import Tokens, parsed_arguments, tokens_of


def record(messages, **more):
    """The events of one run of messages: (type, payload), and the finish."""
    log = ListLog()
    with Sink(log) as sink, sink.start_run(SkillRun(skill_id="s")) as run:
        for message in messages:
            run.message(message, **more)
    check_run(log.run_records(run.run_id))
    events = log.events(run.run_id)
    return [(e["event_type"], e["payload"]) for e in events[1:-1]], events[-1]


def call(name, arguments, call_id="c1", **more):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def test_an_assistant_message_is_a_step_and_its_tool_calls():
    """In this order; model, reason and usage of the call; arguments parsed where they are an object."""
    usage = {
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "total_tokens": 12,
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [call("f", '{"a":[1]}'), call("g", "oops", "c2")],
    }
    events, finish = record([message], model="gpt", usage=usage, finish_reason="tool_calls")
    assert events == [
        (
            "step",
            {
                "model": "gpt",
                "finish_reason": "tool_calls",
                "input_tokens": 7,
                "output_tokens": 5,
                "thinking_tokens": 2,
            },
        ),
        ("tool_call", {"name": "f", "call_id": "c1", "arguments": {"a": [1]}}),
        ("tool_call", {"name": "g", "call_id": "c2", "arguments": "oops"}),
    ]
    assert (
        finish["tool_calls"],
        finish["input_tokens"],
        finish["output_tokens"],
        finish["thinking_tokens"],
    ) == (2, 7, 5, 2)


def test_a_tool_message_is_a_tool_result():
    """Named as it says, or as the call it answers was."""
    events, _ = record(
        [
            {"role": "assistant", "tool_calls": [call("look", "{}")]},
            {"role": "tool", "tool_call_id": "c1", "content": "found"},
            {
                "role": "tool",
                "tool_call_id": "c9",
                "name": "other",
                "content": [{"type": "text", "text": "x"}],
            },
        ]
    )
    assert [payload for kind, payload in events if kind == "tool_result"] == [
        {"name": "look", "call_id": "c1", "content": "found"},
        {"name": "other", "call_id": "c9", "content": [{"type": "text", "text": "x"}]},
    ]


def test_what_the_model_was_given_goes_into_its_step():
    """System and user messages wait for the next step and stand there in order; the last ones in a step of their own."""
    system, first, last = ({"role": r, "content": r} for r in ("system", "user", "user"))
    events, _ = record([system, first, {"role": "assistant", "content": "a"}, last])
    assert events == [("step", {"content": "a", "input": [system, first]}), ("step", {"input": [last]})]


def test_messages_also_wait_for_a_step_by_hand():
    """`run.step` after `run.message(user)` carries it."""
    log = ListLog()
    with Sink(log) as sink, sink.start_run(SkillRun(skill_id="s")) as run:
        run.message({"role": "user", "content": "q"})
        run.step("a", model="m")
        run.step("b")
    payloads = [e["payload"] for e in log.events(run.run_id)[1:-1]]
    assert payloads == [
        {"model": "m", "content": "a", "input": [{"role": "user", "content": "q"}]},
        {"content": "b"},
    ]


def test_a_refused_step_leaves_its_messages_waiting():
    """They go into the step that is taken."""
    log = FullLog()
    with (
        Sink(log, settings=Settings(outbox_block_ms_max=0)) as sink,
        sink.start_run(SkillRun(skill_id="s")) as run,
    ):
        run.message({"role": "user", "content": "q"})
        log.full = True
        with pytest.raises(OutboxFullError):
            run.message({"role": "assistant", "content": "a"})
        log.full = False
        run.message({"role": "assistant", "content": "a"})
    assert log.events(run.run_id)[1]["payload"]["input"] == [{"role": "user", "content": "q"}]


@dataclasses.dataclass
class Function:
    name: str
    arguments: str


class Model:
    def __init__(self, **members):
        self.members = members

    def model_dump(self):
        return self.members


def test_objects_are_read_as_dicts_are():
    """SDK objects with model_dump, dataclasses, plain attributes; also mixed."""
    expected, _ = record([{"role": "assistant", "content": "x", "tool_calls": [call("f", '{"a":1}')]}])
    function = Function("f", '{"a":1}')
    for message in (
        SimpleNamespace(
            role="assistant",
            content="x",
            tool_calls=[SimpleNamespace(id="c1", type="function", function=function)],
        ),
        Model(role="assistant", content="x", refusal=None, tool_calls=[call("f", '{"a":1}')]),
    ):
        assert record([message])[0] == expected


def test_a_whole_completion_is_taken():
    """Its first choice's message, with the completion's model, reason and usage."""
    completion = {
        "id": "chatcmpl-1",
        "model": "gpt-x",
        "choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }
    events, _ = record([completion])
    assert events == [
        (
            "step",
            {
                "model": "gpt-x",
                "content": "hi",
                "finish_reason": "stop",
                "input_tokens": 1,
                "output_tokens": 2,
            },
        )
    ]


def test_anthropic_blocks():
    """tool_use blocks are tool calls, tool_result blocks of a user are tool results, the rest stays where it was."""
    text = {"type": "text", "text": "let me look"}
    messages = [
        {
            "role": "assistant", "model": "claude", "stop_reason": "tool_use", "usage": {"input_tokens": 3, "output_tokens": 4},
            "content": [text, {"type": "tool_use", "id": "t1", "name": "look", "input": {"q": 1}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "no", "is_error": True}, text]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "yes"}]},
        {"role": "assistant", "content": "done"},
    ]  # fmt: skip
    events, _ = record(messages)
    assert events == [
        (
            "step",
            {
                "model": "claude",
                "content": [text],
                "finish_reason": "tool_use",
                "input_tokens": 3,
                "output_tokens": 4,
            },
        ),
        ("tool_call", {"name": "look", "call_id": "t1", "arguments": {"q": 1}}),
        ("tool_result", {"name": "look", "call_id": "t1", "content": "no", "is_error": True}),
        ("tool_result", {"name": "look", "call_id": "t1", "content": "yes"}),
        ("step", {"content": "done", "input": [{"role": "user", "content": [text]}]}),
    ]


def test_further_members_are_kept():
    """Of a message, a call, a function, and a usage that says more than three counts."""
    message = {
        "role": "assistant", "content": "x", "reasoning_content": "hm", "name": "bot", "audio": None,
        "tool_calls": [call("f", "{}", index=0), {"id": "c2", "type": "custom", "function": {"name": "g", "strict": True}}],
        "usage": {"prompt_tokens": 1, "cached_tokens": 1},
    }  # fmt: skip
    events, _ = record([message])
    assert events[0][1] == {
        "content": "x", "input_tokens": 1, "reasoning_content": "hm", "name": "bot", "usage": {"prompt_tokens": 1, "cached_tokens": 1},
    }  # fmt: skip
    assert events[1][1] == {"name": "f", "call_id": "c1", "arguments": {}, "index": 0}
    assert events[2][1] == {"name": "g", "call_id": "c2", "arguments": {}, "strict": True, "type": "custom"}


def test_legacy_functions():
    """`function_call` is a tool call, role `function` its result; a call without id gets one of the run's own."""
    events, _ = record(
        [
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a":1}'}},
            {"role": "function", "name": "f", "content": "r"},
        ]
    )
    assert events[1:] == [
        ("tool_call", {"name": "f", "call_id": "message-call-1", "arguments": {"a": 1}}),
        ("tool_result", {"name": "f", "content": "r"}),
    ]


@pytest.mark.parametrize(
    "message",
    [
        None,
        "text",
        3,
        {"content": "x"},
        {"role": 3, "content": "x"},
        {"role": "assistant", "tool_calls": ["x"]},
    ],
)
def test_what_is_no_message_is_refused(message):
    """With the remedy; nothing is recorded."""
    log = ListLog()
    with Sink(log) as sink, sink.start_run(SkillRun(skill_id="s")) as run:
        with pytest.raises(InvalidRecordError):
            run.message(message)
        assert run.sequence == 0


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"a": 1}', {"a": 1}), ("", ""), ("[1]", "[1]"), ("null", "null"), ('{"a":1,"a":2}', '{"a":1,"a":2}'), ('{"a":NaN}', '{"a":NaN}'),
        ('{"n":123456789012345678901234567890}', {"n": 123456789012345678901234567890}), (None, {}), ({"a": 1}, {"a": 1}),
    ],
)  # fmt: skip
def test_arguments_are_parsed_only_where_nothing_is_lost(text, arguments):
    """Else the string is kept as it came."""
    assert parsed_arguments(text) == arguments


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (None, Tokens()),
        ({"prompt_tokens": 1, "completion_tokens": 2}, Tokens(1, 2)),
        (SimpleNamespace(input_tokens=1, output_tokens=2, output_tokens_details=SimpleNamespace(reasoning_tokens=3)), Tokens(1, 2, 3)),
        ({"prompt_tokens": None, "completion_tokens": 2, "completion_tokens_details": None}, Tokens(0, 2)),
    ],
)  # fmt: skip
def test_usage(usage, tokens):
    """OpenAI's and Anthropic's members, dicts and objects."""
    assert tokens_of(usage) == tokens


SCALARS = st.integers(0, 10**6) | st.text(max_size=8)
TEXTS = st.text(min_size=1, max_size=12).map(lambda text: f"<{text}>")
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "developer"]), "content": TEXTS})
    | st.fixed_dictionaries({"role": st.just("tool"), "tool_call_id": TEXTS, "name": TEXTS, "content": TEXTS})
    | st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": TEXTS},
        optional={
            "tool_calls": st.lists(
                st.builds(call, TEXTS, st.dictionaries(TEXTS, SCALARS, max_size=2).map(lambda d: orjson.dumps(d).decode()), TEXTS), max_size=3
            )
        },
    ),
    max_size=12,
)  # fmt: skip


def leaves(value):
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    return [str(value)]


@given(MESSAGES)
def test_nothing_of_a_conversation_is_lost(messages):
    """Every text of every message stands in the events; steps, calls and results are as many as the messages say."""
    events, finish = record(messages)
    there = leaves([payload for _, payload in events])
    for message in messages:
        for text in (message["content"], message.get("name"), message.get("tool_call_id")):
            assert text is None or text in there
        for made in message.get("tool_calls", []):
            assert {
                made["id"],
                made["function"]["name"],
                *leaves(orjson.loads(made["function"]["arguments"])),
            } <= set(there)
    kinds = [kind for kind, _ in events]
    roles = [message["role"] for message in messages]
    trailing = bool(roles) and any(r in ("system", "user", "developer") for r in roles[len(roles) - 1 - roles[::-1].index("assistant") if "assistant" in roles else 0 :])  # fmt: skip
    assert kinds.count("step") == roles.count("assistant") + trailing
    assert (
        kinds.count("tool_call")
        == finish["tool_calls"]
        == sum(len(m.get("tool_calls", [])) for m in messages)
    )
    assert kinds.count("tool_result") == roles.count("tool")
