"""Signal handlers, finalizers and exceptions that hit an append: nothing hangs, nothing is there twice or missing."""

import contextlib
import gc
import itertools
import signal
import sys

import pytest
from tests.producer.support import FullLog, ListLog, check_run

from skillaudit.contract.errors import OutboxFullError, RunStateError
from skillaudit.producer import Sink, SinkState, SkillRun, State
from skillaudit.producer._reentrancy import BUSY

INTERRUPT_S = 0.002
"""Of processor time, between two signals."""


class InterruptingLog(FullLog):
    """Runs `handler` inside the append of the record that `when` picks: before or after it was taken."""

    def __init__(self, when, handler, after=True):
        super().__init__()
        self.when, self.handler, self.after = when, handler, after
        self.done = False

    def append_many(self, items, *, wait_ms):
        hit = not self.done and any(self.when(record) for _, record, _ in items)
        self.done |= hit
        with self._lock:  # held while the handler runs, as the outbox's own lock would be
            if hit and not self.after:
                self.handler()
            if self.full:
                raise OutboxFullError("full")
            self.items.extend(items)
            if hit and self.after:
                self.handler()
        return len(self.items)


def has(text):
    return lambda record: text in record


def raising(exc):
    def handler():
        raise exc

    return handler


def unique(records):
    """What a reader keeps: exact duplicates dropped."""
    return list(dict.fromkeys(records))


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("exception", [KeyboardInterrupt(), TimeoutError("alarm"), SystemExit(1)])
def test_an_interrupted_event_is_settled_by_the_next(after, exception, settings):
    """Whether the append took it or not, its very bytes come again under its number; a duplicate is an exact one."""
    log = InterruptingLog(has(b"second"), raising(exception), after)
    with Sink(log, settings=settings) as sink:
        run = sink.start_run(SkillRun(skill_id="s"))
        run.step("first")
        with pytest.raises(type(exception)):
            run.step("second", input_tokens=5)
        run.step("third")
        run.finish()
    records = unique(log.run_records(run.run_id))
    check_run(records)
    assert len(records) == 5
    assert log.events(run.run_id)[-1]["input_tokens"] == 5
    assert not BUSY


@pytest.mark.parametrize("after", [True, False])
def test_an_interrupted_message_is_settled_as_a_whole(after, settings):
    """A step and its tool calls are in doubt together."""
    log = InterruptingLog(has(b"hello"), raising(KeyboardInterrupt()), after)
    with Sink(log, settings=settings) as sink:
        run = sink.start_run(SkillRun(skill_id="s"))
        with pytest.raises(KeyboardInterrupt):
            run.message(
                {
                    "role": "assistant",
                    "content": "hello",
                    "tool_calls": [{"id": "1", "function": {"name": "f"}}],
                }
            )
        run.finish()
    records = unique(log.run_records(run.run_id))
    check_run(records)
    assert len(records) == 4


@pytest.mark.parametrize("after", [True, False])
def test_an_interrupted_finish_stands(after, settings):
    """Leaving the block writes the same finish again, not another one."""
    log = InterruptingLog(has(b"run.finished"), raising(KeyboardInterrupt()), after)
    with Sink(log, settings=settings) as sink:
        with pytest.raises(KeyboardInterrupt), sink.start_run(SkillRun(skill_id="s")) as run:
            run.finish(output="answer")
        assert run.state is State.FINISHED
        with pytest.raises(RunStateError):
            run.step("x")
    records = unique(log.run_records(run.run_id))
    check_run(records)
    assert b'"output":"answer"' in records[-1]


@pytest.mark.parametrize("after", [True, False])
def test_an_interrupted_start_keeps_its_number(after, settings):
    """The same start comes again before the next one, so that no number stands for two runs."""
    log = InterruptingLog(has(b"run.started"), raising(KeyboardInterrupt()), after)
    with Sink(log, settings=settings) as sink:
        with pytest.raises(KeyboardInterrupt):
            sink.start_run(SkillRun(id="first", skill_id="s"))
        sink.start_run(SkillRun(id="second", skill_id="s")).finish()
    starts = {record for record in log.records if b"run.started" in record}
    assert len(starts) == 2
    assert {(e["run_id"], e["source_seq"]) for e in log.parsed("run.started")} == {
        ("first", 1),
        ("second", 2),
    }
    closed = log.parsed("source.closed")[0]
    assert (closed["runs_started"], closed["runs_finished"]) == (2, 1)


def test_calls_from_inside_an_append_are_written_behind_it(settings):
    """From a handler on the same thread, to the same run and others: queued, numbered, in order, before the call returns."""
    other = None

    def handler():
        run.step("nested 1")
        other.step("other 1")
        run.step("nested 2")

    log = InterruptingLog(has(b"outer"), handler)
    with Sink(log, settings=settings) as sink:
        run, other = sink.start_run(SkillRun(skill_id="s")), sink.start_run(SkillRun(skill_id="s"))
        run.step("outer")
        contents = [e["payload"]["content"] for e in log.events(run.run_id) if e["type"] == "run.log"]
        assert contents == ["outer", "nested 1", "nested 2"]
        assert len(log.events(other.run_id)) == 2
        run.finish()
        other.finish()
    check_run(log.run_records(run.run_id))
    check_run(log.run_records(other.run_id))


def test_a_handler_may_start_and_finish_runs(settings):
    """The start is written before the interrupted call returns; the run's own events stand behind it."""
    made = []

    def handler():
        with sink.start_run(SkillRun(id="nested", skill_id="s")) as nested:
            assert nested.state is State.STARTING
            nested.step("x")
            nested.start_child(SkillRun(id="nested child", skill_id="s")).finish()
        made.append(nested)
        with pytest.raises(RunStateError, match="being finished"):
            nested.step("late")

    log = InterruptingLog(has(b"outer"), handler)
    with Sink(log, settings=settings) as sink, sink.start_run(SkillRun(skill_id="s")) as run:
        run.step("outer")
        assert made[0].state is State.FINISHED
    for run_id in (run.run_id, "nested", "nested child"):
        check_run(log.run_records(run_id))


def test_a_handler_may_finish_the_interrupted_run(settings):
    """The finish comes behind the interrupted event; the run takes nothing more."""
    log = InterruptingLog(has(b"outer"), lambda: run.finish("preempted"))
    with Sink(log, settings=settings) as sink:
        run = sink.start_run(SkillRun(skill_id="s"))
        run.step("outer")
        assert run.state is State.FINISHED
    check_run(log.run_records(run.run_id))


def test_a_handler_may_close_the_sink(settings):
    """As a SIGTERM handler would: it happens when the interrupted append is done."""
    reports = []
    log = InterruptingLog(has(b"outer"), lambda: reports.extend([sink.flush(), sink.close()]))
    sink = Sink(log, settings=settings)
    run = sink.start_run(SkillRun(skill_id="s"))
    run.step("outer")
    assert [report.pending for report in reports] == [1, 1]
    assert sink.state is SinkState.CLOSED
    assert log.closed
    assert run.state is State.INERT
    assert log.parsed("source.closed")[0]["open"][0]["events"] == 2


def test_a_handler_that_records_and_then_raises(settings):
    """What it recorded is written although its exception flies through the interrupted call."""

    def handler():
        run.step("nested")
        raise KeyboardInterrupt

    log = InterruptingLog(has(b"outer"), handler)
    with Sink(log, settings=settings) as sink:
        run = sink.start_run(SkillRun(skill_id="s"))
        with pytest.raises(KeyboardInterrupt):
            run.step("outer")
        run.finish()
    records = unique(log.run_records(run.run_id))
    check_run(records)
    assert [b"outer" in r or b"nested" in r for r in records] == [False, True, True, False]


def test_what_a_handler_recorded_and_cannot_be_written_is_declared(settings, caplog):
    """Nobody waits for that call's outcome any more: the number is taken and declared lost."""

    def handler():
        run.step("nested")
        log.full = True

    log = InterruptingLog(has(b"outer"), handler)
    with Sink(log, settings=settings) as sink:
        run = sink.start_run(SkillRun(skill_id="s"))
        run.step("outer")
        log.full = False
        run.step("after")
        run.finish()
        assert sink.flush().lost == 1
    events = log.events(run.run_id)
    assert [e["seq"] for e in events] == [0, 1, 3, 4]
    assert events[-1]["lost"] == "2"
    check_run(log.run_records(run.run_id))
    assert "declared as lost" in caplog.text


def test_real_signals_in_the_main_thread(settings):
    """A timer's handler records into the run that the main thread is recording: no deadlock, no gap, no repetition."""
    log = ListLog()
    nested, numbers = [], itertools.count()

    def handler(*_):
        number = next(numbers)
        nested.append(number)
        run.step(f"nested {number}")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with Sink(log, settings=settings) as sink, sink.start_run(SkillRun(skill_id="s")) as run:
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            outer = 0
            while len(nested) < 50:
                run.step(f"outer {outer}")
                outer += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    check_run(log.run_records(run.run_id))
    contents = [e["payload"]["content"] for e in log.events(run.run_id) if e["type"] == "run.log"]
    assert [c for c in contents if c.startswith("outer")] == [f"outer {n}" for n in range(outer)]
    assert {c for c in contents if c.startswith("nested")} == {f"nested {n}" for n in nested}
    assert len(contents) == outer + len(nested)
    assert not BUSY


def test_real_interrupts_in_the_main_thread(settings):
    """KeyboardInterrupt at any place inside the calls, many times: the record is whole, duplicates are exact."""
    log = ListLog()
    hits = 0
    with Sink(log, settings=settings) as sink:
        run = sink.start_run(SkillRun(skill_id="s"))

        def handler(_, frame):
            # Only inside the calls: between them it would interrupt this test.
            while frame is not None and frame.f_code is not type(run).step.__code__:
                frame = frame.f_back
            if frame is not None:
                raise KeyboardInterrupt

        # What others hang into the collector (a test library times it) would swallow the exception inside a call.
        gc.disable()
        # By the kernel's timer: a thread that sends signals waits for this one's lock of the interpreter, where that is let
        # go for moments only, many times as long as the calls take.
        before = signal.signal(signal.SIGVTALRM, handler)
        signal.setitimer(signal.ITIMER_VIRTUAL, INTERRUPT_S, INTERRUPT_S)
        try:
            while hits < 50:
                try:
                    run.step("x")
                except KeyboardInterrupt:
                    hits += 1
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before)
            gc.enable()
        run.finish()
    check_run(unique(log.run_records(run.run_id)))
    assert not BUSY


class Handler:
    """Runs `calls` one after the other, each before a line of `_numbering` that is `places` lines after the last."""

    def __init__(self, places, calls):
        self.places, self.calls = places, list(calls)
        self.left = places

    def __call__(self, frame, event, arg):
        if not frame.f_code.co_filename.endswith("_numbering.py"):
            return None
        if event == "line" and self.calls:
            self.left -= 1
            if not self.left:
                self.left = self.places
                self.calls.pop(0)()
        return self


@pytest.mark.parametrize("finishes", [False, True], ids=["logs", "and a finish"])
def test_calls_of_handlers_keep_their_order_wherever_they_come(settings, finishes):
    """Also where one comes while an earlier one's event is just being written behind the interrupted append; a finish
    among them takes nothing from the events before it.
    """
    for places in range(1, 60):
        log = ListLog()
        with Sink(log, settings=settings) as sink:
            run = sink.start_run(SkillRun(skill_id="s"))
            steps = 3 if finishes else 6
            calls = [lambda n=n, run=run: run.step(f"nested {n}") for n in range(steps)] + [
                run.finish
            ] * finishes
            handler = Handler(places, calls)
            before = sys.gettrace()
            sys.settrace(handler)
            try:
                with contextlib.suppress(RunStateError):  # the handler's finish may come first
                    run.step("outer")
            finally:
                sys.settrace(before)
            with contextlib.suppress(RunStateError):
                run.finish()
        contents = [e["payload"]["content"] for e in log.events(run.run_id) if e["type"] == "run.log"]
        nested = [content for content in contents if content != "outer"]
        made = min(len(calls) - len(handler.calls), steps)
        assert nested == [f"nested {n}" for n in range(made)], places
        check_run(log.run_records(run.run_id))
    assert not BUSY
