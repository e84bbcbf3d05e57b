"""Cases of `list_runs_filtered` and `count_runs_filtered`: each member of `RunFilter` alone and in pairs.

The expected answer is worked out over the case's own runs by a few plain comparisons (`_matches`). A filter that
doesn't pin the case's channel may match other runs of the storage too: those are left out of the comparison, and the
count is compared with all pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta, timezone
from itertools import combinations
from typing import Any, Final

import pytest

from skillaudit.contract.records import RunFilter, SkillRun, Status
from skillaudit.contract.storage import Storage
from skillaudit.contract.testing.shared import Matrix, Shared
from skillaudit.contract.testing.support import (
    US,
    Scope,
    at,
    everything,
    ids,
    newest_first,
    record_as_given,
    unique,
)

Choice = tuple[str, str]
CHOICES: Final[tuple[Choice, ...]] = (
    ("status", "ok"),
    ("status", "running"),
    ("status", "dry_run"),
    ("status", "never-used"),
    ("skill_id", "own"),
    ("skill_id", "never-used"),
    ("caller_id", "own"),
    ("channel_id", "own"),
    ("top_level_only", "yes"),
    ("include_dry_run", "yes"),
    ("since", "middle"),
    ("until", "middle"),
)
PAIRS: Final = [pair for pair in combinations(CHOICES, 2) if pair[0][0] != pair[1][0]]


def _matches(run: SkillRun, wanted: RunFilter) -> bool:
    if wanted.status is None and not wanted.include_dry_run and run.status == "dry_run":
        return False
    exact: Mapping[str, str | None] = {
        "status": wanted.status,
        "skill_id": wanted.skill_id,
        "caller_id": wanted.caller_id,
        "channel_id": wanted.channel_id,
    }
    if any(value is not None and getattr(run, name) != value for name, value in exact.items()):
        return False
    if wanted.top_level_only and run.parent_run_id != "":
        return False
    if wanted.since is not None and run.started_at < wanted.since:
        return False
    return wanted.until is None or run.started_at < wanted.until


def _filter(matrix: Matrix, choices: Sequence[Choice]) -> RunFilter:
    members: dict[str, Any] = {}
    for name, choice in choices:
        words = {"yes": True, "middle": matrix.middle, "own": matrix.own.get(name)}
        members[name] = words.get(choice, choice)
    return RunFilter(**members)


async def _check(storage: Storage, shared: Shared, choices: Sequence[Choice]) -> None:
    matrix = await shared.matrix(storage)
    wanted = _filter(matrix, choices)
    own = set(ids(matrix.runs))
    found = await everything(storage, wanted)
    expected = ids(newest_first(run for run in matrix.runs if _matches(run, wanted)))
    assert [run.id for run in found if run.id in own] == expected
    assert await storage.count_runs_filtered(wanted) == len(found)


class FilterCases:
    """Which runs a filter shows."""

    async def test_the_empty_filter(self, storage: Storage, shared: Shared) -> None:
        """It matches everything but dry runs."""
        await _check(storage, shared, [])

    @pytest.mark.parametrize("choice", CHOICES, ids="-".join)
    async def test_each_member_alone(self, storage: Storage, shared: Shared, choice: Choice) -> None:
        """One member set: what matches it, and no dry runs unless it is about them."""
        await _check(storage, shared, [choice])

    @pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "-".join(pair[0] + pair[1]))
    async def test_members_in_pairs(
        self, storage: Storage, shared: Shared, pair: tuple[Choice, Choice]
    ) -> None:
        """Both must match."""
        await _check(storage, shared, pair)

    async def test_all_members_together(self, storage: Storage, scope: Scope) -> None:
        """One run that matches in everything, and for each member one that differs only there."""
        good = scope.run(status="error", started_at=at(5))
        others = [
            scope.run(status="ok", started_at=at(5)),
            scope.run(status="error", started_at=at(5), skill_id=unique()),
            scope.run(status="error", started_at=at(5), caller_id=unique()),
            scope.run(status="error", started_at=at(5), channel_id=unique()),
            scope.run(status="error", started_at=at(5), parent_run_id=unique()),
            scope.run(status="error", started_at=at(5) - US),
            scope.run(status="error", started_at=at(6)),
        ]
        await record_as_given(storage, [good, *others])
        wanted = scope.filter(
            status="error",
            skill_id=scope.skill,
            caller_id=scope.caller,
            top_level_only=True,
            since=at(5),
            until=at(6),
        )
        assert ids(await storage.list_runs_filtered(wanted, 0, 50)) == [good.id]
        assert await storage.count_runs_filtered(wanted) == 1

    @pytest.mark.parametrize("include", [False, True])
    async def test_a_status_decides_alone_about_dry_runs(
        self, storage: Storage, scope: Scope, *, include: bool
    ) -> None:
        """`include_dry_run` is ignored where `status` is set."""
        dry, good = scope.run(status="dry_run"), scope.run(status="ok")
        await record_as_given(storage, [dry, good])
        for status, run in (("dry_run", dry), ("ok", good)):
            wanted = scope.filter(status=status, include_dry_run=include)
            assert ids(await storage.list_runs_filtered(wanted, 0, 10)) == [run.id]
            assert await storage.count_runs_filtered(wanted) == 1

    @pytest.mark.parametrize(("us", "matches"), [(-1, True), (0, True), (1, False)])
    async def test_since_is_inclusive(
        self, storage: Storage, scope: Scope, us: int, *, matches: bool
    ) -> None:
        """`started_at >= since`, to the microsecond."""
        run = scope.run(started_at=at(3))
        await storage.start_run(run)
        wanted = scope.filter(since=at(3, us=us))
        assert ids(await storage.list_runs_filtered(wanted, 0, 10)) == [run.id] * matches
        assert await storage.count_runs_filtered(wanted) == int(matches)

    @pytest.mark.parametrize(("us", "matches"), [(-1, False), (0, False), (1, True)])
    async def test_until_is_exclusive(
        self, storage: Storage, scope: Scope, us: int, *, matches: bool
    ) -> None:
        """`started_at < until`, to the microsecond."""
        run = scope.run(started_at=at(3))
        await storage.start_run(run)
        wanted = scope.filter(until=at(3, us=us))
        assert ids(await storage.list_runs_filtered(wanted, 0, 10)) == [run.id] * matches
        assert await storage.count_runs_filtered(wanted) == int(matches)

    @pytest.mark.parametrize("hours", [14, 5.5, -11])
    async def test_bounds_in_another_zone(self, storage: Storage, scope: Scope, hours: float) -> None:
        """The instant counts, not the spelling."""
        zone = timezone(timedelta(hours=hours))
        run = scope.run(started_at=at(3))
        await storage.start_run(run)
        inside = scope.filter(since=at(3).astimezone(zone), until=at(3, us=1).astimezone(zone))
        outside = scope.filter(since=at(3, us=1).astimezone(zone), until=at(9).astimezone(zone))
        assert await storage.count_runs_filtered(inside) == 1
        assert await storage.count_runs_filtered(outside) == 0

    async def test_an_empty_window(self, storage: Storage, scope: Scope) -> None:
        """`since` at or past `until` matches nothing."""
        await storage.start_run(scope.run(started_at=at(3)))
        for since in (at(3), at(4)):
            wanted = scope.filter(since=since, until=at(3))
            assert await storage.list_runs_filtered(wanted, 0, 10) == []
            assert await storage.count_runs_filtered(wanted) == 0

    @pytest.mark.parametrize("member", ["caller_id", "channel_id"])
    async def test_an_empty_name_is_a_name(self, storage: Storage, scope: Scope, member: str) -> None:
        """`""` asks for runs that have none; only None asks for all."""
        without, with_one = scope.run(**{member: ""}), scope.run()
        await record_as_given(storage, [without, with_one])
        skill = scope.skill
        empty = {"caller_id": RunFilter(skill_id=skill, caller_id="")}.get(
            member, RunFilter(skill_id=skill, channel_id="")
        )
        assert ids(await storage.list_runs_filtered(empty, 0, 10)) == [without.id]
        assert await storage.count_runs_filtered(RunFilter(skill_id=skill)) == 2

    async def test_an_empty_status_matches_nothing(self, storage: Storage, scope: Scope) -> None:
        """No run has an empty status."""
        await storage.start_run(scope.run())
        assert await storage.count_runs_filtered(scope.filter(status="")) == 0

    async def test_top_level_runs_have_no_parent(self, storage: Storage, scope: Scope) -> None:
        """A run that names a parent is no top-level run, whether that parent is stored or not."""
        top = scope.run()
        runs = [top, scope.run(parent_run_id=top.id), scope.run(parent_run_id="not stored")]
        await record_as_given(storage, runs)
        assert ids(await storage.list_runs_filtered(scope.filter(top_level_only=True), 0, 10)) == [top.id]
        assert await storage.count_runs_filtered(scope.filter()) == 3

    async def test_a_filter_follows_the_run(self, storage: Storage, scope: Scope) -> None:
        """A run leaves one status for the next."""
        run = scope.run()
        await record_as_given(storage, [run])
        assert await storage.count_runs_filtered(scope.filter(status=Status.RUNNING)) == 1
        await record_as_given(storage, [scope.run(id=run.id, status="error")])
        assert await storage.count_runs_filtered(scope.filter(status=Status.RUNNING)) == 0
        assert await storage.count_runs_filtered(scope.filter(status=Status.ERROR)) == 1
