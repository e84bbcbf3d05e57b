"""What people mistype ends in a sentence and an exit code, never in a traceback."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from skillaudit.cli.app import main

USAGE = 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("runs", "--since", "99999999999999d"),
        ("runs", "--since", "²d"),
        ("runs", "--since", "0001-01-01T00:00:00+14:00"),
        ("show", "run", "--events", "²"),
    ],
)
def test_values_that_are_none_are_a_matter_of_usage(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and the option's name."""
    assert main(arguments) == USAGE
    assert "Invalid value for '--" in capsys.readouterr().err


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The system's own words, with the path."""
    (tmp_path / "file").touch()
    assert main(("consume", "--no-http", "--data", str(tmp_path / "file" / "data"))) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


async def test_a_consumer_ends_while_its_broker_says_nothing(tmp_path: Path) -> None:
    """SIGTERM is heard during the start, too: a broker that accepts and never answers holds nobody up."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SKILLAUDIT_")}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "skillaudit.cli", "consume", "--no-http", "--data", str(tmp_path)),
            *("--kafka", f"127.0.0.1:{silent.getsockname()[1]}"),
            env=environment,
            stderr=subprocess.PIPE,
        )
        connection, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(silent), 20)
        process.send_signal(signal.SIGTERM)
        _, said = await asyncio.wait_for(process.communicate(), 10)
        connection.close()
    assert (process.returncode, said) == (0, b"")
