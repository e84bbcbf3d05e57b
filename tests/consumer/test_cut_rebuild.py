"""A consumer that makes its database again where retention took the oldest records: it begins at a seal, and seals on."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import duckdb
import httpx
import pytest
from tests.consumer.test_notary import anchored, consuming, elsewhere, read, record_runs
from tests.proof.support import sealing
from tests.support.waiting import until

from skillaudit.consumer.notary import NotaryState
from skillaudit.consumer.service import ConsumerService
from skillaudit.consumer.status import ServiceState
from skillaudit.contract.outbox.segments import archived_path, archived_segments
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import OUTBOX_TOPIC
from skillaudit.producer import Sink, SkillRun
from skillaudit.proof.errors import SigningRefusedError
from skillaudit.proof.keys import generate_key
from skillaudit.storage.hosting import host_consumer

WAIT_S = 30.0
CUTS = "SELECT partition, first_row, journal_idx IS NOT NULL FROM main.ledger_cuts ORDER BY 1"
ENDS = "SELECT partition, max(idx) + 1 FROM main.ledger GROUP BY partition ORDER BY 1"
LEDGER = "SELECT * FROM main.ledger WHERE partition = '{}' ORDER BY idx"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Embedded, with a key and an anchor."""
    return Settings(data=tmp_path / "data", outbox_free_bytes_min=0, **sealing(tmp_path))


async def is_sealing(service: ConsumerService) -> None:
    await until(lambda: service.status.notary.state is NotaryState.SEALING, WAIT_S)


async def consumed(settings: Settings) -> None:
    async with consuming(settings) as service:
        await is_sealing(service)


def source_ids(settings: Settings) -> list[str]:
    """Of those that were archived, in order of their names."""
    return sorted(path.name for path in settings.archive_dir.glob("*") if archived_segments(path))


async def test_sources_that_expired_with_the_archive_are_cut(settings: Settings, tmp_path: Path) -> None:
    """By the product's own rule: they are named, the rest is met, and sealing goes on."""
    record_runs(settings)
    await consumed(settings)
    [(gone, rows)] = read(settings, ENDS)
    settings = replace(settings, outbox_keep_days=0)
    record_runs(settings)
    await consumed(settings)
    size = anchored(settings)
    again = elsewhere(settings, tmp_path)
    (settings.outbox_dir / "reader").unlink()
    async with consuming(again) as service:
        await is_sealing(service)
        sealed = service.status.notary.leaves
        record_runs(settings)
        await until(lambda: service.status.notary.leaves > sealed, WAIT_S)
    assert read(again, CUTS) == [(gone, rows, True)]
    [(subject, detail)] = read(again, "SELECT subject, detail FROM main.incidents WHERE kind = 'ledger-cut'")
    assert subject == gone
    assert "not in this database" in detail
    assert anchored(settings) > size


async def test_sources_that_can_not_have_expired_are_missed(settings: Settings, tmp_path: Path) -> None:
    """Somebody took the archive away: nothing is sealed until it comes back, or a backup is restored."""
    record_runs(settings)
    await consumed(settings)
    for path in settings.archive_dir.glob("*"):
        path.rename(tmp_path / path.name)
    again = elsewhere(settings, tmp_path)
    (settings.outbox_dir / "reader").unlink()
    async with consuming(again) as service:
        await until(lambda: service.status.notary.state is NotaryState.MEETING, WAIT_S)
        await until(lambda: service.late_seal() != "", WAIT_S)
        assert "a backup" in service.late_seal()
    assert read(again, CUTS) == []


async def asked_when_late(settings: Settings) -> httpx.Response:
    """What a supervisor is told once it is said that rows are missing."""
    hosting = host_consumer(replace(settings, http_listen="127.0.0.1:0"), serve=True, seal=True)
    async with hosting as hosted, httpx.AsyncClient(base_url=hosted.url) as http:
        await until(lambda: hosted.service.late_seal() != "" and bool(hosted.service.told_unmet), WAIT_S)
        return await http.get("/readyz")


async def test_what_can_not_be_met_is_said_once_by_readiness_log_and_incident(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the rows that are missing; started again into the same trouble, no second incident."""
    record_runs(settings)
    await consumed(settings)
    [(partition, rows)] = read(settings, ENDS)
    for path in settings.archive_dir.glob("*"):
        path.rename(tmp_path / path.name)
    again = elsewhere(settings, tmp_path)
    (settings.outbox_dir / "reader").unlink()
    missing = f"{partition} rows 0 to {rows - 1}"
    for _ in range(2):
        caplog.clear()
        answer = await asked_when_late(again)
        assert (answer.status_code, missing in answer.json()["detail"]) == (503, True)
        assert any(missing in text for text in caplog.messages)
    kinds = "SELECT detail FROM main.incidents WHERE kind = 'seals-unmet'"
    assert [missing in detail for (detail,) in read(again, kinds)] == [True]


async def test_a_cut_that_somebody_wrote_into_the_file_stops_the_consumer(settings: Settings) -> None:
    """Rows and runs deleted while it was closed, and called cut as if it were being made again: not signed, an incident."""
    record_runs(settings)
    await consumed(settings)
    size = anchored(settings)
    with contextlib.closing(duckdb.connect(str(settings.database))) as tampered:
        tampered.execute(
            "INSERT INTO store.ledger_cuts SELECT partition, ledger_next, next_offset, NULL, NULL, NULL"
            " FROM store.positions WHERE ledger_next > 0"
        )
        tampered.execute("DELETE FROM store.ledger")
        tampered.execute("DELETE FROM store.runs")
        tampered.execute("INSERT INTO store.meta VALUES ('seals_unmet_from', '0')")
    with pytest.raises(SigningRefusedError, match="did not decide"):
        async with consuming(settings) as service:
            await until(lambda: service.status.state is ServiceState.FAILED, WAIT_S)
    [(detail,)] = read(settings, "SELECT detail FROM main.incidents WHERE kind = 'SigningRefused'")
    assert "move the database away" in detail
    assert anchored(settings) == size


async def test_without_leaves_a_new_journal_is_begun_only_on_purpose(
    settings: Settings, tmp_path: Path
) -> None:
    """It stops and says how; with a key of another name, and a state of its own, it begins."""
    record_runs(settings)
    await consumed(settings)
    again = replace(elsewhere(settings, tmp_path), anchors="", seal_state_file=settings.seal_state)
    (settings.outbox_dir / "reader").unlink()
    with pytest.raises(SigningRefusedError, match=r"a backup.*keys new"):
        await consumed(again)
    generate_key(tmp_path / "other", "audit.example.org/fleet-2")
    await consumed(replace(again, seal_key_file=tmp_path / "other", seal_state_file=tmp_path / "other.state"))
    assert read(again, CUTS) == []
    assert read(again, "SELECT count(*) > 0 FROM main.checkpoints") == [(True,)]


async def test_a_source_whose_first_segments_expired(settings: Settings, tmp_path: Path) -> None:
    """What is left of it is met from the next seal on, and everything of others."""
    sink = Sink.from_settings(settings)
    for _ in range(3):
        for _ in range(10):
            with sink.start_run(SkillRun(skill_id="s")) as run:
                run.step("x" * 10_000)
                run.finish(output="done")
        await consumed(settings)
    sink.close()
    await consumed(settings)
    [name] = source_ids(settings)
    partition = f"{OUTBOX_TOPIC}/{name}"
    before = read(settings, LEDGER.format(partition))
    first, *_, last = archived_segments(settings.archive_dir / name)
    assert first < last, "the records filled several segments"
    archived_path(settings.archive_dir / name, first).unlink()
    again = elsewhere(settings, tmp_path)
    (settings.outbox_dir / "reader").unlink()
    await consumed(again)
    [(cut, row, named)] = read(again, CUTS)
    assert (cut, named) == (partition, True)
    assert 0 < row < len(before)
    assert read(again, LEDGER.format(partition)) == before[row:]
