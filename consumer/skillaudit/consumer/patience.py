"""Waiting for what may pass: a broker away, a full disk, a seal that runs. Attempts go on for ever, with a bounded pause."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from skillaudit.consumer.status import ServiceState, ServiceStatus
from skillaudit.contract.errors import RetryableError

RETRY_PAUSE_S: Final = 0.2
RETRY_PAUSE_S_MAX: Final = 5.0
LOG_INTERVAL_S: Final = 30.0

_log = logging.getLogger("skillaudit.consumer")


class EndedError(Exception):
    """Told to stop while something could not be done: nothing of it was committed, and it is done at the next start."""


class Patience:
    """Says what is waited for, once in a while, and that it is over. Belongs to one event loop."""

    def __init__(self, status: ServiceStatus) -> None:
        self._status = status
        self._said_s = float("-inf")
        self.stopping = asyncio.Event()
        """Whoever waits gives up once it is set."""

    def say(self, exc: RetryableError) -> None:
        """The status says it at once, the log no more often than every `LOG_INTERVAL_S`."""
        self._status.state = ServiceState.RETRYING
        self._status.last_error = str(exc)
        now_s = time.monotonic()
        if now_s - self._said_s >= LOG_INTERVAL_S:
            self._said_s = now_s
            _log.warning("%s; what is stored can be read, attempts go on", exc)

    def works(self) -> None:
        """It does again, or still."""
        self._status.state = ServiceState.RUNNING
        self._status.last_error = ""

    async def wait_out(self, exc: RetryableError, pause_s: float) -> float:
        """Say it, pause; returns the next pause."""
        self.say(exc)
        await asyncio.sleep(pause_s)
        return longer(pause_s)


def longer(pause_s: float) -> float:
    """The pause after this one, in seconds."""
    return min(pause_s * 2, RETRY_PAUSE_S_MAX)
