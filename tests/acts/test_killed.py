"""Killed between the control log and the database: an act that is written happens, once."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest
from tests.acts.support import hits, rows
from tests.acts.test_surfaces import ORDER, operations, record
from tests.conformance.compositions import settings_at

from skillaudit.consumer.database import open_database

WORKER = Path(__file__).with_name("dying_worker.py")


@pytest.mark.parametrize(
    ("place", "kind"),
    [("written", "purge"), ("written", "erase"), ("applied", "purge"), ("applied", "redact")],
)
async def test_an_act_that_was_written_is_applied_by_whoever_comes_next(
    tmp_path: Path, place: str, kind: str
) -> None:
    """Killed when it was in the log and nowhere else, or when its transaction was about to be committed."""
    settings = settings_at(tmp_path)
    await record(settings, "a", "b")
    async with operations(settings, served=False):
        pass
    died = await asyncio.create_subprocess_exec(sys.executable, str(WORKER), str(tmp_path), place, kind, "a")
    assert await asyncio.wait_for(died.wait(), 120) == -signal.SIGKILL
    with open_database(settings.database) as database:
        assert rows(database, "SELECT * FROM acts") == [], "nothing of it was committed"
        assert rows(database, "SELECT id FROM runs ORDER BY id") == [("a",), ("b",)]
    async with operations(settings, served=False) as ops:
        await ops.redact(ORDER, "b", 1)  # any order: what is in the log is applied before it
        assert [act.kind for act in await ops.list_acts(10)] == ["redact", kind]
    with open_database(settings.database) as database:
        assert rows(database, "SELECT idx, kind FROM journal ORDER BY idx") == [(0, "act"), (1, "act")]
        left = rows(database, "SELECT r.id FROM runs AS r JOIN events AS e USING (run_key) ORDER BY 1")
        assert left == ([("b",)] if kind == "purge" else [("a",), ("b",)])
        if kind != "redact":
            assert [name for name in hits(database, "secret") if "events" in name] == []
