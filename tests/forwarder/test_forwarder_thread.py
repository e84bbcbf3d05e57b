"""The forwarder inside an agent's process: acknowledgement to the log, restarts, forks, the interpreter's exit."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.forwarder.support import FAST, HandwrittenSource, TopicInMemory, TopicThatIsAway

from skillaudit.contract.eventlog import RecordKind
from skillaudit.contract.events import SourceCounts, encode_source_closed
from skillaudit.contract.settings import Settings
from skillaudit.producer.forwarder_thread import ForwarderThread, LoopWithOwnLookups, ThreadState
from skillaudit.producer.outbox import OutboxLog


def settings_for(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path, kafka_bootstrap_servers="nowhere:1", outbox_free_bytes_min=0)


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.002)


def record(n: int) -> bytes:
    return (
        b'{"v":1,"type":"run.log","run_id":"r","seq":%d,"at_us":1,"tag":"%016x","event_type":"step","payload":{}}'
        % (
            n,
            n,
        )
    )


class AgentWithForwarder:
    """A log and its forwarder thread on a topic in memory."""

    def __init__(self, tmp_path: Path, topic=None, **options) -> None:
        self.topic = topic or TopicInMemory()
        self.settings = settings_for(tmp_path)
        self.log = OutboxLog(self.settings)
        self.thread = ForwarderThread(
            self.settings, self.log, publisher=lambda _: self.topic, limits=FAST, **options
        )

    def append(self, *numbers: int) -> None:
        for n in numbers:
            self.log.append("r", record(n), RecordKind.LOG, wait_ms=0)

    def end(self) -> None:
        self.log.close(0)
        self.thread.close(5)
        assert not self.thread.is_alive


def test_flush_returns_when_everything_is_acknowledged(tmp_path: Path):
    """The log is told from the thread; the report has no pending record and says where the events are."""
    agent = AgentWithForwarder(tmp_path)
    agent.thread.start()
    agent.append(*range(100))
    report = agent.log.flush(10)
    assert (report.acknowledged, report.pending) == (100, 0)
    assert sum(report.positions.values()) == 100
    assert agent.topic.of_key("r") == [record(n) for n in range(100)]
    agent.end()
    assert agent.thread.state is ThreadState.STOPPED


def test_a_broker_that_is_away_leaves_records_pending(tmp_path: Path):
    """Flush ends at its timeout, says how many are pending, and drops nothing; close ends the thread in time."""
    agent = AgentWithForwarder(tmp_path, TopicThatIsAway(attempts=1 << 30))
    agent.thread.start()
    agent.append(0, 1, 2)
    report = agent.log.flush(0.05)
    assert (report.acknowledged, report.pending) == (0, 3)
    begin = time.monotonic()
    agent.end()
    assert time.monotonic() - begin < 5


def test_a_dead_neighbour_is_adopted(tmp_path: Path):
    """Beside its own source the thread forwards those of processes that are gone."""
    dead = HandwrittenSource(tmp_path / "outbox")
    dead.run("left-behind").log()
    agent = AgentWithForwarder(tmp_path)
    agent.thread.start()
    agent.append(0)
    wait_until(lambda: not dead.dir.exists())
    assert len(agent.topic.of_key("left-behind")) == 2
    assert [m["by"] for m in agent.topic.of_type("source.closed")] == ["adopter"]
    agent.end()


class TopicThatBreaksItsForwarder(TopicInMemory):
    """Raises what no publisher may raise, the first times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    async def partition_count(self) -> int:
        if self.times:
            self.times -= 1
            raise ZeroDivisionError("a mistake")
        return await super().partition_count()


def test_a_forwarder_that_fails_begins_again(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Whatever ends it is logged and shown; after a wait it goes on and nothing is lost."""
    agent = AgentWithForwarder(tmp_path, TopicThatBreaksItsForwarder(times=2), restart_wait_s=0.001)
    agent.thread.start()
    agent.append(0)
    assert agent.log.flush(10).pending == 0
    assert agent.thread.restarts == 2
    assert "ZeroDivisionError: a mistake" in repr(agent.thread)
    assert sum("begins again" in r.getMessage() for r in caplog.records) == 2
    caplog.clear()
    agent.end()


class Odd(BaseException):
    """What some libraries stop threads with."""


class TopicThatRaises(TopicInMemory):
    """Raises what is no error of a publisher, in one of its calls, the first times."""

    def __init__(self, error: BaseException, *, sending: bool, times: int = 2) -> None:
        super().__init__()
        self.error, self.sending, self.times = error, sending, times

    def _raise(self, *, sending: bool) -> None:
        if self.times and sending is self.sending:
            self.times -= 1
            raise self.error

    async def partition_count(self) -> int:
        self._raise(sending=False)
        return await super().partition_count()

    async def send(self, partition: int, records: Sequence[tuple[bytes, bytes]]) -> int:
        self._raise(sending=True)
        return await super().send(partition, records)


@pytest.mark.parametrize("sending", [True, False], ids=["sending", "asking"])
@pytest.mark.parametrize(
    "error",
    [SystemExit, KeyboardInterrupt, asyncio.CancelledError, MemoryError, Odd],
    ids=lambda e: e.__name__,
)
def test_what_is_no_exception_ends_no_thread(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: type[BaseException], sending: bool
):
    """SystemExit, a cancellation of the client library's, an exception of no kind: the sources are let go, and the next
    forwarder of the same process takes them. No lane waits for a batch that nobody sends any more.
    """
    agent = AgentWithForwarder(
        tmp_path, TopicThatRaises(error("a fault"), sending=sending), restart_wait_s=0.001
    )
    agent.thread.start()
    agent.append(*range(10))
    assert agent.log.flush(10).pending == 0
    assert agent.topic.times == 0
    assert set(agent.topic.of_key("r")) == {record(n) for n in range(10)}
    agent.end()
    caplog.clear()


class UnspeakableError(Exception):
    """Telling of it fails, too."""

    def __str__(self) -> str:
        raise ZeroDivisionError("no words for it")


def test_what_hits_the_supervisor_itself_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """With what it followed from; and it waits before it begins again, as after anything else."""
    agent = AgentWithForwarder(
        tmp_path, TopicThatRaises(UnspeakableError(), sending=False, times=1_000), restart_wait_s=3_600
    )
    agent.thread.start()
    agent.append(0)
    wait_until(lambda: bool(caplog.records))
    assert agent.log.flush(0.2).pending == 1
    assert agent.topic.times == 999, "it began again without a wait"
    (told,) = caplog.records
    assert "ZeroDivisionError: no words for it" in told.getMessage()
    assert told.exc_info is not None
    assert isinstance(told.exc_info[1].__context__, UnspeakableError)
    assert "no words" in repr(agent.thread)
    agent.end()
    caplog.clear()


def test_a_source_that_closed_itself_is_removed_with_its_thread(tmp_path: Path):
    """Closed, acknowledged and let go by its log: nothing is left behind."""
    agent = AgentWithForwarder(tmp_path)
    agent.thread.start()
    agent.append(0)
    counts = SourceCounts(runs_started=0, runs_finished=0)
    closed = encode_source_closed(agent.log.source_id, 1, "process", counts)
    agent.log.append(agent.log.source_id, closed, RecordKind.RESERVED, wait_ms=0)
    assert agent.log.flush(10).pending == 0
    agent.end()
    assert not agent.log.source_dir.exists()


def test_the_last_source_is_removed_by_the_next_process(tmp_path: Path):
    """What a process leaves fully acknowledged is tidied up by whoever comes next."""
    first = AgentWithForwarder(tmp_path)
    first.thread.start()
    first.append(0)
    assert first.log.flush(10).pending == 0
    first.end()
    assert first.log.source_dir.exists()
    second = AgentWithForwarder(tmp_path)
    second.thread.start()
    wait_until(lambda: not first.log.source_dir.exists())
    second.end()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_leaves_the_parents_thread_alone(tmp_path: Path):
    """In the child the handle is inert; the parent goes on; the child's own forwarder forwards the child's source."""
    agent = AgentWithForwarder(tmp_path)
    agent.thread.start()
    agent.append(0)
    assert agent.log.flush(10).pending == 0
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            assert agent.thread.state is ThreadState.FORKED
            assert not agent.thread.is_alive
            agent.thread.close(5)
            child = AgentWithForwarder(tmp_path, TopicInMemory())
            child.thread.start()
            child.append(5)
            code = 0 if child.log.flush(10).pending == 0 else 2
            child.end()
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    agent.append(1)
    assert agent.log.flush(10).pending == 0
    assert agent.topic.of_key("r")[:2] == [record(0), record(1)]
    agent.end()


def test_close_from_many_threads(tmp_path: Path):
    """Any thread may close it, any number of times, also before it has begun."""
    agent = AgentWithForwarder(tmp_path)
    agent.thread.close(1)
    agent.thread.start()
    closers = [threading.Thread(target=agent.thread.close, args=(5,)) for _ in range(4)]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join()
    assert not agent.thread.is_alive
    agent.log.close(0)


def test_names_are_looked_up_without_an_executor():
    """Asyncio's executor is gone once the interpreter begins to exit; the thread's loop never asks for it."""

    class LoopWithoutExecutor(LoopWithOwnLookups):
        def run_in_executor(self, *args):
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    loop = LoopWithoutExecutor()
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]

            async def connect() -> None:
                _, writer = await asyncio.open_connection("localhost", port)
                writer.close()
                await writer.wait_closed()

            loop.run_until_complete(connect())
    finally:
        loop.close()


SHORT_PROCESS = """
    import sys, atexit
    from pathlib import Path
    from skillaudit.contract.eventlog import RecordKind
    from skillaudit.contract.settings import Settings
    from skillaudit.producer.outbox import OutboxLog
    from skillaudit.producer.forwarder_thread import start_forwarder

    settings = Settings(
        data=Path(sys.argv[1]), kafka_bootstrap_servers=sys.argv[2], kafka_topic=sys.argv[3], outbox_free_bytes_min=0
    )
    log = OutboxLog(settings)
    handle = start_forwarder(settings, log)
    for n in range(50):
        log.append("r", b'{"v":1,"type":"run.log","run_id":"r","seq":%d}' % n, RecordKind.LOG, wait_ms=0)

    def leave():
        report = log.close(10)
        handle.close(5)
        print(report.acknowledged, report.pending, handle.report.acknowledged, handle.state.value)

    atexit.register(leave)
"""


@pytest.mark.broker
def test_a_short_process_delivers_at_exit(tmp_path: Path, kafka_bootstrap: str, topic_names):
    """A process that ends before its first connection is up still delivers, in its exit handler, by name look-up."""
    from tests.forwarder.broker_support import make_topic

    make_topic(kafka_bootstrap, topic_names.events)
    bootstrap = kafka_bootstrap.replace("127.0.0.1", "localhost")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SHORT_PROCESS), str(tmp_path), bootstrap, topic_names.events],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "50 0 50 stopped\n"), done.stderr
    assert done.stderr == ""
