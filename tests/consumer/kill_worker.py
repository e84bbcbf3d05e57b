"""Applies, seals and checkpoints until it is killed; says on its standard output what is committed."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from tests.consumer import streams

from skillaudit.consumer.database import open_database
from skillaudit.consumer.materializer import Materializer, MaterializerPolicy
from skillaudit.consumer.sealing import SealState
from skillaudit.contract.sources import SourceRecord

RUN_RECORDS = 40
RUNS_PER_BATCH = 50
PARTITION = "t/0"


def batch_at(offset: int) -> list[SourceRecord]:
    """The records from an offset on: whole runs, each with its logs out of order, some of it delivered twice."""
    first = offset // (RUN_RECORDS * RUNS_PER_BATCH) * RUNS_PER_BATCH
    values: list[bytes] = []
    for number in range(first, first + RUNS_PER_BATCH):
        run = streams.honest_run(streams.World(number + 1), 0, RUN_RECORDS - 4)
        values += [run[0], *run[3:10], *run[1:3], *run[10:], run[5], run[-1]]
    return [SourceRecord(PARTITION, offset + n, offset + n + 1, 0, None, v) for n, v in enumerate(values)]


def main(path: Path) -> None:
    with open_database(path) as database:
        materializer = Materializer(
            database, policy=MaterializerPolicy(seal_rows=3_000, small_batch_records=0)
        )
        stored = materializer.positions().get(PARTITION)
        offset = stored.next_offset if stored else 0
        while True:
            batch = batch_at(offset)
            materializer.apply(batch)
            offset = batch[-1].next_offset
            sys.stdout.write(f"{offset}\n")
            sys.stdout.flush()
            sealer = materializer.sealer
            if sealer.state is SealState.MOVED:
                sealer.checkpoint()
            if sealer.due and sealer.swap():
                threading.Thread(target=sealer.move, daemon=True).start()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
