"""Cases of the lists of runs: order, pages, limits, what they hold."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta, timezone
from typing import Final, TypeAlias

import pytest

from skillaudit.contract.records import LIST_LIMIT_DEFAULT, SkillRun, Status
from skillaudit.contract.storage import Storage
from skillaudit.contract.testing.shared import CROWD, Shared
from skillaudit.contract.testing.support import (
    EVERYTHING,
    US,
    Scope,
    at,
    ids,
    in_pages,
    newest_first,
    record,
    record_as_given,
    stats,
    unique,
)

RunList: TypeAlias = Callable[[Storage, Scope, int], Awaitable[list[SkillRun]]]
Pages: TypeAlias = Callable[[Storage, Scope, int, int], Awaitable[list[SkillRun]]]

PAGED: Final[dict[str, Pages]] = {
    "by_skill_paginated": lambda s, scope, offset, limit: s.list_runs_by_skill_paginated(
        scope.skill, offset, limit
    ),
    "filtered": lambda s, scope, offset, limit: s.list_runs_filtered(scope.filter(), offset, limit),
}
LISTS: Final[dict[str, RunList]] = {
    "by_skill": lambda s, scope, limit: s.list_runs_by_skill(scope.skill, limit),
    "by_skill_paginated": lambda s, scope, limit: s.list_runs_by_skill_paginated(scope.skill, 0, limit),
    "by_caller": lambda s, scope, limit: s.list_runs_by_caller(scope.caller, limit),
    "filtered": lambda s, scope, limit: s.list_runs_filtered(scope.filter(), 0, limit),
}
each_list = pytest.mark.parametrize("listed", LISTS.values(), ids=LISTS.keys())
each_paged = pytest.mark.parametrize("paged", PAGED.values(), ids=PAGED.keys())

TIE_IDS: Final = ("a", "B", "b", "10", "9", "~", "\u00e9", "\uffee", "\U0001f600", "\u6f22", " ", "_")
"""In UTF-16 order, in a locale's order or ignoring case these sort otherwise than by code point."""


class ListCases:
    """What the four lists of runs have in common."""

    @each_list
    async def test_a_list_of_nothing_is_empty(self, storage: Storage, scope: Scope, listed: RunList) -> None:
        """A name nobody used has no runs."""
        assert await listed(storage, scope, 10) == []

    @each_list
    async def test_newest_comes_first(self, storage: Storage, scope: Scope, listed: RunList) -> None:
        """By `started_at`, not by arrival."""
        runs = [scope.run(started_at=at(seconds)) for seconds in (3, 1, 2, 5, 4)]
        await record(storage, *runs)
        assert await listed(storage, scope, 10) == newest_first(runs)

    @each_list
    async def test_a_microsecond_decides(self, storage: Storage, scope: Scope, listed: RunList) -> None:
        """Order is exact to the microsecond."""
        runs = [scope.run(started_at=at(0, us=us)) for us in (0, 2, 1)]
        await record(storage, *runs)
        assert ids(await listed(storage, scope, 10)) == ids(newest_first(runs))

    @each_list
    async def test_ties_are_broken_by_id_descending(
        self, storage: Storage, scope: Scope, listed: RunList
    ) -> None:
        """Runs started in the same microsecond come in descending code point order of their ids."""
        prefix = unique()
        runs = [scope.run(id=f"{prefix}{tail}", started_at=at(1)) for tail in TIE_IDS]
        await record(storage, *runs)
        assert ids(await listed(storage, scope, 50)) == sorted(ids(runs), reverse=True)

    @each_list
    async def test_finishing_moves_no_run(self, storage: Storage, scope: Scope, listed: RunList) -> None:
        """The order is that of the starts, whatever finished last."""
        runs = [scope.run() for _ in range(4)]
        await record(storage, *runs)
        for index in (2, 0, 3):
            await storage.finish_run(runs[index].id, stats())
        assert ids(await listed(storage, scope, 10)) == ids(newest_first(runs))

    @each_list
    async def test_lists_show_whole_runs(self, storage: Storage, scope: Scope, listed: RunList) -> None:
        """A run in a list is the run of `get_run`."""
        run = scope.run(inputs={"q": [1, {"x": None}]}, attributes={"model": "m"}, parent_run_id=unique())
        await storage.start_run(run)
        await storage.finish_run(run.id, stats(Status.ERROR, error="e", output="o", tool_calls=2))
        assert await listed(storage, scope, 10) == [await storage.get_run(run.id)]

    @pytest.mark.parametrize(
        ("limit", "expected"),
        [
            (1, 1),
            (2, 2),
            (50, 50),
            (51, 51),
            (500, CROWD),
            (501, LIST_LIMIT_DEFAULT),
            (10**9, LIST_LIMIT_DEFAULT),
            (0, LIST_LIMIT_DEFAULT),
            (-1, LIST_LIMIT_DEFAULT),
        ],
    )
    @each_list
    async def test_limits(
        self, storage: Storage, shared: Shared, listed: RunList, limit: int, expected: int
    ) -> None:
        """A limit <= 0 or > 500 becomes 50; any other is taken as it is."""
        crowd = await shared.crowd(storage)
        runs = await listed(storage, crowd, limit)
        assert len(runs) == expected
        assert runs == (await listed(storage, crowd, 500))[:expected]

    @each_list
    async def test_dry_runs(self, storage: Storage, scope: Scope, listed: RunList) -> None:
        """Only the list by caller shows every status; the others leave dry runs out unless told otherwise."""
        statuses = ["running", "ok", "dry_run", "error", "dry_run"]
        runs = [scope.run(status=status) for status in statuses]
        await record_as_given(storage, runs)
        wanted = runs if listed is LISTS["by_caller"] else [r for r in runs if r.status != "dry_run"]
        assert ids(await listed(storage, scope, 10)) == ids(newest_first(wanted))

    @each_list
    async def test_lists_keep_to_their_name(self, storage: Storage, scope: Scope, listed: RunList) -> None:
        """Runs of another skill, caller and channel are not shown."""
        run = scope.run()
        await record(storage, run, Scope().run())
        assert ids(await listed(storage, scope, 10)) == [run.id]


class PageCases:
    """Pages never overlap and miss nothing."""

    @pytest.mark.parametrize("size", [1, 2, 3, 7, 49, 50, 53, 54, 500])
    @each_paged
    async def test_pages_make_the_whole(
        self, storage: Storage, shared: Shared, paged: Pages, size: int
    ) -> None:
        """Pages of any size, one after the other, are the whole list: each run once, in order."""
        crowd = await shared.crowd(storage)
        whole = await paged(storage, crowd, 0, 500)
        pages = await in_pages(lambda offset, limit: paged(storage, crowd, offset, limit), size)
        assert len(whole) == CROWD
        assert ids(pages) == ids(whole)

    @each_paged
    async def test_pages_of_ties_make_the_whole(self, storage: Storage, scope: Scope, paged: Pages) -> None:
        """Also where all runs started in the same microsecond."""
        runs = [scope.run(started_at=at(1)) for _ in range(7)]
        await record(storage, *runs)
        pages = await in_pages(lambda offset, limit: paged(storage, scope, offset, limit), 2)
        assert ids(pages) == sorted(ids(runs), reverse=True)

    @pytest.mark.parametrize("offset", [CROWD, CROWD + 1, 10**9])
    @each_paged
    async def test_a_page_past_the_end_is_empty(
        self, storage: Storage, shared: Shared, paged: Pages, offset: int
    ) -> None:
        """Not an error."""
        crowd = await shared.crowd(storage)
        assert await paged(storage, crowd, offset, 10) == []

    @pytest.mark.parametrize("limit", [0, -7, 501])
    @each_paged
    async def test_an_offset_holds_where_the_limit_is_replaced(
        self, storage: Storage, shared: Shared, paged: Pages, limit: int
    ) -> None:
        """The limit becomes 50, counted from the offset."""
        crowd = await shared.crowd(storage)
        whole = await paged(storage, crowd, 0, 500)
        assert ids(await paged(storage, crowd, 2, limit)) == ids(whole)[2:52]
        assert ids(await paged(storage, crowd, 50, limit)) == ids(whole)[50:]

    async def test_a_new_run_shifts_pages_by_one(self, storage: Storage, scope: Scope) -> None:
        """Pages are positions in the list as it is now."""
        old, new = scope.run(started_at=at(1)), scope.run(started_at=at(2))
        await storage.start_run(old)
        assert ids(await storage.list_runs_by_skill_paginated(scope.skill, 0, 1)) == [old.id]
        await storage.start_run(new)
        assert ids(await storage.list_runs_by_skill_paginated(scope.skill, 0, 1)) == [new.id]
        assert ids(await storage.list_runs_by_skill_paginated(scope.skill, 1, 1)) == [old.id]


class SkillCases:
    """What is particular to the lists by skill."""

    @pytest.mark.parametrize("include", [False, True])
    async def test_count_matches_the_paginated_list(
        self, storage: Storage, scope: Scope, *, include: bool
    ) -> None:
        """`count_runs_by_skill` and the list of the same flag agree; only the flag decides on dry runs."""
        runs = [scope.run(status=s) for s in ("running", "dry_run", "ok", "dry_run", "lane_busy", "odd")]
        await record_as_given(storage, runs)
        wanted = [run for run in runs if include or run.status != "dry_run"]
        read = await storage.list_runs_by_skill_paginated(scope.skill, 0, 50, include_dry_run=include)
        assert ids(read) == ids(newest_first(wanted))
        assert await storage.count_runs_by_skill(scope.skill, include_dry_run=include) == len(wanted)

    async def test_flags_by_position(self, storage: Storage, scope: Scope) -> None:
        """`include_dry_run` may be given by position and is off by default."""
        await record(storage, scope.run(), status=Status.DRY_RUN)
        assert len(await storage.list_runs_by_skill_paginated(scope.skill, 0, 10, True)) == 1
        assert await storage.list_runs_by_skill_paginated(scope.skill, 0, 10) == []
        assert await storage.count_runs_by_skill(scope.skill, True) == 1
        assert await storage.count_runs_by_skill(scope.skill) == 0

    async def test_count_of_nothing_is_zero(self, storage: Storage, scope: Scope) -> None:
        """A skill that never ran."""
        assert await storage.count_runs_by_skill(scope.skill) == 0
        assert await storage.count_runs_by_skill(scope.skill, True) == 0

    async def test_count_is_of_all_pages(self, storage: Storage, shared: Shared) -> None:
        """The count knows no limit."""
        crowd = await shared.crowd(storage)
        assert await storage.count_runs_by_skill(crowd.skill) == CROWD
        assert await storage.count_runs_filtered(crowd.filter()) == CROWD

    async def test_a_run_that_turns_out_dry_leaves_the_list(self, storage: Storage, scope: Scope) -> None:
        """While it runs nobody knows; once finished as a dry run it is gone from the default list."""
        run = scope.run()
        await storage.start_run(run)
        assert await storage.count_runs_by_skill(scope.skill) == 1
        await storage.finish_run(run.id, stats(Status.DRY_RUN))
        assert await storage.list_runs_by_skill(scope.skill, 10) == []
        assert await storage.count_runs_by_skill(scope.skill) == 0


class LastRunCases:
    """`last_run_by_skills`."""

    async def test_no_skills_no_answers(self, storage: Storage) -> None:
        """An empty list answers an empty mapping."""
        assert await storage.last_run_by_skills([]) == {}
        assert await storage.last_run_by_skills([], include_failed=False) == {}

    async def test_a_skill_that_never_ran_has_no_key(self, storage: Storage, scope: Scope) -> None:
        """Only skills that ran are answered."""
        await record(storage, scope.run(), status=Status.OK)
        answer = await storage.last_run_by_skills([unique(), scope.skill, unique()])
        assert answer == {scope.skill: at(1)}

    async def test_the_newest_start_counts(self, storage: Storage) -> None:
        """Of several skills at once, each its newest `started_at`, whatever arrived or finished last."""
        left, right = Scope(), Scope()
        for scope, seconds in ((left, 5), (right, 2), (left, 9), (right, 7), (left, 1)):
            await record(storage, scope.run(started_at=at(seconds)), status=Status.OK)
        answer = await storage.last_run_by_skills([left.skill, right.skill])
        assert answer == {left.skill: at(9), right.skill: at(7)}

    @pytest.mark.parametrize(
        ("status", "counts", "counts_as_ok"),
        [
            ("running", True, False),
            ("ok", True, True),
            ("error", True, False),
            ("timeout", True, False),
            ("budget_exceeded", True, False),
            ("preempted", True, False),
            ("lane_busy", True, False),
            ("something new", True, False),
            ("dry_run", False, False),
        ],
    )
    async def test_which_statuses_count(
        self, storage: Storage, scope: Scope, status: str, *, counts: bool, counts_as_ok: bool
    ) -> None:
        """`include_failed=True`: every status but `dry_run`. `False`: only `ok`."""
        await record_as_given(storage, [scope.run(status=status)])
        every = await storage.last_run_by_skills([scope.skill], include_failed=True)
        only_ok = await storage.last_run_by_skills([scope.skill], include_failed=False)
        assert (every, only_ok) == (
            {scope.skill: at(1)} if counts else {},
            {scope.skill: at(1)} if counts_as_ok else {},
        )
        assert await storage.last_run_by_skills([scope.skill]) == every

    async def test_failed_runs_hide_no_good_one(self, storage: Storage, scope: Scope) -> None:
        """Newer failed, dry and running runs leave the newest `ok` findable."""
        runs = [scope.run(status=s) for s in ("ok", "ok", "error", "dry_run", "running", "dry_run")]
        await record_as_given(storage, runs)
        assert await storage.last_run_by_skills([scope.skill], False) == {scope.skill: runs[1].started_at}
        assert await storage.last_run_by_skills([scope.skill]) == {scope.skill: runs[4].started_at}

    async def test_a_skill_asked_twice_is_answered_once(self, storage: Storage, scope: Scope) -> None:
        """The answer is a mapping; the same name twice is no error."""
        await record(storage, scope.run())
        assert await storage.last_run_by_skills([scope.skill, scope.skill]) == {scope.skill: at(1)}


class FinishedBeforeCases:
    """`list_finished_runs_before`: the cut-offs are the storage's own answers, so no clock is read."""

    async def test_the_cutoff_is_strict(self, storage: Storage, scope: Scope) -> None:
        """A run finished exactly at the cutoff is not before it."""
        run = scope.run()
        await record(storage, run, status=Status.OK)
        finished_at = (await storage.get_run(run.id)).finished_at
        assert finished_at is not None
        assert run.id not in ids(await storage.list_finished_runs_before(finished_at, EVERYTHING))
        later = await storage.list_finished_runs_before(finished_at + US, EVERYTHING)
        assert await storage.get_run(run.id) in later

    async def test_oldest_finish_comes_first(self, storage: Storage, scope: Scope) -> None:
        """By `finished_at`, then by id, whatever started first."""
        runs = [scope.run(started_at=at(-seconds)) for seconds in range(4)]
        await record(storage, *runs, status=Status.OK)
        found = await storage.list_finished_runs_before(at(10**9), EVERYTHING)
        keys = [(run.finished_at, run.id) for run in found if run.finished_at is not None]
        assert len(keys) == len(found)
        assert keys == sorted(keys)
        assert set(ids(runs)) <= set(ids(found))

    async def test_running_runs_never(self, storage: Storage, scope: Scope) -> None:
        """However old they are."""
        run = scope.run(started_at=at(-3600))
        await storage.start_run(run)
        assert run.id not in ids(await storage.list_finished_runs_before(at(10**9), EVERYTHING))

    @pytest.mark.parametrize("status", ["dry_run", "error", "preempted", "odd"])
    async def test_every_terminal_status(self, storage: Storage, scope: Scope, status: str) -> None:
        """Dry runs too."""
        run = scope.run()
        await record(storage, run, status=status)
        assert run.id in ids(await storage.list_finished_runs_before(at(10**9), EVERYTHING))

    @pytest.mark.parametrize("limit", [0, -1, -500])
    async def test_no_limit_no_rows(self, storage: Storage, scope: Scope, limit: int) -> None:
        """`limit` <= 0 gives no rows, not fifty."""
        await record(storage, scope.run(), status=Status.OK)
        assert await storage.list_finished_runs_before(at(10**9), limit) == []

    @pytest.mark.parametrize("limit", [1, 2, 3])
    async def test_the_limit_keeps_the_oldest(self, storage: Storage, scope: Scope, limit: int) -> None:
        """The first rows of the whole list."""
        await record(storage, *(scope.run() for _ in range(3)), status=Status.OK)
        whole = await storage.list_finished_runs_before(at(10**9), EVERYTHING)
        assert await storage.list_finished_runs_before(at(10**9), limit) == whole[:limit]

    async def test_a_cutoff_before_everything(self, storage: Storage, scope: Scope) -> None:
        """Nothing finished before its fixed start."""
        await record(storage, scope.run(), status=Status.OK)
        assert await storage.list_finished_runs_before(at(-(10**8)), 10) == []

    async def test_a_cutoff_in_another_zone(self, storage: Storage, scope: Scope) -> None:
        """The instant counts, not the spelling."""
        run = scope.run()
        await record(storage, run, status=Status.OK)
        finished_at = (await storage.get_run(run.id)).finished_at
        assert finished_at is not None
        zone = timezone(timedelta(hours=-11))
        exact, after = finished_at.astimezone(zone), (finished_at + US).astimezone(zone)
        assert run.id not in ids(await storage.list_finished_runs_before(exact, EVERYTHING))
        assert run.id in ids(await storage.list_finished_runs_before(after, EVERYTHING))
