"""The Sink: targets, states, what is disabled, what an import costs."""

import asyncio
import logging
import subprocess
import sys
import threading
from importlib.metadata import version

import pytest
from tests.producer.support import ListLog, check_run

from skillaudit.contract.errors import InvalidRecordError, RunStateError, SettingsError, UnreachableError
from skillaudit.contract.eventlog import FlushReport
from skillaudit.contract.memory import MemoryStorage
from skillaudit.contract.records import Completeness
from skillaudit.contract.settings import Settings
from skillaudit.contract.wire import parse_record
from skillaudit.producer import Sink, SinkState, SkillRun, Writer
from skillaudit.producer._version import VERSION


class BareStorage:
    """A foreign Storage's write half: keeps what it is told, fails as it is told."""

    def __init__(self):
        self.calls = []
        self.failures = []
        self.gate = threading.Event()
        self.gate.set()

    async def initialize(self):
        self.calls.append("initialize")

    async def _take(self, name, *arguments):
        while not self.gate.is_set():  # noqa: ASYNC110  set from another thread
            await asyncio.sleep(0.001)
        if self.failures:
            raise self.failures.pop(0)
        self.calls.append((name, *arguments))

    async def start_run(self, run):
        await self._take("start", run)

    async def append_log(self, log):
        await self._take("log", log)

    async def finish_run(self, run_id, stats):
        await self._take("finish", run_id, stats)


async def test_memory_storage_is_an_event_log():
    """What was recorded reads complete, with its payloads."""
    storage = MemoryStorage()
    async with Sink(storage) as sink, sink.start_run(SkillRun(skill_id="s")) as run:
        run.step("x", model="m")
    assert [log.payload for log in await storage.list_logs_by_run(run.run_id)] == [
        {"model": "m", "content": "x"}
    ]
    assert (await storage.get_run_state(run.run_id)).completeness is Completeness.COMPLETE


def test_any_storages_write_half_is_awaited_in_order():
    """In a thread of its own: initialize, then the calls in the order they were made, payload bytes as recorded."""
    storage = BareStorage()
    with Sink(storage) as sink:
        with sink.start_run(SkillRun(skill_id="s", caller_id="c", inputs={"q": 1.0})) as run:
            run.log("step", {"payload": ',"payload":', "b": [1.50]})
            run.tool_call("t")
            run.finish("error", error="e", runtime_seconds=0.25)
        report = sink.flush(30)
    assert report.pending == 0
    assert report.complete
    first, start, step, call, finish = storage.calls
    assert first == "initialize"
    assert (start[1].id, start[1].caller_id, start[1].inputs) == (run.run_id, "c", {"q": 1.0})
    assert (step[1].sequence, step[1].payload_json) == (1, b'{"payload":",\\"payload\\":","b":[1.5]}')
    assert call[1].event_type == "tool_call"
    assert (finish[2].status, finish[2].error, finish[2].tool_calls, finish[2].runtime_seconds) == (
        "error",
        "e",
        1,
        0.25,
    )


def test_a_storage_out_of_reach_is_asked_again_and_a_refusal_is_named(caplog):
    """Retryable: the same call again, in order. Anything else: refused, named in the report; the rest goes on."""
    storage = BareStorage()
    storage.failures = [UnreachableError("away"), UnreachableError("away"), ZeroDivisionError()]
    with Sink(storage) as sink:
        run = sink.start_run(SkillRun(skill_id="s"))
        run.step("refused or not")
        run.finish()
        report = sink.flush(30)
    assert [call[0] for call in storage.calls[1:]] == ["log", "finish"]
    assert [(r.run_id, r.seq, r.reason) for r in report.refused] == [(run.run_id, 0, "ZeroDivisionError")]
    assert "refused event 0" in caplog.text


def test_refusals_never_count_as_acknowledged(caplog):
    """Also those beyond the ones that are named."""
    caplog.set_level(logging.CRITICAL, "skillaudit.producer")
    storage = BareStorage()
    storage.failures = [ValueError() for _ in range(1_200)]
    sink = Sink(storage)
    run = sink.start_run(SkillRun(skill_id="s"))
    for _ in range(1_199):
        run.step("s")
    run.finish()
    report = sink.close(30)
    assert (report.acknowledged, report.pending, len(report.refused)) == (3, 0, 1_000), (
        "source.opened and source.closed, the finish"
    )


def test_a_slow_storage_makes_callers_wait():
    """Its queue is bounded and never drops: where it is full, OutboxFullError; no number is taken."""
    from skillaudit.contract.errors import OutboxFullError
    from skillaudit.producer.storage_log import StorageLog

    storage = BareStorage()
    storage.gate.clear()
    sink = Sink(StorageLog(storage, records_max=3), settings=Settings(outbox_block_ms_max=0))
    run = sink.start_run(SkillRun(skill_id="s"))
    taken = 0
    with pytest.raises(OutboxFullError):  # noqa: PT012  which call it is depends on the storage's thread
        while True:
            run.step(str(taken))
            taken += 1
    run.finish()
    storage.gate.set()
    assert sink.close(30).pending == 0
    assert [call[1].payload["content"] for call in storage.calls[2:-1]] == [str(n) for n in range(taken)]


def test_a_target_of_another_kind_is_refused():
    """With what would do."""
    with pytest.raises(InvalidRecordError, match="from_settings"):
        Sink("postgres://")  # type: ignore[arg-type]


async def test_a_disabled_sink_takes_everything_and_does_nothing():
    """Same surface, no effect, no checks that cost; call_ids are made all the same."""
    async with Sink(None) as sink:
        assert sink.state is SinkState.DISABLED
        async with sink.start_run(SkillRun(skill_id="s")) as run:
            assert isinstance(run, Writer)
            run.step("x", anything=object())
            run.message(object())
            run.tool_result("t", object(), call_id=run.tool_call("t"))
            run.error(ValueError())
            run.log("any", {})
            await run.drain()
            with run.start_child(SkillRun(skill_id="c")) as child:
                assert child.run_id != run.run_id
            run.finish()
        assert (await sink.aflush()).complete


def test_from_settings(tmp_path):
    """Disabled, or an outbox in the data directory; overrides count; unknown ones are refused."""
    assert Sink.from_settings(Settings(data=tmp_path, enabled=False)).state is SinkState.DISABLED
    with Sink.from_settings(Settings(data=tmp_path), outbox_block_ms_max=7) as sink:
        assert sink.settings.outbox_block_ms_max == 7
        assert not (tmp_path / "outbox").exists(), "nothing on the disk before the first run"
        sink.start_run(SkillRun(skill_id="s")).finish()
        report = sink.flush(0)
    assert (report.pending, report.synced) == (3, True)
    assert list((tmp_path / "outbox").iterdir())
    with pytest.raises(SettingsError, match="nonsense"):
        Sink.from_settings(nonsense=1)


def test_a_forwarder_begins_with_the_first_run_and_ends_with_the_sink(log, settings):
    """Not before: a parent that only forks has no threads."""
    events = []

    class Forwarder:
        def close(self, timeout_s):
            events.append(("closed", log.closed))

    def start():
        events.append("started")
        return Forwarder()

    sink = Sink(log, settings=settings, start_forwarder=start)
    assert events == []
    sink.start_run(SkillRun(skill_id="s")).finish()
    sink.start_run(SkillRun(skill_id="s")).finish()
    sink.close()
    assert events == ["started", ("closed", False)]
    assert log.closed


def test_what_is_lost_when_the_log_closes_is_in_the_report(settings):
    """Also where a forwarder has to end in between: the log closes after the flush."""

    class LosingLog(ListLog):
        def flush(self, timeout_s):
            return FlushReport(acknowledged=3, pending=2)

        def close(self, timeout_s):
            return FlushReport(acknowledged=3, pending=1, lost=1)

    class Forwarder:
        def close(self, timeout_s):
            pass

    sink = Sink(LosingLog(), settings=settings, start_forwarder=Forwarder)
    sink.start_run(SkillRun(skill_id="s")).finish()
    report = sink.close()
    assert (report.acknowledged, report.pending, report.lost) == (3, 1, 1)


def test_a_closed_sink_starts_nothing(log, settings):
    """Closing again changes nothing; open runs are inert; leaving their block does nothing."""
    sink = Sink(log, settings=settings)
    with sink.start_run(SkillRun(skill_id="s")) as run:
        report = sink.close()
        assert sink.close() is report
        assert sink.flush() is report
        with pytest.raises(RunStateError, match="closed"):
            run.step("x")
        with pytest.raises(RunStateError, match="closed"):
            sink.start_run(SkillRun(skill_id="s"))
    assert "closed" in repr(sink)
    assert [e["type"] for e in log.parsed()] == ["source.opened", "run.started", "source.closed"]


def test_the_source_is_opened_once(log, settings):
    """Before the first start: host, pid, boot id, version, clock."""
    with Sink(log, settings=settings) as sink:
        for _ in range(3):
            sink.start_run(SkillRun(skill_id="s")).finish()
    opened = [parse_record(record) for record in log.records if b"source.opened" in record]
    assert len(opened) == 1
    assert log.records[0].startswith(b'{"v":1,"type":"source.opened"')
    assert opened[0].version == VERSION == version("skillaudit")
    assert opened[0].pid > 0
    assert opened[0].host


def test_an_unclosed_sink_is_closed_at_exit(tmp_path):
    """The interpreter's exit says that the source ends, also while a run is open and the Sink out of reach."""
    script = f"""
from pathlib import Path
from skillaudit.producer import Settings, Sink, SkillRun
def work():
    sink = Sink.from_settings(Settings(data=Path({str(tmp_path)!r})))
    sink.start_run(SkillRun(skill_id="done")).finish()
    sink.start_run(SkillRun(skill_id="open")).step("x")
work()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=120)
    records = read_outbox(tmp_path)
    assert len(records) == 1
    closed = parse_record(next(iter(records.values()))[-1])
    assert (closed.by, closed.runs_started, closed.runs_finished) == ("process", 2, 1)


def test_what_an_import_loads():
    """`import skillaudit.producer` loads no asyncio, pydantic, logging or third-party module but orjson."""
    script = (
        "import sys; before = set(sys.modules); import skillaudit.producer;"
        "loaded = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(*sorted(loaded & {'asyncio', 'pydantic', 'aiokafka', 'duckdb', 'click', 'rich', 'logging', 'httpx', 'socket'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, timeout=120, capture_output=True, text=True
    )
    assert done.stdout.strip() == ""


FORK = """
import os, sys
from pathlib import Path
from skillaudit.contract.errors import RunStateError
from skillaudit.producer import Settings, Sink, SkillRun, State
sink = Sink.from_settings(Settings(data=Path(sys.argv[1]), heartbeat_interval_ms=100))
run = sink.start_run(SkillRun(id="parent", skill_id="s"))
run.step("before")
pid = os.fork()
if pid == 0:
    for call in (lambda: run.step("x"), run.finish, lambda: run.start_child(SkillRun(skill_id="c"))):
        try:
            call()
        except RunStateError as exc:
            assert "fork" in str(exc) or "inert" in str(exc), exc
        else:
            raise AssertionError("an inherited run took a call")
    assert run.state is State.INERT
    with run:
        pass
    if sys.argv[2] == "records":
        with sink.start_run(SkillRun(id="child", skill_id="s")) as own:
            own.step("in the child")
    sys.exit(0)
_, status = os.waitpid(pid, 0)
assert status == 0, status
run.step("after")
run.finish()
sink.close()
"""


def read_outbox(data):
    """Source -> its records."""
    from skillaudit.contract.outbox.reader import SourceReader

    result = {}
    for directory in (path for path in (data / "outbox").iterdir() if path.is_dir()):
        with SourceReader(directory, 0) as reader:
            result[directory.name] = [line.record for line in reader.read(10_000, 1 << 30)]
    return result


@pytest.mark.parametrize("child", ["records", "is silent"])
def test_a_forked_child_goes_on_with_a_source_of_its_own(tmp_path, child):
    """Runs begun before the fork are inert there and whole in the parent; the child numbers from 1 again."""
    command = [
        sys.executable,
        "-W",
        "error",
        "-W",
        "ignore::DeprecationWarning",
        "-c",
        FORK,
    ]  # 3.12 warns of any fork
    subprocess.run([*command, str(tmp_path), child], check=True, timeout=120)
    sources = read_outbox(tmp_path)
    starts = {}
    for source_id, records in sources.items():
        events = [parse_record(record) for record in records]
        assert all(e.source_id == source_id for e in events if hasattr(e, "source_id"))
        starts |= {e.run_id: e.source_seq for e in events if type(e).__name__ == "RunStarted"}
        assert events[0].__class__.__name__ == "SourceOpened"
        assert (events[-1].by, events[-1].runs_finished) == ("process", 1)
    assert starts == ({"parent": 1, "child": 1} if child == "records" else {"parent": 1})
    everything = [record for records in sources.values() for record in records]
    for run_id in starts:
        check_run([r for r in everything if f'"run_id":"{run_id}"'.encode() in r and b'"source.' not in r])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_other_threads_record(log, settings):
    """Locks that their threads hold at that moment don't hang the child."""
    import os

    sink = Sink(log, settings=settings)
    run = sink.start_run(SkillRun(skill_id="s"))
    done = threading.Event()

    def work():
        while not done.is_set():
            run.step("x")
            sink.start_run(SkillRun(skill_id="s")).finish()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                try:
                    log._lock = threading.Lock()  # the fake's own
                    run.step("x")
                except RunStateError:
                    sink.start_run(SkillRun(skill_id="s")).finish()
                    os._exit(0)
                os._exit(1)
            _, status = os.waitpid(pid, 0)
            assert status == 0
    finally:
        done.set()
        thread.join()
        run.finish()
        sink.close()
    check_run(log.run_records(run.run_id))
