"""One suite, every composition of the pipeline: each long-lived, reading its own writes, with no hooks and no sleeps."""

import pytest
import pytest_asyncio
from tests.conformance import compositions

from skillaudit.contract.testing.audit import AuditReaderConformance
from skillaudit.contract.testing.storage import StorageConformance


class Conformance(StorageConformance, AuditReaderConformance):
    """What every composition passes."""


@pytest.mark.asyncio(loop_scope="class")
class TestDuckDBDirectly(Conformance):
    """Each call a transaction on the file."""

    @pytest_asyncio.fixture(scope="class", loop_scope="class")
    @classmethod
    async def storage(cls, tmp_path_factory):
        path = tmp_path_factory.mktemp("direct") / "audit.duckdb"
        async with compositions.opened(f"duckdb://{path}") as storage:
            yield storage


@pytest.mark.asyncio(loop_scope="class")
class TestEmbedded(Conformance):
    """Outbox, consumer and readers in one process."""

    @pytest_asyncio.fixture(scope="class", loop_scope="class")
    @classmethod
    async def storage(cls, tmp_path_factory):
        settings = compositions.settings_at(tmp_path_factory.mktemp("embedded"))
        async with compositions.opened(settings) as storage:
            yield storage


@pytest.mark.asyncio(loop_scope="class")
class TestOverHTTP(Conformance):
    """Writes into the outbox; reads and purges over HTTP."""

    @pytest_asyncio.fixture(scope="class", loop_scope="class")
    @classmethod
    async def storage(cls, tmp_path_factory):
        settings = compositions.settings_at(tmp_path_factory.mktemp("http"))
        async with compositions.over_http(settings) as storage:
            yield storage


@pytest.mark.broker
@pytest.mark.asyncio(loop_scope="class")
class TestThroughKafka(Conformance):
    """Outbox, forwarder, a real broker, consumer and readers."""

    @pytest_asyncio.fixture(scope="class", loop_scope="class")
    @classmethod
    async def storage(cls, tmp_path_factory, kafka_bootstrap):
        settings = await compositions.kafka_settings(tmp_path_factory.mktemp("kafka"), kafka_bootstrap)
        async with compositions.opened(settings) as storage:
            yield storage
