"""The host forwarder's metrics: what waits is told from the files, and figures never stand in forwarding's way."""

import asyncio
import logging
import re
import socket
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest
from tests.forwarder.support import AT_US, FAST, HandwrittenSource, TopicInMemory, TopicThatHoldsBack, until

from skillaudit.contract.clock import ManualClock
from skillaudit.contract.settings import Settings
from skillaudit.producer.forwarder import Forwarder
from skillaudit.producer.forwarder_metrics import ForwarderCollector, serve_metrics


def scrape(url: str) -> dict[str, float]:
    with urllib.request.urlopen(url, timeout=10) as reply:
        text = reply.read().decode()
    return {name: float(value) for name, value in re.findall(r"(?m)^([^\s#]+) (\S+)$", text)}


async def test_a_stuck_forwarder_shows(tmp_path: Path):
    """A broker that takes nothing: the backlog and the age of its oldest record are the files', not the forwarder's belief."""
    source = HandwrittenSource(tmp_path / "outbox")
    source.run("run-1").log()
    topic, stop = TopicThatHoldsBack(1, held=[0]), asyncio.Event()
    forwarder = Forwarder(tmp_path / "outbox", topic, limits=FAST)
    settings = Settings(data=tmp_path, metrics_listen="127.0.0.1:0")
    with serve_metrics(forwarder, settings) as url:
        running = asyncio.ensure_future(forwarder.run(stop))
        await until(lambda: topic.waiting)
        figures = await asyncio.to_thread(scrape, url)
        assert figures["skillaudit_outbox_backlog_records"] == 2
        assert figures["skillaudit_outbox_backlog_bytes"] > 0
        assert figures['skillaudit_outbox_sources{state="dead"}'] == 1
        assert figures["skillaudit_forwarder_acknowledged_records_total"] == 0
        topic.held[0].set()
        await until(lambda: not source.dir.exists())
        stop.set()
        await running
        figures = await asyncio.to_thread(scrape, url)
        assert figures["skillaudit_forwarder_acknowledged_records_total"] >= 2


def test_the_age_is_that_of_the_oldest_record(tmp_path: Path):
    """By this machine's clock, from the time the event says of itself."""
    HandwrittenSource(tmp_path / "outbox").run("run-1").log()
    forwarder = Forwarder(tmp_path / "outbox", TopicInMemory())
    clock = ManualClock(AT_US + 90_000_000)
    samples = {
        sample.name: sample.value
        for family in ForwarderCollector(forwarder, clock).collect()
        for sample in family.samples
        if not sample.labels
    }
    assert samples["skillaudit_outbox_oldest_unforwarded_seconds"] == 90


def test_a_taken_port_does_not_stop_forwarding(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """It is said, with the remedy, and the block is entered all the same."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        settings = Settings(data=tmp_path, metrics_listen=f"127.0.0.1:{taken.getsockname()[1]}")
        with (
            caplog.at_level(logging.WARNING),
            serve_metrics(Forwarder(tmp_path, TopicInMemory()), settings) as url,
        ):
            assert url == ""
    assert "set metrics_listen" in caplog.text


def test_nowhere_where_none_is_wanted(tmp_path: Path):
    """An empty address: no thread, no port."""
    settings = Settings(data=tmp_path, metrics_listen="")
    with serve_metrics(Forwarder(tmp_path, TopicInMemory()), settings) as url:
        assert url == ""
