"""When a seal is due and what goes into it."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.proof.support import MINUTE_US, NOW_US

from skillaudit.proof.sealing import RowRange, SealPolicy, choose, pending, seal_due

POLICY = SealPolicy(rows_max=100, partitions_max=4)
SOME = [RowRange("p", 0, 1)]


def due(since_us, waiting):
    return seal_due(POLICY, NOW_US + since_us, NOW_US, waiting)


def test_a_minute_after_the_last_one_when_something_arrived():
    """And at once where there was none yet."""
    assert not due(MINUTE_US - 1, SOME)
    assert due(MINUTE_US, SOME)
    assert seal_due(POLICY, NOW_US, None, SOME)


def test_an_hour_after_the_last_one_when_nothing_arrived():
    """An empty journal stays empty until something arrives."""
    assert not due(60 * MINUTE_US - 1, [])
    assert due(60 * MINUTE_US, [])
    assert not seal_due(POLICY, NOW_US, None, [])


def test_at_once_when_it_is_behind():
    """A whole seal's rows wait, or more partitions than one takes."""
    assert due(1, [RowRange("p", 0, 100)])
    assert not due(1, [RowRange("p", 0, 99)])
    assert due(1, [RowRange(f"p{n}", 0, 1) for n in range(5)])


def test_a_clock_that_was_set_back_makes_no_seal_wait():
    """Otherwise it would wait until the clock is where it was."""
    assert due(-1, SOME)
    assert due(-1, [])


def test_what_waits_is_what_the_ledger_has_beyond_its_seals():
    """New partitions begin at 0; a ledger shorter than its seals has nothing to seal."""
    ends = {"b": 5, "a": 3, "c": 2, "d": 1}
    assert pending(ends, {"b": 2, "c": 2, "d": 7}) == [RowRange("a", 0, 3), RowRange("b", 2, 5)]


@settings(deadline=None)
@given(st.lists(st.integers(1, 200), max_size=8), st.lists(st.integers(0, 50), min_size=8, max_size=8))
def test_everything_is_sealed_in_the_end_in_bounded_seals(rows, firsts):
    """Each seal takes at least one row and at most its bounds; ranges follow each other without gap."""
    ends = {f"p{n}": firsts[n] + count for n, count in enumerate(rows)}
    sealed = {f"p{n}": firsts[n] for n in range(len(rows))}
    for _ in range(sum(rows) + 1):
        waiting = pending(ends, sealed)
        if not waiting:
            break
        chosen = choose(POLICY, waiting)
        assert 0 < sum(part.rows for part in chosen) <= POLICY.rows_max
        assert len(chosen) <= POLICY.partitions_max
        assert [part.partition for part in chosen] == sorted({part.partition for part in chosen})
        for part in chosen:
            assert (part.first, part.end <= ends[part.partition]) == (sealed[part.partition], True)
            sealed[part.partition] = part.end
    assert sealed == ends
