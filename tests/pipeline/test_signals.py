"""SIGTERM ends what runs for ever: in order, within seconds, with exit code 0; whoever comes next goes on from there."""

import contextlib
import signal

import pytest
from tests.conformance.compositions import kafka_settings, settings_at
from tests.faults.oracle import troubles
from tests.pipeline.account import assert_stored
from tests.pipeline.support import Command, ConsumeCommand, Fleet, Process, drained
from tests.support.waiting import until

from skillaudit.contract import RunFilter
from skillaudit.contract.outbox.locks import is_locked
from skillaudit.contract.owner import read_owner
from skillaudit.producer.forwarder_host import HOST_LOCK_NAME
from skillaudit.query.client import HttpReader
from skillaudit.storage.hosting import host_consumer

SECONDS = 10
WAIT_S = 60


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_consume(tmp_path, number):
    """While a fleet records: the batch under way is finished, the file let go, the announcement withdrawn."""
    settings = settings_at(tmp_path / "data", batch_records_max=100)
    async with Fleet(settings, tmp_path, processes=2, runs=100) as fleet:
        async with ConsumeCommand(settings, logs=tmp_path) as consumer:
            async with HttpReader(consumer.url) as reader:
                await until(reader.positions, WAIT_S)
            assert await consumer.terminate(number) < SECONDS
        assert read_owner(settings.database) is None
        assert "Traceback" not in consumer.said()
        await fleet.join()
    async with host_consumer(settings, serve=False) as hosted:
        await hosted.reader.wait_for(fleet.positions(), WAIT_S)
        await assert_stored(hosted.reader, fleet.noted())
        assert troubles(hosted.service.cursor()) == {}


@pytest.mark.broker
async def test_consume_from_kafka(tmp_path, kafka_bootstrap):
    """Also while it only waits."""
    settings = await kafka_settings(tmp_path / "data", kafka_bootstrap)
    async with ConsumeCommand(settings, logs=tmp_path) as consumer:
        assert await consumer.terminate() < SECONDS
    assert "Traceback" not in consumer.said()


async def test_consume_without_a_broker(tmp_path):
    """Nobody answers at the start: what is stored is served, the words name the address, and it ends when it is told to."""
    settings = settings_at(
        tmp_path / "data", kafka_bootstrap_servers="127.0.0.1:9", kafka_request_timeout_ms=1_000
    )
    async with ConsumeCommand(settings, logs=tmp_path) as consumer:
        async with HttpReader(consumer.url) as reader:
            assert await reader.count_runs_filtered(RunFilter()) == 0
        await until(lambda: "127.0.0.1:9" in consumer.said(), WAIT_S)
        assert await consumer.terminate() < SECONDS
    assert "Traceback" not in consumer.said()


@pytest.mark.broker
async def test_forward(tmp_path, kafka_bootstrap):
    """While agents record into the directory: what is acknowledged is saved, the next forwarder goes on behind it."""
    settings = await kafka_settings(tmp_path / "data", kafka_bootstrap, forwarder="host")
    lock = settings.outbox_dir / HOST_LOCK_NAME

    @contextlib.asynccontextmanager
    async def forwarding():
        async with Command(settings, "forward", logs=tmp_path) as forwarder:
            await until(lambda: forwarder_has(lock, forwarder), WAIT_S)
            yield forwarder
            assert await forwarder.terminate() < SECONDS
        assert "Traceback" not in forwarder.said()

    async with (
        host_consumer(settings, serve=False) as hosted,
        Fleet(settings, tmp_path, processes=2, runs=100) as fleet,
    ):
        async with forwarding():
            await until(hosted.reader.positions, WAIT_S)
        async with forwarding():
            await fleet.join()
            await drained(settings)
        await hosted.reader.wait_for(fleet.positions(), WAIT_S)
        await assert_stored(hosted.reader, fleet.noted())
        assert troubles(hosted.service.cursor()) == {}


def forwarder_has(lock, forwarder: Process) -> bool:
    assert forwarder.running, forwarder.said()
    return lock.exists() and is_locked(lock)
