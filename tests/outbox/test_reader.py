"""The reader's rules: whole lines, in order, once; everything else named, nothing valid lost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.outbox.support import FOREIGN_ID, SOURCE_ID, HandMade, at, random_records, read_all, segment_bytes

from skillaudit.contract.outbox.acknowledgement import (
    ACKNOWLEDGEMENT_NAME,
    Acknowledgement,
    write_acknowledgement,
)
from skillaudit.contract.outbox.findings import DamageKind
from skillaudit.contract.outbox.identity import (
    SOURCE_FILE_NAME,
    SourceIdentity,
    machine_id,
    write_source,
)
from skillaudit.contract.outbox.layout import encode_line, pack_position, segment_name, unpack_position
from skillaudit.contract.outbox.reader import CHUNK_BYTES, HOLE_PATIENCE_US, SourceReader

PAD = b"\0" * 500


@pytest.fixture
def source(tmp_path) -> HandMade:
    return HandMade.make(tmp_path / "outbox")


def three_segments(source: HandMade, per_segment: int = 5) -> list[bytes]:
    records = random_records(3 * per_segment)
    for number in (1, 2, 3):
        part = records[(number - 1) * per_segment : number * per_segment]
        content = segment_bytes(part, number=number, first_line=(number - 1) * per_segment + 1)
        source.put(number, content + (PAD if number == 3 else b""))
    return records


# --- what is there --------------------------------------------------------------------------------------------------


def test_a_dead_source_is_read_to_its_end_and_finished(source):
    """All lines of all segments, numbered from 1; then `finished`."""
    records = three_segments(source)
    found = read_all(source.reader())
    assert found.records == records
    assert [line.line for line in found.lines] == list(range(1, 16))
    assert found.findings == []
    assert found.finished


@pytest.mark.parametrize("records_max", [1, 2, 7])
@pytest.mark.parametrize("bytes_max", [1, 100, 10_000])
def test_batches_are_bounded(source, records_max, bytes_max):
    """Whatever the bounds, the same lines come."""
    records = three_segments(source)
    assert read_all(source.reader(), records_max, bytes_max).records == records


def test_every_next_position_begins_where_the_rest_begins(source):
    """A reader that begins at a line's `next_position` gives exactly the lines after it, with the same numbers."""
    three_segments(source)
    lines = read_all(source.reader()).lines
    for n, line in enumerate(lines):
        rest = read_all(source.reader(line.next_position))
        assert rest.lines == lines[n + 1 :]
        assert rest.findings == []
        known = read_all(source.reader(line.next_position, records_before=line.line))
        assert (known.lines, known.findings) == (lines[n + 1 :], [])


def test_a_record_longer_than_a_chunk_and_than_the_bound_is_given_alone(source):
    """12 MiB records exist; `bytes_max` never makes one unreadable."""
    big = b'{"x":"' + b"y" * (3 * CHUNK_BYTES) + b'"}'
    source.put(1, segment_bytes([b"{}", big, b'{"z":1}']) + PAD)
    found = read_all(source.reader(), bytes_max=1000)
    assert found.records == [b"{}", big, b'{"z":1}']


def test_an_empty_directory_of_a_dead_writer_is_finished(source):
    """A process that died while it made its first segment left nothing."""
    assert read_all(source.reader()).finished


# --- a writer that lives --------------------------------------------------------------------------------------------


def test_a_live_source_is_never_finished_and_goes_on(source):
    """At the used end there is nothing to do but come again."""
    source.put(1, segment_bytes([b"{}"]) + PAD)
    with source.live(), source.reader() as reader:
        assert [line.record for line in reader.read(10, 1000)] == [b"{}"]
        assert reader.read(10, 1000) == []
        assert (reader.at_end, reader.finished) == (True, False)
        source.put(1, segment_bytes([b"{}", b'{"n":2}']) + PAD)
        assert [line.record for line in reader.read(10, 1000)] == [b'{"n":2}']


@pytest.mark.parametrize("size", range(1, len(encode_line(b'{"n":2}'))))
def test_a_beginning_of_a_live_writers_line_is_waited_for(source, size):
    """Any part of a line, with or without space behind it, is not damage while its writer lives."""
    line = encode_line(b'{"n":2}')
    for rest in (PAD, b""):
        source.put(1, segment_bytes([b"{}"]) + line[:size] + rest)
        with source.live(), source.reader() as reader:
            assert [item.record for item in reader.read(10, 1000)] == [b"{}"]
            assert reader.read(10, 1000) == []
            source.clock.advance(2 * HOLE_PATIENCE_US)
            assert reader.read(10, 1000) == []
            assert reader.take_findings() == []
            source.put(1, segment_bytes([b"{}", b'{"n":2}']) + rest)
            assert [item.record for item in reader.read(10, 1000)] == [b'{"n":2}']


def test_an_altered_line_of_a_live_writer_is_damage_at_once(source):
    """Bytes up to a LF without a NUL are final, so waiting would be for nothing."""
    bad = encode_line(b'{"n":2}').replace(b"2", b"3")
    source.put(1, segment_bytes([b"{}"]) + bad + encode_line(b'{"n":4}') + PAD)
    with source.live():
        found = read_all(source.reader())
    assert found.records == [b"{}", b'{"n":4}']
    assert found.kinds == [DamageKind.ALTERED]


def test_a_hole_of_a_live_writer_waits_until_patience_ends(source):
    """Lines are completed in order: NULs that still have lines behind them after a while were zeroed."""
    good = segment_bytes([b"{}"])
    source.put(1, good + b"\0" * 18 + encode_line(b'{"n":3}') + PAD)
    with source.live(), source.reader() as reader:
        assert len(reader.read(10, 1000)) == 1
        assert reader.read(10, 1000) == []
        source.clock.advance(HOLE_PATIENCE_US - 1)
        assert reader.read(10, 1000) == []
        assert reader.take_findings() == []
        source.clock.advance(1)
        assert [line.record for line in reader.read(10, 1000)] == [b'{"n":3}']
        (damage,) = reader.take_findings()
        assert (damage.kind, damage.position) == (DamageKind.HOLE, at(1, len(good)))


def test_a_successor_closes_a_segment_that_is_not_cut(source):
    """The writer may die between making the successor and cutting: unused space is no hole."""
    source.put(1, segment_bytes([b"{}"]) + PAD)
    source.put(2, segment_bytes([b'{"n":2}'], number=2, first_line=2) + PAD)
    with source.live():
        found = read_all(source.reader())
    assert found.records == [b"{}", b'{"n":2}']
    assert found.findings == []


# --- damage: named, and nothing valid lost --------------------------------------------------------------------------


@pytest.mark.parametrize("size", range(1, len(encode_line(b'{"n":2}'))))
def test_a_torn_tail_of_a_dead_writer_is_unfinished(source, size):
    """What an append that never returned leaves behind, at every byte."""
    good = segment_bytes([b"{}"])
    source.put(1, good + encode_line(b'{"n":2}')[:size] + PAD)
    found = read_all(source.reader())
    assert found.records == [b"{}"]
    (damage,) = found.findings
    assert (damage.kind, damage.position, damage.end) == (
        DamageKind.UNFINISHED,
        at(1, len(good)),
        at(1, len(good) + size),
    )
    assert found.finished


def damaged(source: HandMade, change) -> tuple[list[bytes], bytes]:
    records = random_records(6)
    content = segment_bytes(records)
    source.put(1, change(content) + PAD)
    source.put(2, segment_bytes([b"{}"], number=2, first_line=7) + PAD)
    return records, content


def test_a_flipped_byte_costs_its_line_only(source):
    """Every single byte of a segment, flipped in turn, is found; every other line is read."""
    records, content = damaged(source, bytes)
    header = content.index(b"\n") + 1
    for byte in range(header, len(content)):
        for mask in (0x01, 0x20):
            flipped = bytes([content[byte] ^ mask])
            source.put(1, content[:byte] + flipped + content[byte + 1 :])
            found = read_all(source.reader())
            last = byte == len(content) - 1  # without its LF a file looks cut
            assert found.kinds == [DamageKind.TRUNCATED if last else DamageKind.ALTERED], (byte, mask)
            lost = [record for record in [*records, b"{}"] if record not in found.records]
            assert len(lost) == 1, (byte, mask)


def test_a_zeroed_page_is_a_hole(source):
    """Lines it touches are gone and said to be; those around it are read; the next header counts them."""
    records, content = damaged(source, lambda whole: whole)
    begin, end = content.index(records[2]) + 3, content.index(records[4]) + 2
    source.put(1, content[:begin] + b"\0" * (end - begin) + content[end:])
    found = read_all(source.reader())
    assert found.records == [*records[:2], records[5], b"{}"]
    assert found.kinds == [DamageKind.HOLE]
    assert found.lines[-1].line == 7


def test_a_truncated_file_is_named(source):
    """Cut inside a line, or exactly between two: never a shorter history that looks whole."""
    records, content = damaged(source, lambda whole: whole)
    source.put(1, content[: content.index(records[4]) + 4])
    found = read_all(source.reader())
    assert (found.records, found.kinds) == ([*records[:4], b"{}"], [DamageKind.TRUNCATED])
    source.put(1, content[: content.index(records[4])])
    found = read_all(source.reader())
    assert (found.records, found.kinds) == ([*records[:4], b"{}"], [DamageKind.LINES_MISSING])
    assert found.findings[0].lines == 2


def test_a_mapped_file_cut_inside_its_last_line_is_truncated_and_a_plain_one_unfinished(source):
    """A mapped segment always has space behind its last line, so a file that ends in one was cut."""
    content = segment_bytes([b"{}"]) + encode_line(b'{"n":2}')[:5]
    source.put(1, content)
    assert read_all(source.reader()).kinds == [DamageKind.TRUNCATED]
    write_source(source.directory, SourceIdentity(source_id=SOURCE_ID, mapped=False), sync=False)
    assert read_all(source.reader()).kinds == [DamageKind.UNFINISHED]


def test_a_segment_shorter_than_the_position_is_truncated(source):
    """An older copy of the file, put in place of the newer."""
    three_segments(source)
    found = read_all(source.reader(at(1, 100_000)))
    assert found.kinds[0] is DamageKind.TRUNCATED
    assert len(found.lines) == 10


def test_a_missing_segment_is_named_with_its_lines(source):
    """Numbers left out are damage; reading goes on behind them."""
    records = three_segments(source)
    (source.directory / segment_name(2)).unlink()
    found = read_all(source.reader())
    assert found.records == records[:5] + records[10:]
    (damage,) = found.findings
    assert (damage.kind, damage.end, damage.lines) == (DamageKind.SEGMENT_MISSING, at(3, 0), 5)
    assert found.lines[-1].line == 15


def test_the_segment_to_begin_in_is_missing(source):
    """Whoever acknowledged less than what is gone is told; whoever acknowledged it all is not."""
    three_segments(source)
    last = read_all(source.reader()).lines[4]
    (source.directory / segment_name(1)).unlink()
    assert read_all(source.reader(last.next_position, records_before=5)).findings == []
    assert read_all(source.reader(last.position, records_before=4)).kinds == [DamageKind.SEGMENT_MISSING]
    assert read_all(source.reader(last.position)).kinds == [DamageKind.SEGMENT_MISSING]


@pytest.mark.parametrize(("source_id", "number"), [(FOREIGN_ID, 2), (SOURCE_ID, 3)])
def test_a_foreign_segment_is_named_and_its_lines_stay_out(source, source_id, number):
    """A header that names another source or number: the lines belong elsewhere."""
    records = three_segments(source)
    source.put(2, segment_bytes([b'{"foreign":1}'], number=number, source_id=source_id, first_line=6))
    found = read_all(source.reader())
    assert found.records == records[:5] + records[10:]
    assert found.kinds == [DamageKind.FOREIGN_SEGMENT]


def test_a_damaged_header_costs_no_line(source):
    """The file's name says where the lines belong."""
    records = three_segments(source)
    content = (source.directory / segment_name(2)).read_bytes()
    for byte in range(content.index(b"\n") + 1):
        source.put(2, content[:byte] + bytes([content[byte] ^ 1]) + content[byte + 1 :])
        found = read_all(source.reader())
        assert found.records == records, byte
        assert found.kinds == [DamageKind.HEADER], byte


def test_a_zeroed_header_costs_no_line(source):
    """NULs where the header should be are a hole, once nothing is written there any more."""
    records = three_segments(source)
    content = (source.directory / segment_name(2)).read_bytes()
    end = content.index(b"\n") + 1
    source.put(2, b"\0" * end + content[end:])
    found = read_all(source.reader())
    assert found.records == records
    assert found.kinds == [DamageKind.HOLE]


def test_a_copied_directory_is_named(source):
    """An image started on another machine, or a restored backup: told, and read all the same."""
    three_segments(source)
    here = SourceIdentity(
        source_id=SOURCE_ID, machine_id=machine_id(), inode=source.directory.stat().st_ino, boot_id="b"
    )
    write_source(source.directory, here, sync=False)
    resumed = SourceReader.resume(source.directory)
    assert read_all(resumed.reader).findings == []
    for copied in (
        SourceIdentity(source_id=SOURCE_ID, inode=here.inode + 1),
        SourceIdentity(source_id=SOURCE_ID, machine_id="another", inode=here.inode),
    ):
        write_source(source.directory, copied, sync=False)
        found = read_all(SourceReader.resume(source.directory).reader)
        expected = [DamageKind.COPIED] if copied.inode != here.inode or machine_id() else []
        assert found.kinds == expected
        assert len(found.lines) == 15


def test_a_source_that_does_not_say_whose_it_is_gets_named_and_read(source):
    """`source.json` is damaged: nobody knows whether this is a copy, and every line is there."""
    three_segments(source)
    (source.directory / SOURCE_FILE_NAME).write_bytes(b'{"source_id":')
    found = read_all(SourceReader.resume(source.directory).reader)
    assert found.kinds == [DamageKind.IDENTITY]
    assert len(found.lines) == 15


def test_another_sources_acknowledgement_acknowledges_nothing_here(source):
    """A file put where it does not belong, its checksum right: what it would pass over was never sent."""
    three_segments(source)
    write_source(source.directory, SourceIdentity(source_id=SOURCE_ID), sync=False)
    other = source.directory.with_name(FOREIGN_ID)
    other.mkdir()
    write_acknowledgement(other, Acknowledgement(position=pack_position(3, 0), records=10))
    (other / "ack").rename(source.directory / "ack")
    resumed = SourceReader.resume(source.directory)
    assert resumed.acknowledgement == Acknowledgement()
    found = read_all(resumed.reader)
    assert found.kinds == [DamageKind.ACKNOWLEDGEMENT]
    assert len(found.lines) == 15


@pytest.mark.parametrize("ending", [b"", b"{", b'{"position":-1}\t00000000\n'])
def test_an_unreadable_acknowledgement_begins_at_the_oldest_segment(source, ending):
    """Sent again is better than skipped; and it is said."""
    records = three_segments(source)
    lines = read_all(source.reader()).lines
    write_acknowledgement(source.directory, Acknowledgement(position=lines[7].next_position, records=8))
    assert read_all(SourceReader.resume(source.directory).reader).records == records[8:]
    (source.directory / ACKNOWLEDGEMENT_NAME).write_bytes(ending)
    (source.directory / segment_name(1)).unlink()
    resumed = SourceReader.resume(source.directory)
    found = read_all(resumed.reader)
    assert found.records == records[5:]
    assert found.kinds == [DamageKind.ACKNOWLEDGEMENT]
    assert found.lines[0].line == 6


def test_a_lost_acknowledgement_of_a_source_with_deleted_segments_is_named(source):
    """Segments are only deleted as acknowledged: where they are gone, an acknowledgement was there."""
    three_segments(source)
    (source.directory / segment_name(1)).unlink()
    assert read_all(SourceReader.resume(source.directory).reader).kinds == [DamageKind.ACKNOWLEDGEMENT]


def test_the_same_damage_is_found_equal_by_every_reader(source):
    """So that an incident can be recorded once, whoever comes by."""
    damaged(source, lambda whole: whole.replace(b'"n":2', b'"n":9'))
    assert read_all(source.reader()).findings == read_all(source.reader()).findings != []


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damage_is_found_and_costs_only_what_it_touches(tmp_path_factory, data):
    """Random overwriting, cutting and zeroing, against the list of what was written."""
    source = HandMade.make(tmp_path_factory.mktemp("any") / "outbox")
    counts = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=4))
    written, contents, first = [], [], 1
    for number, count in enumerate(counts, 1):
        records = random_records(count, data.draw(st.sampled_from([2, 40])))
        contents.append(segment_bytes(records, number=number, first_line=first))
        first += count
        offset = contents[-1].index(b"\n") + 1
        for record in records:
            written.append((at(number, offset), record))
            offset += len(encode_line(record))
    victim = data.draw(st.integers(0, len(contents) - 1))
    whole = contents[victim]
    begin = data.draw(st.integers(0, len(whole) - 1))
    size = data.draw(st.integers(1, len(whole) - begin))
    how = data.draw(st.sampled_from(["zero", "cut", "noise"]))
    noise = data.draw(st.binary(min_size=size, max_size=size)) if how == "noise" else b"\0" * size
    contents[victim] = whole[:begin] if how == "cut" else whole[:begin] + noise + whole[begin + size :]
    for number, content in enumerate(contents, 1):
        source.put(number, content + (PAD if number == len(contents) and how != "cut" else b""))
    found = read_all(source.reader())
    if DamageKind.FOREIGN_SEGMENT in found.kinds:
        return
    for position, record in written:
        number, byte = unpack_position(position)
        now = contents[number - 1][byte : byte + len(record) + 10]
        hit = (position, record) in [(line.position, line.record) for line in found.lines]
        assert hit == (now == encode_line(record)), (position, how)
    lost = [record for _, record in written if record not in found.records]
    boundaries = [
        unpack_position(place)[1] for place, _ in written if unpack_position(place)[0] == victim + 1
    ]
    zeroed = not any(noise)
    unseen = (
        victim == len(contents) - 1
        and begin in boundaries
        and (how == "cut" or (zeroed and begin + size == len(whole)))
    )  # the end of the last segment: only an acknowledgement, a heartbeat or the runs' own numbers can tell
    assert bool(found.findings) == bool(lost) or unseen or begin < whole.index(b"\n") + 1 or how == "noise"
