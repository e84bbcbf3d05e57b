"""SIGKILL while applying, sealing and checkpointing: what was committed is there, whole, once."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.consumer.kill_worker import PARTITION, RUN_RECORDS
from tests.consumer.support import rows, value

from skillaudit.consumer.database import open_database
from skillaudit.consumer.materializer import Materializer

ROUNDS = 10
ROOT = Path(__file__).parents[2]


def _run_and_kill(path: Path, after_s: float) -> int:
    """Let it work for a moment after its first commit; the last offset it said was committed."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "tests.consumer.kill_worker", str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert worker.stdout is not None
    said = [int(worker.stdout.readline())]
    time.sleep(after_s)  # when it is killed is what varies; nothing waits on it
    worker.send_signal(signal.SIGKILL)
    said += [int(line) for line in worker.stdout if line.endswith("\n")]
    worker.stdout.close()
    assert worker.wait(timeout=30) == -signal.SIGKILL
    return said[-1]


def _check(path: Path, committed: int) -> int:
    """Open as the next owner would; returns the stored position."""
    with open_database(path) as database:
        materializer = Materializer(database)
        position = materializer.positions()[PARTITION].next_offset
        assert position >= committed, "what was said to be committed is there"
        assert rows(database, "SELECT completeness, count(*) FROM runs GROUP BY ALL") == [
            ("complete", position // RUN_RECORDS)
        ]
        counts = "SELECT count(*), count(DISTINCT (run_key, sequence)) FROM events"
        logs = position // RUN_RECORDS * (RUN_RECORDS - 4)
        assert rows(database, counts) == [(logs, logs)]
        assert value(database, "SELECT sum(events_stored) FROM runs") == logs
        ledgered = position // RUN_RECORDS * 3  # start, finish, and the finish again
        numbers = "SELECT count(*), count(DISTINCT idx), min(idx), max(idx) FROM ledger"
        assert rows(database, numbers) == [(ledgered, ledgered, 0, ledgered - 1)]
        for table in ("conflicts", "dead_letters", "orphans"):
            assert value(database, f"SELECT count(*) FROM {table}") == 0
        materializer.close()
    return position


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Ten rounds on one database; each goes on where the last one was cut off."""
    path = tmp_path / "audit.duckdb"
    moments = random.Random(7)
    last = 0
    for _ in range(ROUNDS):
        position = _check(path, _run_and_kill(path, moments.uniform(0, 1.5)))
        assert position > last
        last = position
