"""Worker processes that begin at once: forked from one that has imported everything and has started nothing.

`python -m tests.faults.zygote` reads one JSON line a worker, `{"module", "plan"}`, forks it, says `pid N`, and when it has
ended `code N`. The module has a function `main(plan) -> int`. A worker that is killed is reaped here, so its pid is nobody else's.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import AsyncGenerator
from typing import Any

IMPORTED = (
    "tests.faults.consumer_worker",
    "tests.faults.service_worker",
    "skillaudit.consumer.kafka_source",
    "skillaudit.consumer.outbox_source",
)
WORKER_S = 120.0
KILLED = -signal.SIGKILL


class Worker:
    """One worker that runs."""

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self._zygote = zygote
        self.pid = pid
        self.code: int | None = None

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    async def ended(self, timeout_s: float = WORKER_S) -> int:
        """Its exit code, negative for a signal; an AssertionError where it hangs."""
        if self.code is None:
            try:
                async with asyncio.timeout(timeout_s):
                    self.code = await self._zygote.read("code")
            except TimeoutError:
                self.kill()
                self.code = await self._zygote.read("code")
                raise AssertionError(f"the worker did not end within {timeout_s:g} s") from None
        return self.code


class Zygote:
    """Forks one worker at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._last: Worker | None = None

    async def fork(self, module: str, **plan: Any) -> Worker:
        """Start a worker. One that a failed case left behind ends before: its end is not the next one's."""
        assert self._process.stdin is not None
        if self._last is not None and self._last.code is None:
            self._last.kill()
            await self._last.ended()
        self._process.stdin.write(json.dumps({"module": module, "plan": plan}).encode() + b"\n")
        await self._process.stdin.drain()
        self._last = Worker(self, await self.read("pid"))
        return self._last

    async def read(self, word: str) -> int:
        """The next line, which has to begin with this word."""
        assert self._process.stdout is not None
        line = (await self._process.stdout.readline()).decode().split()
        assert line[:1] == [word], f"the zygote said {line}"
        return int(line[1])


@contextlib.asynccontextmanager
async def zygote() -> AsyncGenerator[Zygote]:
    """A resource of rows."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.faults.zygote",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Zygote(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), WORKER_S)
        except TimeoutError:
            process.kill()
            await process.wait()


def main() -> None:
    """Fork what is asked for, one after the other, until the input ends."""
    modules = {name: importlib.import_module(name) for name in IMPORTED}
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(_work(modules[asked["module"]], asked["plan"]))
        _say("pid", pid)
        _, status = os.waitpid(pid, 0)
        _say("code", os.waitstatus_to_exitcode(status))


def _work(module: Any, plan: dict[str, Any]) -> int:
    os.dup2(2, 1)  # standard output speaks to whoever asked
    try:
        return int(module.main(plan))
    except BaseException:
        traceback.print_exc()
        return 70
    finally:
        sys.stderr.flush()


def _say(word: str, number: int) -> None:
    sys.stdout.write(f"{word} {number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
