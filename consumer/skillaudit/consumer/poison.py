"""When malformed records are too many to be single bad ones. Pure; the counts survive a restart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import orjson

WINDOW_RECORDS: Final = 10_000
"""The share is judged over this many records; those that have not come yet count as good."""


@dataclass(frozen=True, slots=True)
class PoisonPolicy:
    """Past these a consumer stops."""

    in_a_row_max: int = 1_000
    share_percent_max: int = 50
    """101 switches the share off."""


@dataclass(frozen=True, slots=True)
class PoisonState:
    """What was seen lately."""

    in_a_row: int = 0
    batches: tuple[tuple[int, int], ...] = ()
    """(records, malformed) of the batches of the last `WINDOW_RECORDS` records, the oldest first."""

    def after(self, records: int, malformed: Sequence[int]) -> PoisonState:
        """The state after a batch, given the ascending indexes of its malformed records."""
        batches = (*self.batches, (records, len(malformed)))
        while sum(n for n, _ in batches[1:]) >= WINDOW_RECORDS:
            batches = batches[1:]
        return PoisonState(_longest_end(self.in_a_row, records, malformed), _merged(batches))

    def longest(self, records: int, malformed: Sequence[int]) -> int:
        """The longest run of malformed records that the batch adds to or holds."""
        del records
        longest, current, previous = 0, self.in_a_row, -1
        for index in malformed:
            current = current + 1 if index == previous + 1 else 1
            previous, longest = index, max(longest, current)
        return longest

    def records(self) -> int:
        """Records in the window: whole batches, so that there may be more than `WINDOW_RECORDS`."""
        return sum(records for records, _ in self.batches)

    def malformed(self) -> int:
        """Malformed records in the window."""
        return sum(bad for _, bad in self.batches)

    def dump(self) -> str:
        """As text for the database."""
        return orjson.dumps([self.in_a_row, self.batches]).decode()


def load_state(text: str) -> PoisonState:
    """The state of its text; a new one for an empty text."""
    if not text:
        return PoisonState()
    in_a_row, batches = orjson.loads(text)
    return PoisonState(in_a_row, tuple((n, bad) for n, bad in batches))


def exceeded(policy: PoisonPolicy, before: PoisonState, records: int, malformed: Sequence[int]) -> str:
    """Why the consumer must stop before it commits this batch; empty where it need not.

    The text is the same however the records were put into batches, so that it says the same after every start. Whether a
    stop is one that was told before is not judged by it (`acts.record_stop`).
    """
    if not malformed:
        return ""
    longest = before.longest(records, malformed)
    if longest >= policy.in_a_row_max:
        return f"{policy.in_a_row_max} records in a row or more are malformed (poison_in_a_row_max)"
    after = before.after(records, malformed)
    if after.malformed() * 100 > policy.share_percent_max * max(after.records(), WINDOW_RECORDS):
        return (
            f"more than {policy.share_percent_max} % of the last {WINDOW_RECORDS} records are malformed "
            "(poison_share_percent_max)"
        )
    return ""


def _longest_end(in_a_row: int, records: int, malformed: Sequence[int]) -> int:
    """How many malformed records end the sequence now."""
    bad = set(malformed)
    for count, index in enumerate(range(records - 1, -1, -1)):
        if index not in bad:
            return count
    return in_a_row + records


def _merged(batches: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Small neighbours put together, so that the window stays short."""
    merged: list[tuple[int, int]] = []
    for records, bad in batches:
        if merged and merged[-1][0] + records <= WINDOW_RECORDS // 20:
            merged[-1] = (merged[-1][0] + records, merged[-1][1] + bad)
        else:
            merged.append((records, bad))
    return tuple(merged)
