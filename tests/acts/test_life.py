"""What a database says of itself in its journal: that it begins it, and that its schema changed."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tests.acts.support import rows

from skillaudit.consumer.acting import LOCAL_PARTITION
from skillaudit.consumer.database import open_database
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.recording import record_life
from skillaudit.proof.acts import parse_act


def test_it_begins_its_journal_once_and_says_when_its_schema_changes(tmp_path: Path) -> None:
    """In no control log: they are no act upon the record, and another database's life is another one."""
    with (
        open_database(tmp_path / "a.duckdb") as database,
        contextlib.closing(Materializer(database)) as writer,
    ):
        record_life(writer)
        record_life(writer)
        with contextlib.closing(database.cursor()) as cursor:
            cursor.execute("UPDATE store.meta SET value = '99' WHERE name = 'schema_version'")
        record_life(writer)
        found = rows(database, "SELECT act, control_partition, journal_idx FROM acts ORDER BY journal_idx")
        acts = [parse_act(line.encode()) for line, _, _ in found]
        assert [(act.kind.value, act.scope["schema"] == 99) for act in acts] == [
            ("genesis", False),
            ("schema", True),
        ]
        assert {act.scope["database"] for act in acts} == {database.database_id}
        assert [row[1:] for row in found] == [(LOCAL_PARTITION, 0), (LOCAL_PARTITION, 1)]


def test_what_goes_on_with_a_journal_does_not_begin_it(tmp_path: Path) -> None:
    """A rebuilt database, whose journal came from an anchor."""
    with (
        open_database(tmp_path / "a.duckdb") as database,
        contextlib.closing(Materializer(database)) as writer,
    ):
        with contextlib.closing(database.cursor()) as cursor:
            cursor.execute("INSERT INTO store.journal VALUES (0, 1, 'seal', 'x'::BLOB)")
        record_life(writer)
        assert rows(database, "SELECT * FROM acts") == []
