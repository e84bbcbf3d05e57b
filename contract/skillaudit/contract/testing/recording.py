"""A recording of what code under test told its Sink. See the package's docstring for its use."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from skillaudit.contract.memory import MemoryStorage
from skillaudit.contract.records import Completeness, RunFilter, RunState, SkillRun, SkillRunLog
from skillaudit.contract.testing.support import PAGE_MAX, in_pages


class Closable(Protocol):
    """What a Sink is here: it can be closed."""

    def close(self, timeout_s: float) -> object:
        """End it."""
        ...


S = TypeVar("S", bound=Closable)
_T = TypeVar("_T")
_CLOSE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Recording(Generic[S]):
    """What was recorded so far; every member reads anew. Plain functions, also inside a running event loop."""

    sink: S
    """Hand this to the code under test."""
    storage: MemoryStorage
    """Everything else that can be asked."""

    @property
    def runs(self) -> list[SkillRun]:
        """All runs, oldest first, dry runs included."""
        wanted = RunFilter(include_dry_run=True)
        pages = in_pages(
            lambda offset, limit: self.storage.list_runs_filtered(wanted, offset, limit), PAGE_MAX
        )
        return _now(pages)[::-1]

    def events(self, run: SkillRun | str) -> list[SkillRunLog]:
        """The events of a run, or of a run id, in order."""
        return _now(self.storage.list_logs_by_run(_id(run)))

    def children(self, run: SkillRun | str) -> list[SkillRun]:
        """The runs that a run started, oldest first."""
        return _now(self.storage.list_children_by_parent(_id(run)))

    def state(self, run: SkillRun | str) -> RunState:
        """What the record itself says about a run."""
        return _now(self.storage.get_run_state(_id(run)))

    def assert_complete(self) -> None:
        """Every run was finished and every event of it is there; names those of which that isn't true."""
        others = {
            run.id: str(self.state(run).completeness)
            for run in self.runs
            if self.state(run).completeness is not Completeness.COMPLETE
        }
        assert not others, f"not complete: {others}"


@contextmanager
def recorded(sink_of: Callable[[MemoryStorage], S]) -> Generator[Recording[S]]:
    """Record into memory: `recorded(Sink)`, or any function that makes a Sink of a MemoryStorage.

    The Sink is closed at the end of the block: a run that is unfinished then reads `abandoned`. The recording can be read
    inside the block and after it.
    """
    storage = MemoryStorage()
    sink = sink_of(storage)
    try:
        yield Recording(sink, storage)
    finally:
        sink.close(timeout_s=_CLOSE_S)


def _id(run: SkillRun | str) -> str:
    return run if isinstance(run, str) else run.id


def _now(work: Coroutine[Any, Any, _T]) -> _T:
    """The result of a coroutine of `MemoryStorage`, which never waits: so this works inside a running loop too."""
    try:
        work.send(None)
    except StopIteration as done:
        result: _T = done.value
        return result
    finally:
        work.close()
    raise RuntimeError("MemoryStorage waited")
