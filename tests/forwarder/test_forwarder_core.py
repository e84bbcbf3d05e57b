"""Windows, lanes, backoff and states: what the forwarder decides, without files or connections."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillaudit.contract import events
from skillaudit.producer.forwarder_core import (
    TRANSITIONS,
    Backoff,
    ForwarderLimits,
    ForwarderState,
    IllegalTransitionError,
    Lane,
    SourceWindow,
    classify,
    is_bare_start,
    next_state,
)


def window_with(count: int) -> tuple[SourceWindow, list]:
    window = SourceWindow("s", 1)
    entries = [window.admit(n, n * 100, b"k", b"v") for n in range(1, count + 1)]
    window.reach((count + 1) * 100, count)
    return window, entries


@given(st.integers(1, 40), st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_the_acknowledged_position_is_the_first_gap(count: int, random: Random):
    """In whatever order acknowledgements come, the position is the oldest unacknowledged record's beginning."""
    window, entries = window_with(count)
    settled: set[int] = set()
    for entry in random.sample(entries, count):
        window.settle(entry)
        settled.add(entry.line)
        gap = next((n for n in range(1, count + 1) if n not in settled), count + 1)
        assert window.acknowledged == (gap - 1, gap * 100)


def lane_of(*sizes: int, batch_bytes_max: int = 10_000) -> Lane:
    lane = Lane(0, ForwarderLimits(batch_bytes_max=batch_bytes_max, batch_bytes_min=1_000))
    window = SourceWindow("s", 1)
    for n, size in enumerate(sizes, 1):
        lane.put(window.admit(n, n, b"k", b"v" * size))
    return lane


def lines(batch) -> list[int]:
    return [entry.line for entry in batch]


@given(st.lists(st.integers(1, 20_000), max_size=40))
@settings(max_examples=100)
def test_batches_keep_order_and_bound(sizes: list[int]):
    """Batches are consecutive, hold at most the bound, and a record above it goes alone."""
    lane = lane_of(*sizes)
    seen: list[int] = []
    while batch := lane.next_batch():
        assert not lane.next_batch()
        assert len(batch) == 1 or sum(e.size_bytes for e in batch) <= 10_000
        seen += lines(lane.acknowledged())
    assert seen == list(range(1, len(sizes) + 1))


def test_a_failed_batch_goes_first_again():
    """Before everything that waits, in its order."""
    lane = lane_of(4_000, 4_000, 4_000)
    assert lines(lane.next_batch()) == [1, 2]
    lane.failed()
    assert lines(lane) == [1, 2, 3]
    assert lines(lane.next_batch()) == [1, 2]


def test_the_cause_of_a_refusal_is_found_one_by_one():
    """After a refused batch its records go alone; the one refused alone leaves; then batches are whole again."""
    lane = lane_of(10, 10, 10, 10, 10)
    lane.next_batch()
    assert lane.refused() is None
    assert lines(lane.next_batch()) == [1]
    lane.acknowledged()
    assert lines(lane.next_batch()) == [2]
    culprit = lane.refused()
    assert culprit is not None
    assert culprit.line == 2
    lane.put_first(culprit._replace(value=b"instead"))
    assert [e.value for e in lane.next_batch()] == [b"instead"]
    lane.acknowledged()
    for n in (3, 4, 5):
        assert lines(lane.next_batch()) == [n]
        lane.acknowledged()
    lane.put(culprit)
    lane.put(culprit)
    assert len(lane.next_batch()) == 2


def test_a_record_line_is_classified_without_parsing():
    """Type and key come from the prefix; escapes in a run id are undone; other member orders are parsed."""
    plain = events.encode_log(
        events.json_string("r-1"), 1, 2, "0" * 16, b'"step"', b'{"type":"x","run_id":"y"}'
    )
    assert classify(plain) == ("run.log", b"r-1")
    quoted = events.encode_log(events.json_string('a"\\\u00fc\n'), 1, 2, "0" * 16, b'"step"', b"{}")
    assert classify(quoted) == ("run.log", 'a"\\\u00fc\n'.encode())
    assert classify(json.dumps({"type": "run.later", "v": 2, "run_id": "z"}).encode()) == ("run.later", b"z")


@pytest.mark.parametrize("record", [b"", b"[]", b"{}", b'{"run_id":1}', b"\xff", b"null"])
def test_what_has_no_key_is_a_value_error(record: bytes):
    """The caller then publishes it under its source's key, for the consumer's dead letters."""
    with pytest.raises(ValueError, match=r"."):
        classify(record)


def test_a_bare_storages_start_is_told_apart():
    """It has no number and no source; a caller's id can't make a Writer's start look like it."""
    from skillaudit.contract.events import StartIdentity
    from skillaudit.contract.records import SkillRun

    run = SkillRun(id='x","by":"storage', skill_id="s")
    identity = StartIdentity(
        at_us=1, tag="0" * 16, salt="0" * 32, source_id="0" * 32, source_seq=1, clock="c"
    )
    assert not is_bare_start(events.encode_start(run, identity, b"{}", b"{}"))
    assert is_bare_start(events.encode_storage_start(run, 1, "call"))


def test_waits_double_up_to_their_bound_with_jitter():
    """Between half and all of the bound; from the beginning again once it works."""
    limits = ForwarderLimits(backoff_ms_min=100, backoff_ms_max=1_000)
    backoff = Backoff(limits, Random(1))
    for bound in (100, 200, 400, 800, 1_000, 1_000):
        assert bound / 2 <= backoff.next_ms() <= bound
    backoff.reset()
    assert backoff.next_ms() <= 100


def test_illegal_transitions_raise():
    """The table is closed: every state is in it, STOPPED ends, nothing skips CONNECTING."""
    assert set(TRANSITIONS) == set(ForwarderState)
    assert next_state(ForwarderState.NEW, ForwarderState.CONNECTING) is ForwarderState.CONNECTING
    with pytest.raises(IllegalTransitionError, match="stopped to connecting"):
        next_state(ForwarderState.STOPPED, ForwarderState.CONNECTING)
    with pytest.raises(IllegalTransitionError):
        next_state(ForwarderState.NEW, ForwarderState.FORWARDING)
