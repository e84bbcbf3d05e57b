"""How far a service has consumed: for acknowledgements, for readers who wait for their own writes, for people."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from typing import Final

from skillaudit.consumer.materializer import ApplyReport
from skillaudit.consumer.status import ServiceStatus
from skillaudit.contract.errors import NotYetMaterializedError
from skillaudit.contract.sources import RecordBatch
from skillaudit.contract.storage import Positions

RATE_WINDOW_S: Final = 5.0
FULL_S_MAX: Final = 2.0
"""A batch that came (nearly) full counts for so long as a sign of more to come; for twice what applying it took, where that is
more."""


class Progress:
    """Positions as they are committed. Belongs to one event loop."""

    def __init__(self, status: ServiceStatus, followed: Callable[[str], int]) -> None:
        """`followed`: the position of a partition that is followed beside; 0 where it is none."""
        self._status = status
        self._followed = followed
        self.positions: dict[str, int] = {}
        """Partition -> next offset."""
        self.ends: dict[str, int] = {}
        """Partition -> its end as last seen."""
        self.emptied: dict[str, int] = {}
        """As `RecordBatch.emptied`."""
        self.caught_up = asyncio.Event()
        """Set once everything that was there has been consumed; never taken back."""
        self._moved = asyncio.Condition()
        self._closed = False
        self._full_s = -math.inf
        self._window: list[tuple[float, int]] = []

    def see(self, batch: RecordBatch) -> None:
        """What a batch says of the other side, before it is applied."""
        self.ends, self.emptied = dict(batch.ends), dict(batch.emptied)

    async def note(self, report: ApplyReport) -> None:
        """A batch is committed."""
        status = self._status
        status.records += report.records - report.skipped
        status.batches += 1
        for outcome, count in report.outcomes.items():
            status.outcomes[str(outcome.value)] = status.outcomes.get(str(outcome.value), 0) + count
        async with self._moved:
            self.positions.update(report.positions)
            self._moved.notify_all()

    def measure(self, records: int, records_max: int, took_s: float) -> None:
        """A batch of so many records, of so many at most, was taken in so many seconds."""
        now_s, status = time.monotonic(), self._status
        status.apply_ms = took_s * 1000
        if records * 2 >= records_max:
            self._full_s = now_s
        self._window = [(at, n) for at, n in self._window if now_s - at < RATE_WINDOW_S]
        if records:
            self._window.append((now_s, records))
        span_s = max(now_s - self._window[0][0], 0.1) if self._window else 1.0
        status.rate = sum(n for _, n in self._window) / span_s
        status.lag = {p: max(end - self.positions.get(p, 0), 0) for p, end in self.ends.items()}
        if not any(status.lag.values()):
            self.caught_up.set()

    def reads_full(self) -> bool:
        """Whether a batch came (nearly) full just now."""
        return time.monotonic() - self._full_s < max(FULL_S_MAX, 2 * self._status.apply_ms / 1000)

    async def wait_for(self, positions: Positions, timeout_s: float) -> None:
        """As `AuditReader.wait_for`, woken by commits."""
        try:
            async with asyncio.timeout(timeout_s), self._moved:
                await self._moved.wait_for(lambda: self._closed or self._reached(positions))
        except TimeoutError as exc:
            behind = [p for p, offset in positions.items() if self._position_of(p) < offset]
            raise NotYetMaterializedError(
                f"not consumed so far within {timeout_s:g} s: {', '.join(sorted(behind))}; see the consumer's lag"
            ) from exc
        if not self._reached(positions):  # nothing moves any more
            raise self._status.not_open()

    async def close(self) -> None:
        """Nothing moves any more: whoever waits is told."""
        self._closed = True
        async with self._moved:
            self._moved.notify_all()

    def _reached(self, positions: Mapping[str, int]) -> bool:
        return all(self._position_of(p) >= offset for p, offset in positions.items())

    def _position_of(self, partition: str) -> int:
        return max(self.positions.get(partition, 0), self._followed(partition))
