"""A real broker that dies, freezes and comes back while events are forwarded to it."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path

import pytest
from tests.forwarder.broker_support import create_topic, read_topic
from tests.forwarder.support import HandwrittenSource, until

from skillaudit.contract.settings import Settings
from skillaudit.producer.forwarder import Forwarder
from skillaudit.producer.forwarder_core import ForwarderLimits
from skillaudit.producer.kafka import KafkaPublisher

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]

LINES_MAX = 30
"""Of the log, over two outages; attempts are many more."""


@pytest.fixture
def own_broker(broker_support):
    container = broker_support.KafkaContainer().start()
    yield container
    container.stop()


async def test_a_broker_that_dies_freezes_and_comes_back(
    tmp_path: Path, own_broker, caplog: pytest.LogCaptureFixture
):
    """Appending goes on meanwhile; afterwards everything is there, in order, and the log stayed short."""
    settings = Settings(
        data=tmp_path,
        kafka_bootstrap_servers=own_broker.bootstrap,
        kafka_topic="events",
        kafka_request_timeout_ms=2_000,
    )
    await create_topic(own_broker.bootstrap, "events")
    source = HandwrittenSource(settings.outbox_dir, alive=True)
    runs = [source.run(f"run-{n}") for n in range(10)]
    stop = asyncio.Event()
    limits = ForwarderLimits(batch_bytes_max=8_192, backoff_ms_max=1_000)
    forwarder = Forwarder(settings.outbox_dir, KafkaPublisher(settings), limits=limits)
    caplog.set_level(logging.WARNING)
    task = asyncio.ensure_future(forwarder.run(stop))

    async def append(count: int) -> None:
        for _ in range(count):
            for run in runs:
                run.log(size=100)
            await asyncio.sleep(0)

    await append(50)
    await until(lambda: forwarder.report.acknowledged > 100, 30)
    await append(50)
    await asyncio.to_thread(own_broker.kill)
    await append(50)
    await until(lambda: forwarder.outage != "", 30)
    await asyncio.to_thread(own_broker.resume)
    await until(lambda: all_acknowledged(source), 60)
    assert forwarder.outage == ""
    await asyncio.to_thread(own_broker.pause)
    await append(50)
    await until(lambda: forwarder.outage != "", 30)
    await asyncio.to_thread(own_broker.unpause)
    await until(lambda: all_acknowledged(source), 60)
    stop.set()
    await asyncio.wait_for(task, 20)
    stored = await read_topic(own_broker.bootstrap, "events")
    for run in runs:
        values = [v for _, key, v in stored if key.decode() == run.run_id]
        assert list(dict.fromkeys(values)) == run.records
    ours = [
        r.getMessage() for r in caplog.records if r.thread == threading.get_ident()
    ]  # others watch the broker
    assert len(ours) < LINES_MAX, ours
    caplog.clear()
    source.die()


def all_acknowledged(source: HandwrittenSource) -> bool:
    ack = source.acknowledgement()
    return ack is not None and ack.records == source.lines
