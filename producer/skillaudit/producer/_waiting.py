"""How long a call waits for room: always outside the locks, so that no other run and no event loop waits with it."""

from __future__ import annotations

import sys
import time
from typing import Final

from skillaudit.contract.errors import OutboxFullError

LOOP_WAIT_MS: Final = 50
"""Inside a running event loop every other task stands still meanwhile; `await run.drain()` waits without that."""
_PAUSE_MS_MIN: Final = 1
_PAUSE_MS_MAX: Final = 20


def in_event_loop() -> bool:
    """Whether this thread is running an asyncio event loop. Doesn't import asyncio: without it there is no loop."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class Patience:
    """One call's wait for room."""

    __slots__ = ("_deadline_ns", "_pause_ms")

    def __init__(self, block_ms_max: int) -> None:
        wait_ms = min(block_ms_max, LOOP_WAIT_MS) if in_event_loop() else block_ms_max
        self._deadline_ns = time.monotonic_ns() + wait_ms * 1_000_000
        self._pause_ms = _PAUSE_MS_MIN

    def pause(self, exc: OutboxFullError) -> None:
        """Sleep a little, or raise `exc` again when the time is up."""
        left_ms = (self._deadline_ns - time.monotonic_ns()) / 1_000_000
        if left_ms <= 0:
            raise exc
        time.sleep(min(left_ms, self._pause_ms) / 1_000)
        self._pause_ms = min(self._pause_ms * 2, _PAUSE_MS_MAX)
