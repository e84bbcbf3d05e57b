"""Sealing beside the consumer: what it seals, signs and anchors, and what a database made again has to meet."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from prometheus_client import generate_latest
from tests.proof.support import sealing
from tests.support.waiting import until

from skillaudit.consumer.database import open_database
from skillaudit.consumer.metrics import make_registry
from skillaudit.consumer.notary import NotaryState, NotaryStatus, rest_s
from skillaudit.consumer.service import ConsumerService
from skillaudit.consumer.status import ServiceState
from skillaudit.contract.errors import SettingsError, SkillauditError
from skillaudit.contract.settings import Settings
from skillaudit.producer import Sink, SkillRun
from skillaudit.proof.anchors import open_anchor
from skillaudit.proof.anchors.file import FileAnchor
from skillaudit.proof.errors import AnchorConflictError, SigningRefusedError
from skillaudit.proof.publishing import AnchorStatus

WAIT_S = 20.0
LEDGER = "SELECT * FROM main.ledger ORDER BY partition, idx"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Embedded, with a key and an anchor."""
    return Settings(data=tmp_path / "data", outbox_free_bytes_min=0, **sealing(tmp_path))


def record_runs(settings: Settings, count: int = 3) -> None:
    sink = Sink.from_settings(settings)
    for number in range(count):
        with sink.start_run(SkillRun(skill_id=f"s{number}")) as run:
            run.step({"n": number})
            run.finish(output="done")
    sink.close()


@contextlib.asynccontextmanager
async def consuming(settings: Settings, **options: Any) -> AsyncGenerator[ConsumerService]:
    """Until everything there is is consumed; then it ends in order."""
    service, stop = ConsumerService(settings, seal=True, **options), asyncio.Event()
    running = asyncio.ensure_future(service.run(stop))
    try:
        await until(lambda: service.caught_up.is_set() or running.done(), WAIT_S)
        if not running.done():
            yield service
    finally:
        stop.set()
        await running


def read(settings: Settings, query: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(duckdb.connect(str(settings.database), read_only=True)) as closed:
        return closed.execute(query).fetchall()


def anchored(settings: Settings) -> int:
    """Leaves of the journal that the anchor holds."""
    with contextlib.closing(open_anchor(settings.anchors)) as anchor:
        newest = anchor.newest()
        return newest.content.checkpoint.size if newest else 0


def elsewhere(settings: Settings, tmp_path: Path) -> Settings:
    """The same journal for a new database: its file and its state are not there."""
    return replace(settings, db_file=tmp_path / "new.duckdb", seal_state_file=tmp_path / "new.state")


async def test_what_is_consumed_is_sealed_signed_and_anchored(settings: Settings) -> None:
    """While it runs and, of the last rows, before it ends; nothing waits then."""
    record_runs(settings)
    async with consuming(settings) as service:
        status = service.status.notary
        await until(lambda: status.signed_size > 0 and status.anchors[0].published > 0, WAIT_S)
        assert status.state is NotaryState.SEALING
        assert (status.seal_age_s(2**62), status.anchor_lag_s(2**62)) == (0.0, 0.0)
        consumed = service.status.records
        record_runs(settings)
        await until(lambda: service.status.records == 2 * consumed, WAIT_S)
    assert len(read(settings, LEDGER)) == 2 * 7
    sealed = read(settings, "SELECT kind, leaf FROM main.journal ORDER BY idx")
    assert [kind for kind, _ in sealed[:2]] == ["act", "seal"], "who begins it, then what it holds"
    assert {kind for kind, _ in sealed[1:]} == {"seal"}
    assert anchored(settings) == len(sealed)
    assert read(settings, "SELECT max(size) FROM main.checkpoints") == [(len(sealed),)]
    assert settings.seal_state.read_text().splitlines()[:2] == ["audit.example.org/fleet-1", str(len(sealed))]


async def test_without_a_key_it_is_sealed_all_the_same(settings: Settings) -> None:
    """Everything works, and the proof's grade says what it is worth."""
    alone = replace(settings, seal_key_file=None, anchors="")
    record_runs(alone)
    async with consuming(alone) as service:
        await until(lambda: service.status.notary.leaves > 0, WAIT_S)
        assert not service.status.notary.signs
    assert read(alone, "SELECT count(*) > 0 FROM main.journal") == [(True,)]
    assert read(alone, "SELECT count(*) FROM main.checkpoints") == [(0,)]
    assert not alone.seal_state.exists()


async def test_who_takes_the_file_for_a_moment_does_not_seal(settings: Settings) -> None:
    """A command that reads consumes what waits, and leaves sealing to who owns the database for long."""
    record_runs(settings)
    service, stop = ConsumerService(settings), asyncio.Event()
    running = asyncio.ensure_future(service.run(stop))
    await until(service.caught_up.is_set, WAIT_S)
    stop.set()
    await running
    assert read(settings, "SELECT count(*) FROM main.journal") == [(0,)]
    assert service.status.notary.state is NotaryState.OFF
    async with consuming(settings):
        pass
    assert read(settings, "SELECT count(*) FROM main.journal WHERE kind = 'seal'") == [(1,)]


async def test_anchors_need_a_key(settings: Settings) -> None:
    """Said at the start, with the remedy."""
    with pytest.raises(SettingsError, match="seal_key_file"):
        await ConsumerService(replace(settings, seal_key_file=None), seal=True).start()


async def test_a_database_made_again_from_the_archive_meets_what_was_sealed(
    settings: Settings, tmp_path: Path
) -> None:
    """A new file: its journal comes from the anchor, its ledger from the events, byte for byte the same; then sealing goes
    on behind the old journal.
    """
    record_runs(settings)
    async with consuming(settings):
        pass
    record_runs(settings)
    async with consuming(settings):
        pass
    before, journal = read(settings, LEDGER), read(settings, "SELECT leaf FROM main.journal ORDER BY idx")
    again = elsewhere(settings, tmp_path)
    (settings.outbox_dir / "reader").unlink()  # it is another database's from here on
    async with consuming(again) as service:
        await until(lambda: service.status.notary.state is NotaryState.SEALING, WAIT_S)
    assert read(again, LEDGER) == before
    assert read(again, "SELECT leaf FROM main.journal ORDER BY idx")[: len(journal)] == journal
    assert anchored(settings) == len(read(again, "SELECT leaf FROM main.journal"))
    record_runs(settings)
    async with consuming(again):
        pass
    assert len(read(again, LEDGER)) == 3 * 7
    assert anchored(settings) == len(read(again, "SELECT leaf FROM main.journal")) > len(journal)


async def test_nothing_is_sealed_before_all_that_was_sealed_is_met(
    settings: Settings, tmp_path: Path
) -> None:
    """Part of the events is not there: the rows of what is wait, however many there are."""
    record_runs(settings)
    async with consuming(settings):
        pass
    size = anchored(settings)
    again = replace(elsewhere(settings, tmp_path), data=tmp_path / "elsewhere")
    record_runs(again)
    async with consuming(again) as service:
        await until(lambda: service.status.notary.state is NotaryState.MEETING, WAIT_S)
        await until(lambda: service.late_seal() != "", WAIT_S)
        assert "rows of the ledger that were sealed are not there" in service.late_seal()
        service.status.notary.state = NotaryState.RETRYING  # a full disk is no reason to call it ready
        assert "rows of the ledger that were sealed are not there" in service.late_seal()
    assert anchored(settings) == size
    assert len(read(again, "SELECT * FROM main.journal")) == size


async def test_a_ledger_that_is_not_the_one_sealed_stops_the_consumer(
    settings: Settings, tmp_path: Path
) -> None:
    """By name, with an incident: somebody changed the events, or the ledger."""
    record_runs(settings)
    async with consuming(settings):
        pass
    again = elsewhere(settings, tmp_path)
    shutil.copy(settings.database, again.database)
    with contextlib.closing(duckdb.connect(str(again.database))) as tampered:
        tampered.execute("UPDATE store.ledger SET events = events + 1 WHERE kind = 'finish'")
        tampered.execute("DELETE FROM store.journal")
        tampered.execute("DELETE FROM store.checkpoints")
    with pytest.raises(SigningRefusedError, match="not the one that was sealed"):
        async with consuming(again) as service:
            await until(lambda: service.status.state is ServiceState.FAILED, WAIT_S)
    [(kind, detail)] = read(again, "SELECT kind, detail FROM main.incidents")
    assert kind == "SigningRefused"
    assert "rows" in detail


async def test_an_anchor_of_another_journal_stops_the_start(settings: Settings, tmp_path: Path) -> None:
    """Two databases must not share a journal."""
    record_runs(settings)
    async with consuming(settings):
        pass
    other = replace(settings, data=tmp_path / "other", anchors=f"file:{tmp_path / 'others'}")
    record_runs(other)
    async with consuming(other):
        pass
    with pytest.raises((AnchorConflictError, SigningRefusedError)):
        await ConsumerService(replace(other, anchors=settings.anchors), seal=True).start()


async def test_an_older_copy_is_repaired_from_the_anchor(settings: Settings, tmp_path: Path) -> None:
    """A backup put back: the leaves it lacks come from the anchor, the rows from the archive, and all of it is met."""
    record_runs(settings)
    async with consuming(settings):
        pass
    copy = tmp_path / "copy.duckdb"
    shutil.copy(settings.database, copy)
    record_runs(settings)
    async with consuming(settings):
        pass
    before, size = read(settings, LEDGER), anchored(settings)
    shutil.copy(copy, settings.database)
    async with consuming(settings) as service:
        await until(lambda: service.status.notary.state is NotaryState.SEALING, WAIT_S)
    assert read(settings, LEDGER) == before
    assert anchored(settings) == size


async def test_a_key_that_others_may_read_is_refused(settings: Settings) -> None:
    """Said at the start; the database is let go."""
    assert settings.seal_key_file is not None
    settings.seal_key_file.chmod(0o644)
    with pytest.raises(SkillauditError, match="chmod 600"):
        await ConsumerService(settings, seal=True).start()
    open_database(settings.database).close()


def test_the_anchor_is_a_directory(settings: Settings) -> None:
    """As the settings say."""
    assert isinstance(open_anchor(settings.anchors), FileAnchor)


def test_how_long_rows_and_checkpoints_have_waited() -> None:
    """Nothing waits: 0, however long ago the last seal was. A database that is made again has first to meet the old ones."""
    status = NotaryStatus(state=NotaryState.SEALING, sealed_us=5_000_000, anchored_us=4_000_000)
    assert (status.seal_age_s(9_000_000), status.anchor_lag_s(9_000_000)) == (0.0, 0.0)
    status.behind_rows = 3
    status.anchors = (AnchorStatus(uri="file:/a"), AnchorStatus(uri="file:/b", behind=2))
    assert (status.seal_age_s(9_000_000), status.anchor_lag_s(9_000_000)) == (4.0, 5.0)
    status.state = NotaryState.OFF
    assert status.seal_age_s(9_000_000) == 0.0


async def test_rows_that_wait_for_long_are_told_to_supervisors(settings: Settings) -> None:
    """With why; and every figure of sealing is there for scrapers."""
    record_runs(settings)
    async with consuming(settings) as service:
        await until(lambda: service.status.notary.leaves > 0, WAIT_S)
        assert service.late_seal() == ""
        text = generate_latest(make_registry(service)).decode()
        assert "skillaudit_seal_up 1.0" in text
        for name in ("seal_age_seconds", "seal_behind_rows", "sealed_rows_total", "seal_incidents_total"):
            assert f"skillaudit_{name} " in text
        assert f'skillaudit_anchor_behind_leaves{{anchor="{settings.anchors}"}} 0.0' in text
        service.status.notary = NotaryStatus(
            state=NotaryState.RETRYING, sealed_us=1, behind_rows=7, last_error="no room"
        )
        assert "newest rows (7) have waited" in service.late_seal()
        assert "no room" in service.late_seal()


def test_the_sealer_rests_behind_its_steps_within_bounds() -> None:
    """While records come faster than they are stored it takes a twentieth of the time, and rests no longer than is said."""
    assert rest_s(0.0, 60.0) == 0.0
    assert rest_s(1.0, 60.0) == pytest.approx(19.0)
    assert rest_s(100.0, 60.0) == 60.0
