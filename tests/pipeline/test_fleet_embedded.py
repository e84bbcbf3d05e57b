"""Fleets of processes, interleaved, into one outbox directory: every run complete, in order, once."""

from tests.conformance.compositions import settings_at
from tests.faults.oracle import troubles
from tests.pipeline.account import assert_stored
from tests.pipeline.support import Fleet, drained

from skillaudit.contract import RunFilter
from skillaudit.storage.hosting import host_consumer

PROCESSES = 4
RUNS = 100


async def test_a_fleet_while_a_consumer_runs(tmp_path):
    """Each process is told that everything is committed; then everything is there."""
    settings = settings_at(tmp_path / "data")
    async with host_consumer(settings, serve=False) as hosted:
        async with Fleet(settings, tmp_path, processes=PROCESSES, runs=RUNS) as fleet:
            await fleet.join()
        noted = fleet.noted()
        assert len(noted) == PROCESSES * RUNS
        await hosted.reader.wait_for(fleet.positions(), 0)
        await assert_stored(hosted.reader, noted)
        assert await hosted.reader.count_runs_filtered(RunFilter()) == len(noted)
        assert troubles(hosted.service.cursor()) == {}
        await drained(settings)
