"""An order, wherever it is given: into the control log first, applied when it returns, listed afterwards."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.acts.support import Run
from tests.conformance.compositions import settings_at

from skillaudit.contract.admin import ActOrder, HoldScope, Operations
from skillaudit.contract.errors import HeldError, HoldNotFoundError, RejectedError, RunNotFoundError
from skillaudit.contract.eventlog import RecordKind
from skillaudit.contract.records import Completeness, SkillRun
from skillaudit.contract.settings import Settings
from skillaudit.producer import Sink
from skillaudit.producer.outbox import OutboxLog
from skillaudit.storage import open_operations, open_reader
from skillaudit.storage.hosting import host_consumer

ORDER = ActOrder(actor="ada", reason="asked for")
FORCED = ActOrder(actor="ada", reason="court", force=True)


async def record(settings: Settings, *run_ids: str) -> None:
    async with Sink.from_settings(settings) as sink:
        for run_id in run_ids:
            with sink.start_run(SkillRun(id=run_id, skill_id="s", caller_id="c-1", inputs={"q": "?"})) as run:
                run.step(content="secret")
                run.finish(output="secret")
        await sink.aflush(5)


@contextlib.asynccontextmanager
async def operations(settings: Settings, *, served: bool) -> AsyncGenerator[Operations]:
    """Of a running consumer over HTTP, or on the file that nobody owns."""
    if not served:
        async with open_reader(settings) as reader:  # reads in what waits
            await reader.list_orphans(1)
        async with open_operations(settings) as found:
            yield found
        return
    async with host_consumer(settings, serve=True) as hosted, open_operations(settings) as found:
        await asyncio.wait_for(hosted.service.caught_up.wait(), 30)
        yield found


@pytest.mark.parametrize("served", [False, True], ids=["file", "http"])
async def test_every_order(tmp_path: Path, served: bool) -> None:
    """Each does what it says, is refused by name where it can't, and is in the list."""
    settings = settings_at(tmp_path)
    await record(settings, "a", "b", "c")
    async with operations(settings, served=served) as ops:
        held = await ops.hold(ORDER, HoldScope(runs=("a",)))
        assert [hold.scope.runs for hold in await ops.list_holds()] == [("a",)]
        with pytest.raises(HeldError, match="'a'"):
            await ops.redact(ORDER, "a", 1)
        with pytest.raises(HeldError):
            await ops.erase(ORDER, ["b", "a"])
        purged = await ops.purge(ORDER, before=datetime.now(UTC))
        assert (purged.runs, purged.held) == (2, 1)
        assert (await ops.purge(ORDER, before=datetime.now(UTC))).acts == ()
        assert await ops.purge_older_than(datetime.now(UTC)) == 0
        with pytest.raises(RunNotFoundError):
            await ops.purge(ORDER, runs=["b"])
        with pytest.raises(RejectedError):
            await ops.redact(FORCED, "a", 7)
        with pytest.raises(RejectedError, match="output"):
            await ops.redact(FORCED, "a", 1, "output")
        assert (await ops.redact(FORCED, "a", 1)).events == 1
        assert (await ops.redact(FORCED, "a", 1)).acts == ()
        released = await ops.release(ORDER, held.acts[0])
        with pytest.raises(HoldNotFoundError):
            await ops.release(ORDER, held.acts[0])
        assert await ops.list_holds() == []
        assert (await ops.list_holds(released=True))[0].released_by == released.acts[0]
        assert (await ops.erase(ORDER, ["a"])).runs == 1
        assert (await ops.erase(ORDER, ["a"])).acts == ()
        await ops.record_key(ORDER, "audit.example.org/fleet-1", "audit.example.org/fleet-1+00000000+AAAA")
        acts = await ops.list_acts(50)
        assert [act.kind for act in acts] == ["key", "erase", "release", "redact", "purge", "hold"]
        assert [act.policy.get("force", False) for act in acts] == [False, False, False, True, False, False]
        assert {(act.actor, act.pending) for act in acts} == {("ada", False)}
        assert [act.journal_idx for act in acts] == [5, 4, 3, 2, 1, 0]
        assert [act.kind for act in await ops.list_acts(1, "purge")] == ["purge"]
    async with open_reader(settings) as reader:
        run = await reader.get_run("a")
        (log,) = await reader.list_logs_by_run("a")
        assert (run.caller_id, run.output) == ("[redacted]", "[redacted]")
        assert list(run.inputs) == list(log.payload) == ["_redacted"]


@pytest.mark.parametrize("served", [False, True], ids=["file", "http"])
async def test_runs_whose_start_never_came(tmp_path: Path, served: bool) -> None:
    """An operator purges them, by id and by age; what else is asked says so. A `Storage` purges runs that have a start."""
    settings = settings_at(tmp_path)
    log = OutboxLog(settings)
    for run in (Run("r"), Run("q", number=2)):
        for record in run.whole({"a": 1})[1:]:
            log.append(run.id, record, RecordKind.LOG, wait_ms=0)
    log.close(0)
    async with operations(settings, served=served) as ops:
        for order in (ops.erase(ORDER, ["r"]), ops.redact(ORDER, "r", 1)):
            with pytest.raises(RejectedError, match="skillaudit purge r"):
                await order
        assert await ops.purge_older_than(datetime.now(UTC)) == 0
        assert (await ops.purge(ORDER, runs=["r"])).runs == 1
        assert (await ops.purge(ORDER, before=datetime.now(UTC))).runs == 1
    async with open_reader(settings) as reader:
        states = await reader.list_run_states(["r", "q"])
        assert {state.completeness for state in states.values()} == {Completeness.PURGED}
        assert await reader.list_orphans(1) == []


async def test_the_minimum_age_keeps_young_runs(tmp_path: Path) -> None:
    """An ordinary purge does not reach them, a named one says so, and force goes over it."""
    settings = settings_at(tmp_path, min_retention_days=183)
    await record(settings, "a", "b")
    async with operations(settings, served=False) as ops:
        assert (await ops.purge(ORDER, before=datetime.now(UTC))).acts == ()
        kept = await ops.purge(ORDER, runs=["a"])
        assert (kept.acts, kept.runs, kept.young) == ((), 0, 1)
        assert (await ops.purge(FORCED, runs=["a"])).runs == 1
        (act,) = await ops.list_acts(50)
        policy = dict(act.policy)
        [(kind, violated)] = policy.pop("violates").items()
        assert (kind, violated["runs"], len(violated["at"])) == ("minimum", 1, 1)
        assert policy == {"name": "requested", "min_retention_days": 183, "force": True, "last_hold": ""}
