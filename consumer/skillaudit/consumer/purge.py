"""Deleting old runs at once, where no control log is kept: on a database of its own."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.planning import plan_purge
from skillaudit.consumer.recording import perform
from skillaudit.contract.admin import ActOrder
from skillaudit.contract.clock import to_us

ANONYMOUS: Final = ActOrder(actor="storage")
"""Of a purge through `StorageAdmin`, which says nothing of who wants it."""


def purge_older_than(materializer: Materializer, t: datetime, *, min_days: int = 0) -> int:
    """As `StorageAdmin.purge_older_than`; waits for a seal in flight, then holds the writer's lock."""
    return perform(materializer, plan_purge(ANONYMOUS, to_us(t), min_days=min_days)).runs
