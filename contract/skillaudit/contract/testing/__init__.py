"""Tests that come with the product: for those who write a storage, and for those who test agents.

**A storage of your own.** Subclass the suite and supply the fixture `storage`, an initialized `Storage` that reads its
own writes; nothing else. All cases go through the seventeen methods.

One storage for all cases, for one that is slow to start (it needs pytest-asyncio, one event loop for the class)::

    import pytest, pytest_asyncio
    from skillaudit.contract.testing.storage import StorageConformance

    @pytest.mark.asyncio(loop_scope="class")
    class TestMyStorage(StorageConformance):
        @pytest_asyncio.fixture(scope="class", loop_scope="class")
        async def storage(self):
            async with MyStorage(...) as storage:
                await storage.initialize()
                yield storage

A fresh storage for each case, with `asyncio_mode = "auto"` (else mark the class with `pytest.mark.asyncio`)::

    class TestMyStorage(StorageConformance):
        @pytest_asyncio.fixture
        async def storage(self):
            ...

The scopes `module` and `session` work as `class` does. Cases use fresh names and fixed times, so other runs in the
storage don't disturb them, with one exception: **the suite purges everything that started before the year 2000**, and
expects that nobody else writes meanwhile. Leave out the base classes of `StorageConformance` that don't apply (a
read-only composition, say) by inheriting from the others.

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

if (
    "pytest" in sys.modules
):  # so that a failed case of the suites shows its values; who has no pytest needs none
    import pytest

    pytest.register_assert_rewrite(
        *(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__))
    )

from skillaudit.contract.memory import MemoryStorage
from skillaudit.contract.testing.recording import Recording, recorded

__all__ = ["MemoryStorage", "Recording", "recorded"]
