"""What every command ends with: 0 ok, 1 failed, 2 usage, 3 not found, 4 incomplete, 7 unreachable or locked, 130 interrupted."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from tests.conformance.compositions import kafka_settings, settings_at
from tests.pipeline.support import environment
from tests.support.waiting import until_now

from skillaudit.cli.app import COMMANDS
from skillaudit.contract.owner import read_owner

NOT_FOUND, UNREACHABLE, INTERRUPTED = 3, 7, 130
HEAVY = ("duckdb", "pyarrow", "pydantic", "fastapi", "uvicorn", "httpx", "aiokafka")


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("runs", "--nonsense"),
        ("runs", "--limit", "0"),
        ("runs", "--limit", "many"),
        ("runs", "--since", "yesterday"),
        ("show",),
        ("show", "run", "--events", "3-1"),
        ("import", "/no/such/file"),
        ("topics", "destroy"),
        ("forward",),  # no broker is configured
        ("topics", "--check"),
        ("runs", "--config", "/no/such/file"),
        ("runs", "--url", "nonsense"),
        ("dead-letters", "replay"),
        ("consume", "--listen", "nonsense"),
    ],
    ids=" ".join,
)
def test_usage(command, words):
    """2, with words about what was wrong, and nothing on stdout."""
    said = command(*words)
    assert (said.code, said.out) == (2, "")
    assert said.err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("runs", "--config", "FILE"), "No such file"),
        (("keys", "show", "FILE"), "No such file"),
        (("keys", "new", "FILE", "--name", "x"), "No such file"),
        (("verify", "--all", "--policy", "FILE"), "No such file"),
        (("verify", "--all", "--anchor", "fiel:/x"), "--anchor: no anchor is called fiel:"),
    ],
)
def test_a_file_is_named_once(command, tmp_path, words, reason):
    """With the system's words for what is wrong, and nothing of the language it is written in."""
    file = str(tmp_path / "none" / "file")
    said = command(*(file if word == "FILE" else word for word in words))
    assert (said.code, said.out) == (2, "")
    assert reason in said.err
    assert said.err.count(file) == words.count("FILE")
    assert "Errno" not in said.err


def test_a_setting_that_cannot_be(command):
    """2, naming the setting and where its value came from."""
    said = command("runs", SKILLAUDIT_SEAL_ROWS="lots")
    assert (said.code, said.out) == (2, "")
    assert "seal_rows" in said.err
    assert "environment" in said.err


@pytest.mark.parametrize("words", [("show", "no-such-run"), ("dead-letters", "show", "999")], ids=" ".join)
def test_not_found(command, words):
    """3, naming what was looked for."""
    said = command(*words)
    assert (said.code, said.out) == (NOT_FOUND, "")
    assert words[-1] in said.err


@pytest.mark.parametrize("words", [("runs",), ("show", "x"), ("dead-letters", "list")], ids=" ".join)
def test_nothing_recorded_yet(command, tmp_path, words):
    """7: there is no database, and none is made by looking."""
    said = command(*words, settings=settings_at(tmp_path / "data"))
    assert (said.code, said.out) == (UNREACHABLE, "")
    assert str(tmp_path) in said.err
    assert not (tmp_path / "data").exists()


def test_nobody_listens(command):
    """7, with the address."""
    said = command("runs", "--url", "http://127.0.0.1:9")
    assert (said.code, said.out) == (UNREACHABLE, "")
    assert "127.0.0.1:9" in said.err


def test_no_broker(command):
    """7, saying that it did not answer."""
    said = command("topics", "--check", "--kafka", "127.0.0.1:9")
    assert (said.code, said.out) == (UNREACHABLE, "")
    assert "no answer from the cluster at 127.0.0.1:9" in said.err


def test_help_is_quick(recorded):
    """No command's help loads an engine, a server or a client."""
    ask = (
        "import sys; from skillaudit.cli import main\n"
        "for words in map(str.split, sys.argv[1:]):\n"
        "    assert main([*words, '--help']) == 0, words\n"
        f"    heavy = set({HEAVY}) & set(sys.modules)\n"
        "    assert not heavy, (words, heavy)\n"
    )
    words = ["", *COMMANDS, "outbox status", "dead-letters list", "dead-letters replay"]
    done = subprocess.run(
        [sys.executable, "-c", ask, *words],
        env=environment(recorded.settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Usage: ") == len(words)


@pytest.mark.parametrize(
    "words", [("runs", "--dry-runs"), ("show", "LONG", "--payloads"), ("show", "LONG", "--json")]
)
def test_a_reader_that_leaves(recorded, started, words):
    """`| head -1`: silent."""
    process = started(*(recorded.long if word == "LONG" else word for word in words))
    assert process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said.replace("6 of 6 runs\n", "")) == (0, "")


def test_interrupted(started):
    """130, silent, while it waits for an answer."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        process = started("runs", "--url", f"http://127.0.0.1:{silent.getsockname()[1]}")
        connection, _ = silent.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            out, said = process.communicate(timeout=60)
    assert (process.returncode, out, said.strip()) == (INTERRUPTED, "", "")


def test_a_live_owner_is_asked(command, recorded, started, tmp_path):
    """The file is held by another process, and its runs are listed all the same: over HTTP."""
    settings = recorded.settings
    before = command("runs", "--json").out
    consuming = started("consume")
    owner = until_now(
        lambda: read_owner(settings.database) if consuming.poll() is None else pytest.fail("it ended")
    )
    until_now(lambda: read_owner(settings.database).url)
    said = command("runs", "--json")
    assert (said.code, said.err, json.loads(said.out)) == (0, "", json.loads(before))
    for words in (
        ("show", recorded.parent),
        ("dead-letters", "list"),
        ("backup", str(tmp_path / "copy.duckdb")),
    ):
        assert command(*words).code == 0
    assert (tmp_path / "copy.duckdb").stat().st_size > 0
    assert owner.pid == consuming.pid
    consuming.terminate()
    assert consuming.wait(30) == 0


def test_an_owner_that_cannot_be_asked(command, recorded, started):
    """7, naming the process that holds the file."""
    consuming = started("consume", "--no-http")
    until_now(lambda: read_owner(recorded.settings.database))
    impatient = settings_at(recorded.settings.data, session_wait_ms_max=100)
    for words in (("runs",), ("show", recorded.parent), ("dead-letters", "list"), ("consume", "--no-http")):
        said = command(*words, settings=impatient)
        assert (said.code, said.out) == (UNREACHABLE, ""), words
        assert str(consuming.pid) in said.err, words
        assert "serves no readers" in said.err, words
    consuming.terminate()
    assert consuming.wait(30) == 0


@pytest.mark.broker
async def test_topics(command, tmp_path, kafka_bootstrap):
    """1 where they differ from the plan, 0 where they are made as planned."""
    settings = await kafka_settings(tmp_path, kafka_bootstrap)

    def check(*words):
        return subprocess.run(
            [sys.executable, "-m", "skillaudit.cli", "topics", *words, "--json"],
            env=environment(settings),
            capture_output=True,
            text=True,
            check=False,
        )

    fine = check("--check", "--replication", "1")
    assert (fine.returncode, json.loads(fine.stdout)) == (0, {"created": [], "differences": []})
    differing = check("--check", "--replication", "1", "--partitions", "12")
    [difference] = json.loads(differing.stdout)["differences"]
    assert (differing.returncode, difference["what"], difference["found"]) == (1, "partitions", "6")
    topic = f"test.{os.urandom(6).hex()}"
    missing = check("--check", "--topic", topic)
    assert missing.returncode == 1
    made = check("create", "--topic", topic, "--replication", "1")
    assert (made.returncode, json.loads(made.stdout)) == (0, {"created": [topic], "differences": []})
