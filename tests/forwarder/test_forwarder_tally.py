"""What an adopter says of a dead process's open runs, whatever was deleted on the way."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.forwarder.support import HandwrittenSource

from skillaudit.contract import events
from skillaudit.contract.errors import OutboxCorruptError
from skillaudit.producer.forwarder_tally import Tally


def all_records(source: HandwrittenSource) -> list[bytes]:
    from skillaudit.contract.outbox.reader import SourceReader, iter_lines

    with SourceReader(source.dir) as reader:
        return [line.record for line in iter_lines(reader)]


def as_said(counts: events.SourceCounts) -> list[dict[str, object]]:
    return [
        {"run_id": r.run_id, "source_seq": r.source_seq, "events": r.events, "head": r.head}
        for r in counts.open
    ]


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["log", "finish"])), max_size=30), st.data())
@settings(max_examples=50)
def test_cut_anywhere_the_heads_are_the_same(tmp_path_factory, acts, data):
    """Counting in one go, or in two parts with what was carried over written down in between, gives the same."""
    source = HandwrittenSource(tmp_path_factory.mktemp("outbox"))
    open_runs: dict[int, object] = {}
    for number, act in acts:
        if number not in open_runs:
            open_runs[number] = source.run(f"run-{number}-{len(source.runs)}")
        elif act == "log":
            open_runs[number].log()
        else:
            open_runs.pop(number).finish()
    records = all_records(source)
    cut = data.draw(st.integers(0, len(records)))
    still_open = frozenset(run.run_id.encode() for run in open_runs.values())
    first = Tally()
    first.count(records[:cut], still_open)
    second = Tally.decode(first.encode())
    second.count(records[cut:])
    said = sorted(as_said(second.counts()), key=lambda r: r["source_seq"])
    assert said == sorted((r.is_open_entry() for r in open_runs.values()), key=lambda r: r["source_seq"])
    assert second.runs_started == len(source.runs)


def test_a_run_with_a_hole_has_no_head(tmp_path: Path):
    """A record that is missing or altered makes the head unknown: the run is not listed, never listed wrongly."""
    source = HandwrittenSource(tmp_path)
    hole, altered, whole = source.run("hole"), source.run("altered"), source.run("whole")
    for run in (hole, altered, whole):
        run.log()
        run.log()
    records = [
        r.replace(b'"n":1', b'"n":7') if r == altered.records[1] else r
        for r in all_records(source)
        if r != hole.records[1]
    ]
    tally = Tally()
    tally.count(records)
    assert as_said(tally.counts()) == [whole.is_open_entry()]
    assert tally.counts().runs_started == 3


def test_declared_losses_are_part_of_the_head(tmp_path: Path):
    """A gap that the agent declared stands in the manifest in its place."""
    source = HandwrittenSource(tmp_path)
    run = source.run("r")
    run.log()
    run.log(lost=(2, 5))
    run.log()
    tally = Tally()
    tally.count(all_records(source))
    assert as_said(tally.counts()) == [run.is_open_entry()]
    assert run.is_open_entry()["events"] == 8


def test_what_is_carried_is_bounded(tmp_path: Path):
    """Past the bound the longest run is given up; the others keep their heads."""
    source = HandwrittenSource(tmp_path)
    long_run, short = source.run("long"), source.run("short")
    for _ in range(100):
        long_run.log()
    short.log()
    tally = Tally(manifest_bytes_max=6_400)
    tally.count(all_records(source))
    assert as_said(tally.counts()) == [short.is_open_entry()]


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"runs":[{}]}', b'{"runs":[],"other":1}'])
def test_a_damaged_tally_is_said_to_be(text: bytes):
    """With the remedy, instead of heads made from guesses."""
    with pytest.raises(OutboxCorruptError, match="remove it"):
        Tally.decode(text)
