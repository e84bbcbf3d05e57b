"""The mask hook: runs before anything is serialized; what it can't mask is withheld, never recorded."""

import pytest
from tests.producer.support import check_run

from skillaudit.producer import Sink, SkillRun

SECRET = "sesame"


def masking(calls, behave):
    def mask(value, *, field, event_type, skill_id):
        calls.append((field, event_type, skill_id))
        return behave(value, field)

    return mask


def record_everything(sink):
    with (  # noqa: PT012  the block is what is recorded
        pytest.raises(ValueError, match=SECRET),
        sink.start_run(SkillRun(id="r", skill_id="s", inputs={"q": SECRET}, attributes={"a": SECRET})) as run,
    ):
        run.step(SECRET)
        run.tool_call("t", {"password": SECRET})
        run.tool_result("t", SECRET)
        run.message({"role": "user", "content": SECRET})
        run.message(
            {
                "role": "assistant",
                "content": SECRET,
                "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": SECRET}}],
            }
        )
        run.log("note", {"n": SECRET})
        run.error(RuntimeError(SECRET))
        raise ValueError(SECRET)
    with sink.start_run(SkillRun(id="r2", skill_id="s")) as run:
        run.finish(output=SECRET)


def test_every_field_passes_the_mask(log, settings):
    """inputs, attributes, every payload, output and error; with event type and skill."""
    calls = []
    with Sink(log, settings=settings, mask=masking(calls, lambda value, field: value)) as sink:
        record_everything(sink)
    assert calls == [
        ("inputs", "start", "s"), ("attributes", "start", "s"), ("payload", "step", "s"), ("payload", "tool_call", "s"),
        ("payload", "tool_result", "s"), ("payload", "step", "s"), ("payload", "tool_call", "s"), ("payload", "note", "s"),
        ("payload", "error", "s"), ("error", "finish", "s"), ("inputs", "start", "s"), ("attributes", "start", "s"), ("output", "finish", "s"),
    ]  # fmt: skip


@pytest.mark.parametrize("strict", [True, False])
def test_a_failing_mask_withholds_the_field(log, settings, strict, caplog):
    """Marked with the exception's type, never its text; the event is recorded, numbered and digested as ever."""

    def behave(value, field):
        raise LookupError(f"can't mask {value}")

    with Sink(
        log, settings=settings, mask=masking([], behave), encoding="strict" if strict else "coerce"
    ) as sink:
        record_everything(sink)
    start, *logs, finish = log.events("r")
    assert start["inputs"] == start["attributes"] == {"_withheld": "LookupError"}
    assert {repr(event["payload"]) for event in logs} == {"{'_withheld': 'LookupError'}"}
    assert finish["error"] == "[withheld: LookupError]"
    assert log.events("r2")[-1]["output"] == "[withheld: LookupError]"
    assert SECRET not in b"".join(log.records).decode() + caplog.text
    check_run(log.run_records("r"))


def test_the_masks_value_is_what_is_recorded_and_hashed(log, settings):
    """Also where it is no object, or nothing JSON holds."""
    replaced = {
        "payload": {"content": "***"},
        "inputs": None,
        "attributes": {"n": float("nan")},
        "error": 7,
        "output": "o",
    }
    with Sink(log, settings=settings, mask=masking([], lambda value, field: replaced[field])) as sink:
        record_everything(sink)
    start, first, *_, finish = log.events("r")
    assert start["inputs"] == {"value": None}
    assert start["attributes"] == {"n": "NaN", "_coerced": ["/n"]}
    assert first["payload"] == {"content": "***"}
    assert finish["error"] == "7"
    assert SECRET not in b"".join(log.records).decode()
    check_run(log.run_records("r"))


def test_an_interrupt_in_the_mask_is_no_failure_of_it(log, settings):
    """KeyboardInterrupt goes through; the event takes no number."""

    def behave(value, field):
        if field == "payload":
            raise KeyboardInterrupt
        return value

    with Sink(log, settings=settings, mask=masking([], behave)) as sink:
        run = sink.start_run(SkillRun(skill_id="s"))
        with pytest.raises(KeyboardInterrupt):
            run.step("x")
        assert run.sequence == 0
        run.finish()
    check_run(log.run_records(run.run_id))
