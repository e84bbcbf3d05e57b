"""The conformance suites through a real server: what an `HttpReader` answers is what the storage behind it answers."""

import pytest
import pytest_asyncio
from tests.query.composed import MemoryBehindHttp

from skillaudit.contract.memory import MemoryStorage
from skillaudit.contract.settings import Settings
from skillaudit.contract.testing.audit import AuditReaderConformance
from skillaudit.contract.testing.storage import StorageConformance
from skillaudit.query.server import HttpServer, create_app

TOKEN = "word-of-the-house"


@pytest.mark.asyncio(loop_scope="class")
class TestMemoryBehindHttp(StorageConformance, AuditReaderConformance):
    """Reads, purges and states over HTTP."""

    @pytest_asyncio.fixture(scope="class", loop_scope="class")
    @classmethod
    async def storage(cls):
        memory = MemoryStorage()
        settings = Settings(http_listen="127.0.0.1:0")
        app = create_app(memory, purge=memory.purge_older_than, token=TOKEN, settings=settings)
        async with (
            HttpServer(app, settings) as server,
            MemoryBehindHttp(server.url, memory, TOKEN) as storage,
        ):
            yield storage
