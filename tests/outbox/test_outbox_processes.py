"""Real processes: killed at any moment, forked, interrupted by signals."""

import ctypes
import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.outbox.support import append, read_all, read_source_dir, settings

from skillaudit.contract.eventlog import taken_at
from skillaudit.contract.outbox.locks import is_locked
from skillaudit.contract.outbox.reader import SourceReader
from skillaudit.producer.outbox import OutboxLog
from skillaudit.producer.outbox_forks import PidMark, mark_process

CHILD = """
import os, sys, threading
from pathlib import Path
from tests.outbox.support import append, settings
from skillaudit.producer.outbox import OutboxLog
from skillaudit.producer.outbox_forks import PidMark, mark_process
log = OutboxLog(settings(Path(sys.argv[1]), segment_bytes=65536))
threads = int(sys.argv[2])
def work(name):
    report = os.open(f"{sys.argv[1]}/report-{name}", os.O_WRONLY | os.O_CREAT, 0o600)
    n = 0
    while True:
        append(log, b'{"t":%d,"n":%d,"x":"%b"}' % (name, n, b"y" * (n * 37 % 3000)))
        n += 1
        os.pwrite(report, b"%d" % n, 0)
for name in range(threads):
    threading.Thread(target=work, args=(name,)).start()
"""


@pytest.mark.parametrize("threads", [1, 4])
def test_what_append_returned_from_survives_sigkill(tmp_path, threads):
    """At random moments: everything reported is there once, in order; at most one more per thread; no damage."""
    rng = random.Random(threads)
    for turn in range(8):
        data = tmp_path / str(turn)
        data.mkdir()
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(data), str(threads)])
        deadline = time.monotonic() + 60
        while (
            sum(r.stat().st_size > 0 for r in data.glob("report-*")) < threads and time.monotonic() < deadline
        ):
            time.sleep(0.005)
        time.sleep(rng.random() * 0.15)  # a random moment, not a wait for something
        child.send_signal(signal.SIGKILL)
        child.wait()
        (source_dir,) = [path for path in (data / "outbox").iterdir() if path.is_dir()]
        found = read_all(SourceReader(source_dir))
        assert found.finished
        assert set(found.kinds) <= {"unfinished"}
        for name in range(threads):
            mine = [r for r in found.records if r.startswith(b'{"t":%d,' % name)]
            reported = int((data / f"report-{name}").read_bytes() or b"0")
            assert reported <= len(mine) <= reported + 1
            expected = [
                b'{"t":%d,"n":%d,"x":"%b"}' % (name, n, b"y" * (n * 37 % 3000)) for n in range(len(mine))
            ]
            assert mine == expected


def in_child(work) -> int:
    """Fork, do `work` in the child, and return the child's pid; the child ends with 0 where `work` returned."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def joined(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def sources(data: Path) -> list[Path]:
    return [path for path in (data / "outbox").iterdir() if path.is_dir()]


def test_a_forked_child_has_a_source_of_its_own(tmp_path):
    """New id, new files, own lock; the parent goes on undisturbed and keeps its lock."""
    log = OutboxLog(settings(tmp_path))
    append(log, b'{"who":"parent","n":1}')
    parent_id, parent_dir = log.source_id, log.source_dir

    def work() -> None:
        assert log.source_id != parent_id
        for n in range(100):
            append(log, b'{"who":"child","n":%d}' % n)
        log.close(0)

    assert joined(in_child(work)) == 0
    assert log.source_id == parent_id
    assert is_locked(parent_dir / "writer")
    append(log, b'{"who":"parent","n":2}')
    log.close(0)
    (child_dir,) = [path for path in sources(tmp_path) if path != parent_dir]
    assert len(read_source_dir(child_dir).records) == 100
    assert read_source_dir(child_dir).finished
    assert read_source_dir(parent_dir).records == [b'{"who":"parent","n":1}', b'{"who":"parent","n":2}']


@pytest.mark.parametrize("mark", [mark_process, PidMark])
def test_a_mark_holds_in_its_own_process_only(mark):
    """In a child and its child it is gone, and a new one can be made there."""
    made = mark()
    assert made[0]

    def child() -> None:
        assert not made[0]
        mine = mark()
        assert mine[0]

        def grandchild() -> None:
            assert not made[0]
            assert not mine[0]

        assert joined(in_child(grandchild)) == 0

    assert joined(in_child(child)) == 0
    assert made[0]


def test_a_fork_behind_pythons_back_is_noticed(tmp_path):
    """A C library that forks runs none of Python's hooks."""
    log = OutboxLog(settings(tmp_path))
    append(log, b'{"who":"parent"}')
    parent_dir = log.source_dir
    pid = ctypes.CDLL(None).fork()
    if pid == 0:
        code = 1
        try:
            append(log, b'{"who":"child"}')
            code = 0
        finally:
            os._exit(code)
    assert joined(pid) == 0
    (child_dir,) = [path for path in sources(tmp_path) if path != parent_dir]
    assert read_source_dir(child_dir).records == [b'{"who":"child"}']
    log.close(0)
    assert read_source_dir(parent_dir).records == [b'{"who":"parent"}']


def test_a_child_that_never_appends_makes_nothing(tmp_path):
    """Not even by closing."""
    log = OutboxLog(settings(tmp_path))
    append(log, b"{}")
    assert joined(in_child(lambda: log.close(1))) == 0
    assert len(sources(tmp_path)) == 1
    append(log, b"{}")
    log.close(0)


def test_the_parents_lock_goes_with_the_parent_not_with_the_child(tmp_path):
    """A child that outlives its parent does not make the parent's source look alive."""
    read_end, write_end = os.pipe()
    ready_end, told_end = os.pipe()

    def parent() -> None:
        log = OutboxLog(settings(tmp_path))
        append(log, b'{"who":"parent"}')

        def child() -> None:
            os.read(read_end, 1)  # until the parent is dead
            append(log, b'{"who":"child"}')
            os.write(told_end, b"x")
            os.read(read_end, 1)

        in_child(child)
        os._exit(0)

    assert joined(in_child(parent)) == 0
    (parent_dir,) = sources(tmp_path)
    assert not is_locked(parent_dir / "writer")
    assert read_source_dir(parent_dir).finished
    os.write(write_end, b"x")
    os.read(ready_end, 1)
    (child_dir,) = [path for path in sources(tmp_path) if path != parent_dir]
    assert is_locked(child_dir / "writer")
    assert read_source_dir(child_dir).records == [b'{"who":"child"}']
    os.write(write_end, b"x")
    for end in (read_end, write_end, ready_end, told_end):
        os.close(end)


def test_fork_while_other_threads_append(tmp_path):
    """Locks that another thread holds at that moment are none of the child's business."""
    log = OutboxLog(settings(tmp_path, segment_bytes=65536))
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            append(log, b"x" * 500)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()

    def child() -> None:
        signal.alarm(20)
        for n in range(200):
            append(log, b'{"n":%d}' % n)
        log.flush(1)
        log.close(0)

    codes = [joined(in_child(child)) for _ in range(10)]
    stop.set()
    for worker in workers:
        worker.join()
    log.close(0)
    assert codes == [0] * 10
    for source_dir in sources(tmp_path):
        found = read_source_dir(source_dir)
        assert found.findings == []
        if source_dir != log.source_dir:
            assert found.records == [b'{"n":%d}' % n for n in range(200)]


def test_signal_handlers_append_inside_appends(tmp_path):
    """At any bytecode, also while segments change: no deadlock, nothing lost, torn or doubled."""
    log = OutboxLog(settings(tmp_path, segment_bytes=65536))
    beats: list[int] = []

    def handler(signum, frame) -> None:
        beats.append(len(beats))
        append(log, b'{"beat":%d,"x":"%b"}' % (beats[-1], b"b" * 300))

    previous = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    count = 0
    deadline = time.monotonic() + 2
    try:
        while len(beats) < 1500 and time.monotonic() < deadline:
            append(log, b'{"n":%d,"x":"%b"}' % (count, b"y" * (count % 4000)))
            count += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    log.close(0)
    found = read_source_dir(log.source_dir)
    assert found.findings == []
    assert len(beats) > 100
    written = [record for record in found.records if record.startswith(b'{"n"')]
    assert written == [b'{"n":%d,"x":"%b"}' % (n, b"y" * (n % 4000)) for n in range(count)]
    beaten = sorted(int(r[8 : r.index(b",")]) for r in found.records if r.startswith(b'{"beat"'))
    assert beaten == beats


def test_an_exception_from_a_signal_handler_says_whether_the_record_was_taken(tmp_path):
    """Whoever numbers records must know: taken if `taken_at` says so, else not."""
    log = OutboxLog(settings(tmp_path, segment_bytes=65536))

    class Interrupted(BaseException):
        pass

    def handler(signum, frame) -> None:
        raise Interrupted

    taken: list[int] = []
    interrupted = 0
    previous = signal.signal(signal.SIGALRM, handler)
    deadline = time.monotonic() + 20
    n = 0
    try:
        while interrupted < 300 and time.monotonic() < deadline:
            n += 1
            record = b'{"n":%d,"x":"%b"}' % (n, b"y" * (n * 7 % 3000))
            returned = False
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.00002 + (n % 50) * 0.000002)
                append(log, record)
                returned = True
                signal.pause()
            except Interrupted as exc:
                interrupted += 1
                if returned or taken_at(exc) is not None:
                    taken.append(n)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    append(log, b'{"n":0,"last":1}')
    log.close(0)
    found = read_source_dir(log.source_dir)
    assert found.findings == []
    assert [int(r[5 : r.index(b",")]) for r in found.records] == [*taken, 0]
    assert interrupted == 300


def test_finalizers_append_inside_appends(tmp_path):
    """The collector may run in the middle of anything that allocates."""
    log = OutboxLog(settings(tmp_path, segment_bytes=65536))
    ended: list[int] = []

    class Ends:
        def __init__(self, name: int) -> None:
            self.name, self.me = name, self

        def __del__(self) -> None:
            ended.append(self.name)
            append(log, b'{"ended":%d}' % self.name)

    thresholds = gc.get_threshold()
    gc.set_threshold(5)
    try:
        for n in range(2000):
            Ends(n)
            append(log, b'{"n":%d,"x":"%b"}' % (n, b"y" * (n % 3000)))
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    log.close(0)
    found = read_source_dir(log.source_dir)
    assert found.findings == []
    assert len(found.records) == 4000
    assert sorted(ended) == list(range(2000))
