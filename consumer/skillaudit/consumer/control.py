"""The control log: the acts of operators, in one order, kept for ever.

Every act stands in it before it is applied anywhere: an act that was not written did not happen, and one that was
written happens, whoever dies in between. Every consumer of the same events reads it to its end before it takes an
event, and goes on reading; a rebuilt database therefore applies the acts again.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Final, Protocol

from skillaudit.contract.errors import UnreachableError
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import RecordBatch, SourceRecord, StoredPosition

ACTS_POLLED_MAX: Final = 500
"""Acts taken at once; each is a transaction of its own."""
POLL_TIMEOUT_MS: Final = 500
OPEN_WAIT_S: Final = 60.0
"""How long the log may give nothing at the start although it has not been read to its end."""


class ControlLog(Protocol):
    """One partition of acts, in order. One call at a time.

    Raises `UnreachableError` where the other side does not answer, `HistoryLostError` where the log no longer holds
    what the stored position points at, `StopError` where it is damaged.
    """

    partition: str
    """`<topic>/0`, or `control/0`."""
    identity: str
    """Of the other side, as of a `RecordSource`; known once it is open."""

    async def open(self, stored: StoredPosition | None) -> None:
        """Begin after `stored`, or at the beginning. Safe to call again after it failed."""
        ...

    async def poll(self, timeout_ms: int) -> RecordBatch:
        """The next acts as their lines, and the end as far as it is known."""
        ...

    async def append(self, act_id: str, line: bytes) -> int:
        """Write a line durably; returns the position behind it. After an error it may have been written."""
        ...

    async def close(self) -> None:
        """Release everything; safe to call again."""
        ...


async def read_whole(log: ControlLog) -> AsyncGenerator[SourceRecord]:
    """All lines of a log that is not open, from its beginning to its end; closed then. Raises what the log raises."""
    try:
        await log.open(None)
        position, moved_s, timeout_ms = 0, time.monotonic(), 0
        while True:
            batch = await log.poll(timeout_ms)
            for record in batch.records:
                position, moved_s = record.next_offset, time.monotonic()
                yield record
            if position >= batch.ends.get(log.partition, 0):
                return
            if time.monotonic() - moved_s > OPEN_WAIT_S:
                raise UnreachableError(f"{log.partition} gives nothing behind {position}; try again")
            timeout_ms = POLL_TIMEOUT_MS
    finally:
        await log.close()


def make_control(settings: Settings) -> ControlLog:
    """The control log that the settings name: Kafka's where a broker is configured, else a file in the data directory."""
    if settings.uses_kafka:
        from skillaudit.consumer.control_kafka import KafkaControlLog

        return KafkaControlLog(settings)
    from skillaudit.consumer.control_file import FileControlLog

    return FileControlLog(settings.data / "control.jsonl")
