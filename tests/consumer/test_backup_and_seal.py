"""A backup beside the writer: whoever copies must not stop whoever writes."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from pathlib import Path

from skillaudit.consumer.backup import back_up
from skillaudit.consumer.database import open_database
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.sealing import SealState
from skillaudit.contract.clock import uuid7
from skillaudit.contract.events import encode_storage_log, encode_storage_start
from skillaudit.contract.records import SkillRun, SkillRunLog
from skillaudit.contract.sources import SourceRecord


def test_a_checkpoint_is_put_off_while_a_backup_is_written(tmp_path: Path) -> None:
    """The engine refuses one then; the seal's checkpoint stays due and is made afterwards."""
    now = datetime.now(UTC)
    values = [
        encode_storage_start(SkillRun(id="r", skill_id="s", started_at=now), 1, uuid7()),
        encode_storage_log(
            SkillRunLog(run_id="r", sequence=1, event_type="step", payload={}, created_at=now), 1, uuid7()
        ),
    ]
    with (
        open_database(tmp_path / "a.duckdb") as database,
        contextlib.closing(Materializer(database)) as writer,
    ):
        writer.apply([SourceRecord("t/0", n, n + 1, 0, None, value) for n, value in enumerate(values)])
        with contextlib.closing(database.cursor()) as backup:  # a copy under way, held open
            backup.execute(f"ATTACH '{tmp_path / 'copy'}' AS held")
            backup.execute("BEGIN")
            backup.execute("COPY FROM DATABASE a TO held")
            assert writer.sealer.seal() == 1
            assert writer.sealer.state is SealState.MOVED
            assert writer.sealer.checkpoint_due
            assert back_up(database, tmp_path / "second") > 0
            backup.execute("COMMIT")
            backup.execute("DETACH held")
        writer.sealer.checkpoint()
        assert writer.sealer.state is SealState.IDLE
