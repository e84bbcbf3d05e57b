"""Sets of whole numbers as ascending inclusive ranges, `((5, 7), (9, 9))`: which event numbers of a run are there.

Plain tuples and pure functions. Normal form: ranges ascend, don't overlap and don't touch; all functions take and
return it. Numbers that arrive in order cost one comparison; out of order, a binary search and a copy of the ranges,
of which a run has few.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final, TypeAlias

Ranges: TypeAlias = tuple[tuple[int, int], ...]

EMPTY: Final[Ranges] = ()


def add(ranges: Ranges, number: int) -> Ranges:
    """The set with one more number; the same object where it is already there."""
    if ranges and ranges[-1][1] + 1 == number:
        return (*ranges[:-1], (ranges[-1][0], number))
    return ranges if contains(ranges, number) else add_range(ranges, number, number)


def add_range(ranges: Ranges, low: int, high: int) -> Ranges:
    """The set with all of `low` to `high`; nothing is added where `low > high`."""
    if low > high:
        return ranges
    before = tuple(r for r in ranges if r[1] + 1 < low)
    after = tuple(r for r in ranges if r[0] > high + 1)
    merged = ranges[len(before) : len(ranges) - len(after)]
    if merged:
        low, high = min(low, merged[0][0]), max(high, merged[-1][1])
    return (*before, (low, high), *after)


def of(numbers: Iterable[int]) -> Ranges:
    """The set of some numbers, in any order."""
    result = EMPTY
    for number in sorted(numbers):
        result = add(result, number)
    return result


def normalized(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The set of some inclusive ranges, in any order, overlapping or not."""
    result = EMPTY
    for low, high in ranges:
        result = add_range(result, low, high)
    return result


def contains(ranges: Ranges, number: int) -> bool:
    """Whether the number is in the set."""
    place = bisect_right(ranges, number, key=_low)
    return place > 0 and number <= ranges[place - 1][1]


def union(left: Ranges, right: Ranges) -> Ranges:
    """What is in either set."""
    return normalized((*left, *right)) if left and right else left or right


def subtract(left: Ranges, right: Ranges) -> Ranges:
    """What is in `left` and not in `right`."""
    result: list[tuple[int, int]] = []
    for low, high in left:
        start = low
        for gap_low, gap_high in right:
            if gap_high < start or gap_low > high:
                continue
            if start < gap_low:
                result.append((start, gap_low - 1))
            start = gap_high + 1
        if start <= high:
            result.append((start, high))
    return tuple(result)


def missing(ranges: Ranges, low: int, high: int) -> Ranges:
    """Which of `low` to `high` are not in the set; nothing where `low > high`."""
    return subtract(((low, high),), ranges) if low <= high else EMPTY


def count(ranges: Ranges) -> int:
    """How many numbers the set holds."""
    return sum(high - low + 1 for low, high in ranges)


def highest(ranges: Ranges) -> int:
    """The highest number, -1 of the empty set."""
    return ranges[-1][1] if ranges else -1


def _low(item: tuple[int, int]) -> int:
    return item[0]
