"""An outbox directory: its id, its one reader, its sources; acknowledgements; giving space back."""

import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.outbox.support import SOURCE_ID, HandMade, random_records, read_all, segment_bytes

from skillaudit.contract.errors import OutboxCorruptError, OutboxMismatchError
from skillaudit.contract.outbox.acknowledgement import (
    ACKNOWLEDGEMENT_NAME,
    Acknowledgement,
    read_acknowledgement,
    write_acknowledgement,
)
from skillaudit.contract.outbox.directory import (
    CONSUMER_LOCK_NAME,
    ReaderPresence,
    SourceState,
    claim_reader,
    list_sources,
    outbox_id,
    reader_identity,
)
from skillaudit.contract.outbox.identity import SourceIdentity, write_source
from skillaudit.contract.outbox.locks import FileLock
from skillaudit.contract.outbox.reader import SourceReader
from skillaudit.contract.outbox.refused import list_refused, read_refused, write_refused
from skillaudit.contract.outbox.retire import (
    list_archived_sources,
    prune_archive,
    remove_source,
    retire_segments,
)

DAY_US = 86_400_000_000


@pytest.fixture
def source(tmp_path) -> HandMade:
    made = HandMade.make(tmp_path / "outbox")
    write_source(made.directory, SourceIdentity(source_id=SOURCE_ID), sync=False)
    return made


def fill(source: HandMade) -> list[bytes]:
    records = [b'{"at_us":%d,"n":%d}' % (1_000 + n, n) for n in range(9)]
    for number in (1, 2, 3):
        part = records[3 * number - 3 : 3 * number]
        source.put(number, segment_bytes(part, number=number, first_line=3 * number - 2))
    return records


def acknowledge(source: HandMade, count: int) -> Acknowledgement:
    """Acknowledge the first `count` of what is left in the directory, as a forwarder does."""
    reader = SourceReader.resume(source.directory).reader
    with reader:
        for _ in range(count):
            reader.read(1, 1 << 20)
        ack = Acknowledgement(position=reader.position, records=reader.records, positions={"t/0": count})
    write_acknowledgement(source.directory, ack)
    return ack


def test_the_directorys_id_is_given_once(tmp_path):
    """Whoever comes first names it."""
    assert outbox_id(tmp_path / "o", fresh_id="a" * 32) == "a" * 32
    assert outbox_id(tmp_path / "o", fresh_id="b" * 32) == "a" * 32
    (tmp_path / "o" / "id").write_text("nonsense")
    with pytest.raises(OutboxCorruptError):
        outbox_id(tmp_path / "o", fresh_id="b" * 32)


def test_a_directory_has_one_reader(tmp_path):
    """A second reader would get a part only: it is refused, by name, and nothing changes."""
    assert reader_identity(tmp_path) is None
    claim_reader(tmp_path, "duckdb:1")
    claim_reader(tmp_path, "duckdb:1")
    with pytest.raises(OutboxMismatchError, match="duckdb:1"):
        claim_reader(tmp_path, "kafka:c:t")
    assert reader_identity(tmp_path) == "duckdb:1"


def test_a_consumer_is_present_by_either_lock(source):
    """The embedded consumer's lock on the directory, or a forwarder's on the source."""
    outbox_dir = source.directory.parent
    presence = ReaderPresence(outbox_dir)
    assert not presence.is_consumed(SOURCE_ID)
    for path in (outbox_dir / CONSUMER_LOCK_NAME, source.directory / "reader"):
        lock = FileLock(path)
        assert lock.try_acquire()
        assert presence.is_consumed(SOURCE_ID)
        lock.release()
        assert not presence.is_consumed(SOURCE_ID)


@settings(deadline=None)
@given(st.integers(0, 1 << 62), st.integers(0, 1 << 40), st.dictionaries(st.text(), st.integers(0, 1 << 62)))
def test_an_acknowledgement_is_read_as_it_was_written(tmp_path_factory, position, records, positions):
    """Round trip."""
    directory = tmp_path_factory.mktemp("ack")
    ack = Acknowledgement(position=position, records=records, positions=positions, refused=1)
    write_acknowledgement(directory, ack)
    assert read_acknowledgement(directory) == ack


def test_no_changed_byte_of_an_acknowledgement_goes_unseen(tmp_path):
    """Flipped, cut or lengthened: unreadable, never another position."""
    assert read_acknowledgement(tmp_path) is None
    write_acknowledgement(tmp_path, Acknowledgement(position=77, records=3, positions={"t/1": 4}))
    path = tmp_path / ACKNOWLEDGEMENT_NAME
    content = path.read_bytes()
    changed = [content[:n] + bytes([content[n] ^ 1]) + content[n + 1 :] for n in range(len(content))]
    changed += [content[:n] for n in range(len(content))] + [content + b"x"]
    for wrong in changed:
        path.write_bytes(wrong)
        with pytest.raises(OutboxCorruptError):
            read_acknowledgement(tmp_path)


def test_status_counts_what_waits(source):
    """State, records, bytes and age of the oldest, from headers and the last segment."""
    fill(source)
    (status,) = list_sources(source.directory.parent)
    assert (status.state, status.backlog_records, status.oldest_us) == (SourceState.DEAD, 9, 1_000)
    acknowledge(source, 4)
    with source.live():
        (status,) = list_sources(source.directory.parent)
    assert (status.state, status.backlog_records, status.oldest_us) == (SourceState.LIVE, 5, 1_004)
    assert status.backlog_bytes > 5 * 20
    acknowledge(source, 5)
    (status,) = list_sources(source.directory.parent)
    assert (status.state, status.backlog_records, status.backlog_bytes, status.oldest_us) == (
        SourceState.FINISHED,
        0,
        0,
        0,
    )


def test_status_tells_what_is_unreadable(source):
    """A damaged acknowledgement does not hide the source."""
    fill(source)
    (source.directory / ACKNOWLEDGEMENT_NAME).write_bytes(b"x")
    (status,) = list_sources(source.directory.parent)
    assert "acknowledgement" in status.trouble
    assert status.backlog_records == 9


def test_a_directory_being_made_is_no_source(tmp_path):
    """`source.json` comes last, after the lock and the first segment."""
    source = HandMade.make(tmp_path)
    assert list_sources(tmp_path) == []
    fill(source)
    lock = FileLock(source.directory / "writer")
    assert lock.try_acquire()
    assert list_sources(tmp_path) == []
    lock.release()


def test_a_directory_that_lost_its_source_json_is_read(tmp_path):
    """Nobody writes it, and there are segments: what they hold was told safe."""
    source = HandMade.make(tmp_path)
    records = fill(source)
    (status,) = list_sources(tmp_path)
    assert (status.identity, status.state, status.backlog_records) == (None, SourceState.DEAD, len(records))


def test_acknowledged_segments_are_deleted_and_the_rest_reads_on(source):
    """The position's own segment stays; nothing is missing afterwards."""
    records = fill(source)
    ack = acknowledge(source, 7)
    assert retire_segments(source.directory, ack, None) == 2
    assert retire_segments(source.directory, ack, None) == 0
    found = read_all(SourceReader.resume(source.directory).reader)
    assert (found.records, found.findings) == (records[7:], [])


def test_an_archive_reads_like_the_source_did(source, tmp_path):
    """Embedded: a rebuild reads archived and remaining segments as one source, with the same positions."""
    records = fill(source)
    before = read_all(source.reader()).lines
    ack = acknowledge(source, 7)
    archive = tmp_path / "archive"
    assert retire_segments(source.directory, ack, archive) == 2
    found = read_all(SourceReader(source.directory, archive_dir=archive))
    assert (found.lines, found.findings) == (before, [])
    ack = acknowledge(source, 2)
    assert remove_source(source.directory, ack, archive)
    assert not source.directory.exists()
    assert [path.name for path in list_archived_sources(archive)] == [SOURCE_ID]
    found = read_all(SourceReader(source.directory, archive_dir=archive))
    assert (found.records, found.lines) == (records, before)
    assert (archive / SOURCE_ID / "source.json").exists()


def test_a_damaged_archive_stops_and_names_the_file(source, tmp_path):
    """A rebuild must not guess what an unreadable archive held."""
    fill(source)
    archive = tmp_path / "archive"
    retire_segments(source.directory, acknowledge(source, 7), archive)
    path = archive / SOURCE_ID / "00000001.seg.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with (
        SourceReader(source.directory, archive_dir=archive) as reader,
        pytest.raises(OutboxCorruptError, match=r"1\.seg"),
    ):
        reader.read(1, 1)


def test_a_source_is_removed_only_when_that_is_safe(source):
    """Not while the writer lives, not with a backlog, not where refused records would go with it."""
    fill(source)
    ack = acknowledge(source, 4)
    assert not remove_source(source.directory, ack, None)
    ack = acknowledge(source, 5)
    with source.live():
        assert not remove_source(source.directory, ack, None)
    write_refused(source.directory, 5, b"{}", run_id="r", seq=1, reason="too large")
    assert not remove_source(source.directory, ack, None)
    assert source.directory.exists()


def test_a_source_that_may_be_continued_keeps_its_small_files(source):
    """An import of the same file goes on where the source ended."""
    write_source(source.directory, SourceIdentity(source_id=SOURCE_ID, continued=True), sync=False)
    fill(source)
    assert not remove_source(source.directory, acknowledge(source, 9), None)
    assert sorted(path.name for path in source.directory.iterdir()) == [ACKNOWLEDGEMENT_NAME, "source.json"]


def test_the_archive_is_pruned_by_age(source, tmp_path):
    """Older than `outbox_keep_days` goes, oldest first; what is younger stays readable."""
    records = fill(source)
    archive = tmp_path / "archive"
    retire_segments(source.directory, acknowledge(source, 7), archive)
    now_us = time.time_ns() // 1000
    assert prune_archive(archive, 30, now_us) == 0
    old = (now_us - 31 * DAY_US) // 1_000_000
    os.utime(archive / SOURCE_ID / "00000001.seg.gz", (old, old))
    assert prune_archive(archive, 30, now_us) == 1
    reader = SourceReader(source.directory, archive_dir=archive)
    found = read_all(reader)
    assert (found.records, found.findings) == (records[3:], [])
    assert reader.first_line == 4
    assert prune_archive(archive, 0, now_us + DAY_US) == 1
    assert list_archived_sources(archive) == []


def test_refused_records_keep_their_bytes(tmp_path):
    """With run, number and reason, in order of position."""
    (record,) = random_records(1)
    for position in (20, 3, 100):
        write_refused(tmp_path, position, record + b"\nx", run_id=f"r{position}", seq=2, reason="too large")
    found = list_refused(tmp_path)
    assert [refused.run_id for refused in found] == ["r3", "r20", "r100"]
    assert read_refused(tmp_path / "refused" / "3") == (found[0], record + b"\nx")
