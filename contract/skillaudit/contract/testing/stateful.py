"""`StorageStateMachine`: Hypothesis drives a storage at random beside the plain model and compares what readers say.

::

    from skillaudit.contract.testing.stateful import StorageStateMachine

    class MyMachine(StorageStateMachine):
        async def open_storage(self):
            return await MyStorage.open(...)

        async def close_storage(self, storage):
            await storage.aclose()

    TestMyStorage = MyMachine.TestCase

One storage may serve all examples: return the same one from `open_storage`, close it elsewhere, and override `run`, so
that all of them use the event loop it lives in. Names are fresh in each example; runs start between 1990 and 2000, a
time that each example purges first. Needs the package `hypothesis`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, rule

from skillaudit.contract.errors import RunNotFoundError
from skillaudit.contract.memory import MemoryStorage
from skillaudit.contract.records import EventType, RunFilter, RunStats, SkillRun, SkillRunLog, Status
from skillaudit.contract.storage import Storage, StorageReader
from skillaudit.contract.testing.support import EVERYTHING, PURGE_BASE, PURGE_END, unique

_T = TypeVar("_T")

NAMES: Final = ("a", "b", "\u2603", "%")
RUNS_MAX: Final = 12

moments = st.integers(0, 6).map(lambda us: PURGE_BASE + timedelta(days=1, microseconds=us))
names = st.sampled_from(NAMES)
numbers = st.integers(0, 5)
statuses = st.sampled_from([*(str(s) for s in Status if s is not Status.RUNNING), "odd"])
texts = st.text(st.characters(codec="utf-8"), max_size=8)
objects = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=4),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | texts,
        lambda inner: (
            st.lists(inner, max_size=2) | st.dictionaries(st.text("xyz", max_size=2), inner, max_size=2)
        ),
        max_leaves=4,
    ),
    max_size=3,
)
ends = st.builds(
    RunStats,
    status=statuses,
    output=texts,
    error=texts,
    tool_calls=st.integers(0, 2**63 - 1),
    runtime_seconds=st.integers(0, 10**9).map(lambda us: us / 1_000_000),
    input_tokens=st.integers(0, 2**63 - 1),
    output_tokens=st.integers(0, 2**63 - 1),
    thinking_tokens=st.integers(0, 2**63 - 1),
)

filters = st.fixed_dictionaries(
    {"skill_id": names},
    optional={
        "caller_id": names,
        "channel_id": names,
        "status": statuses | st.just(str(Status.RUNNING)),
        "top_level_only": st.booleans(),
        "include_dry_run": st.booleans(),
        "since": moments,
        "until": moments,
    },
)


class StorageStateMachine(RuleBasedStateMachine):
    """Starts, logs, finishes, repeats of all of them, in any order, before and after their start, and purges."""

    run_ids: Bundle[str] = Bundle("run_ids")

    async def open_storage(self) -> Storage:
        """An initialized storage that reads its own writes."""
        raise NotImplementedError

    async def close_storage(self, storage: Storage) -> None:
        """Release it, at the end of each example."""

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Await something in the storage's event loop: by default one for each example."""
        return self._runner.run(work)

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self.storage = self.run(self.open_storage())
        self.model = MemoryStorage()
        self.prefix = unique("s")
        self.run(self.storage.purge_older_than(PURGE_END))

    def teardown(self) -> None:
        """Compare everything once more, then release."""
        try:
            self.compare_lists()
            self.compare_runs()
        finally:
            self.run(self.close_storage(self.storage))
            self._runner.close()

    # What happens.

    @initialize(target=run_ids, number=st.integers(2, RUNS_MAX))
    def some_run_ids(self, number: int) -> Any:
        """The ids of this example; which of them become runs is for the rules to find out."""
        return multiple(*(f"{self.prefix}/{n}" for n in range(number)))

    @rule(run_id=run_ids, parent=run_ids | st.just(""), skill=names, caller=names, channel=names, at=moments,
          inputs=objects, attributes=objects)  # fmt: skip
    def start(
        self,
        run_id: str,
        parent: str,
        skill: str,
        caller: str,
        channel: str,
        at: datetime,
        inputs: dict[str, Any],
        attributes: dict[str, Any],
    ) -> None:
        """Start a run, or start it again."""
        run = SkillRun(
            id=run_id,
            skill_id=self._own(skill),
            caller_id=self._own(caller),
            channel_id=self._own(channel),
            parent_run_id=parent,
            started_at=at,
            inputs=inputs,
            attributes=attributes,
        )
        for storage in (self.storage, self.model):
            self.run(storage.start_run(run))

    @rule(
        run_id=run_ids, sequence=numbers, event_type=st.sampled_from(EventType), payload=objects, at=moments
    )
    def log(self, run_id: str, sequence: int, event_type: str, payload: dict[str, Any], at: datetime) -> None:
        """An event, of a run or an orphan, new or repeated."""
        event = SkillRunLog(
            run_id=run_id, sequence=sequence, event_type=event_type, payload=payload, created_at=at
        )
        for storage in (self.storage, self.model):
            self.run(storage.append_log(event))

    @rule(run_id=run_ids, end=ends)
    def finish(self, run_id: str, end: RunStats) -> None:
        """A finish, the first or another."""
        for storage in (self.storage, self.model):
            self.run(storage.finish_run(run_id, end))

    @rule(at=moments)
    def purge(self, at: datetime) -> None:
        """Delete what is old; both delete as many."""
        assert self.run(self.storage.purge_older_than(at)) == self.run(self.model.purge_older_than(at))

    @rule()
    def initialize_again(self) -> None:
        """Safe at any time."""
        self.run(self.storage.initialize())

    # What readers say.

    @rule(run_id=run_ids)
    def read_one(self, run_id: str) -> None:
        """One run in all its views."""
        self._compare_one(run_id)

    @rule(members=filters, offset=st.integers(0, 3), limit=st.integers(-1, 5))
    def read_filtered(self, members: dict[str, Any], offset: int, limit: int) -> None:
        """A page and the count of a filter on one of this example's skills."""
        own: dict[str, Any] = {
            name: self._own(value) for name, value in members.items() if name.endswith("_id")
        }
        wanted = RunFilter(**(members | own))
        theirs = self.run(self.storage.list_runs_filtered(wanted, offset, limit))
        assert _seen(theirs) == _seen(self.run(self.model.list_runs_filtered(wanted, offset, limit)))
        theirs_count = self.run(self.storage.count_runs_filtered(wanted))
        assert theirs_count == self.run(self.model.count_runs_filtered(wanted))

    @rule()
    def compare_lists(self) -> None:
        """The lists by name."""
        for name in map(self._own, NAMES):
            for ask in _LISTS:
                assert _seen(self.run(ask(self.storage, name))) == _seen(self.run(ask(self.model, name)))
        skills = [self._own(name) for name in NAMES]
        for include in (True, False):
            theirs = self.run(self.storage.last_run_by_skills(skills, include))
            assert theirs == self.run(self.model.last_run_by_skills(skills, include))

    def compare_runs(self) -> None:
        """All of this example's runs, and which of them are finished."""
        own = [f"{self.prefix}/{n}" for n in range(RUNS_MAX)]
        for run_id in own:
            self._compare_one(run_id)
        far = PURGE_END + timedelta(days=365 * 100)
        finished = [self._finished(storage, far) for storage in (self.storage, self.model)]
        assert finished[0] == finished[1]

    def _finished(self, storage: StorageReader, cutoff: datetime) -> set[str]:
        found = self.run(storage.list_finished_runs_before(cutoff, EVERYTHING))
        return {run.id for run in found if run.id.startswith(self.prefix)}

    def _compare_one(self, run_id: str) -> None:
        for view in (_get, _chain, _children, _logs):
            assert self.run(view(self.storage, run_id)) == self.run(view(self.model, run_id)), view.__name__

    def _own(self, name: str) -> str:
        return f"{self.prefix}-{name}"


_LISTS: Final[tuple[Callable[[StorageReader, str], Coroutine[Any, Any, list[SkillRun]]], ...]] = (
    lambda storage, name: storage.list_runs_by_skill(name, 0),
    lambda storage, name: storage.list_runs_by_skill_paginated(name, 1, 3, True),
    lambda storage, name: storage.list_runs_by_caller(name, 500),
)


def _seen(runs: list[SkillRun]) -> list[SkillRun]:
    """What two storages agree on: when a run was finished is each one's own clock."""
    return [replace(run, finished_at=run.finished_at and PURGE_END) for run in runs]


async def _get(storage: StorageReader, run_id: str) -> list[SkillRun]:
    try:
        return _seen([await storage.get_run(run_id)])
    except RunNotFoundError:
        return []


async def _chain(storage: StorageReader, run_id: str) -> list[SkillRun]:
    try:
        return _seen(await storage.walk_parent_chain(run_id))
    except RunNotFoundError:
        return []


async def _children(storage: StorageReader, run_id: str) -> list[SkillRun]:
    return _seen(await storage.list_children_by_parent(run_id))


async def _logs(storage: StorageReader, run_id: str) -> list[tuple[SkillRunLog, bytes]]:
    return [(event, event.payload_json) for event in await storage.list_logs_by_run(run_id)]
