"""An endless topic that is made from numbers: what a consumer must hold at any position can be computed.

A block is `BLOCK_RECORDS` long: whole runs, their logs out of order, some records delivered twice, some of the block before
delivered again, two records that are no events, and a sign of life of the source. Batches are whole blocks.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from typing import Any

import duckdb
import orjson
from tests.faults.oracle import BrokenError, must

from skillaudit.contract import events
from skillaudit.contract.events import FinishIdentity, SourceCounts, StartIdentity
from skillaudit.contract.records import RunStats, SkillRun
from skillaudit.contract.sources import SourceRecord

PARTITION = "t/0"
RUNS_IN_BLOCK = 8
LOGS = 12
TWICE = 4
AGAIN = 6
POISON_IN_BLOCK = 2
BLOCK_RECORDS = RUNS_IN_BLOCK * (LOGS + 2) + TWICE + AGAIN + POISON_IN_BLOCK + 1
BASE_US = 1_700_000_000_000_000
SECOND_US = 1_000_000
SOURCE_ID = "5a" * 16


def tag(*parts: object) -> str:
    """16 hex digits that nobody else gets."""
    return sha256(repr(parts).encode()).hexdigest()[:16]


def started_us(run: int) -> int:
    """When a run began."""
    return BASE_US + run * SECOND_US


def payload(run: int, seq: int) -> bytes:
    """The payload of a log."""
    return orjson.dumps({"content": f"{run}/{seq} é漢", "text": "x" * ((run * 31 + seq * 7) % 200)})


@cache
def run_records(run: int) -> tuple[bytes, ...]:
    """What a Writer sends of one run."""
    run_id = f"run-{run:09d}"
    start = events.encode_start(
        SkillRun(id=run_id, skill_id=f"s{run % 7}", caller_id="c"),
        StartIdentity(
            at_us=started_us(run),
            tag=tag(run, 0),
            salt="ab" * 16,
            source_id=SOURCE_ID,
            source_seq=run + 1,
            clock="manual",
        ),
        b'{"q":"%d"}' % run,
        b"{}",
    )
    logs = [
        events.encode_log(
            orjson.dumps(run_id), seq, started_us(run) + seq, tag(run, seq), b'"step"', payload(run, seq)
        )
        for seq in range(1, LOGS + 1)
    ]
    finish = events.encode_finish(
        run_id,
        RunStats(status="ok", output=f"done {run}"),
        FinishIdentity(
            seq=LOGS + 1,
            at_us=started_us(run) + LOGS + 1,
            tag=tag(run, LOGS + 1),
            source_id=SOURCE_ID,
            source_seq=run + 1,
            head="cd" * 32,
            lost="",
        ),
    )
    return (start, *logs, finish)


def poison(block: int, number: int) -> bytes:
    """No event."""
    return b'{"v":1,"type":"run.log","block":%d,"number":%d,"seq":1.5}' % (block, number)


@cache
def block_values(block: int) -> tuple[bytes, ...]:
    """The records of one block."""
    chance = random.Random(block)
    first = block * RUNS_IN_BLOCK
    values: list[bytes] = []
    for run in range(first, first + RUNS_IN_BLOCK):
        whole = run_records(run)
        logs = list(whole[1:-1])
        chance.shuffle(logs)
        values += [whole[0], *logs, whole[-1]]
    values += chance.sample(values, TWICE)
    before = run_records(max(first - 1, 0)) if block else run_records(0)
    values += before[:AGAIN]
    values += [poison(block, n) for n in range(POISON_IN_BLOCK)]
    heartbeat = events.encode_heartbeat(
        SOURCE_ID,
        started_us(first),
        block + 1,
        SourceCounts(runs_started=first + RUNS_IN_BLOCK, runs_finished=first + RUNS_IN_BLOCK),
    )
    values.append(heartbeat)
    assert len(values) == BLOCK_RECORDS
    return tuple(values)


def records(offset: int, blocks: int, partition: str = PARTITION) -> list[SourceRecord]:
    """So many blocks from a block's first offset on."""
    assert offset % BLOCK_RECORDS == 0, offset
    first = offset // BLOCK_RECORDS
    values = [value for block in range(first, first + blocks) for value in block_values(block)]
    return [SourceRecord(partition, offset + n, offset + n + 1, 0, None, v) for n, v in enumerate(values)]


_DIGEST = (
    "SELECT r.id, e.sequence, e.payload FROM main.events e JOIN main.runs r USING (run_key) ORDER BY ALL"
)
_COUNTS = """
SELECT (SELECT next_offset FROM main.positions), (SELECT count(*) FROM main.runs),
       (SELECT count(*) FROM main.runs WHERE completeness = 'complete' AND liveness = 'finished'
                                         AND events_stored = $logs),
       (SELECT count(*) FROM main.events), (SELECT count(*) FROM main.tombstones),
       (SELECT count(*) FROM main.dead_letters), (SELECT count(DISTINCT record_offset) FROM main.dead_letters),
       (SELECT count(*) FROM main.orphans) + (SELECT count(*) FROM main.conflicts)
       + (SELECT count(*) FROM main.incidents), (SELECT max(beat) FROM main.sources)
"""


def position_of(cursor: duckdb.DuckDBPyConnection) -> int:
    """How far a database is; 0 before its first batch."""
    found = cursor.execute("SELECT max(next_offset) FROM main.positions").fetchone()
    return int(found[0]) if found and found[0] else 0


def assert_holds(cursor: duckdb.DuckDBPyConnection, *, purged_least: int = 0, purged_most: int = 0) -> int:
    """The database holds exactly what lies before its position; answers that position.

    `purged_least`, `purged_most`: the runs below the one are purged, those from the other on are not.
    """
    position = position_of(cursor)
    if position == 0:
        must(
            cursor.execute("SELECT count(*) FROM main.runs").fetchone() == (0,),
            "there are runs, and no position",
        )
        return 0
    found = cursor.execute(_COUNTS, {"logs": LOGS}).fetchone()
    assert found is not None
    blocks, rest = divmod(position, BLOCK_RECORDS)
    must(rest == 0, f"the position {position} lies inside a block")
    tombstones = int(found[4])
    must(purged_least <= tombstones <= purged_most, f"{tombstones} of {purged_least} runs are purged")
    runs = blocks * RUNS_IN_BLOCK - tombstones
    letters = blocks * POISON_IN_BLOCK
    expected = (position, runs, runs, runs * LOGS, tombstones, letters, letters, 0, blocks)
    names = ("position", "runs", "whole", "events", "purged", "dead letters", "each once", "troubles", "beat")
    wrong = {n: (f, e) for n, f, e in zip(names, found, expected, strict=True) if f != e}
    must(not wrong, f"found and expected at {position}: {wrong}")
    _assert_events(cursor, range(tombstones, blocks * RUNS_IN_BLOCK))
    return position


def _assert_events(cursor: duckdb.DuckDBPyConnection, runs: Sequence[int]) -> None:
    """Every payload, byte for byte, once."""
    stored: list[Any] = cursor.execute(_DIGEST).fetchall()
    expected = (
        (f"run-{run:09d}", seq, payload(run, seq).decode()) for run in runs for seq in range(1, LOGS + 1)
    )
    for row, wanted in zip(stored, expected, strict=True):
        if row != wanted:
            raise BrokenError(f"stored {row}, sent {wanted}")
