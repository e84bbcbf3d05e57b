"""What a Writer records: numbers, payloads, sums, tags and heads."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.producer.support import ListLog, check_run

from skillaudit.contract.clock import ManualClock, from_us, to_us
from skillaudit.contract.digests import RunDigest, log_header
from skillaudit.contract.errors import InvalidRecordError, OutboxFullError, RecordTooLargeError, RunStateError
from skillaudit.contract.events import encode_log
from skillaudit.contract.settings import Settings
from skillaudit.contract.wire import parse_record
from skillaudit.producer import Sink, SkillRun
from skillaudit.producer._state import TRANSITIONS, Act, State, next_state


def payloads(log, run):
    return [event["payload"] for event in log.events(run.run_id) if event["type"] == "run.log"]


def test_a_run_is_recorded_whole(sink, log):
    """Numbers 0 to n+1 without gaps, tags and head as the format's rules say, every record accepted by the parser."""
    with sink.start_run(SkillRun(skill_id="s", caller_id="c", inputs={"q": "é"}, attributes={"v": 1})) as run:
        run.step(
            "thinking",
            model="m",
            finish_reason="tool_calls",
            input_tokens=10,
            output_tokens=2,
            thinking_tokens=1,
        )
        call_id = run.tool_call("search", {"q": 1})
        run.tool_result("search", "found", call_id=call_id)
        run.tool_result("search", "no", is_error=True)
        run.error(ValueError("bad"))
        run.error("Timeout", "slow")
        run.log("note", {"n": 1})
        run.finish(output="done")
    events = log.events(run.run_id)
    assert [e["seq"] for e in events] == list(range(9))
    assert payloads(log, run) == [
        {"model": "m", "content": "thinking", "finish_reason": "tool_calls", "input_tokens": 10, "output_tokens": 2, "thinking_tokens": 1},
        {"name": "search", "call_id": "call-1", "arguments": {"q": 1}},
        {"name": "search", "call_id": "call-1", "content": "found"},
        {"name": "search", "content": "no", "is_error": True},
        {"type": "ValueError", "message": "bad"},
        {"type": "Timeout", "message": "slow"},
        {"n": 1},
    ]  # fmt: skip
    finish = events[-1]
    assert (finish["status"], finish["output"], finish["tool_calls"]) == ("ok", "done", 1)
    assert (finish["input_tokens"], finish["output_tokens"], finish["thinking_tokens"]) == (10, 2, 1)
    check_run(log.run_records(run.run_id))
    for record in log.records:
        parse_record(record)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["step", "tool_call", "tool_result", "error", "notiz-ü"]),
            st.dictionaries(
                st.text(),
                st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists),
                max_size=4,
            ),
        ),
        max_size=140,
    ),
    st.text(max_size=20),
)
def test_any_run_satisfies_the_rules(events, output):
    """Whatever is recorded, an oracle written from the published rules finds tags, head and numbers right."""
    log = ListLog()
    with Sink(log) as sink:
        run = sink.start_run(SkillRun(skill_id="s"))
        for event_type, payload in events:
            run.log(event_type, payload)
        run.finish(output=output)
    check_run(log.run_records(run.run_id))
    for record in log.records:
        parse_record(record)


def test_log_records_are_those_of_the_encoder(log, clock):
    """The Writer composes logs itself, for speed; the bytes are those of `contract.events` and `contract.digests`."""
    with Sink(log, clock=clock) as sink:
        run = sink.start_run(SkillRun(id="r-1", skill_id="s"))
        run.step("x")
        run.finish()
    salt = log.events("r-1")[0]["salt"]
    digest = RunDigest("r-1", salt)
    at_us = log.events("r-1")[1]["at_us"]
    payload = b'{"content":"x"}'
    tag = digest.digest(1, log_header(1, at_us, "step"), payload)[:16]
    assert log.run_records("r-1")[1] == encode_log(b'"r-1"', 1, at_us, tag, b'"step"', payload)


def test_threads_share_a_run_without_gaps(sink, log):
    """Eight threads, one run: all numbers, each once; each thread's own events in its order."""
    run = sink.start_run(SkillRun(skill_id="s"))

    def work(name):
        for n in range(100):
            run.step(f"{name}:{n}", input_tokens=1)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.finish()
    check_run(log.run_records(run.run_id))
    assert log.events(run.run_id)[-1]["input_tokens"] == 800
    contents = [p["content"] for p in payloads(log, run)]
    for name in range(8):
        assert [c for c in contents if c.startswith(f"{name}:")] == [f"{name}:{n}" for n in range(100)]


def test_threads_start_runs_without_gaps(sink, log):
    """source_seq counts 1, 2, 3 ... in the order of the log."""

    def work():
        for _ in range(50):
            sink.start_run(SkillRun(skill_id="s")).finish()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [e["source_seq"] for e in log.parsed("run.started")] == list(range(1, 201))


async def test_tasks_share_a_run_in_the_order_of_their_calls(sink, log):
    """Numbers follow the order in which the calls were made."""
    made = []
    async with sink.start_run(SkillRun(skill_id="s")) as run:

        async def work(name):
            for n in range(20):
                made.append(f"{name}:{n}")
                run.step(made[-1])
                await asyncio.sleep(0)

        await asyncio.gather(*(work(n) for n in range(5)))
    assert [p["content"] for p in payloads(log, run)] == made
    check_run(log.run_records(run.run_id))


def test_time_is_the_start_and_a_clock_that_does_not_run_backwards(log):
    """at_us: the wall clock at the run's start plus the steady clock since; a wall clock set back changes nothing."""

    class Skewed(ManualClock):
        steady = 5_000

        def steady_us(self):
            return self.steady

    clock = Skewed()
    with Sink(log, clock=clock) as sink:
        started = datetime(2023, 11, 14, 22, 13, 19, tzinfo=UTC)
        run = sink.start_run(SkillRun(skill_id="s", started_at=started))
        clock.now_us -= 3_600_000_000
        clock.steady += 250_000
        run.step("a")
        clock.steady -= 100_000
        run.step("b")
        clock.steady += 1_000_000
        run.finish()
    at_us = [e["at_us"] for e in log.events(run.run_id)]
    base_us = 1_700_000_000_000_000
    assert at_us == [to_us(started), base_us + 250_000, base_us + 250_000, base_us + 1_150_000]
    assert log.events(run.run_id)[-1]["runtime_us"] == 1_150_000


def test_a_machine_that_sleeps_between_two_readings_of_the_clock_does_not_date_events_ahead(log):
    """Both clocks count sleep; read on both sides of it they would tell that the wall clock is hours ahead of itself."""

    class Sleeps(ManualClock):
        asleep_us = 0

        def wall_us(self):
            self.advance(self.asleep_us)
            self.asleep_us = 0
            return self.now_us

    clock = Sleeps()
    with Sink(log, clock=clock) as sink:
        sink.start_run(SkillRun(skill_id="the source's own"))
        clock.asleep_us = 3_600_000_000
        run = sink.start_run(SkillRun(skill_id="s", started_at=from_us(clock.now_us)))
        woke_us = clock.now_us
        clock.advance(250_000)
        run.step("a")
        run.finish()
    events = log.events(run.run_id)
    assert [e["at_us"] for e in events[1:]] == [woke_us + 250_000, woke_us + 250_000]
    assert woke_us == events[0]["at_us"] + 3_600_000_000, "it slept while the run began"


def test_finish_overrides_the_sums(sink, log):
    """What the caller gives counts; what it leaves out is the Writer's sum."""
    run = sink.start_run(SkillRun(skill_id="s"))
    run.step("x", input_tokens=5, output_tokens=6)
    run.finish("budget_exceeded", error="too much", tool_calls=7, runtime_seconds=1.5, input_tokens=8)
    finish = log.events(run.run_id)[-1]
    assert (finish["status"], finish["error"]) == ("budget_exceeded", "too much")
    assert (finish["tool_calls"], finish["runtime_us"], finish["input_tokens"], finish["output_tokens"]) == (
        7,
        1_500_000,
        8,
        6,
    )


@pytest.mark.parametrize(
    "arguments",
    [{"status": "running"}, {"status": ""}, {"tool_calls": -1}, {"input_tokens": 2**63}, {"runtime_seconds": float("nan")}, {"output_tokens": 1.5}],
)  # fmt: skip
def test_a_finish_that_cannot_be_recorded_changes_nothing(sink, arguments):
    """It is refused with the field's name, and the run goes on."""
    run = sink.start_run(SkillRun(skill_id="s"))
    with pytest.raises(InvalidRecordError, match=next(iter(arguments))):
        run.finish(**arguments)
    assert run.state is State.OPEN
    run.finish()


@pytest.mark.parametrize(
    ("exception", "status"),
    [
        (None, "ok"), (ValueError("boom"), "error"), (TimeoutError("slow"), "timeout"), (asyncio.CancelledError(), "preempted"),
        (KeyboardInterrupt(), "preempted"), (SystemExit(3), "preempted"), (GeneratorExit(), "preempted"),
    ],
)  # fmt: skip
def test_leaving_the_block_finishes_the_run(sink, log, exception, status):
    """By an exception as error, timeout or preempted; normally as ok. The exception goes on."""
    run = sink.start_run(SkillRun(skill_id="s"))
    caught = None
    try:
        with run:
            if exception is not None:
                raise exception  # noqa: TRY301  the block is the point
    except BaseException as exc:  # noqa: BLE001  the block's own
        caught = exc
    assert caught is exception
    finish = log.events(run.run_id)[-1]
    assert finish["status"] == status
    assert finish["error"] == ("" if exception is None else f"{type(exception).__name__}: {exception}")


async def test_cancelling_a_task_finishes_its_run_as_preempted(sink, log):
    """`async with` and a real cancellation."""
    started = asyncio.Event()

    async def work():
        async with sink.start_run(SkillRun(id="cancelled", skill_id="s")):
            started.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log.events("cancelled")[-1]["status"] == "preempted"


def test_use_after_finish_is_refused(sink, log):
    """Every call raises RunStateError and records nothing; leaving the block afterwards is no second finish."""
    with sink.start_run(SkillRun(skill_id="s")) as run:
        run.finish()
        before = len(log.items)
        calls = [
            lambda: run.step("x"),
            lambda: run.tool_call("t"),
            lambda: run.message({"role": "assistant", "content": "x"}),
            lambda: run.error("E", "x"),
            lambda: run.start_child(SkillRun(skill_id="c")),
            run.finish,
        ]
        for call in calls:
            with pytest.raises(RunStateError, match="finished"):
                call()
    assert len(log.items) == before
    assert "finished sequence=0" in repr(run)


@given(st.sampled_from(list(State)), st.lists(st.sampled_from(list(Act))))
def test_states_move_only_as_the_table_says(state, acts):
    """An act that the table doesn't list raises and changes nothing; nothing leads out of finished and inert."""
    for act in acts:
        try:
            after = next_state(state, act, "r")
        except RunStateError:
            assert (state, act) not in TRANSITIONS
            continue
        assert after is TRANSITIONS[state, act]
        if state in (State.FINISHED, State.INERT):
            assert after is state
        state = after


def test_a_child_names_its_parent(sink, log):
    """parent_run_id is set; one that names another run is refused."""
    with sink.start_run(SkillRun(skill_id="s")) as run:
        with run.start_child(SkillRun(skill_id="c")) as child:
            child.step("x")
        with pytest.raises(InvalidRecordError, match="parent_run_id"):
            run.start_child(SkillRun(skill_id="c", parent_run_id="other"))
    assert log.events(child.run_id)[0]["parent_run_id"] == run.run_id
    check_run(log.run_records(child.run_id))


def test_a_refused_event_takes_no_number(full_log, settings):
    """After OutboxFullError and RecordTooLargeError the next event has the number the refused one would have had."""
    with Sink(full_log, settings=settings) as sink:
        run = sink.start_run(SkillRun(skill_id="s"))
        run.step("1")
        full_log.full = True
        with pytest.raises(OutboxFullError):
            run.step("refused")
        with pytest.raises(OutboxFullError):
            run.message(
                {"role": "assistant", "content": "x", "tool_calls": [{"id": "a", "function": {"name": "f"}}]}
            )
        full_log.full = False
        with pytest.raises(RecordTooLargeError, match="record_bytes_max"):
            run.step("x" * settings.record_bytes_max)
        run.step("2")
        full_log.full = True
        run.finish()  # from the reserve
    check_run(full_log.run_records(run.run_id))
    assert run.sequence == 2


def test_a_refused_start_takes_no_number(full_log, settings):
    """The next run has source_seq 1, and `source.opened` stands before it once."""
    with Sink(full_log, settings=settings) as sink:
        full_log.used_up = True
        with pytest.raises(OutboxFullError):
            sink.start_run(SkillRun(skill_id="s"))
        full_log.used_up = False
        with pytest.raises(RecordTooLargeError):
            sink.start_run(SkillRun(skill_id="s", inputs={"q": "x" * settings.record_bytes_max}))
        sink.start_run(SkillRun(skill_id="s")).finish()
    assert [e["type"] for e in full_log.parsed()] == [
        "source.opened",
        "run.started",
        "run.finished",
        "source.closed",
    ]
    assert full_log.parsed("run.started")[0]["source_seq"] == 1


def test_waiting_for_room_ends_when_there_is_some(full_log):
    """Outside an event loop a call waits for room, up to outbox_block_ms_max, holding no lock meanwhile."""
    with Sink(full_log, settings=Settings(outbox_block_ms_max=60_000)) as sink:
        run = sink.start_run(SkillRun(skill_id="s"))
        full_log.full = True
        waiting = threading.Thread(target=run.step, args=("waits",))
        waiting.start()
        while full_log.refusals < 3:
            pass
        child = run.start_child(
            SkillRun(skill_id="c")
        )  # a start has the reserve: it doesn't wait with the run
        assert waiting.is_alive()
        full_log.full = False
        waiting.join()
        child.finish()
        run.finish()
    check_run(full_log.run_records(run.run_id))


async def test_inside_an_event_loop_a_call_waits_shortly(full_log):
    """At most 50 ms, whatever outbox_block_ms_max says; `drain` waits for room without standing in the way."""
    with Sink(full_log, settings=Settings(outbox_block_ms_max=600_000)) as sink:
        run = sink.start_run(SkillRun(skill_id="s"))
        full_log.full = True
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(OutboxFullError):
            run.step("x")
        assert loop.time() - began < 5
        loop.call_later(0.01, setattr, full_log, "full", False)
        await run.drain()
        run.step("x")
        run.finish()
    check_run(full_log.run_records(run.run_id))


async def test_drain_ends_with_its_time(full_log, settings):
    """`OutboxFullError` then; at once without a wait where there is room."""
    with Sink(full_log, settings=settings) as sink:
        run = sink.start_run(SkillRun(skill_id="s"))
        await run.drain(0)
        full_log.full = True
        with pytest.raises(OutboxFullError, match="no room for"):
            await run.drain(timeout_s=0.02)
        full_log.full = False
        await run.drain(timeout_s=0.02)
        run.finish()


@pytest.mark.parametrize("text", ["x", "\x01", "é", "😀"])
def test_a_finish_too_large_is_shortened(log, text):
    """Output and error are cut, marked, so that the record fits; a run can always end."""
    settings = Settings(record_bytes_max=64 * 1024)
    with Sink(log, settings=settings) as sink:
        run = sink.start_run(SkillRun(skill_id="s"))
        run.finish("error", output=text * 200_000, error="E" + text * 50_000)
        child = sink.start_run(SkillRun(skill_id="s"))
        child.finish(output="short", error=text * 200_000)
    for record in log.run_records(run.run_id) + log.run_records(child.run_id):
        assert len(record) <= settings.record_bytes_max
    finish = log.events(run.run_id)[-1]
    assert finish["output"].startswith(text)
    assert finish["error"].startswith("E")
    assert "more characters were cut]" in finish["output"]
    assert log.events(child.run_id)[-1]["output"] == "short"
    check_run(log.run_records(run.run_id))


@pytest.mark.parametrize(
    ("run", "field"),
    [
        (SkillRun(skill_id="s", id=""), "id"), (SkillRun(skill_id="s", id="x" * 513), "id"), (SkillRun(skill_id="s", id="\ud800"), "id"),
        (SkillRun(skill_id="s", started_at=datetime(2020, 1, 1)), "started_at"),  # noqa: DTZ001  that is the fault
        (SkillRun(skill_id="s", started_at=datetime(1960, 1, 1, tzinfo=UTC)), "started_at"),
    ],
)  # fmt: skip
def test_a_run_that_cannot_be_recorded_is_refused(sink, log, run, field):
    """With the field's name, before anything is written."""
    with pytest.raises(InvalidRecordError, match=field):
        sink.start_run(run)
    assert log.items == []


@pytest.mark.parametrize("event_type", ["", None, 3, "\ud800"])
def test_an_event_type_is_text(sink, event_type):
    """Anything else is refused and takes no number."""
    with sink.start_run(SkillRun(skill_id="s")) as run:
        with pytest.raises(InvalidRecordError, match="event_type"):
            run.log(event_type, {})
        assert run.sequence == 0


def test_the_readers_fields_of_a_run_are_ignored(sink, log):
    """status, output and the like are what readers fill in; a start records none of them."""
    sink.start_run(
        SkillRun(skill_id="s", status="ok", output="x", finished_at=datetime.now(UTC) + timedelta(1))
    ).finish()
    start = log.parsed("run.started")[0]
    assert "status" not in start
    assert "output" not in start


def test_finish_takes_what_is_no_text(sink, log):
    """An output that is no text becomes its JSON; None is empty."""
    for output, text in [
        ({"a": [1]}, '{"a":[1]}'),
        (None, ""),
        (3, "3"),
        ("\ud800", "\\ud800"),
        (["ö"], '["ö"]'),
    ]:
        run = sink.start_run(SkillRun(skill_id="s"))
        run.finish(output=output)
        assert log.events(run.run_id)[-1]["output"] == text


def test_tokens_that_are_no_numbers(sink):
    """None counts as 0; what is no whole number is refused by name."""
    with sink.start_run(SkillRun(skill_id="s")) as run:
        run.step("x", input_tokens=None, output_tokens=3)
        with pytest.raises(InvalidRecordError, match="input_tokens"):
            run.step("x", input_tokens=-1)
        with pytest.raises(InvalidRecordError, match="thinking_tokens"):
            run.step("x", thinking_tokens="many")
        assert run.sequence == 1


def test_a_long_run_folds_its_manifest(sink, log):
    """Heads are right across the batches in which manifest lines are hashed."""
    for count in (62, 63, 64, 65, 200):
        run = sink.start_run(SkillRun(skill_id="s"))
        for _ in range(count):
            run.step("x")
        run.finish()
        check_run(log.run_records(run.run_id))
        assert orjson.loads(log.run_records(run.run_id)[-1])["events"] == count + 2
