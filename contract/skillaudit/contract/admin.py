"""What an operator does to a database beside reading it: dead letters, purges, backups. Served by its owner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol


class DeadLetterState(StrEnum):
    """Where a dead letter stands. WAITING -> REPLAYED or DISCARDED; both keep the bytes until a purge."""

    WAITING = "waiting"
    REPLAYED = "replayed"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A record that is no event, as it came, with its origin. `record` is None for a Kafka tombstone."""

    id: int
    partition: str
    offset: int
    received_at: datetime | None
    """The broker's time; None embedded."""
    stored_at: datetime
    error: str
    state: str
    key: bytes | None
    record: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """What became of the dead letters that were replayed."""

    replayed: int
    """Parsed now, and applied as any record of their partition would be."""
    still_malformed: tuple[int, ...] = ()
    """Their ids; nothing changed for them."""


class Operations(Protocol):
    """An operator's acts on one database."""

    async def purge_older_than(self, t: datetime) -> int:
        """As `StorageAdmin.purge_older_than`."""
        ...

    async def list_dead_letters(self, state: str | None, limit: int) -> list[DeadLetter]:
        """Oldest first; `state` None: all; the limit rule of lists applies."""
        ...

    async def get_dead_letter(self, dead_letter_id: int) -> DeadLetter:
        """One of them; `DeadLetterNotFoundError`."""
        ...

    async def replay_dead_letters(self, ids: Sequence[int]) -> ReplayReport:
        """Parse waiting ones again, after an upgrade or a repair, and apply what is an event now. Safe to repeat."""
        ...

    async def discard_dead_letters(self, ids: Sequence[int]) -> int:
        """Mark waiting ones as looked at and of no use; answers how many. Their bytes stay."""
        ...

    async def back_up(self, target: Path) -> int:
        """Write a consistent copy to `target`, which must not exist; answers its size in bytes."""
        ...
