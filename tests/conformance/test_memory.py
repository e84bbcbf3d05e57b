"""The conformance suites on MemoryStorage, both ways: one storage for all cases, and a fresh one for each."""

import pytest
import pytest_asyncio

from skillaudit.contract.memory import MemoryStorage
from skillaudit.contract.testing.audit import AuditReaderConformance
from skillaudit.contract.testing.storage import StorageConformance


@pytest.mark.asyncio(loop_scope="class")
class TestOneStorageForAll(StorageConformance, AuditReaderConformance):
    """All cases share one storage and one event loop."""

    @pytest_asyncio.fixture(scope="class", loop_scope="class")
    @classmethod
    async def storage(cls):
        return MemoryStorage()


class TestAStorageForEach(StorageConformance, AuditReaderConformance):
    """Each case has its own storage and its own event loop."""

    @pytest_asyncio.fixture
    async def storage(self):
        return MemoryStorage()
