"""A full outbox, a full disk, a failing disk: the record is refused whole, and nothing before it is harmed."""

import errno
import os
import subprocess
import sys
import threading
import time

import pytest
from tests.outbox.support import LOG, RESERVED, append, read_all, read_source_dir, settings

from skillaudit.contract.errors import OutboxFullError, StopError
from skillaudit.contract.eventlog import taken_at
from skillaudit.contract.outbox.acknowledgement import Acknowledgement, write_acknowledgement
from skillaudit.contract.outbox.locks import is_locked
from skillaudit.contract.outbox.reader import SourceReader
from skillaudit.contract.settings import MIB
from skillaudit.producer.outbox import LogState, OutboxLog
from skillaudit.producer.outbox_files import FileSystem, MappingUnsupportedError
from skillaudit.producer.outbox_sync import IntervalSync

KIB = b"x" * 1014


class FullFileSystem(FileSystem):
    """Has `room` bytes to give to segments, then says that the disk is full, like a real one."""

    def __init__(self, room: int) -> None:
        self.room = room

    def allocate(self, fd, size):
        if size > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= size
        super().allocate(fd, size)


class ShortWritingFileSystem(FileSystem):
    """Can't map, and its disk is full in the middle of a write."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.can_cut = True

    def allocate(self, fd, size):
        raise MappingUnsupportedError("not here")

    def write(self, fd, data, byte):
        size = min(len(data), self.room)
        if size == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= size
        return super().write(fd, data[:size], byte)

    def cut(self, fd, size):
        if not self.can_cut:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().cut(fd, size)


class NearlyFullDisk(FileSystem):
    """Reports the free space it is told to."""

    def __init__(self, free: int) -> None:
        self.free = free

    def free_bytes(self, directory):
        return self.free


class FailingDisk(FileSystem):
    """Fails its second fsync."""

    def __init__(self) -> None:
        self.syncs = 0

    def sync(self, fd, mapping):
        self.syncs += 1
        if self.syncs == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


class SlowDisk(FileSystem):
    """Counts fsyncs, each of which takes a while, and remembers what was stored before each began."""

    def __init__(self) -> None:
        self.syncs = 0

    def sync(self, fd, mapping):
        self.syncs += 1
        time.sleep(0.005)


def fill(log: OutboxLog, kind=LOG) -> int:
    count = 0
    while count < 100_000:
        try:
            append(log, KIB, kind)
        except OutboxFullError:
            return count
        count += 1
    raise AssertionError("never full")


def wait_until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "too long"
        time.sleep(0.005)


def acknowledge_all(log: OutboxLog) -> Acknowledgement:
    with SourceReader.resume(log.source_dir).reader as reader:
        while reader.read(10_000, 16 * MIB):
            pass
        ack = Acknowledgement(position=reader.position, records=reader.records)
    write_acknowledgement(log.source_dir, ack)
    return ack


@pytest.mark.parametrize(
    "files", [FileSystem, lambda: ShortWritingFileSystem(1 << 40)], ids=["mapped", "plain"]
)
def test_unacknowledged_bytes_are_bounded(tmp_path, files):
    """Exactly `outbox_bytes_max`; acknowledging makes room again."""
    log = OutboxLog(settings(tmp_path, outbox_bytes_max=MIB), files=files())
    count = fill(log)
    assert MIB - 2048 < count * 1024 <= MIB
    before = log.position
    with pytest.raises(OutboxFullError, match="outbox_bytes_max"):
        append(log, KIB)
    assert log.position == before
    acknowledge_all(log)
    assert abs(fill(log) - count) <= 1
    log.close(0)
    found = read_source_dir(log.source_dir)
    assert (len(found.lines), found.findings) == (log.records, [])


def test_ends_of_runs_have_a_reserve(tmp_path):
    """Starts, finishes and heartbeats are written when logs are refused; the reserve ends, too."""
    log = OutboxLog(settings(tmp_path, outbox_bytes_max=MIB, outbox_reserve_bytes=256 * 1024))
    fill(log)
    reserved = fill(log, RESERVED)
    assert 250 <= reserved <= 257
    with pytest.raises(OutboxFullError):
        append(log, b"{}")
    log.close(0)


class InterruptedFileSystem(FileSystem):
    """Calls `handler` once while a segment is being made, as a signal might."""

    def __init__(self) -> None:
        self.handler = None

    def allocate(self, fd, size):
        handler, self.handler = self.handler, None
        if handler is not None:
            handler()
        super().allocate(fd, size)


@pytest.mark.parametrize("room", [True, False])
def test_a_signal_handlers_record_without_room_is_pending_then_lost(tmp_path, caplog, room):
    """It was taken, as it seemed to fit: a flush counts it as pending and writes it where there is room meanwhile; what
    still has none when the log closes is counted as lost.
    """
    files = InterruptedFileSystem()
    limits = settings(
        tmp_path, outbox_bytes_max=MIB, outbox_reserve_bytes=256 * 1024, segment_bytes=64 * 1024
    )
    log = OutboxLog(limits, files=files)
    count = fill(log)
    large = b"x" * 200 * 1024
    files.handler = lambda: append(log, large, RESERVED)
    append(log, large, RESERVED)
    report = log.flush(0)
    assert (report.acknowledged, report.pending, report.lost) == (0, count + 2, 0)
    if room:
        acknowledge_all(log)
    report = log.close(0)
    written = count + 1 + room
    assert (report.acknowledged + report.pending, report.lost) == (written, not room)
    assert log.close(0) == report
    assert len(read_source_dir(log.source_dir).records) == written
    assert ("lost: 1 record from signal handlers" in caplog.text) is not room


def test_an_empty_outbox_takes_a_record_of_any_size(tmp_path):
    """Otherwise it could never be taken."""
    log = OutboxLog(settings(tmp_path, outbox_bytes_max=MIB))
    append(log, b"{}")
    acknowledge_all(log)
    append(log, b"x" * (3 * MIB))
    with pytest.raises(OutboxFullError):
        append(log, b"{}")
    log.close(0)


def test_waiting_for_room_ends_with_it_and_with_time(tmp_path):
    """A call waits no longer than it may, and goes on as soon as there is room."""
    log = OutboxLog(settings(tmp_path, outbox_bytes_max=MIB))
    fill(log)
    begun = time.monotonic()
    with pytest.raises(OutboxFullError):
        append(log, KIB, wait_ms=60)
    assert time.monotonic() - begun >= 0.06
    for notifies in (True, False):
        fill(log)
        waiter = threading.Thread(target=append, args=(log, KIB), kwargs={"wait_ms": 60_000})
        waiter.start()
        ack = acknowledge_all(log)
        if notifies:
            log.notify_acknowledged(ack)
        waiter.join(30)
        assert not waiter.is_alive()
    log.close(0)


def test_who_waits_for_room_holds_up_nobody_else(tmp_path):
    """A finish is written while a log waits."""
    log = OutboxLog(settings(tmp_path, outbox_bytes_max=MIB))
    fill(log)
    waiter = threading.Thread(target=append, args=(log, KIB), kwargs={"wait_ms": 60_000})
    waiter.start()
    for _ in range(50):
        append(log, b'{"finish":1}', RESERVED)
    assert waiter.is_alive()
    acknowledge_all(log)
    waiter.join(30)
    assert read_source_dir(log.source_dir).records[-1] == KIB
    log.close(0)


def test_a_full_disk_refuses_the_record_and_takes_later_ones(tmp_path):
    """It shows when a segment is allocated; nothing was taken, nothing before it is harmed."""
    files = FullFileSystem(room=200 * 1024)
    log = OutboxLog(settings(tmp_path), files=files)
    count = fill(log)
    assert 180 < count < 200
    with pytest.raises(OutboxFullError, match="No space"):
        append(log, KIB)
    files.room = 10 * MIB
    append(log, b'{"later":1}')
    log.close(0)
    found = read_source_dir(log.source_dir)
    assert (len(found.records), found.findings) == (count + 1, [])


def test_a_disk_full_at_the_first_record_leaves_nothing_behind(tmp_path):
    """No half-made source; the same log works once there is room."""
    files = FullFileSystem(room=0)
    log = OutboxLog(settings(tmp_path), files=files)
    with pytest.raises(OutboxFullError):
        append(log, b"{}")
    assert not log.source_dir.exists()
    files.room = MIB
    append(log, b"{}")
    assert read_source_dir(log.source_dir).records == [b"{}"]
    log.close(0)


def test_the_last_space_is_for_ends_of_runs(tmp_path):
    """Where a whole segment does not fit any more, one as small as the record does."""
    files = FullFileSystem(room=64 * 1024 + 8 * 1024)
    log = OutboxLog(settings(tmp_path), files=files)
    fill(log)
    append(log, KIB, RESERVED)
    log.close(0)
    assert read_source_dir(log.source_dir).findings == []


def test_free_space_is_kept(tmp_path):
    """Below `outbox_free_bytes_min` the outbox counts as full for logs, not for ends of runs."""
    files = NearlyFullDisk(free=10 * MIB)
    log = OutboxLog(settings(tmp_path, outbox_free_bytes_min=5 * MIB), files=files)
    append(log, b"{}")
    files.free = 5 * MIB
    with pytest.raises(OutboxFullError, match="outbox_free_bytes_min"):
        append(log, b"x" * 100_000)
    append(log, b"x" * 100_000, RESERVED)
    files.free = 50 * MIB
    append(log, b"x" * 300_000)
    log.close(0)


def test_has_room_looks_at_the_file_system_where_a_log_would_need_it(tmp_path):
    """Not while the segment has the space: that is taken already. Ends again when there is more."""
    files = NearlyFullDisk(free=10 * MIB)
    log = OutboxLog(settings(tmp_path, outbox_free_bytes_min=5 * MIB), files=files)
    append(log, b"{}")
    files.free = 5 * MIB
    assert log.has_room(100)
    assert not log.has_room()
    files.free = 50 * MIB
    assert log.has_room()
    log.close(0)


def test_has_room_looks_at_the_file_system_where_segments_grow(tmp_path):
    """Each log takes space there."""
    files = NearlyFullDisk(free=10 * MIB)
    files.allocate = ShortWritingFileSystem(1 << 40).allocate
    log = OutboxLog(settings(tmp_path, outbox_free_bytes_min=5 * MIB), files=files)
    append(log, b"{}")
    assert log.has_room()
    files.free = 5 * MIB
    assert not log.has_room(100)
    log.close(0)


def test_a_short_plain_write_is_undone(tmp_path):
    """The next record stands where the refused one would have."""
    files = ShortWritingFileSystem(room=5_000)
    log = OutboxLog(settings(tmp_path), files=files)
    count = fill(log)
    assert count == 4
    files.room = 10_000
    append(log, b'{"later":1}')
    log.close(0)
    found = read_source_dir(log.source_dir)
    assert (found.records, found.findings) == ([KIB] * 4 + [b'{"later":1}'], [])


def test_a_short_plain_write_that_cannot_be_undone_closes_the_segment(tmp_path, caplog):
    """What was torn is named by the reader, and nothing else is lost."""
    files = ShortWritingFileSystem(room=5_000)
    log = OutboxLog(settings(tmp_path), files=files)
    files.can_cut = False
    count = fill(log)
    files.room = 10_000
    append(log, b'{"later":1}')
    files.can_cut = True
    log.close(0)
    found = read_source_dir(log.source_dir)
    assert found.records == [KIB] * count + [b'{"later":1}']
    assert found.kinds == ["truncated"]
    assert "short write" in caplog.text


def test_a_batch_that_is_undone_was_never_seen(tmp_path):
    """A reader beside a plain segment takes no line of a batch before the whole batch is there."""
    seen: list[int] = []

    class WatchedFileSystem(ShortWritingFileSystem):
        def write(self, fd, data, byte):
            seen.append(len(read_source_dir(log.source_dir).records))
            return super().write(fd, data[:100], byte)

    files = WatchedFileSystem(room=3_000)
    log = OutboxLog(settings(tmp_path), files=files)
    append(log, b"{}")
    seen.clear()
    with pytest.raises(OutboxFullError):
        log.append_many([("k", b"x" * 500, LOG)] * 8, wait_ms=0)
    files.room = 10_000
    log.append_many([("k", b"y" * 500, LOG)] * 8, wait_ms=0)
    assert set(seen) == {1}
    assert read_source_dir(log.source_dir).records == [b"{}"] + [b"y" * 500] * 8
    log.close(0)


LIMITED = """
import resource, sys
from pathlib import Path
from skillaudit.contract.errors import OutboxFullError
from tests.outbox.support import LOG, append, settings
from skillaudit.producer.outbox import OutboxLog
log = OutboxLog(settings(Path(sys.argv[1])))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
count = 0
try:
    while True:
        append(log, b"x" * 1014)
        count += 1
except OutboxFullError:
    print(log.source_dir, count)
    log.close(0)
"""


def test_the_processs_file_size_limit_is_a_full_disk(tmp_path):
    """A real refusal by the kernel: no signal kills the process, what was taken is there."""
    output = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    from pathlib import Path

    found = read_source_dir(Path(output[0]))
    assert (len(found.lines), found.findings) == (int(output[1]), [])
    assert len(found.lines) > 50


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one MiB, where the tests may mount one."""
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(mount)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"can't mount a small file system: {done.stderr.strip()}")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_really_full_file_system(small_disk, caplog):
    """Every record that was taken is read back; no store into a mapping faults."""
    log = OutboxLog(settings(small_disk, segment_bytes=128 * 1024))
    count = fill(log)
    assert count > 500
    log.close(0)
    found = read_all(SourceReader(log.source_dir))
    assert (found.records, found.findings) == ([KIB] * count, [])


# --- fsync ----------------------------------------------------------------------------------------------------------


def test_always_means_that_an_fsync_began_after_the_record_was_stored(tmp_path):
    """Several threads share one; none returns without."""
    files = SlowDisk()
    log = OutboxLog(settings(tmp_path, outbox_fsync="always"), files=files)
    append(log, b"{}")
    before = files.syncs
    count, threads = 10, 8

    def work() -> None:
        for _ in range(count):
            begun = files.syncs
            append(log, b"{}")
            assert files.syncs > begun

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert count <= files.syncs - before < count * threads  # shared
    log.close(0)
    assert len(read_source_dir(log.source_dir).records) == 1 + count * threads


def test_a_failed_fsync_stops_for_good_and_says_that_the_record_was_taken(tmp_path):
    """The kernel forgets what it could not write: no later success makes up for it."""
    log = OutboxLog(settings(tmp_path, outbox_fsync="always"), files=FailingDisk())
    append(log, b'{"n":1}')
    for n in (2, 3):
        with pytest.raises(StopError, match="disk") as caught:
            append(log, b'{"n":%d}' % n)
        assert taken_at(caught.value) is not None
    assert len(read_source_dir(log.source_dir).records) == 3


@pytest.mark.parametrize("when", ["always", "interval"])
def test_a_log_on_a_failed_disk_closes_and_says_so(tmp_path, when):
    """Not closed in order, but closed: whoever reads the source need not wait for the end of the process."""
    files = FailingDisk()
    log = OutboxLog(settings(tmp_path, outbox_fsync=when, outbox_fsync_interval_ms=600_000), files=files)
    append(log, b'{"n":1}')
    files.syncs = 1
    with pytest.raises(StopError, match="check the disk"):
        log.close(0)
    assert log.state is LogState.CLOSED
    assert not is_locked(log.source_dir / "writer")
    assert log.close(0).pending == 1
    assert not any(thread.name == "skillaudit-outbox-sync" for thread in threading.enumerate())


def test_interval_syncs_by_itself(tmp_path):
    """Within the interval, without a call."""
    files = SlowDisk()
    log = OutboxLog(settings(tmp_path, outbox_fsync="interval", outbox_fsync_interval_ms=10), files=files)
    append(log, b"{}")
    deadline = time.monotonic() + 30
    while files.syncs == 0 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert files.syncs > 0
    log.close(0)
    assert not any(thread.name == "skillaudit-outbox-sync" for thread in threading.enumerate())


def test_interval_takes_nothing_after_a_failed_fsync(tmp_path, caplog):
    """Of any kind, as it can't be promised to be on the disk; nothing that is refused counts as taken."""
    files = FailingDisk()
    files.syncs = 1
    log = OutboxLog(settings(tmp_path, outbox_fsync="interval", outbox_fsync_interval_ms=10), files=files)
    append(log, b"{}")
    wait_until(lambda: "takes no more" in caplog.text)
    wait_until(lambda: not any(t.name == "skillaudit-outbox-sync" for t in threading.enumerate()))
    records = log.records
    for _ in range(2):
        for kind in (LOG, RESERVED):
            with pytest.raises(StopError, match="check the disk") as caught:
                append(log, b"{}", kind, wait_ms=60_000)
            assert taken_at(caught.value) is None
        with pytest.raises(StopError, match="check the disk"):
            log.append_many([("k", b"{}", RESERVED)] * 2, wait_ms=60_000)
    assert log.records == records
    with pytest.raises(StopError, match="check the disk"):
        log.flush(0)


def test_interval_outlives_a_lack_of_descriptors():
    """Nothing was asked of the disk then: the next interval does it."""
    tries, failed = [], []

    def sync():
        tries.append(0)
        if len(tries) < 3:
            raise StopError("the disk failed") from OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    thread = IntervalSync(sync, 1, failed.append)
    wait_until(lambda: len(tries) > 3)
    thread.stop()
    assert failed == []


def test_never_syncs_only_when_nobody_consumes(tmp_path):
    """`flush` promises the disk then."""
    files = SlowDisk()
    log = OutboxLog(settings(tmp_path, segment_bytes=64 * 1024), files=files)
    for _ in range(100):
        append(log, KIB)
    assert files.syncs == 0
    assert log.flush(1).synced
    assert files.syncs == 2  # both segments
    log.close(0)
