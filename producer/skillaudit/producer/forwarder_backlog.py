"""How long the oldest event has waited in an outbox, and a line in the log while that is too long.

Looked up in the files, not in what the forwarder believes: one that is stuck shows. A look reads one acknowledgement and one line
of each source; only a line in the log counts what waits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from skillaudit.contract.clock import Clock, SystemClock
from skillaudit.contract.errors import SkillauditError
from skillaudit.contract.outbox.acknowledgement import Acknowledgement, read_acknowledgement
from skillaudit.contract.outbox.directory import list_source_dirs, measure_backlog, oldest_us
from skillaudit.contract.outbox.layout import list_segments, pack_position
from skillaudit.contract.telling import TELL_INTERVAL_S, Untold
from skillaudit.contract.words import counted
from skillaudit.producer.forwarder_trouble import logger

BACKLOG_AGE_S_MAX: Final = 120.0
"""From here on the log tells what waits; the shipped alert waits for 300 s."""
LOOK_INTERVAL_S: Final = 5.0


class BacklogWatch:
    """Of an outbox directory, or of one source in it."""

    def __init__(self, outbox_dir: Path, *, own: Path | None = None, clock: Clock | None = None) -> None:
        """`own`: the one source to look at; None: all there are."""
        self._outbox_dir = outbox_dir
        self._own = own
        self._clock = clock or SystemClock()
        self._untold = Untold(TELL_INTERVAL_S)
        self._oldest_us = 0

    @property
    def age_s(self) -> float:
        """How long what waited at the last look has waited by now; 0 where nothing did."""
        return max(self._clock.wall_us() - self._oldest_us, 0) / 1e6 if self._oldest_us else 0.0

    def look(self) -> None:
        """Look, and say what there is to say. Raises nothing: what can't be read is told by whoever has to read it."""
        waiting = {path: at_us for path in self._sources() if (at_us := _oldest_us(path))}
        self._oldest_us = min(waiting.values(), default=0)
        if self.age_s > BACKLOG_AGE_S_MAX and self._untold.add(1, self._clock.steady_us()):
            self._say(tuple(waiting))

    def _sources(self) -> Sequence[Path]:
        if self._own is not None:
            return [self._own]
        with contextlib.suppress(OSError):
            return list_source_dirs(self._outbox_dir)
        return []

    def _say(self, waiting: Sequence[Path]) -> None:
        records = size_bytes = 0
        for path in waiting:
            with contextlib.suppress(OSError, SkillauditError):  # gone meanwhile, or unreadable
                backlog = measure_backlog(path, read_acknowledgement(path) or Acknowledgement())
                records, size_bytes = records + backlog.records, size_bytes + backlog.bytes
        logger.warning(
            "forwarding from %s is behind: the oldest event has waited for %.0f s; %s (%s) in %s not acknowledged",
            self._outbox_dir,
            self.age_s,
            counted(records, "record"),
            counted(size_bytes, "byte"),
            counted(len(waiting), "source"),
        )


def _oldest_us(source_dir: Path) -> int:
    """When the first line happened that is not acknowledged; 0 where there is none, or it can't be read now."""
    with contextlib.suppress(OSError, SkillauditError):
        position = (read_acknowledgement(source_dir) or Acknowledgement()).position
        if not position:
            numbers = list_segments(source_dir)
            return oldest_us(source_dir, pack_position(numbers[0], 0)) if numbers else 0
        return oldest_us(source_dir, position)
    return 0


@asynccontextmanager
async def watching(
    watch: BacklogWatch, *, beside: bool, interval_s: float = LOOK_INTERVAL_S
) -> AsyncGenerator[None]:
    """Look every `interval_s` until the block is left; `beside`: in a thread, for a host may have thousands of sources."""

    async def look_again(look: Callable[[], None]) -> None:
        while True:
            await (asyncio.to_thread(look) if beside else _at_once(look))
            await asyncio.sleep(interval_s)

    task = asyncio.ensure_future(look_again(watch.look))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def _at_once(work: Callable[[], None]) -> None:
    work()
