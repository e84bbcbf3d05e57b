"""The Writer's suite through the pipeline: what a Sink recorded reads the same, whatever lies between it and the reader."""

import pytest
import pytest_asyncio
from tests.conformance import compositions

from skillaudit.contract.testing.writer import WriterConformance


@pytest.mark.asyncio(loop_scope="class")
class TestEmbedded(WriterConformance):
    """Through the outbox."""

    @pytest_asyncio.fixture(scope="class", loop_scope="class")
    @classmethod
    async def recorder(cls, tmp_path_factory):
        settings = compositions.settings_at(tmp_path_factory.mktemp("embedded"))
        async with compositions.recording(settings, serve=False) as recorder:
            yield recorder


@pytest.mark.asyncio(loop_scope="class")
class TestOverHTTP(WriterConformance):
    """Through the outbox, read over HTTP."""

    @pytest_asyncio.fixture(scope="class", loop_scope="class")
    @classmethod
    async def recorder(cls, tmp_path_factory):
        settings = compositions.settings_at(tmp_path_factory.mktemp("http"))
        async with compositions.recording(settings, serve=True) as recorder:
            yield recorder


@pytest.mark.broker
@pytest.mark.asyncio(loop_scope="class")
class TestThroughKafka(WriterConformance):
    """Through the outbox, a forwarder thread and a real broker."""

    @pytest_asyncio.fixture(scope="class", loop_scope="class")
    @classmethod
    async def recorder(cls, tmp_path_factory, kafka_bootstrap):
        settings = await compositions.kafka_settings(tmp_path_factory.mktemp("kafka"), kafka_bootstrap)
        async with compositions.recording(settings, serve=False) as recorder:
            yield recorder


@pytest.mark.broker
@pytest.mark.asyncio(loop_scope="class")
class TestThroughKafkaOverHTTP(WriterConformance):
    """The whole way: outbox, forwarder, broker, consumer, HTTP."""

    @pytest_asyncio.fixture(scope="class", loop_scope="class")
    @classmethod
    async def recorder(cls, tmp_path_factory, kafka_bootstrap):
        settings = await compositions.kafka_settings(tmp_path_factory.mktemp("whole"), kafka_bootstrap)
        async with compositions.recording(settings, serve=True) as recorder:
            yield recorder
