"""Processes of a pipeline under test: agents that note what was safe, consumers and forwarders that can be killed."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

from tests.faults.agent import Plan
from tests.faults.oracle import Account, read_accounts, read_positions
from tests.support.waiting import until

from skillaudit.contract import Settings
from skillaudit.contract.outbox.directory import list_sources
from skillaudit.contract.owner import read_owner

JOIN_S = 150
FLUSH_S = 120.0
START_S = 60
SAID_CHARS_MAX = 400


def environment(settings: Settings) -> dict[str, str]:
    """A process's environment in which these settings hold, and no others."""
    own = {f"SKILLAUDIT_{name.upper()}": text for name, text in settings.printable().items() if text}
    own["PYTHONFAULTHANDLER"] = "1"  # who dies of a fatal signal, or is asked by SIGABRT, tells where it was
    return {k: v for k, v in os.environ.items() if not k.startswith("SKILLAUDIT_")} | own


class Process:
    """A child of this test; `async with` ends it by SIGKILL if nothing else has."""

    def __init__(self, name: str, settings: Settings, arguments: list[str], errors: Path) -> None:
        self.name = name
        self.settings = settings
        self.errors = errors
        self._arguments = arguments
        self._child: asyncio.subprocess.Process | None = None

    async def __aenter__(self):
        await self.start()
        return self

    async def __aexit__(self, *exc):
        if self.running:
            await self.kill()

    async def start(self) -> None:
        with self.errors.open("ab") as errors:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable,
                *self._arguments,
                env=environment(self.settings),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=errors,
            )

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.returncode is None

    @property
    def pid(self) -> int:
        return self._child.pid

    def said(self) -> str:
        return self.errors.read_text()

    async def join(self, timeout_s: float = JOIN_S) -> int:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._child.wait()
        except TimeoutError:
            raise TimeoutError(
                f"{self.name} has not ended within {timeout_s:g} s: {self.said()[-SAID_CHARS_MAX:]}"
            ) from None

    async def succeeded(self, timeout_s: float = JOIN_S) -> None:
        code = await self.join(timeout_s)
        assert code == 0, f"{self.name} ended with {code}: {self.said()}"

    async def kill(self) -> None:
        self._child.kill()
        await self._child.wait()

    async def terminate(self, number: int = signal.SIGTERM) -> float:
        """Ask it to end; the seconds it took. Its exit code must be 0."""
        began_s = time.monotonic()
        self._child.send_signal(number)
        await self.succeeded()
        return time.monotonic() - began_s


class Command(Process):
    """A `skillaudit` command that runs until it is told to stop."""

    def __init__(self, settings: Settings, *words: str, logs: Path) -> None:
        super().__init__(
            words[0],
            settings,
            ["-m", "skillaudit.cli", *words],
            logs / f"{words[0]}-{os.urandom(4).hex()}.log",
        )


class ConsumeCommand(Command):
    """`skillaudit consume`, started when it answers at `url`."""

    def __init__(self, settings: Settings, *words: str, logs: Path) -> None:
        super().__init__(settings, "consume", *words, logs=logs)
        self.url = ""

    async def start(self) -> None:
        await super().start()
        self.url = await until(self._announced, START_S)

    def _announced(self) -> str:
        assert self.running, self.said()
        owner = read_owner(self.settings.database)
        return owner.url if owner is not None and owner.pid == self.pid else ""


class Fleet:
    """Agents of `tests.faults.agent` that share one outbox directory."""

    def __init__(
        self,
        settings: Settings,
        directory: Path,
        *,
        processes: int,
        runs: int,
        open_at_once: int = 10,
        first=0,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.settings = settings
        self.accounts = [directory / f"account-{first + n}.jsonl" for n in range(processes)]

        def plan(account: Path, seed: int) -> Plan:
            return Plan(
                account=str(account), seed=seed, runs=runs, open_at_once=open_at_once, flush_s=FLUSH_S
            )

        self.agents = [
            Process(
                f"agent {first + n}",
                settings,
                ["-m", "tests.faults.agent", json.dumps(asdict(plan(account, first + n)))],
                account.with_suffix(".log"),
            )
            for n, account in enumerate(self.accounts)
        ]

    async def __aenter__(self):
        async with contextlib.AsyncExitStack() as stack:
            for agent in self.agents:
                await stack.enter_async_context(agent)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc):
        await self._stack.aclose()

    async def join(self) -> None:
        """All have ended, and were told that everything they recorded is acknowledged."""
        for agent in self.agents:
            await agent.succeeded()

    def noted(self) -> dict[str, Account]:
        return read_accounts(self.accounts)

    def positions(self) -> dict[str, int]:
        """How far a consumer has to be to have everything."""
        return read_positions(self.accounts)


async def drained(settings: Settings) -> None:
    """The outbox has nothing left for anybody."""
    await until(lambda: not any(s.backlog_records for s in list_sources(settings.outbox_dir)))
