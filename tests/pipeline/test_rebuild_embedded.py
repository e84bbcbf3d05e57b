"""A database made again from the archive of the embedded pipeline: segments and control log, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.acts.support import Run
from tests.acts.test_restore import judge
from tests.conformance.compositions import settings_at
from tests.consumer.test_notary import record_runs
from tests.pipeline.test_rebuild import (
    JOURNAL,
    LEDGER,
    ORDER,
    WAIT_S,
    consuming,
    content,
    first_part,
    honest,
    read,
    second_part,
)
from tests.proof.support import sealing
from tests.support.waiting import until

from skillaudit.consumer.notary import NotaryState
from skillaudit.consumer.planning import plan_erase, plan_purge_of, plan_redact
from skillaudit.contract.eventlog import RecordKind
from skillaudit.contract.outbox.segments import archived_segments
from skillaudit.producer.outbox import OutboxLog

RECORDED = 11
"""What `record_runs` leaves: a source opened and closed, and three runs of three."""


def append(log: OutboxLog, records: Sequence[tuple[str, bytes]]) -> None:
    for key, value in records:
        log.append(key, value, RecordKind.LOG, wait_ms=0)


@pytest.mark.parametrize("conflict", [False, True], ids=["whole", "conflict"])
async def test_a_database_made_again_from_the_archive(tmp_path: Path, conflict: bool) -> None:
    """After duplicates, an orphan, dead letters, a redaction, an erasure, a purge and a restart; and with records that
    contradict others: the same rows, the same seals are met, and `verify` says the same of both files.
    """
    settings = settings_at(tmp_path / "data", poison_share_percent_max=101, **sealing(tmp_path))
    runs = [Run(f"run-{n}", number=n + 1) for n in range(12)]
    parts = (first_part(runs), second_part(runs)) if conflict else honest(runs)
    record_runs(settings)
    log = OutboxLog(settings)
    append(log, parts[0])
    async with consuming(settings, len(parts[0]) + RECORDED) as service:
        await until(lambda: service.status.notary.leaves > 0, WAIT_S)
        await service.order(plan_redact(ORDER, runs[2].id, 1, None))
        await service.order(plan_erase(ORDER, [runs[3].id]))
        await service.order(plan_purge_of(ORDER, [runs[1].id]))
    append(log, parts[1])
    log.close(0)
    record_runs(settings)
    total = len(parts[0]) + len(parts[1]) + 2 * RECORDED
    async with consuming(settings, total):
        pass
    ledger, journal = read(settings.database, LEDGER), read(settings.database, JOURNAL)
    judged = await judge(settings)
    assert len([path for path in settings.archive_dir.iterdir() if archived_segments(path)]) == 3
    assert (settings.data / "control.jsonl").read_bytes().count(b"\n") == 3
    again = replace(settings, db_file=tmp_path / "again.duckdb", seal_state_file=tmp_path / "again.state")
    settings.database.rename(tmp_path / "lost")
    (settings.outbox_dir / "reader").unlink()  # as the consumer tells whoever begins anew
    async with consuming(again, total) as service:
        await until(lambda: service.status.notary.state is NotaryState.SEALING, WAIT_S)
    assert read(again.database, LEDGER) == ledger
    assert read(again.database, JOURNAL)[: len(journal)] == journal
    assert content(again.database) == content(tmp_path / "lost")
    found = await judge(again)
    assert (found.exit_code, found.counts) == (judged.exit_code, judged.counts), found.findings
    if conflict:
        assert found.exit_code == 5
        accused = {it["run_id"] for it in found.findings if it["kind"] == "RUN_EQUIVOCATES"}
        assert accused == {runs[0].id, runs[1].id}, found.findings
    else:
        assert (found.exit_code, found.grade) == (4, "anchored"), found.findings
    for run in (runs[2], runs[3], runs[9]):
        alone = await judge(again, run.id)
        assert (alone.exit_code, alone.grade) == (0, "anchored"), alone.findings
