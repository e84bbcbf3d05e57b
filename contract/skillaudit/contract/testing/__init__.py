"""Tests that come with the product: for those who write a storage, and for those who test agents.

**A storage of your own.** Subclass the suite and supply the fixture `storage`, an initialized `Storage` that reads its
own writes; nothing else. All cases go through the seventeen methods.

One storage for all cases, for one that is slow to start: cases and fixture share one event loop, by pytest-asyncio::

    import pytest, pytest_asyncio
    from skillaudit.contract.testing.storage import StorageConformance

    pytestmark = pytest.mark.asyncio(loop_scope="module")

    @pytest_asyncio.fixture(scope="module", loop_scope="module")
    async def storage():
        async with MyStorage(...) as storage:
            await storage.initialize()
            yield storage

    class TestMyStorage(StorageConformance):
        pass

A fresh storage for each case (`loop_scope="function"` is the default)::

    @pytest.mark.asyncio
    class TestMyStorage(StorageConformance):
        @pytest_asyncio.fixture
        async def storage(self):
            ...

The scopes `class` (a class's own fixture then is a `@classmethod`) and `session` work as `module` does. Cases use fresh
names and fixed times, so other runs in the storage don't disturb them, with one exception: **the suite purges
everything that started before the year 2000**. It expects that nobody else writes meanwhile. The parts are the classes of
the `cases_*` modules, for a composition that has some of the seventeen methods only; they need the fixtures `scope` and
`shared` of `StorageConformance` as well.

`testing.audit.AuditReaderConformance` does the same for the other half of this project's readers, `testing.writer`
for a Sink and whatever reads behind it, `testing.stateful.StorageStateMachine` drives a storage at random beside the
plain model (it needs Hypothesis).

**An agent of your own.** `recorded(Sink)` gives it a Sink that records into memory and shows what was recorded, without
an event loop, a file or a thread::

    from skillaudit.contract.testing import recorded
    from skillaudit.producer import Sink

    def test_my_agent_looks_before_it_answers():
        with recorded(Sink) as audit:
            my_agent("why?", sink=audit.sink)
        [run] = audit.runs
        assert run.status == "ok"
        assert [event.event_type for event in audit.events(run)] == ["step", "tool_call", "tool_result", "step"]
"""

import pkgutil
import sys

# So that a failed case of the suites shows its values. Who has no pytest needs none.
if "pytest" in sys.modules:
    import pytest

    pytest.register_assert_rewrite(
        *(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__))
    )

from skillaudit.contract.memory import MemoryStorage
from skillaudit.contract.testing.recording import Recording, recorded

__all__ = ["MemoryStorage", "Recording", "recorded"]
