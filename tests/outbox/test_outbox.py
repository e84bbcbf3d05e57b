"""The appending side: what `append` returned from is there, in order, once."""

import logging
import os
import subprocess
import tempfile
import threading
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests.outbox.support import LOG, RESERVED, append, random_records, read_all, read_source_dir, settings
from tests.support import small_fs

from skillaudit.contract.clock import ManualClock
from skillaudit.contract.errors import (
    InvalidRecordError,
    LockedError,
    RecordTooLargeError,
    RunStateError,
    StopError,
)
from skillaudit.contract.outbox.acknowledgement import Acknowledgement, write_acknowledgement
from skillaudit.contract.outbox.directory import CONSUMER_LOCK_NAME, list_sources
from skillaudit.contract.outbox.identity import read_source
from skillaudit.contract.outbox.layout import list_segments, unpack_position
from skillaudit.contract.outbox.locks import FileLock
from skillaudit.contract.outbox.reader import SourceReader
from skillaudit.contract.outbox.retire import remove_source
from skillaudit.producer.outbox import LogState, OutboxLog
from skillaudit.producer.outbox_files import FileSystem, MappingUnsupportedError, volatile_kind
from skillaudit.producer.outbox_room import FIRST_SEGMENT_BYTES


class UnmappableFileSystem(FileSystem):
    """A file system that neither preallocates nor maps."""

    def allocate(self, fd, size):
        raise MappingUnsupportedError("not here")


@pytest.fixture(params=[FileSystem, UnmappableFileSystem], ids=["mapped", "plain"])
def files(request):
    return request.param()


@pytest.fixture
def log(tmp_path, files):
    made = OutboxLog(settings(tmp_path), files=files, clock=ManualClock())
    yield made
    made.close(0)


def test_nothing_touches_the_disk_before_the_first_append(tmp_path, log):
    """Making a log, asking it and closing it cost nothing."""
    assert log.flush(1).complete
    log.close(0)
    assert list(tmp_path.iterdir()) == []


def test_what_was_appended_is_read_back(log):
    """Every record, byte for byte, at the position that `append` returned."""
    records = random_records(100)
    positions = [append(log, record) for record in records]
    found = read_source_dir(log.source_dir)
    assert [(line.position, line.record) for line in found.lines] == list(
        zip(positions, records, strict=True)
    )
    assert found.findings == []
    assert not found.finished  # the writer lives
    log.close(0)
    assert read_source_dir(log.source_dir).finished


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    st.lists(st.one_of(st.integers(0, 300), st.integers(20_000, 150_000)), max_size=30),
    st.sampled_from([FileSystem, UnmappableFileSystem]),
)
def test_records_of_any_size_in_any_order(tmp_path_factory, sizes, files):
    """Across segments, and in segments of their own; the header of each counts what is before it."""
    data = tmp_path_factory.mktemp("sizes")
    log = OutboxLog(
        settings(data, segment_bytes=FIRST_SEGMENT_BYTES, record_bytes_max=200_000), files=files()
    )
    records = [b"%d" % n + b"x" * size for n, size in enumerate(sizes)]
    for record in records:
        append(log, record)
    log.close(0)
    if records:
        found = read_source_dir(log.source_dir)
        assert (found.records, found.findings) == (records, [])
        assert [line.line for line in found.lines] == list(range(1, len(records) + 1))


def test_segments_begin_small_double_and_are_cut(tmp_path):
    """Many short processes don't take a whole segment each, and closed ones take what they hold."""
    log = OutboxLog(settings(tmp_path, segment_bytes=4 * FIRST_SEGMENT_BYTES))
    append(log, b"{}")
    sizes = [(log.source_dir / "00000001.seg").stat().st_size]
    while len(sizes) < 5:
        append(log, b"x" * 10_000)
        names = sorted(path.name for path in log.source_dir.glob("*.seg"))
        if len(names) > len(sizes):
            sizes.append((log.source_dir / names[-1]).stat().st_size)
    unit = FIRST_SEGMENT_BYTES
    assert sizes == [unit, 2 * unit, 4 * unit, 4 * unit, 4 * unit]
    closed = (log.source_dir / "00000001.seg").stat().st_size
    assert closed < unit
    log.close(0)
    last = log.source_dir / "00000005.seg"
    assert last.read_bytes()[-1:] == b"\n"


def test_a_record_bigger_than_a_segment_gets_one_of_its_size(tmp_path):
    """12 MiB records exist."""
    log = OutboxLog(settings(tmp_path, segment_bytes=FIRST_SEGMENT_BYTES))
    records = [b"{}", b"x" * (12 << 20), b'{"n":3}']
    for record in records:
        append(log, record)
    log.close(0)
    found = read_source_dir(log.source_dir)
    assert (found.records, found.findings) == (records, [])


def test_append_many_is_whole_and_in_order(log):
    """Several at once: adjacent, and the last one's position comes back."""
    append(log, b'{"n":0}')
    records = random_records(20)
    position = log.append_many([("k", record, LOG) for record in records], wait_ms=0)
    append(log, b'{"n":99}')
    found = read_source_dir(log.source_dir)
    assert found.records == [b'{"n":0}', *records, b'{"n":99}']
    assert found.lines[20].position == position
    assert log.append_many([], wait_ms=0) == log.position


def test_a_record_too_large_is_refused_whole(tmp_path):
    """Alone or among several: nothing is taken."""
    log = OutboxLog(settings(tmp_path, record_bytes_max=65_536))
    append(log, b"x" * 65_536)
    for call in (
        lambda: append(log, b"x" * 65_537),
        lambda: log.append_many([("k", b"{}", LOG), ("k", b"x" * 65_537, LOG)], wait_ms=0),
    ):
        with pytest.raises(RecordTooLargeError, match="record_bytes_max"):
            call()
    log.close(0)
    assert len(read_source_dir(log.source_dir).lines) == 1


def test_a_raw_line_feed_is_refused(log):
    """It would end the line: JSON escapes it, and pretty-printed JSON does not belong here."""
    for call in (lambda: append(log, b"{\n}"), lambda: log.append_many([("k", b"\n", LOG)], wait_ms=0)):
        with pytest.raises(InvalidRecordError, match="line feed"):
            call()


def test_the_first_record_is_what_on_open_composes(tmp_path):
    """`source.opened` stands before everything else."""
    log = OutboxLog(settings(tmp_path), on_open=lambda source_id: b'{"opened":"%b"}' % source_id.encode())
    append(log, b"{}")
    assert read_source_dir(log.source_dir).records == [b'{"opened":"%b"}' % log.source_id.encode(), b"{}"]
    assert log.records == 2
    log.close(0)


def test_source_json_says_who_writes(log):
    """And the writer's lock is held while it lives."""
    append(log, b"{}")
    identity = read_source(log.source_dir)
    assert identity is not None
    assert (identity.source_id, identity.pid) == (log.source_id, os.getpid())
    assert not identity.is_copy(log.source_dir)
    (status,) = list_sources(log.source_dir.parent)
    assert (status.state, status.backlog_records) == ("live", 1)


@pytest.mark.parametrize("threads", [2, 8])
def test_each_threads_records_keep_their_order(log, threads):
    """And none is lost, torn or doubled."""
    count = 1500

    def work(name: int) -> None:
        for n in range(count):
            append(log, b'{"t":%d,"n":%d,"x":"%b"}' % (name, n, b"y" * (n % 700)))

    workers = [threading.Thread(target=work, args=(name,)) for name in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = read_source_dir(log.source_dir)
    assert found.findings == []
    for name in range(threads):
        mine = [r for r in found.records if r.startswith(b'{"t":%d,' % name)]
        assert mine == [b'{"t":%d,"n":%d,"x":"%b"}' % (name, n, b"y" * (n % 700)) for n in range(count)]
    assert len(found.records) == threads * count == log.records


def test_a_reader_beside_threads_sees_everything_once(log):
    """Reading while it is written: in order, without findings, whatever is half written at the moment."""
    count, threads = 3000, 4
    done = threading.Event()
    append(log, b"first")

    def work() -> None:
        for n in range(count):
            append(log, b'{"n":%d,"x":"%b"}' % (n, b"y" * (n % 900)))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    lines = []
    with SourceReader(log.source_dir) as reader:
        for worker in workers:
            worker.start()
        while not done.is_set() or not reader.at_end:
            if all(not worker.is_alive() for worker in workers):  # before the read whose `at_end` then counts
                done.set()
            lines += reader.read(100, 1 << 20)
        assert reader.take_findings() == []
    assert len(lines) == 1 + count * threads
    assert all(a.next_position <= b.position for a, b in pairwise(lines))


def test_a_closed_log_takes_nothing(log):
    """And says so; closing again gives the same report."""
    append(log, b"{}")
    report = log.close(0)
    assert report.pending == 1
    assert log.close(0) == report == log.flush(0)
    assert log.state is LogState.CLOSED
    for call in (lambda: append(log, b"{}"), lambda: log.append_many([("k", b"{}", LOG)], wait_ms=0)):
        with pytest.raises(RunStateError, match="closed"):
            call()
    assert read_source_dir(log.source_dir).records == [b"{}"]


# --- flush ----------------------------------------------------------------------------------------------------------


def acknowledge(log: OutboxLog, count: int, refused: int = 0) -> Acknowledgement:
    line = read_all(SourceReader(log.source_dir)).lines[count - 1]
    ack = Acknowledgement(
        position=line.next_position, records=line.line, refused=refused, positions={"events/3": 17}
    )
    write_acknowledgement(log.source_dir, ack)
    return ack


def test_embedded_without_a_consumer_flush_syncs_and_reports_pending(tmp_path):
    """Nobody will acknowledge: waiting would be for nothing."""
    log = OutboxLog(settings(tmp_path))
    for record in random_records(5):
        append(log, record)
    report = log.flush(60)
    assert (report.acknowledged, report.pending, report.synced) == (0, 5, True)
    assert report.positions == {f"outbox/{log.source_id}": log.position}
    log.close(60)


def test_embedded_with_a_consumer_flush_waits_for_its_acknowledgement(tmp_path):
    """The consumer holds `consumer.lock` for its life."""
    log = OutboxLog(settings(tmp_path))
    for record in random_records(5):
        append(log, record)
    lock = FileLock(log.source_dir.parent / CONSUMER_LOCK_NAME)
    assert lock.try_acquire()
    report = log.flush(0.03)
    assert (report.pending, report.synced) == (5, False)
    timer = threading.Timer(0.05, acknowledge, (log, 5))
    timer.start()
    report = log.flush(60)
    timer.join()
    assert (report.acknowledged, report.pending, report.complete) == (5, 0, True)
    lock.release()
    log.close(0)


def test_with_kafka_flush_waits_for_the_forwarder_and_names_positions(tmp_path):
    """The token for reading one's own writes is where the records went."""
    log = OutboxLog(settings(tmp_path, kafka_bootstrap_servers="127.0.0.1:1"))
    for record in random_records(6):
        append(log, record)
    ack = acknowledge(log, 4, refused=1)
    report = log.flush(0.05)
    assert (report.acknowledged, report.pending, report.synced) == (3, 2, False)
    assert report.positions == {"events/3": 17}
    last = acknowledge(log, 6, refused=1)
    write_acknowledgement(log.source_dir, ack)  # whoever notifies comes first
    timer = threading.Timer(0.05, log.notify_acknowledged, (last,))
    timer.start()
    assert log.flush(60).pending == 0
    timer.join()
    assert log.close(0).acknowledged == 5


def test_backlog_counts_and_dates_what_waits(log):
    """For heartbeats."""
    assert log.backlog().records == 0
    for n in range(5):
        append(log, b'{"at_us":%d}' % (1_000 + n))
    assert (log.backlog().records, log.backlog().oldest_us) == (5, 1_000)
    acknowledge(log, 3)
    assert (log.backlog().records, log.backlog().oldest_us) == (2, 1_003)
    assert 0 < log.backlog().bytes < 100
    acknowledge(log, 5)
    assert (log.backlog().records, log.backlog().bytes, log.backlog().oldest_us) == (0, 0, 0)


# --- continuing, and other files ------------------------------------------------------------------------------------


def test_a_given_source_is_continued_where_it_ended(tmp_path):
    """An import: the next segment, the next line; also after everything was retired."""
    source_id = "ab" * 16
    expected: list[bytes] = []
    for turn in range(3):
        log = OutboxLog(settings(tmp_path), source_id=source_id)
        part = random_records(4)
        for record in part:
            append(log, record)
        log.close(0)
        expected = part if turn == 2 else [*expected, *part]
        if turn < 2:
            assert read_source_dir(log.source_dir).records == expected
        if turn == 1:
            assert not remove_source(log.source_dir, acknowledge(log, 8), None)
            assert list_segments(log.source_dir) == []
    found = read_all(SourceReader.resume(log.source_dir).reader)
    assert (found.records, found.findings) == (expected, [])
    assert [line.line for line in found.lines] == [9, 10, 11, 12]
    assert unpack_position(found.lines[0].position)[0] == 3


def test_one_process_at_a_time_writes_a_given_source(tmp_path):
    """Two importers of one file: the second is told to wait, and harms nothing."""
    first = OutboxLog(settings(tmp_path), source_id="ab" * 16)
    second = OutboxLog(settings(tmp_path), source_id="ab" * 16)
    append(first, b"{}")
    with pytest.raises(LockedError):
        append(second, b"{}")
    append(first, b'{"n":2}')
    first.close(0)
    second.close(0)
    assert read_source_dir(first.source_dir).records == [b"{}", b'{"n":2}']


def test_a_directory_that_cannot_be_written_stops_with_a_remedy(tmp_path):
    """Not every error is a full disk."""
    (tmp_path / "outbox").write_text("a file")
    log = OutboxLog(settings(tmp_path))
    with pytest.raises(StopError, match="SKILLAUDIT_DATA"):
        append(log, b"{}")
    log.close(0)


def test_a_volatile_file_system_is_warned_about(caplog):
    """A tmpfs goes with the machine; the log says so once."""
    shared_memory = Path("/dev/shm")
    if volatile_kind(shared_memory) != "tmpfs":
        pytest.skip("no tmpfs at /dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory) as name, caplog.at_level(logging.WARNING):
        for _ in range(2):
            log = OutboxLog(settings(Path(name)))
            append(log, b"{}", RESERVED)
            log.close(0)
    assert [record.message for record in caplog.records if "tmpfs" in record.message] != []
    assert len(caplog.records) == 1


@pytest.mark.skipif(bool(small_fs.why_not()), reason=small_fs.why_not())
def test_a_containers_own_layer_is_warned_about(tmp_path, caplog):
    """An overlay goes with its container."""
    with small_fs.small_fs(tmp_path, 8 * small_fs.MIB, kind="tmpfs") as base:
        places = {name: base.path / name for name in ("lowerdir", "upperdir", "workdir", "merged")}
        for place in places.values():
            place.mkdir()
        options = ",".join(f"{name}={place}" for name, place in places.items() if name != "merged")
        subprocess.run(["mount", "-t", "overlay", "-o", options, "none", str(places["merged"])], check=True)
        try:
            with caplog.at_level(logging.WARNING):
                log = OutboxLog(settings(places["merged"]))
                append(log, b"{}", RESERVED)
                log.close(0)
        finally:
            small_fs.unmount(places["merged"])
    assert "overlay" in caplog.text


def test_repr_shows_the_state(log):
    """For whoever debugs."""
    assert "new" in repr(log)
    append(log, b"{}")
    assert "open" in repr(log)
    assert f"OutboxSegment(1, {log.position & 0xFFFFFFFF} of" in repr(log)
