"""The conformance suites on the database: written by the materializer, read by `DuckDBReader`."""

import pytest
import pytest_asyncio
from tests.query.composed import DatabaseStorage

from skillaudit.consumer.database import open_database
from skillaudit.contract.testing.cases_purge import PurgeCases
from skillaudit.contract.testing.storage import StorageConformance


class ReadingConformance(*(base for base in StorageConformance.__bases__ if base is not PurgeCases)):
    """All of the storage's cases but purging, which is not the reader's."""

    scope = StorageConformance.scope
    shared = StorageConformance.__dict__["shared"]


@pytest.mark.asyncio(loop_scope="class")
class TestDatabase(ReadingConformance):
    """Reads of the views."""

    @pytest_asyncio.fixture(scope="class", loop_scope="class")
    @classmethod
    async def storage(cls, tmp_path_factory):
        with open_database(tmp_path_factory.mktemp("db") / "audit.duckdb") as database:
            async with DatabaseStorage(database) as storage:
                yield storage
