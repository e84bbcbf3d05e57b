"""Short ways to records and to what is stored."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from tests.consumer import streams

from skillaudit.consumer.database import Database
from skillaudit.consumer.materializer import Materializer
from skillaudit.contract.sources import SourceRecord

WORLD = streams.World(0)
RUN_A, RUN_B, _ = WORLD.runs
SOURCE_A, SOURCE_B = WORLD.sources


def start(run: int = 0, source: int = 0, variant: int = 0) -> bytes:
    return streams._start(WORLD, run, source, variant)


def log(seq: int, run: int = 0, variant: int = 0) -> bytes:
    return streams._log(WORLD, run, seq, variant, "plain")


def finish(seq: int, run: int = 0, source: int = 0, variant: int = 0) -> bytes:
    return streams._finish(WORLD, run, source, seq, variant)


def whole_run(run: int = 0, logs: int = 3) -> list[bytes]:
    return streams.honest_run(WORLD, run, logs)


def beat(source: int = 0, number: int = 1) -> bytes:
    return streams._source(WORLD, source, "beat", number, [])


def closed(source: int = 0) -> bytes:
    return streams._source(WORLD, source, "closed", 1, [])


def opened(source: int = 0) -> bytes:
    return streams._source(WORLD, source, "opened", 1, [])


def records(
    values: Sequence[bytes | None], *, first: int = 0, partition: str = "t/0", received_us: int = 0
) -> list[SourceRecord]:
    """Records of one partition, one offset after the other."""
    return [
        SourceRecord(partition, first + n, first + n + 1, received_us, None, value)
        for n, value in enumerate(values)
    ]


def settle(materializer: Materializer, ends: Mapping[str, int] | None = None) -> None:
    """Let what sources said become due: everything up to `ends` is read (by default: there is nothing more)."""
    read = {name: position.next_offset for name, position in materializer.positions().items()}
    materializer.look(ends or read, materializer.to_ask())
    materializer.tick()


def rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    """A query's rows, as a reader sees them now."""
    with contextlib.closing(database.cursor()) as cursor:
        return cursor.execute(query).fetchall()


def value(database: Database, query: str) -> Any:
    """The one value of a query."""
    return rows(database, query)[0][0]
