"""What long-running commands share: SIGTERM and SIGINT end them in order, and they say what they do."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable
from typing import Final

from rich.console import Console

from skillaudit.cli.output import stderr

PROGRESS_TERMINAL_S: Final = 0.25
PROGRESS_LOG_S: Final = 30.0
PROGRESS_FIRST_S: Final = 1.0
"""What is done sooner needs no progress."""


@contextlib.asynccontextmanager
async def stop_on_signals() -> AsyncGenerator[asyncio.Event]:
    """An event that SIGTERM or SIGINT sets; a second one has its usual effect."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def on_signal() -> None:
        stop.set()
        for number in signals:
            loop.remove_signal_handler(number)

    for number in signals:
        loop.add_signal_handler(number, on_signal)
    try:
        yield stop
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


class ProgressLine:
    """One line on stderr: rewritten on a terminal, appended now and then elsewhere."""

    def __init__(self, *, interval_s: float | None = None) -> None:
        """`interval_s`: at most one line per interval; by default 0.25 s on a terminal, 30 s elsewhere."""
        self._console: Console = stderr()
        self._live = sys.stderr.isatty()
        self.interval_s = interval_s or (PROGRESS_TERMINAL_S if self._live else PROGRESS_LOG_S)
        first_s = min(PROGRESS_FIRST_S, self.interval_s) if self._live else self.interval_s
        self._shown_s = time.monotonic() - self.interval_s + first_s
        self._last = ""

    def show(self, text: Callable[[], str]) -> None:
        """Show `text()` if it is time."""
        now_s = time.monotonic()
        if now_s - self._shown_s < self.interval_s:
            return
        self._shown_s = now_s
        line = text()
        if line == self._last and not self._live:
            return
        self._last = line
        if self._live:
            self._console.file.write(f"\r\x1b[K{line}")
            self._console.file.flush()
        else:
            self._console.print(line)

    def clear(self) -> None:
        """Take the line away; what comes next stands in its place."""
        if self._live and self._last:
            self._console.file.write("\r\x1b[K")

    def done(self, text: str) -> None:
        """The last line, with the counts."""
        self.clear()
        self._console.print(text)
