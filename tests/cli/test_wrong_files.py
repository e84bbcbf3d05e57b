"""A database file that is named wrongly: a sentence with the path and the remedy, exit code 7, and nothing is made or changed."""

from __future__ import annotations

import ctypes
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from tests.conformance.compositions import settings_at
from tests.pipeline.support import environment

from skillaudit.contract.errors import UnreachableError
from skillaudit.producer import Sink, SkillRun
from skillaudit.storage import open_reader

UNREACHABLE = 7
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
COMMANDS = [
    ("runs",),
    ("show", "x"),
    ("acts",),
    ("acts", "--holds"),
    ("dead-letters", "list"),
    ("dead-letters", "show", "1"),
    ("verify", "x"),
    ("verify", "--all"),
    ("backup", "COPY"),
    ("hold", "--all"),
    ("purge", "x", "--yes"),
    ("erase", "--caller", "x", "--yes"),
]
"""Each that looks into a database."""
BROKERS = {"embedded": "", "kafka": "127.0.0.1:9"}
"""No broker is asked for reading."""


@pytest.fixture(params=BROKERS)
def refused(request, command, recorded, tmp_path):
    """A command with `--db` on some path beside a data directory that is in use: its words, once it was refused."""
    settings = replace(recorded.settings, kafka_bootstrap_servers=BROKERS[request.param])

    def call(words, path: Path) -> str:
        words = [str(tmp_path / "copy") if word == "COPY" else word for word in words]
        said = command(*words, "--db", str(path), settings=settings)
        assert (said.code, said.out) == (UNREACHABLE, ""), said.err
        assert str(path) in said.err
        assert "Traceback" not in said.err
        assert not (tmp_path / "copy").exists()
        return said.err

    return call


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_file_that_is_not_there(refused, tmp_path, words):
    """Neither it nor anything beside it is made, not even its directory."""
    said = refused(words, tmp_path / "typo" / "audit.duckdb")
    assert "skillaudit consume" in said, "the remedy"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [("runs",), ("verify", "--all"), ("acts",)], ids=" ".join)
def test_the_setting_is_as_good_as_the_option(command, recorded, tmp_path, words):
    """`SKILLAUDIT_DB_FILE` names a file, too."""
    said = command(*words, settings=replace(recorded.settings, db_file=tmp_path / "typo.duckdb"))
    assert (said.code, list(tmp_path.iterdir())) == (UNREACHABLE, [])


async def test_a_reader_makes_none(recorded, tmp_path):
    """Nor does the library's."""
    with pytest.raises(UnreachableError, match="typo"):
        async with open_reader(recorded.settings, db_file=tmp_path / "typo.duckdb"):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_directory(refused, tmp_path, words):
    (tmp_path / "d").mkdir()
    assert "directory" in refused(words, tmp_path / "d")
    assert list((tmp_path / "d").iterdir()) == []


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_file_that_is_no_database(refused, tmp_path, words):
    """Some text."""
    path = tmp_path / "notes.txt"
    path.write_bytes(b"no database" * 1000)
    refused(words, path)
    assert path.read_bytes() == b"no database" * 1000
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_somebody_elses_database(refused, tmp_path, words):
    """Made by the same engine: no schema is made in it."""
    path = tmp_path / "sales.duckdb"
    with duckdb.connect(str(path)) as other:
        other.execute("CREATE TABLE sales (n INT)")
    before = digest(path)
    refused(words, path)
    assert digest(path) == before
    assert list(tmp_path.iterdir()) == [path]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("words", [("runs",), ("acts",)], ids=" ".join)
@pytest.mark.parametrize("what", ["file", "directory"])
def test_what_may_not_be_read(recorded, words, what):
    """Another user's: the system's own words."""
    directory = Path(tempfile.mkdtemp())
    try:
        path = directory / "audit.duckdb"
        shutil.copy(recorded.settings.database, path)
        path.chmod(0)
        directory.chmod(0o755 if what == "file" else 0)
        said = subprocess.run(
            [sys.executable, "-m", "skillaudit.cli", *words, "--db", str(path), "--data", "/nowhere"],
            env=environment(settings_at(Path("/nowhere"))),
            preexec_fn=without_privileges,
            capture_output=True,
            text=True,
            cwd="/",
            check=False,
        )
    finally:
        directory.chmod(0o755)
        shutil.rmtree(directory)
    assert (said.returncode, said.stdout) == (UNREACHABLE, ""), said.stderr
    assert "Permission denied" in said.stderr
    assert str(path) in said.stderr


def without_privileges() -> None:
    """Permissions hold for root, too, behind the next `exec`."""
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # refused where there are none to drop


def test_a_backup_is_only_read(command, tmp_path):
    """It stays byte for byte what it is, whatever waits in the outbox; that more waits is told."""
    settings = settings_at(tmp_path / "data")
    backup = tmp_path / "backup.duckdb"
    record(settings, "first")
    assert command("runs", settings=settings).code == 0  # reads in what waits
    assert command("backup", str(backup), settings=settings).code == 0
    before = digest(backup)
    record(settings, "second")
    said = command("runs", "--json", "--db", str(backup), settings=settings)
    assert [run["skill_id"] for run in json.loads(said.out)["runs"]] == ["first"]
    assert "skillaudit consume" in said.err
    assert digest(backup) == before
    said = command("runs", "--json", settings=settings)
    assert [run["skill_id"] for run in json.loads(said.out)["runs"]] == ["second", "first"]
    assert said.err == ""


def record(settings, skill_id: str) -> None:
    with (
        Sink.from_settings(settings, flush_timeout_ms=0) as sink,
        sink.start_run(SkillRun(skill_id=skill_id)),
    ):
        pass
