"""A consumer inside a process: whoever supervises it hears of everything that has ended."""

import asyncio

import pytest
from tests.conformance.compositions import settings_at

from skillaudit.contract.errors import UnreachableError
from skillaudit.storage.hosting import host_consumer

WAIT_S = 20


async def test_a_surface_that_ends_by_itself_ends_the_consumer(tmp_path):
    """Nobody could ask it any more: it ends in order, and `running` raises why."""
    async with host_consumer(settings_at(tmp_path / "data"), serve=True) as hosted:
        [http] = [task for task in asyncio.all_tasks() if task.get_name() == "skillaudit-http"]
        http.cancel()
        async with asyncio.timeout(WAIT_S):
            with pytest.raises(UnreachableError, match="surface at http://127"):
                await hosted.running


async def test_leaving_ends_both_in_order(tmp_path):
    """The surface ends first, and that is no failure."""
    async with host_consumer(settings_at(tmp_path / "data"), serve=True) as hosted:
        assert not hosted.running.done()
    assert hosted.running.exception() is None
