"""A small data directory to read from, and the command line as a function and as a process."""

import asyncio
import logging
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from tests.conformance.compositions import settings_at
from tests.pipeline.support import environment

from skillaudit.cli.app import main
from skillaudit.contract import Settings, SkillRun
from skillaudit.producer import Sink
from skillaudit.storage import open_storage

ESCAPE = "\x1b[31mred\x1b[0m"
STEPS = 300
"""Of the long run: with its payloads more than a pipe holds."""


@dataclass(frozen=True)
class Recorded:
    """What the directory holds, by what is special about it."""

    settings: Settings
    parent: str
    child: str
    failed: str
    dry: str
    long: str
    bare: str

    def __len__(self):
        return 6


@pytest.fixture(scope="session")
def recorded(tmp_path_factory) -> Recorded:
    """A data directory with a few runs, materialized; nobody owns it."""
    settings = settings_at(tmp_path_factory.mktemp("cli") / "data")
    with Sink.from_settings(settings) as sink:
        with sink.start_run(SkillRun(skill_id="support", caller_id="u-1", inputs={"q": "why?"})) as parent:
            parent.step("let me look", model="m", input_tokens=3, output_tokens=2)
            parent.tool_result("search", "found", call_id=parent.tool_call("search", {"q": "why"}))
            with parent.start_child(SkillRun(skill_id="search")) as child:
                child.step("short")
            parent.finish(output="because")
        failed = sink.start_run(SkillRun(skill_id=f"skill {ESCAPE}\n", caller_id="u-2"))
        failed.error("ValueError", f"said {ESCAPE}")
        failed.finish("error", error=f"ended {ESCAPE}")
        dry = sink.start_run(SkillRun(skill_id="support"))
        dry.finish("dry_run")
        with sink.start_run(SkillRun(skill_id="long")) as long:
            for number in range(STEPS):
                long.step(f"{number} " + "word " * 200)
    bare = SkillRun(skill_id="bare", started_at=datetime(2020, 1, 1, tzinfo=UTC))
    asyncio.run(_start(settings, bare))
    return Recorded(settings, parent.run_id, child.run_id, failed.run_id, dry.run_id, long.run_id, bare.id)


async def _start(settings: Settings, run: SkillRun) -> None:
    async with open_storage(settings) as storage:
        await storage.start_run(run)
        await storage.get_run(run.id)


@dataclass(frozen=True)
class Said:
    """What a command ended with, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(capfd, monkeypatch, recorded):
    """A command in this process, on the recorded data unless other settings are given."""
    loggers = [logging.getLogger(name) for name in ("skillaudit", "aiokafka")]
    before = [(logger, list(logger.handlers), logger.level, logger.propagate) for logger in loggers]

    def call(*words: str, settings: Settings | None = None, **variables: str) -> Said:
        for name, value in (environment(settings or recorded.settings) | variables).items():
            if name.startswith("SKILLAUDIT_"):
                monkeypatch.setenv(name, value)
        capfd.readouterr()
        code = main(words)
        said = capfd.readouterr()
        return Said(code, said.out, said.err)

    yield call
    for logger, handlers, level, propagate in before:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def started(recorded):
    """A command as a process of its own, its pipes in hand."""
    running: list[subprocess.Popen] = []

    def start(*words: str, settings: Settings | None = None) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "skillaudit.cli", *words],
            env=environment(settings or recorded.settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()
