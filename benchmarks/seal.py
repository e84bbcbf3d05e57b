"""seal_rate: rows of the ledger sealed per second, hashed in the engine, against Python's hashlib over the same leaves.

And what the sealer's steps cost with a journal of a month: one where nothing is due, one that seals and signs a minute's
rows, and the publisher's to a directory.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.harness import median, result
from skillaudit.consumer.database import Database, open_database
from skillaudit.proof import merkle
from skillaudit.proof.anchors import open_anchor
from skillaudit.proof.keys import generate_key, read_key
from skillaudit.proof.leaves import LedgerLeaf, SealLeaf
from skillaudit.proof.publishing import Publisher
from skillaudit.proof.sealer import FileState, Sealer, Signing

ROWS = 1_000_000
PARTITIONS = 12
MONTH_LEAVES = 43_200
MINUTE_ROWS = 20_000
STEPS = 15
MINUTE_US = 60_000_000
NOW_US = 1_763_800_000_000_000

_ADD_ROWS = """
INSERT INTO store.ledger
SELECT 'skillaudit.events/' || (i % $partitions), (i // $partitions),
    CASE WHEN i % 2 = 0 THEN 'start' ELSE 'finish' END, '0199f0a0-0000-7000-8000-' || lpad(i::VARCHAR, 12, '0'),
    repeat('5', 32), i, 127, unhex(sha256(i::VARCHAR)), $now_us + i, i // $partitions, hash(i)
FROM range($first, $first + $rows) t(i)
"""
_MOVE_POSITIONS = """
INSERT INTO store.positions (partition, cluster, next_offset, last_offset, last_digest, records, received_us, read_to_us,
    end_offset, ledger_next)
SELECT partition, '', max(idx) + 1, max(idx), '', 0, 0, 0, 0, max(idx) + 1 FROM store.ledger GROUP BY partition
ON CONFLICT DO UPDATE SET ledger_next = excluded.ledger_next
"""


class Access:
    """`ProofDatabase` over the consumer's file."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def cursor(self) -> duckdb.DuckDBPyConnection:
        return self._database.cursor()

    @contextlib.contextmanager
    def transaction(self, doing: str) -> Iterator[duckdb.DuckDBPyConnection]:  # noqa: ARG002  the interface's
        with contextlib.closing(self.cursor()) as cursor:
            cursor.execute("BEGIN")
            yield cursor
            cursor.execute("COMMIT")


def add_rows(access: Access, first: int, rows: int) -> None:
    with access.transaction("add rows") as cursor:
        given = {"partitions": PARTITIONS, "now_us": NOW_US, "first": first, "rows": rows}
        cursor.execute(_ADD_ROWS, given)
        cursor.execute(_MOVE_POSITIONS)


def add_month(access: Access) -> None:
    """A journal of a seal a minute, with its complete tiles."""
    leaves = [SealLeaf(NOW_US - n).encode() for n in range(MONTH_LEAVES)]
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    with access.transaction("add a month") as cursor:
        columns = [list(range(MONTH_LEAVES)), leaves]
        cursor.execute(
            "INSERT INTO store.journal SELECT unnest($1), $3, 'seal', unnest($2)",
            [*columns, NOW_US - MINUTE_US],
        )
        tiles = [b"".join(hashes[at : at + 256]) for at in range(0, MONTH_LEAVES - 255, 256)]
        cursor.execute(
            "INSERT INTO store.journal_nodes SELECT 0, unnest($1), unnest($2)",
            [list(range(len(tiles))), tiles],
        )


def seal_all(sealer: Sealer) -> int:
    rows, now_us = 0, NOW_US
    while True:
        report = sealer.step(now_us, force=True)
        rows, now_us = rows + report.rows, now_us + 1
        if not report.behind_rows:
            return rows


def in_python(access: Access) -> None:
    """The same leaves by the product's encoder and hashlib."""
    with contextlib.closing(access.cursor()) as cursor:
        for partition in range(PARTITIONS):
            rows = cursor.execute(
                "SELECT kind, run_id, source_id, source_seq, events, head, record_offset, received_us"
                " FROM store.ledger WHERE partition = ? ORDER BY idx",
                [f"skillaudit.events/{partition}"],
            ).fetchall()
            names = ("kind", "run_id", "source_id", "source_seq", "events", "head", "offset", "received_us")
            leaves = (LedgerLeaf(**dict(zip(names, row, strict=True))).encode() for row in rows)
            merkle.root_of(b"".join(map(merkle.leaf_hash, leaves)))


def timed(do: Callable[[], object]) -> float:
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


def main() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="skillaudit-bench-") as name:
        base = Path(name)
        generate_key(base / "key", "bench.example/log")
        with open_database(base / "rate.duckdb") as database:
            access = Access(database)
            add_rows(access, 0, ROWS)
            seconds = timed(lambda: seal_all(Sealer(access)))
            python_s = timed(lambda: in_python(access))
        with open_database(base / "steps.duckdb") as database:
            idle, sealing, publishing = steps(Access(database), base)
    return [
        result(
            "seal_rate",
            ROWS / seconds,
            "rows/s",
            baseline="the same in Python, one core",
            baseline_value=ROWS / python_s,
        ),
        result("seal_idle_ms", idle, "ms"),
        result("seal_minute_ms", sealing, "ms"),
        result("seal_publish_ms", publishing, "ms"),
    ]


def steps(access: Access, base: Path) -> tuple[float, float, float]:
    """Medians in ms: a step with nothing to do, one that seals and signs `MINUTE_ROWS`, one that publishes to a directory."""
    add_month(access)
    signing = Signing(signers=[read_key(base / "key")], state=FileState(base / "signed"))
    sealer = Sealer(access, signing=signing)
    publisher = Publisher(access, [open_anchor(f"file:{base}/anchor")])
    now_us, times = NOW_US, ([], [], [])
    for number in range(STEPS):
        add_rows(access, number * MINUTE_ROWS, MINUTE_ROWS)
        now_us += MINUTE_US
        for found, do in zip(
            times,
            (
                lambda now_us=now_us: sealer.step(now_us),
                lambda now_us=now_us: sealer.step(now_us + 1),
                lambda now_us=now_us: publisher.step(now_us),
            ),
            strict=True,
        ):
            found.append(1000 * timed(do))
    # The first steps sign and publish the month.
    sealing, idle, publishing = (median(found[STEPS // 2 :]) for found in times)
    return idle, sealing, publishing


if __name__ == "__main__":
    for line in main():
        print(line)
