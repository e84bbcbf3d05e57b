"""A database of the real schema, and servers in front of a MemoryStorage."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import httpx
import pytest
import pytest_asyncio
from tests.query.composed import DatabaseStorage

from skillaudit.consumer.database import Database, open_database
from skillaudit.contract.memory import MemoryStorage
from skillaudit.contract.settings import Settings
from skillaudit.query.server import create_app


@pytest.fixture
def database(tmp_path) -> Iterator[Database]:
    with open_database(tmp_path / "audit.duckdb") as database:
        yield database


@pytest_asyncio.fixture
async def storage(database) -> AsyncIterator[DatabaseStorage]:
    async with DatabaseStorage(database) as storage:
        yield storage


@dataclass
class Site:
    """A server's app in this process: what is behind it, and a plain client in front of it."""

    memory: MemoryStorage
    http: httpx.AsyncClient


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    memory = MemoryStorage()
    app = create_app(memory, purge=memory.purge_older_than, settings=Settings(session_wait_ms_max=100))
    async with asgi_client(app) as http:
        yield Site(memory, http)


def asgi_client(app, base_url: str = "http://localhost:8765") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=base_url)
