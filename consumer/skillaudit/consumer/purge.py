"""Deleting old runs. What is left of each is a tombstone, so that a record delivered again is counted, not stored."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from skillaudit.consumer.lookup import next_number
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.statements import statements
from skillaudit.contract.clock import to_us

_SQL: Final = statements("purge.sql")
_DELETIONS: Final = tuple(text for name, text in _SQL.items() if name.startswith("delete_"))
REQUESTED: Final = "requested"
RETENTION: Final = "retention"


def purge_older_than(materializer: Materializer, t: datetime) -> int:
    """As `StorageAdmin.purge_older_than`; waits for a seal in flight, then holds the writer's lock."""
    return _purge(materializer, to_us(t), REQUESTED, by_receipt=False)


def apply_retention(materializer: Materializer, t: datetime) -> int:
    """Delete the runs that both started and arrived before `t`: a host's wrong clock must not delete its evidence."""
    return _purge(materializer, to_us(t), RETENTION, by_receipt=True)


def _purge(materializer: Materializer, cutoff_us: int, policy: str, *, by_receipt: bool) -> int:
    with materializer.sealer.quiet(), materializer.transaction("purge runs") as cursor:
        cursor.execute(_SQL["choose"], {"cutoff_us": cutoff_us, "by_receipt": by_receipt})
        runs, events = cursor.execute(_SQL["counts"]).fetchall()[0]
        if runs:
            purge_id = next_number(cursor, "next_purge_id")
            cursor.execute(_SQL["tombstones"], {"purge_id": purge_id})
            parameters = {
                "purge_id": purge_id,
                "now_us": materializer.clock.wall_us(),
                "cutoff_us": cutoff_us,
            }
            cursor.execute(_SQL["purge"], {**parameters, "policy": policy, "runs": runs, "events": events})
            for deletion in _DELETIONS:
                cursor.execute(deletion)
    if runs:
        materializer.forget()  # the books of these runs are no longer what the database says
    return int(runs)
