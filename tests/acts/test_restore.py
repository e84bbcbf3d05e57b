"""A backup put back lawfully: the journal goes on, acts that came since are applied again, events catch up."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.acts.support import rows, state
from tests.acts.test_surfaces import ORDER, record
from tests.conformance.compositions import settings_at

from skillaudit.consumer.database import open_database
from skillaudit.contract.errors import LockedError, RejectedError
from skillaudit.contract.settings import Settings
from skillaudit.proof.findings import Kind
from skillaudit.proof.keys import generate_key, read_key
from skillaudit.proof.policy import AnchorPolicy, Grade, Policy
from skillaudit.proof.verify import Report, VerifyRequest
from skillaudit.proof.verify.witness import read_anchors
from skillaudit.storage.hosting import host_consumer
from skillaudit.storage.operations import ServiceOperations
from skillaudit.storage.restoring import held, put_in_place, restore
from skillaudit.storage.verifying import verify

AGAIN = ("runs", "events", "tombstones", "redactions", "run_salts", "ledger", "purges")


async def consume(
    settings: Settings, *, backup: Path | None = None, then: tuple[str, str] | None = None
) -> None:
    """Consume what waits; make a backup; delete one run and redact another."""
    async with host_consumer(settings, serve=False, seal=True) as hosted:
        await asyncio.wait_for(hosted.service.caught_up.wait(), 30)
        operations = ServiceOperations(hosted.service)
        if then is not None:
            await operations.purge(ORDER, runs=[then[0]])
            await operations.redact(ORDER, then[1], 1)
        if backup is not None:
            await operations.back_up(backup)


@pytest.mark.parametrize("anchored", [False, True], ids=["self", "anchored"])
async def test_a_restored_backup_becomes_what_was_lost(tmp_path: Path, anchored: bool) -> None:
    """Whatever came after the backup is there again, the journal's leaves byte for byte; the restore is one more act."""
    settings = settings_at(tmp_path / "data")
    if anchored:
        generate_key(tmp_path / "key", "audit.example.org/test")
        settings = settings_at(
            tmp_path / "data", seal_key_file=tmp_path / "key", anchors=f"file:{tmp_path / 'anchor'}"
        )
    backup = tmp_path / "backup.duckdb"
    await record(settings, "a", "b")
    await consume(settings, backup=backup)
    await record(settings, "c")
    await consume(settings, then=("a", "b"))
    with open_database(settings.database) as database:
        lost = state(database)
        leaves = rows(database, "SELECT idx, leaf FROM journal ORDER BY idx")
    report = await restore(settings, backup, ORDER)
    assert report.replaced is not None
    assert report.replaced.exists()
    await consume(settings)
    with open_database(settings.database) as database:
        found = state(database)
        again = rows(database, "SELECT idx, leaf FROM journal ORDER BY idx")
        acts = rows(database, "SELECT kind FROM store.acts ORDER BY rowid")
    assert {name: found[name] for name in AGAIN} == {name: lost[name] for name in AGAIN}
    assert [kind for (kind,) in acts] == ["genesis", "purge", "redact", "restore"]
    if anchored:
        assert again[: len(leaves)] == leaves, "what was anchored stands where it stood"
    assert sum(b'"restore"' in leaf for _, leaf in again) == 1
    for run in (None, "a", "b", "c"):
        judged = await judge(settings, run)
        assert judged.exit_code == 0, judged.findings
        assert set(judged.counts) == WORDS[run], judged.findings
        assert judged.grade == ("anchored" if anchored else "self")


WORDS = {
    None: {Kind.RESTORED, Kind.REDACTED},
    "a": {Kind.PURGED},
    "b": {Kind.REDACTED},
    "c": set[Kind](),
}
"""What `verify` tells of the restored record: that it was restored is of the whole, and no fault."""


async def judge(settings: Settings, run_id: str | None = None) -> Report:
    """To the grade `anchored` where there is an anchor."""
    policy = Policy()
    if settings.anchors:
        assert settings.seal_key_file is not None
        keys = (read_key(settings.seal_key_file).verifier.text,)
        policy = Policy(grade=Grade.ANCHORED, keys=keys, anchors=(AnchorPolicy(settings.anchors),))
    request = VerifyRequest(
        run_id=run_id, policy=policy, anchors=await asyncio.to_thread(read_anchors, policy, settings)
    )
    return await verify(settings, request)


async def test_an_older_copy_that_nobody_restored_is_a_rollback(tmp_path: Path) -> None:
    """The same copy, put there by hand: no act says so, and the anchor knows more."""
    generate_key(tmp_path / "key", "audit.example.org/test")
    settings = settings_at(
        tmp_path / "data", seal_key_file=tmp_path / "key", anchors=f"file:{tmp_path / 'anchor'}"
    )
    backup = tmp_path / "backup.duckdb"
    await record(settings, "a")
    await consume(settings, backup=backup)
    await record(settings, "b")
    await consume(settings)
    shutil.copy(backup, settings.database)
    judged = await judge(replace(settings, db_file=settings.database))
    assert (judged.exit_code, Kind.RESTORED in judged.counts) == (5, False)
    assert Kind.JOURNAL_ROLLED_BACK in judged.counts, judged.findings


OPEN = "import sys, duckdb; duckdb.connect(sys.argv[1]).close()"


def openable(path: Path) -> bool:
    """By another process."""
    return (
        subprocess.run([sys.executable, "-c", OPEN, str(path)], check=False, capture_output=True).returncode
        == 0
    )


async def test_nobody_opens_a_database_while_it_is_replaced(tmp_path: Path) -> None:
    """Neither what was there, whose writes would be lost, nor what is there now, before the restore is recorded in it."""
    settings = settings_at(tmp_path / "data")
    await record(settings, "a")
    await consume(settings, backup=tmp_path / "backup")
    with contextlib.ExitStack() as files:
        replaced = put_in_place(tmp_path / "backup", settings.database, files)
        assert replaced is not None
        assert not openable(replaced)
        assert not openable(settings.database)
    assert openable(replaced)
    assert openable(settings.database)
    with held(settings.database):
        assert not openable(settings.database)


async def test_what_cannot_be_restored_is_refused(tmp_path: Path) -> None:
    """A database that somebody has, and a file that is no backup: nothing is moved."""
    settings = settings_at(tmp_path / "data")
    await record(settings, "a")
    await consume(settings, backup=tmp_path / "backup")
    (tmp_path / "other").write_bytes(b"no database")
    before = sorted(settings.data.iterdir())
    with pytest.raises(RejectedError, match="no backup"):
        await restore(settings, tmp_path / "other", ORDER)
    with open_database(settings.database), pytest.raises(LockedError):
        await restore(settings, tmp_path / "backup", ORDER)
    assert sorted(settings.data.iterdir()) == before
