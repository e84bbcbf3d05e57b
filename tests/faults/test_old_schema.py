"""What tells a migrated file from one whose migration was cut off: it has to notice every kind of in-between."""

import contextlib
import shutil
from pathlib import Path

import duckdb
import pytest
from tests.faults.fuse import open_fused
from tests.faults.old_schema import MAKES, NEWEST, OLDER, OldFiles, statements_by_step

from skillaudit.consumer.statements import migrations

VIEWS_ALONE = 5
"""A step that changed no table."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of every older schema."""
    return OldFiles(tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def newest(files, tmp_path_factory):
    """The oldest one, brought to the newest schema."""
    path = tmp_path_factory.mktemp("newest") / "audit.duckdb"
    shutil.copy(files.path(1), path)
    open_fused(path).close()
    return path


@pytest.fixture
def migrated(newest, tmp_path):
    """A copy, to be changed."""
    return Path(shutil.copy(newest, tmp_path))


def _change(path, sql):
    with contextlib.closing(duckdb.connect(str(path))) as connection:
        connection.execute(sql)


def test_every_step_is_told_by_what_it_makes():
    """A step that is added has to be added here."""
    assert sorted(MAKES) == [number for number, _, _ in migrations()]
    assert [step for step, made in MAKES.items() if not made] == [VIEWS_ALONE]


@pytest.mark.parametrize("since", OLDER)
def test_a_whole_migration_passes_from_every_version(files, since, tmp_path):
    """Its statements are told apart by step, each step's begin with its BEGIN."""
    path = tmp_path / "audit.duckdb"
    shutil.copy(files.path(since), path)
    assert files.assert_kept(path, since) == since
    steps = statements_by_step(path)
    assert list(steps) == list(range(since + 1, NEWEST + 1))
    assert all(len(numbers) >= 4 for numbers in steps.values())  # BEGIN, a statement, the version, COMMIT
    assert files.assert_kept(path, since, newest=True) == NEWEST


def test_a_version_that_is_set_back_does_not_pass(files, migrated):
    """What the steps behind it have made is there."""
    for version in OLDER:
        _change(migrated, f"UPDATE store.meta SET value = '{version}' WHERE name = 'schema_version'")
        following = version + 1 + (version + 1 == VIEWS_ALONE)
        with pytest.raises(AssertionError, match=f"schema {version} has of step {following}"):
            files.assert_kept(migrated, 1)


def test_a_version_that_is_ahead_does_not_pass(files, tmp_path):
    """What its step makes is not there."""
    for version in set(OLDER) - {VIEWS_ALONE - 1}:
        path = Path(shutil.copy(files.path(version), tmp_path))
        _change(path, f"UPDATE store.meta SET value = '{version + 1}' WHERE name = 'schema_version'")
        with pytest.raises(AssertionError, match=f"schema {version + 1} lacks of step {version + 1}"):
            files.assert_kept(path, version)


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("UPDATE store.runs SET output = 'x' WHERE id = 'old-7'", "rows of runs that are new"),
        ("DELETE FROM store.events_sealed WHERE run_key = 105", "rows of events_sealed that are lost"),
        ("INSERT INTO store.tombstones SELECT * FROM store.tombstones", "rows of tombstones that are new"),
        ("UPDATE store.sources SET claimed = 0", "step 2 did not fill in its rows"),
        ("UPDATE store.runs SET partition = '' WHERE id = 'old-7'", "step 3 did not fill in its rows"),
        ("UPDATE store.orphans SET first_us = NULL", "step 7 did not fill in its rows"),
        ("DROP VIEW main.source_arrivals", "schema 7 lacks of step 7"),
        ("ALTER TABLE store.ledger_cuts DROP COLUMN trial_row", "otherwise than one"),
    ],
)
def test_what_is_otherwise_does_not_pass(files, migrated, sql, told):
    """Rows are compared by content."""
    _change(migrated, sql)
    with pytest.raises(AssertionError, match=told):
        files.assert_kept(migrated, 1, newest=True)


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("UPDATE store.ledger SET run_hash = 7 WHERE idx = 7", "step 6 did not fill in its rows"),
        ("UPDATE store.ledger SET head = ''::BLOB WHERE idx = 7", "rows of ledger that are new"),
    ],
)
def test_a_ledger_keeps_its_rows(files, tmp_path, sql, told):
    """Of a file that had one, whatever a later step does to its table."""
    path = Path(shutil.copy(files.path(2), tmp_path))
    open_fused(path).close()
    assert files.assert_kept(path, 2, newest=True) == NEWEST
    _change(path, sql)
    with pytest.raises(AssertionError, match=told):
        files.assert_kept(path, 2, newest=True)
