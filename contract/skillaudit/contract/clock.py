"""Time and identity as small injected objects, so that no test sleeps or patches to be right."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)


class Clock(Protocol):
    """Where the product reads time."""

    @property
    def name(self) -> str:
        """What goes into a start event's `clock`: the steady clock's name."""
        ...

    def wall_us(self) -> int:
        """Wall clock, UTC, integer microseconds since the epoch."""
        ...

    def steady_us(self) -> int:
        """A clock that can't run backwards, integer microseconds since an arbitrary point."""
        ...


@dataclass(frozen=True, slots=True)
class SystemClock:
    """The machine's clocks: CLOCK_REALTIME, and CLOCK_BOOTTIME (it goes on while suspended) where there is one."""

    name: str = "boottime" if hasattr(time, "CLOCK_BOOTTIME") else "monotonic"

    def wall_us(self) -> int:
        """Wall clock, UTC, integer microseconds since the epoch."""
        return time.time_ns() // 1000

    def steady_us(self) -> int:
        """CLOCK_BOOTTIME, or CLOCK_MONOTONIC where the platform has no such clock, in microseconds."""
        return time.clock_gettime_ns(_STEADY) // 1000


_STEADY: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclass(slots=True)
class ManualClock:
    """A clock for tests: stands still until it is moved."""

    now_us: int = 1_700_000_000_000_000
    name: str = "manual"

    def wall_us(self) -> int:
        """Return the hand-set time."""
        return self.now_us

    def steady_us(self) -> int:
        """Return the hand-set time."""
        return self.now_us

    def advance(self, us: int) -> None:
        """Move both clocks forward by `us` microseconds."""
        self.now_us += us


def to_us(at: datetime) -> int:
    """Integer microseconds since the epoch of a timezone-aware datetime, exact."""
    return (at - EPOCH) // _US


def from_us(us: int) -> datetime:
    """Timezone-aware UTC datetime of integer microseconds since the epoch, exact."""
    return EPOCH + timedelta(microseconds=us)


def utc_now() -> datetime:
    """The current time, timezone-aware UTC."""
    return datetime.now(UTC)


def uuid7(now_ns: int | None = None, random: bytes | None = None) -> str:
    """A UUID version 7 (RFC 9562 section 5.7) as text: 48 bits of milliseconds, then 12 bits of the millisecond's
    fraction (section 6.2, method 3), then random bits. `now_ns` and `random` (8 bytes) are for tests.
    """
    ns = time.time_ns() if now_ns is None else now_ns
    ms, rest = divmod(ns, 1_000_000)
    fraction = (rest << 12) // 1_000_000
    tail = int.from_bytes(os.urandom(8) if random is None else random) & ((1 << 62) - 1)
    value = (ms & ((1 << 48) - 1)) << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | tail
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
