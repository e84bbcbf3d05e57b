"""A consumer of the endless stream that applies, seals, checkpoints, purges and backs up until it is killed.

What it has done it notes in a file of its own, each time after the call returned; a purge before it begins, too.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults import stream
from tests.faults.agent import Notebook
from tests.faults.fuse import Fuse, open_fused
from tests.faults.switches import cursor_kind, materializer_kind

from skillaudit.consumer import backup
from skillaudit.consumer.materializer import Materializer, MaterializerPolicy
from skillaudit.consumer.purge import purge_older_than
from skillaudit.consumer.sealing import SealState
from skillaudit.contract.clock import from_us

KEPT_RUNS = 60
"""Runs that a purge leaves."""


@dataclass(slots=True)
class Work:
    """One life of the consumer."""

    path: str
    notes: str
    seed: int
    batches: int = 40
    fuse: dict[str, Any] | None = None
    switched_off: str = ""
    purges: bool = False
    backups: str = ""
    """Directory of backups; empty: makes none."""


def main(plan: dict[str, Any]) -> int:
    """Work until killed, or until so many batches are done."""
    work = Work(**plan)
    notes, chance = Notebook(work.notes), random.Random(work.seed)
    fuse = Fuse(**(work.fuse or {}))
    database = open_fused(Path(work.path), fuse, cursor_kind(work.switched_off))
    notes.note(open=True)
    policy = MaterializerPolicy(seal_rows=1_500, small_batch_records=400)
    materializer = materializer_kind(work.switched_off)(database, policy=policy)
    stored = materializer.positions().get(stream.PARTITION)
    offset = stored.next_offset if stored else 0
    beside: list[threading.Thread] = []
    for number in range(work.batches):
        batch = stream.records(offset, chance.choice((1, 2, 4, 9)))
        materializer.apply(batch)
        offset = batch[-1].next_offset
        notes.note(committed=offset)
        _seal(materializer, beside)
        if work.purges and number % 7 == 5:
            _purge(materializer, notes, offset)
        if work.backups and number % 9 == 4 and not any(thread.name == "backup" for thread in beside):
            _beside(beside, "backup", _back_up, database, work, notes, number)
        beside = [thread for thread in beside if thread.is_alive()]
    for thread in beside:
        thread.join()
    materializer.close()
    database.close()
    return 0


def _beside(threads: list[threading.Thread], name: str, work: Callable[..., object], *args: object) -> None:
    threads.append(threading.Thread(target=work, args=args, name=name))
    threads[-1].start()


def _seal(materializer: Materializer, beside: list[threading.Thread]) -> None:
    sealer = materializer.sealer
    if sealer.state is not SealState.MOVING and sealer.checkpoint_due:
        sealer.checkpoint()
    if sealer.due and sealer.swap():
        _beside(beside, "seal", sealer.move)


def _purge(materializer: Materializer, notes: Notebook, offset: int) -> None:
    cutoff = offset // stream.BLOCK_RECORDS * stream.RUNS_IN_BLOCK - KEPT_RUNS
    if cutoff > 0:
        notes.note(purging=cutoff)
        purge_older_than(materializer, from_us(stream.started_us(cutoff)))
        notes.note(purged=cutoff)


def _back_up(database: Any, work: Work, notes: Notebook, number: int) -> None:
    target = Path(work.backups) / f"{work.seed}-{number}.duckdb"
    if work.switched_off == "backup-renamed":
        backup._copy(database, target)
    else:
        backup.back_up(database, target)
    notes.note(backup=str(target))
