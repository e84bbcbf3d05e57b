"""What the consumer's database says of troubles and hosts, for metrics and for people: looked up now and then, at one look's cost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from skillaudit.consumer.statements import statements
from skillaudit.contract.engine import engine_errors
from skillaudit.contract.errors import RetryableError, StopError

if TYPE_CHECKING:
    from skillaudit.consumer.service import ConsumerService

_SQL: Final = statements("metrics.sql")
READ_INTERVAL_S: Final = 5.0
"""How old what was read from the database may be: scrapers cannot make the engine work more often."""


@dataclass(frozen=True, slots=True)
class HostFigures:
    """What the agents of one host said last, summed over their sources."""

    host: str
    live: int
    silent: int
    backlog_records: int
    backlog_bytes: int
    oldest_us: int
    """Wall clock of the oldest event that was not forwarded; 0: none waits."""
    heard_us: int
    """Broker time of the newest sign of life; 0: none, or all sources are closed."""
    refused: int
    lost: int


@dataclass(frozen=True, slots=True)
class StoredFigures:
    """One look at the database."""

    troubles: Sequence[tuple[str, str, int]] = ()
    """Name, label, number."""
    hosts: Sequence[HostFigures] = ()
    read_to_us: int = 0

    def trouble(self, name: str, label: str = "") -> int:
        """How many of that."""
        return sum(number for found, its, number in self.troubles if (found, its) == (name, label))


@dataclass(slots=True)
class _Cache:
    read_s: float = float("-inf")
    figures: StoredFigures = field(default_factory=StoredFigures)


class StoredReader:
    """Reads them, at most once per `READ_INTERVAL_S`. From any thread; reading takes milliseconds."""

    def __init__(self, service: ConsumerService) -> None:
        """`service` may be at any stage of its life."""
        self._service = service
        self._cache = _Cache()
        self._reading = Lock()

    def read(self) -> StoredFigures | None:
        """What the database holds; None while it is not open, which the state tells."""
        with self._reading:
            now_s = time.monotonic()
            if now_s - self._cache.read_s > READ_INTERVAL_S:
                try:
                    self._cache = _Cache(now_s, _read(self._service))
                except (RetryableError, StopError):
                    return None
            return self._cache.figures


def _read(service: ConsumerService) -> StoredFigures:
    with contextlib.closing(service.cursor()) as cursor, engine_errors("read figures"):

        def rows(name: str) -> list[tuple[Any, ...]]:
            return cursor.execute(_SQL[name]).fetchall()

        hosts = tuple(HostFigures(*row) for row in rows("hosts"))
        return StoredFigures(
            [(row[0], row[1], row[2]) for row in rows("troubles")], hosts, rows("read_to")[0][0]
        )


def seconds_between(from_us: int, to_us: int) -> float:
    """How long after it; 0 where there is no beginning, or it lies ahead."""
    return max(to_us - from_us, 0) / 1e6 if from_us > 0 else 0.0
