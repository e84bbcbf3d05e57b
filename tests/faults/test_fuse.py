"""What a statement counts for, where somebody is to die at the n-th of a purge, a seal, a migration."""

import contextlib

import duckdb
import pytest
from tests.faults.fuse import OTHER, Fuse, open_fused, phase_of

from skillaudit.consumer.sealing import HOT_TABLES
from skillaudit.consumer.statements import migrations, statements

PHASES = {"purging.sql": "purge", "writes.sql": OTHER, "staging.sql": OTHER, "state.sql": OTHER}


@pytest.mark.parametrize(
    ("file", "name"), [(file, name) for file in PHASES for name in statements(file)], ids=str
)
def test_each_named_statement_falls_in_its_phase(file, name):
    """As the product executes it."""
    assert phase_of(statements(file)[name]) == PHASES[file]


@pytest.mark.parametrize("table", HOT_TABLES)
def test_a_seal_is_what_moves_rows(table):
    """To count them is part of a start."""
    phases = {name: phase_of(text.format(table=table)) for name, text in statements("sealing.sql").items()}
    assert phases == {"count": OTHER, "copy": "seal", "empty": "seal"}


@pytest.mark.parametrize("step", migrations(), ids=lambda step: step[1])
def test_every_statement_of_a_migration_is_one(step):
    """The cursor runs them one by one."""
    assert {phase_of(one.query) for one in duckdb.extract_statements(step[2])} == {"migration"}


@pytest.mark.parametrize(
    ("statement", "phase"),
    [
        ("CHECKPOINT", "checkpoint"),
        ("CHECKPOINT backup_copy_ab", "backup"),
        ("COPY FROM DATABASE a TO backup_copy_ab", "backup"),
        ("UPDATE store.meta SET value = ? WHERE name = 'schema_version'", "migration"),
    ],
)
def test_what_has_no_name_is_told_by_its_words(statement, phase):
    """Of the few statements that stand in the code."""
    assert phase_of(statement) == phase


def test_a_commit_belongs_to_what_its_transaction_did(tmp_path):
    """Whatever it ended with."""
    with (
        contextlib.closing(open_fused(tmp_path / "audit.duckdb", Fuse())) as database,
        contextlib.closing(database.cursor()) as cursor,
    ):
        kind = type(cursor)._phase_of
        told = [kind(cursor, text) for text in ("BEGIN", "SELECT 1", _PURGE, "SELECT 2", "COMMIT")]
        assert told == [OTHER, OTHER, "purge", OTHER, "purge"]
        assert [kind(cursor, text) for text in ("BEGIN", "SELECT 1", "COMMIT")] == [OTHER] * 3


_PURGE = statements("purging.sql")["tombstones"]
