"""Telling new runs from stored ones without a look-up: never a no for a hash that is stored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.consumer.support import RUN_A, RUN_B, log, records, start

from skillaudit.consumer.database import Database, open_database
from skillaudit.consumer.hashes import KnownHashes
from skillaudit.consumer.materializer import Materializer
from skillaudit.contract.digests import run_hash


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with (
        open_database(tmp_path / "audit.duckdb") as database,
        contextlib.closing(Materializer(database)) as writer,
    ):
        writer.apply(records([start(), log(1, run=1)]))
        yield database


def test_runs_and_orphans_are_known(database: Database) -> None:
    """Whatever a record may belong to."""
    known = KnownHashes(runs_min=0)
    with contextlib.closing(database.cursor()) as cursor:
        known.prepare(cursor, 2)
    assert known.may_hold(run_hash(RUN_A))
    assert known.may_hold(run_hash(RUN_B))
    assert not known.may_hold(run_hash("another"))
    assert not known.may_hold(0)
    assert not known.may_hold(2**64 - 1)


def test_what_is_added_is_known(database: Database) -> None:
    """A run that began since, and it stays so when all are read again."""
    known = KnownHashes(runs_min=0, recent_max=2)
    with contextlib.closing(database.cursor()) as cursor:
        known.prepare(cursor, 2)
        known.add(7)
        known.prepare(cursor, 2)
        assert known.may_hold(7)
        known.add(8)
        known.prepare(cursor, 2)  # reads what is stored, which these two are not
    assert not known.may_hold(7)
    assert known.may_hold(run_hash(RUN_A))


def test_a_small_database_is_asked(database: Database) -> None:
    """There a look-up is cheaper than keeping hashes."""
    known = KnownHashes()
    with contextlib.closing(database.cursor()) as cursor:
        known.prepare(cursor, 2)
    assert known.may_hold(7)
