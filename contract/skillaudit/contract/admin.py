"""What an operator does to a database beside reading it: acts, dead letters, backups. Served by its owner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol


class DeadLetterState(StrEnum):
    """Where a dead letter stands. WAITING -> REPLAYED or DISCARDED; both keep the bytes. Any -> ERASED by an act."""

    WAITING = "waiting"
    REPLAYED = "replayed"
    DISCARDED = "discarded"
    ERASED = "erased"
    """It belonged to a run that was purged, erased or redacted: its bytes are gone."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ActOrder:
    """Who wants an act, and why. Both are kept for ever."""

    actor: str
    reason: str = ""
    force: bool = False
    """Go over holds and the minimum age: recorded, and shown as a violation for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActReport:
    """What became of an order, as soon as this database has applied it."""

    acts: tuple[str, ...] = ()
    """Ids of the acts that were recorded; none where there was nothing to do."""
    runs: int = 0
    """Runs deleted, or from which content was taken."""
    events: int = 0
    """Events deleted, or places of a run emptied."""
    held: int = 0
    """Runs that a hold kept."""
    young: int = 0
    """Runs that the minimum age kept."""
    holds: tuple[str, ...] = ()
    """Holds that kept some, by their acts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAct:
    """An act as it was applied here."""

    act_id: str
    kind: str
    actor: str
    at: datetime
    reason: str
    scope: Mapping[str, Any]
    policy: Mapping[str, Any]
    applied_at: datetime
    journal_idx: int | None
    """Its leaf in the journal."""
    pending: bool
    """Some of the events that it reaches have not been consumed here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldScope:
    """What a hold keeps: some runs, a skill's, or all. Exactly one of these is given."""

    runs: tuple[str, ...] = ()
    skill_id: str | None = None
    everything: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredHold:
    """A hold; `released_by` is the act that ended it."""

    act_id: str
    scope: HoldScope
    placed_at: datetime
    actor: str
    reason: str
    released_by: str | None


class Operations(Protocol):
    """An operator's acts on one database.

    Purges, redactions, erasures and holds are written to the control log first, and then applied here and by every other
    consumer of the same events. They return when they are applied here. `UnreachableError` may mean that the act was
    written, and `NotYetMaterializedError` that it was and will be applied; asking again does no harm.
    """

    async def purge_older_than(self, t: datetime) -> int:
        """As `StorageAdmin.purge_older_than`."""
        ...

    async def purge(
        self, order: ActOrder, *, before: datetime | None = None, runs: Sequence[str] = ()
    ) -> ActReport:
        """Delete runs that started before a time, or these runs; `RunNotFoundError` where one is not stored. A run whose start
        never came counts as started when its first record arrived or, without a broker's time, was made.
        """
        ...

    async def redact(self, order: ActOrder, run_id: str, seq: int, field: str | None = None) -> ActReport:
        """Take out one event's payload, or one field of the start or finish; without `field`, all fields of these.

        Raises `RunNotFoundError`, `HeldError`, and `RejectedError` for a place that the run does not have, or a run whose
        start never came: it can be purged.
        """
        ...

    async def erase(self, order: ActOrder, runs: Sequence[str]) -> ActReport:
        """Take all content out of these runs, whatever of them is still to come included. Raises as `redact`."""
        ...

    async def hold(self, order: ActOrder, scope: HoldScope) -> ActReport:
        """Keep runs from being purged, redacted and erased, until it is released."""
        ...

    async def release(self, order: ActOrder, hold_id: str) -> ActReport:
        """End a hold, named by its act; `HoldNotFoundError`."""
        ...

    async def record_key(self, order: ActOrder, origin: str, key: str) -> ActReport:
        """Record which key signs from now on, as a verifier writes it: for people, and for the journal."""
        ...

    async def list_acts(self, limit: int, kind: str | None = None) -> list[StoredAct]:
        """Newest first; the limit rule of lists applies."""
        ...

    async def list_holds(self, *, released: bool = False) -> list[StoredHold]:
        """Those in force, oldest first; `released`: all that ever were."""
        ...

    async def list_dead_letters(self, state: str | None, limit: int, after: int = 0) -> list[DeadLetter]:
        """Oldest first, those behind the id `after`; `state` None: all; the limit rule of lists applies."""
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
