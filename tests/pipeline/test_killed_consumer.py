"""A consumer that is killed, again and again, while a fleet records: nothing is missing, nothing is there twice."""

import duckdb
import pytest
from tests.conformance.compositions import kafka_settings, settings_at
from tests.faults.oracle import assert_kept, troubles
from tests.pipeline.support import ConsumeCommand, Fleet
from tests.support.waiting import until

from skillaudit.contract import RunFilter
from skillaudit.query.client import HttpReader

KILLS = 3
RUNS = 300
WAIT_S = 60


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.broker)])
async def settings(request, tmp_path):
    # Small batches, segments and hot tables, so that kills meet seals and retirements too.
    small = {"batch_records_max": 200, "segment_bytes": 64 * 1024, "seal_rows": 1_000}
    if request.param == "embedded":
        return settings_at(tmp_path / "data", **small)
    bootstrap = request.getfixturevalue("kafka_bootstrap")
    return await kafka_settings(tmp_path / "data", bootstrap, **small)


async def kill_in_the_middle(consumer, before: int) -> int:
    """Kill it once it has stored more runs than before; how many it had."""
    async with HttpReader(consumer.url) as reader:

        async def stored_more() -> int:
            runs = await reader.count_runs_filtered(RunFilter())
            return runs if runs > before + 20 else 0

        runs = await until(stored_more, WAIT_S)
    await consumer.kill()
    return runs


async def test_killed_and_started_again(settings, tmp_path):
    """The positions are in the transaction of the rows: the next one goes on exactly there."""
    consumer = ConsumeCommand(settings, logs=tmp_path)
    async with consumer, Fleet(settings, tmp_path, processes=3, runs=RUNS) as fleet:
        runs = 0
        for _ in range(KILLS):
            runs = await kill_in_the_middle(consumer, runs)
            await consumer.start()
        await fleet.join()
        async with HttpReader(consumer.url) as reader:
            await until(lambda: everything(reader, fleet.positions()), WAIT_S)
        assert await consumer.terminate() < 10
    noted = fleet.noted()
    assert len(noted) == 3 * RUNS
    with duckdb.connect(str(settings.database), read_only=True) as database:
        assert_kept(database, noted)
        assert troubles(database) == {}


async def everything(reader, positions) -> bool:
    reached = await reader.positions()
    return all(reached.get(name, 0) >= offset for name, offset in positions.items())
