"""Range sets against Python's own sets."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from skillaudit.contract import ranges
from skillaudit.contract.events import format_ranges, parse_ranges

sets = st.sets(st.integers(0, 30), max_size=20)
bounds = st.tuples(st.integers(0, 30), st.integers(0, 30))


def numbers(found):
    return {n for low, high in found for n in range(low, high + 1)}


def assert_normal(found):
    assert all(low <= high for low, high in found)
    assert all(left[1] + 1 < right[0] for left, right in pairwise(found))


@given(st.lists(st.integers(0, 30), max_size=40))
def test_add(arriving):
    """Numbers in any order, repeated or not."""
    found = ranges.EMPTY
    for number in arriving:
        found = ranges.add(found, number)
        assert_normal(found)
        assert ranges.add(found, number) is found
    assert numbers(found) == set(arriving)
    assert ranges.of(arriving) == found
    assert ranges.count(found) == len(set(arriving))
    assert ranges.highest(found) == max(arriving, default=-1)
    assert parse_ranges(format_ranges(found)) == found


@given(sets, sets)
def test_union_and_subtract(left, right):
    """As sets do it."""
    for found, expected in (
        (ranges.union(ranges.of(left), ranges.of(right)), left | right),
        (ranges.subtract(ranges.of(left), ranges.of(right)), left - right),
    ):
        assert_normal(found)
        assert numbers(found) == expected


@given(sets, bounds)
def test_contains_and_missing(members, between):
    """Membership, and what a span lacks."""
    found, (low, high) = ranges.of(members), between
    assert [ranges.contains(found, n) for n in range(32)] == [n in members for n in range(32)]
    assert numbers(ranges.missing(found, low, high)) == set(range(low, high + 1)) - members


@given(st.lists(bounds, max_size=10))
def test_add_range(pairs):
    """Whole ranges, overlapping, touching or empty."""
    found = ranges.normalized(pairs)
    assert_normal(found)
    assert numbers(found) == {n for low, high in pairs for n in range(low, high + 1)}


def test_numbers_in_order_stay_one_range():
    """What nearly every run looks like."""
    assert ranges.of(range(100_000)) == ((0, 99_999),)
