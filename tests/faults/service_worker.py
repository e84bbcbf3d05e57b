"""A consumer service on real settings that dies at an exact point between its source and its database, or when it is killed."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.dying_notary import DyingNotary, Points
from tests.faults.notes import Notebook

from skillaudit.consumer.notary import Notary, WriterAccess
from skillaudit.consumer.service import ConsumerService, make_source
from skillaudit.contract.outbox.directory import CONSUMER_LOCK_NAME
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import RecordBatch, RecordSource, StoredPosition

POLLED, COMMITTING, COMMITTED = "polled", "committing", "committed"
POINTS = (POLLED, COMMITTING, COMMITTED)


@dataclass(slots=True)
class Service:
    """One life of the service."""

    environment: dict[str, str]
    point: str = ""
    at: int = 0
    seal: bool = False
    """Seals, signs and anchors beside."""
    told: str = ""
    """File to which it says at which point it dies."""
    stored: str = ""
    """Account file in which it notes its positions once they are stored; empty: in none."""
    switched_off: str = ""
    offsets: str = ""
    """Where a service keeps its positions that does not keep them in the database."""


class DyingSource:
    """A source of the product; its process dies at a batch: polled, stored and not acknowledged, acknowledged. Notes what is stored."""

    def __init__(self, source: RecordSource, points: Points, notes: Notebook | None = None) -> None:
        self._source = source
        self._points = points
        self._notes = notes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    async def poll(self, records_max: int, timeout_ms: int) -> RecordBatch:
        """As the source's."""
        batch = await self._source.poll(records_max, timeout_ms)
        if batch.records:
            self._points.passes(POLLED)
        return batch

    async def commit(self, positions: Mapping[str, int]) -> None:
        """As the source's."""
        if self._notes is not None:
            self._notes.note(positions=dict(positions))
        self._points.passes(COMMITTING)
        await self._source.commit(positions)
        self._points.passes(COMMITTED)


class PointedService(ConsumerService):
    """The product's, with a notary that may die."""

    points: Points
    off: str = ""

    def make_notary(self) -> Notary:
        access = WriterAccess(lambda: self.materializer)
        return DyingNotary(self.settings, access, self._clock, self.points, self.off)


class CommitOnPoll:
    """What consumers with automatic commits do: the position is kept when records were handed out, and begun from there."""

    def __init__(self, source: RecordSource, offsets: Path) -> None:
        self._source = source
        self._offsets = offsets
        self._kept: dict[str, int] = {}
        self.has_all = False
        """Whether everything there is was handed out."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    async def open(self, positions: Mapping[str, StoredPosition]) -> None:
        """From the kept positions, not from the database's."""
        del positions
        if self._offsets.exists():
            self._kept = json.loads(self._offsets.read_text())
        await self._source.open({name: StoredPosition(offset) for name, offset in self._kept.items()})

    async def poll(self, records_max: int, timeout_ms: int) -> RecordBatch:
        """As the source's; what is handed out counts as done."""
        batch = await self._source.poll(records_max, timeout_ms)
        for record in batch.records:
            self._kept[record.partition] = record.next_offset
        if batch.records:
            fresh = self._offsets.with_suffix(".new")
            fresh.write_text(json.dumps(self._kept))
            fresh.replace(self._offsets)
        self.has_all = all(self._kept.get(name, 0) >= end for name, end in batch.ends.items())
        return batch


def main(plan: dict[str, Any]) -> int:
    """Serve until killed."""
    asyncio.run(_run(Service(**plan)))
    return 0


async def _run(life: Service) -> None:
    settings = Settings.load(environ=life.environment)
    make, points = make_source(settings), Points(life.point, life.at, life.told)
    notes = Notebook(life.stored) if life.stored else None

    def source(database: Any) -> Any:
        made: Any = make(database)
        if life.switched_off == "positions-in-database":
            made = CommitOnPoll(made, Path(life.offsets))
        return DyingSource(made, points, notes)

    service = PointedService(settings, source=source, seal=life.seal)
    service.points, service.off = points, life.switched_off
    await service.start()
    if life.switched_off == "owner-lock":
        _lose_locks(settings)
    await service.run(asyncio.Event())


def _lose_locks(settings: Settings) -> None:
    """What closing any other descriptor of a locked file does to POSIX locks."""
    for path in (settings.database, settings.outbox_dir / CONSUMER_LOCK_NAME):
        os.close(os.open(path, os.O_RDWR))
