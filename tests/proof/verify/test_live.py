"""A database that is written while it is checked: what is told is never a race between two snapshots."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from tests.attacks.test_lawful import Fleet
from tests.conformance.compositions import settings_at
from tests.proof.support import sealing
from tests.support.waiting import until

from skillaudit.contract.records import SkillRun
from skillaudit.contract.settings import Settings
from skillaudit.producer import Sink
from skillaudit.proof.findings import Findings, Kind
from skillaudit.proof.keys import read_key
from skillaudit.proof.policy import AnchorPolicy, Grade, Policy
from skillaudit.proof.verify import Depth, Report, Verifier, VerifyRequest
from skillaudit.proof.verify.engine import Engine
from skillaudit.proof.verify.runs import LOOKED_AT_MAX, RunsCheck, RunTotals
from skillaudit.proof.verify.witness import read_anchors
from skillaudit.storage.hosting import host_consumer

RUNS = LOOKED_AT_MAX + 150
CHECKS = 6
WAIT_S = 60.0


class Meanwhile(Engine):
    """An engine that lets something happen between the snapshot of the marks and that of the first chunk."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, then: Callable[[], None]) -> None:
        super().__init__(cursor)
        self._then: Callable[[], None] | None = then
        self._due = False

    def rows(self, file: str, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
        self._due = self._due or name == "chunk_ends"
        return super().rows(file, name, **parameters)

    @contextlib.contextmanager
    def snapshot(self) -> Generator[None]:
        if self._due and self._then is not None:
            then, self._then = self._then, None
            then()
        with super().snapshot():
            yield


@pytest.mark.parametrize("content", [True, False], ids=["full", "quick"])
def test_runs_that_went_on_between_two_snapshots_are_not_suspect(tmp_path: Path, content: bool) -> None:
    """However many there are: more than are looked at one by one. What was tampered with among them is named, and alone."""
    with contextlib.closing(Fleet(tmp_path)) as fleet:
        writers = [fleet.sink.start_run(SkillRun(skill_id="s")) for _ in range(RUNS)]
        fleet.take()
        store = fleet.opened()

        def finish() -> None:
            for writer in writers:
                writer.finish(output="done")
            fleet.take()
            with store.transaction("tamper") as cursor:
                cursor.execute("UPDATE store.runs SET output = 'other', source_seq = 0 WHERE run_key = 7")

        findings, totals = Findings(), RunTotals()
        with contextlib.closing(store.cursor()) as cursor:
            engine = Meanwhile(cursor, finish)
            RunsCheck(engine, VerifyRequest(), findings, totals).check_all(content=content)
    told = {Kind.SOURCE_ALTERED, Kind.EVENT_ALTERED}
    assert set(findings.counts) <= told | {Kind.COLUMN_ALTERED}, findings.counts
    assert {it.subject["run_id"] for it in findings.kept()} == {writers[7].run_id}
    assert (totals.runs, totals.altered) == (RUNS, 1)


def write(settings: Settings, stop: threading.Event) -> None:
    """Runs that stay open for a while, beside others that begin and end."""
    with Sink.from_settings(settings) as sink:
        while not stop.is_set():
            late = [sink.start_run(SkillRun(skill_id="late")) for _ in range(3)]
            for number in range(20):
                with sink.start_run(SkillRun(skill_id="s", inputs={"n": number})) as writer:
                    for step in range(3):
                        writer.step(f"thought {step}")
                for run in late:
                    run.step(f"meanwhile {number}")
                stop.wait(0.005)
            for run in late:
                run.finish()


async def test_a_database_that_is_consumed_into_is_accused_of_nothing(tmp_path: Path) -> None:
    """Checked again and again, deeply, quickly, by samples and from where the last check stood, while runs are recorded,
    consumed and sealed: open runs are told, what is not sealed or counted yet, and nothing else.
    """
    settings = settings_at(tmp_path / "data", seal_rows=1_000, **sealing(tmp_path))
    signer = read_key(tmp_path / "key")
    reports: list[Report] = []
    stop = threading.Event()
    policy = Policy(
        grade=Grade.ANCHORED, keys=(signer.verifier.text,), anchors=(AnchorPolicy(settings.anchors),)
    )
    async with host_consumer(settings, serve=False, seal=True) as hosted:
        writing = asyncio.ensure_future(asyncio.to_thread(write, settings, stop))
        try:
            objects = tmp_path / "anchor" / "objects"
            await until(lambda: any(it.name.isdigit() for it in objects.glob("*/*")), WAIT_S)
            for number in range(CHECKS):
                depth = (Depth.FULL, Depth.QUICK, Depth.FULL, Depth.SAMPLE)[number % 4]
                request = VerifyRequest(depth=depth, sample=20, seed=number, policy=policy)
                if number % 4 == 2:
                    request = replace(
                        request, sealed_from=reports[-1].sealed_to, content_from=reports[0].content_to
                    )
                reports.append(await asyncio.to_thread(check, hosted.service.cursor, request))
                assert not writing.done()
        finally:
            stop.set()
            await writing
    for report in reports:
        waiting = {Kind.RUN_OPEN, Kind.LEDGER_UNSEALED, Kind.SOURCE_TAIL_UNKNOWN}
        assert set(report.counts) <= waiting, report.findings
    assert reports[-1].runs > reports[0].runs
    assert reports[-1].journal > reports[0].journal


def check(cursor_of: Callable[[], duckdb.DuckDBPyConnection], request: VerifyRequest) -> Report:
    request = replace(request, anchors=read_anchors(request.policy))
    with contextlib.closing(cursor_of()) as cursor:
        return Verifier(cursor).check(request, time.time_ns() // 1000)
