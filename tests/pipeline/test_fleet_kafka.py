"""Fleets through a real broker with six partitions: every run complete, in order, once."""

import asyncio
import contextlib
from dataclasses import replace

import pytest
from tests.conformance.compositions import kafka_settings
from tests.faults.oracle import assert_kept, troubles
from tests.pipeline.account import assert_stored, content
from tests.pipeline.support import Fleet, drained
from tests.support.waiting import until

from skillaudit.contract import Liveness
from skillaudit.producer.forwarder_host import run_host_forwarder
from skillaudit.storage.hosting import host_consumer

pytestmark = pytest.mark.broker

WAIT_S = 60


async def test_eight_processes(tmp_path, kafka_bootstrap):
    """200 interleaved runs each, forwarded from their own processes, while a consumer reads."""
    settings = await kafka_settings(tmp_path / "data", kafka_bootstrap)
    async with host_consumer(settings, serve=False) as hosted:
        async with Fleet(settings, tmp_path, processes=8, runs=200) as fleet:
            await fleet.join()
        noted = fleet.noted()
        assert len(noted) == 8 * 200
        await hosted.reader.wait_for(fleet.positions(), WAIT_S)
        assert_kept(hosted.service.cursor(), noted)
        assert troubles(hosted.service.cursor()) == {}
        partitions = {
            name for name in await hosted.reader.positions() if name.startswith(settings.kafka_topic)
        }
        assert len(partitions) == 6
        await drained(settings)


async def test_two_consumers_with_two_files(tmp_path, kafka_bootstrap):
    """One from the beginning beside the fleet, one that comes later: they end with the same runs and events."""
    settings = await kafka_settings(tmp_path / "data", kafka_bootstrap)
    other = replace(settings, db_file=tmp_path / "other.duckdb")
    async with host_consumer(settings, serve=False) as early:
        async with Fleet(settings, tmp_path, processes=2, runs=60) as fleet:
            await fleet.join()
        async with host_consumer(other, serve=False) as late:
            for hosted in (early, late):
                await hosted.reader.wait_for(fleet.positions(), WAIT_S)
            found = content(early.service.cursor())
            assert len(found) == 120
            # Whole sources end with their processes; what tells of that lies behind the positions that were flushed.
            await until(lambda: content(late.service.cursor()) == content(early.service.cursor()), WAIT_S)
            assert troubles(early.service.cursor()) == troubles(late.service.cursor()) == {}


@contextlib.asynccontextmanager
async def host_forwarder(settings):
    stop = asyncio.Event()
    task = asyncio.create_task(run_host_forwarder(settings, stop))
    try:
        yield
    finally:
        stop.set()
        report = await task
    assert (report.refused, report.incidents) == (0, 0)


async def test_a_host_forwarder_and_a_killed_agent(tmp_path, kafka_bootstrap):
    """Nobody forwards in the agents. What the killed one had noted is stored, and its open runs read abandoned."""
    settings = await kafka_settings(tmp_path / "data", kafka_bootstrap, forwarder="host")
    endless = Fleet(settings, tmp_path, processes=1, runs=1_000_000, open_at_once=5, first=9)
    async with (
        host_consumer(settings, serve=False) as hosted,
        host_forwarder(settings),
        endless,
        Fleet(settings, tmp_path, processes=3, runs=50) as fleet,
    ):
        [victim], [account] = endless.agents, endless.accounts
        await until(lambda: account.exists() and account.read_bytes().count(b"\n") > 400, WAIT_S)
        await victim.kill()
        await fleet.join()
        await hosted.reader.wait_for(fleet.positions(), WAIT_S)
        noted = endless.noted()
        unfinished = [run_id for run_id, run in noted.items() if run.end is None]
        assert unfinished

        async def abandoned():
            states = await hosted.reader.list_run_states(unfinished)
            # A finish may have been stored and its note not been written.
            return {states[run_id].liveness for run_id in unfinished if run_id in states} <= {
                Liveness.ABANDONED,
                Liveness.FINISHED,
            } and any(state.liveness is Liveness.ABANDONED for state in states.values())

        await until(abandoned, WAIT_S)
        await assert_stored(hosted.reader, fleet.noted() | noted)
        assert troubles(hosted.service.cursor()) == {}
        await drained(settings)
