"""Who reads or copies must not stop who writes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from skillaudit.consumer.backup import back_up
from skillaudit.consumer.database import Database, open_database
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.sealing import SealState
from skillaudit.contract.clock import uuid7
from skillaudit.contract.events import encode_storage_finish, encode_storage_log, encode_storage_start
from skillaudit.contract.records import RunStats, SkillRun, SkillRunLog
from skillaudit.contract.sources import SourceRecord


def records() -> list[SourceRecord]:
    """A start, a log and a finish."""
    now = datetime.now(UTC)
    log = SkillRunLog(run_id="r", sequence=1, event_type="step", payload={}, created_at=now)
    values = [
        encode_storage_start(SkillRun(id="r", skill_id="s", started_at=now), 1, uuid7()),
        encode_storage_log(log, 1, uuid7()),
        encode_storage_finish("r", RunStats(status="ok"), 1, uuid7()),
    ]
    return [SourceRecord("t/0", n, n + 1, 0, None, value) for n, value in enumerate(values)]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_database(tmp_path / "a.duckdb") as database:
        yield database


def test_a_checkpoint_is_put_off_while_an_older_snapshot_is_read(database: Database) -> None:
    """The engine refuses one then; the seal's checkpoint stays due and is made afterwards, and nothing is lost."""
    start, log, finish = records()
    with (
        contextlib.closing(Materializer(database)) as writer,
        contextlib.closing(database.cursor()) as reader,
    ):
        writer.apply([start, log])
        reader.execute("BEGIN TRANSACTION READ ONLY")
        reader.execute("SELECT count(*) FROM runs").fetchall()
        writer.apply([finish])  # updates the run's row
        assert writer.sealer.seal() == 1
        assert writer.sealer.state is SealState.MOVED
        assert writer.sealer.checkpoint_due
        reader.execute("COMMIT")
        writer.sealer.checkpoint()
        assert writer.sealer.state is SealState.IDLE
        assert reader.execute("SELECT count(*) FROM events").fetchall() == [(1,)]


def test_two_backups_at_once(database: Database, tmp_path: Path) -> None:
    """The second one does not meet the first one's name."""
    targets = [tmp_path / "one", tmp_path / "two"]
    with ThreadPoolExecutor(len(targets)) as pool:
        assert all(size > 0 for size in pool.map(lambda target: back_up(database, target), targets))
