"""Rows side by side: each is run once, in one lane; whatever a lane leaves undone has not passed."""

import os

from tests.faults.lanes import run_lanes, units
from tests.faults.rows import Row, all_rows
from tests.faults.running import Resources

FAILS, DIES = "acknowledgement-damaged", "archive-damaged"


async def run_one(row: Row, _: Resources) -> bool:
    """Stands in for a row's cases."""
    if row.name == DIES:
        os._exit(9)
    return row.name != FAILS


def test_every_row_is_in_one_unit_and_a_rare_resource_in_one() -> None:
    """A cluster takes a minute to start: the rows that share it go to one lane, and begin first."""
    rows = all_rows()
    dealt = units(rows.values())
    assert sorted(name for unit in dealt for name in unit) == sorted(rows)
    cluster = next(unit for unit in dealt if "leader-killed" in unit)
    assert "partition-leaderless-60-s-real" in cluster
    assert dealt.index(cluster) < dealt.index(["agent-killed-at-a-bytecode"])


def test_what_failed_and_what_a_dead_lane_left_has_not_passed() -> None:
    """Nothing passes because nobody said that it failed."""
    rows = all_rows()
    chosen = [rows[name] for name in (FAILS, "agent-killed-at-a-bytecode", DIES)]
    assert run_lanes(chosen, 2, run_one) == [FAILS, DIES]
