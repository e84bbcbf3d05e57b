"""sealed_freshness_p99_ms, sealed_rate, seal_behind_rows, seal_catch_up_ms: the sealer beside ingest, against ingest alone.

The consumer's service is fed from memory. At 20,000 events a second: how long after its moment a record is committed, with
a seal every second (the product's default is one a minute) and with none, in turn. Flat out, with a seal every five, past the size at which the
hot table is moved: the rate, with and without, how many rows waited for the sealer at most, and how long after the last
record it has sealed, signed and anchored everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import benchmarks.materialize as fleet
from benchmarks.harness import median, result
from benchmarks.ledger import records_of
from skillaudit.consumer.service import ConsumerService
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import RecordBatch, SourceRecord, StoredPosition
from skillaudit.proof.keys import generate_key

RATE = 20_000
SECONDS = 5
ROUNDS = 3
EVENTS = RATE * SECONDS
FLAT_EVENTS = 600_000
SEAL_INTERVAL_MS = 1_000
FLAT_SEAL_INTERVAL_MS = 5_000
"""Between two seals the sealer rests while batches come full, at most; the product's default is a minute."""
POLL_S = 0.002
LOOK_S = 0.05
END_TIMEOUT_S = 60.0


class Paced:
    """A `RecordSource` that gives what is due at a rate; 0: everything is due."""

    identity = "bench:paced"

    def __init__(self, records: Sequence[SourceRecord], rate: int) -> None:
        self._records = records
        self._rate = rate
        self.given = 0
        self.began_s = 0.0
        self.waits_ms: list[float] = []
        """Of every record: from its moment until it was committed."""
        self.ended = asyncio.Event()

    async def open(self, positions: Mapping[str, StoredPosition]) -> None:
        del positions
        self.began_s = time.perf_counter()

    async def poll(self, records_max: int, timeout_ms: int) -> RecordBatch:
        until_s = time.perf_counter() + timeout_ms / 1000
        while True:
            due = self._due()
            if due > self.given or time.perf_counter() > until_s:
                break
            await asyncio.sleep(POLL_S)
        first, self.given = self.given, min(due, self.given + records_max)
        batch = sorted(self._records[first : self.given], key=lambda record: record.partition)
        return RecordBatch(batch)

    def _due(self) -> int:
        passed = int((time.perf_counter() - self.began_s) * self._rate) if self._rate else len(self._records)
        return min(passed, len(self._records))

    async def ends(self) -> Mapping[str, int]:
        return {}

    async def commit(self, positions: Mapping[str, int]) -> None:
        """Told right after a batch is committed; with no other batch in flight all that was given is in."""
        del positions
        if self._rate:
            now_s = time.perf_counter() - self.began_s
            first = len(self.waits_ms)
            self.waits_ms += [1000 * (now_s - n / self._rate) for n in range(first, self.given)]
        if self.given == len(self._records):
            self.ended.set()

    async def close(self) -> None:
        pass


class Served(NamedTuple):
    """What became of one service."""

    source: Paced
    took_s: float
    behind_rows: int
    """Rows of the ledger that waited for the sealer at most."""
    catch_up_ms: float
    """From the last record until all of it was sealed and anchored."""


async def serve(records: Sequence[SourceRecord], rate: int, *, seal: bool) -> Served:
    """A service of its own that reads these records to their end."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        generate_key(directory / "key", "bench.example.org/log")
        settings = Settings(
            data=directory / "data",
            seal_key_file=directory / "key",
            seal_state_file=directory / "state",
            seal_interval_ms=SEAL_INTERVAL_MS if rate else FLAT_SEAL_INTERVAL_MS,
            anchors=f"file:{directory / 'anchor'}",
        )
        source, stop = Paced(records, rate), asyncio.Event()
        service = ConsumerService(settings, source=lambda _: source, seal=seal)
        running = asyncio.ensure_future(service.run(stop))
        behind = 0
        try:
            async with asyncio.timeout(END_TIMEOUT_S + len(records) / (rate or RATE)):
                while not source.ended.is_set():
                    rows = 2 * (source.given // fleet.PER_RUN)
                    behind = max(behind, rows - service.status.notary.rows_sealed)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(source.ended.wait(), LOOK_S)
                took_s = time.perf_counter() - source.began_s
                caught_up_ms = await caught_up(service, len(records)) if seal and not rate else 0.0
        finally:
            stop.set()
            await running
        return Served(source, took_s, behind, caught_up_ms)


async def caught_up(service: ConsumerService, records: int) -> float:
    began_s, status = time.perf_counter(), service.status.notary
    rows = 2 * (records // fleet.PER_RUN)
    while status.rows_sealed < rows or any(anchor.behind for anchor in status.anchors):  # noqa: ASYNC110  a status
        await asyncio.sleep(POLL_S)
    return 1000 * (time.perf_counter() - began_s)


def p99(source: Paced) -> float:
    settled = source.waits_ms[len(source.waits_ms) // SECONDS :]  # without the first second
    return statistics.quantiles(settled, n=100)[98]


async def measure() -> list[dict[str, Any]]:
    fleet.EVENTS = FLAT_EVENTS
    records = records_of(fleet.events())
    paced = records[:EVENTS]
    fresh: dict[bool, list[float]] = {True: [], False: []}
    rates: dict[bool, list[float]] = {True: [], False: []}
    sealed: list[Served] = []
    for number, seal in itertools.product(range(ROUNDS), (True, False)):
        with_seal = seal if number % 2 else not seal
        fresh[with_seal].append(p99((await serve(paced, RATE, seal=with_seal)).source))
        served = await serve(records, 0, seal=with_seal)
        rates[with_seal].append(len(records) / served.took_s)
        sealed += [served] if with_seal else []
    flat = f"{FLAT_EVENTS:,} events flat out"
    return [
        paired("sealed_freshness_p99_ms", "ms at 20,000 events/s", fresh, "ratio <= 1.1"),
        paired("sealed_rate", "events/s", rates, "ratio >= 0.95"),
        result(
            "seal_behind_rows", max(it.behind_rows for it in sealed), f"rows of the ledger at most, {flat}"
        ),
        result("seal_catch_up_ms", median([it.catch_up_ms for it in sealed]), f"ms after {flat}"),
    ]


def paired(name: str, unit: str, found: dict[bool, list[float]], goal: str) -> dict[str, Any]:
    ratio = median([a / b for a, b in zip(found[True], found[False], strict=True)])
    return result(
        name,
        median(found[True]),
        unit,
        baseline="nothing sealed",
        baseline_value=median(found[False]),
        ratio=ratio,
        goal=goal,
    )


def main() -> list[dict[str, Any]]:
    events = fleet.EVENTS
    try:
        return asyncio.run(measure())
    finally:
        fleet.EVENTS = events
