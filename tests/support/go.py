"""The Go program that checks proofs with other people's code; built once in a session, into a directory of its own."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "vectors" / "go" / "proof"
BUILD_S_MAX = 280
RUN_S_MAX = 120


def go_program(directory: Path) -> Path:
    """The built program. Without Go, or without its modules, the test is skipped and says so; in CI it fails."""
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if go is None:
        _without("no `go` on PATH: the proof was not checked by foreign programs")
    program = directory / "proof"
    done = subprocess.run(
        [str(go), "build", "-buildvcs=false", "-o", str(program), "."],
        cwd=SOURCE,
        env=os.environ | {"GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "GOWORK": "off"},
        capture_output=True,
        text=True,
        timeout=BUILD_S_MAX,
        check=False,
    )
    if done.returncode != 0:
        _without(
            f"the Go program can't be built, so that the proof was not checked by it: {done.stderr[-2000:]}"
        )
    return program


def run(program: Path, *arguments: str) -> str:
    """What it prints; an error where it ends with anything but 0."""
    done = subprocess.run(
        [str(program), *arguments], capture_output=True, text=True, timeout=RUN_S_MAX, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def _without(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
