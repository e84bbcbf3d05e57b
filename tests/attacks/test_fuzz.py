"""Mutation fuzz: a share of what `make attacks` runs, and the list of what it is about, held against the schema."""

import contextlib

import duckdb
from tests.attacks import fuzz

from skillaudit.proof.verify.explain import NOT_COVERED

SHARE_FLIPS = 60
LONG_FLIPS = 12


def test_verify_answers_never_zero_to_a_flip(tmp_path):
    """Any one stored value that a proof covers, changed by a bit or a character: the record is no longer proven."""
    outcome = fuzz.run(fuzz.make_record(tmp_path / "record"), seed=7, flips=SHARE_FLIPS)
    assert outcome.flips == SHARE_FLIPS
    assert outcome.passed == []


def test_verify_answers_never_zero_to_a_flip_in_a_long_record(tmp_path):
    """Nor where a tile of the journal is complete and a seal has blocks."""
    outcome = fuzz.run(fuzz.make_long_record(tmp_path / "long"), seed=7, flips=LONG_FLIPS)
    assert {name.partition(".")[0] for name in outcome.by_column} == set(fuzz.LONG)
    assert outcome.passed == []


def test_every_column_is_fuzzed_or_named(world):
    """A new column is either covered, or its absence has a reason."""
    with contextlib.closing(duckdb.connect(str(world.path), read_only=True)) as connection:
        columns = connection.execute(
            "SELECT table_name, column_name FROM duckdb_columns() WHERE schema_name = 'store'"
        ).fetchall()
    for table, column in columns:
        covered = column in (fuzz.COVERED | fuzz.LONG).get(table, ())
        reasons = {table, f"{table}.{column}", f"{table}.*"} & {*fuzz.UNCOVERED, *fuzz.ELSEWHERE}
        assert covered or reasons, f"{table}.{column} is neither fuzzed nor named as not covered"
    known = set(columns)
    assert all(
        (table, column) in known for table, names in (fuzz.COVERED | fuzz.LONG).items() for column in names
    )


def test_what_is_not_fuzzed_is_what_people_are_told(world):
    """One list: what `verify --explain` and docs/verify.md call not covered is what the fuzz leaves out, and no more."""
    assert sorted(name for names in NOT_COVERED.values() for name in names) == sorted(fuzz.UNCOVERED)
