"""verify_run_ms and its like, verify_full_us, verify_full_1m_runs_s, verify_quick_1m_runs_s: checking one run, and all of them.

The record is made in the engine, with the format's own digests: runs of 125 events with 422 bytes of payload each, sealed
tables, ids as the product makes them, a ledger row per start and finish, seals of 19,200 rows, a signed checkpoint that an anchor holds.
`SKILLAUDIT_BENCH_VERIFY_EVENTS` says how many events (10,000,000 unless set, for which it takes some minutes and 400 MB).

One run: by a `Verifier` that is kept, runs drawn at random, to the grade `anchored`; and by the command, a process of its own that opens
the file. All: one check each, in wall time and in processor time, extrapolated to a million runs.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.harness import median, result
from skillaudit.consumer.database import Database, open_database
from skillaudit.proof import merkle
from skillaudit.proof.checkpoint import Checkpoint
from skillaudit.proof.journal import Journal
from skillaudit.proof.keys import Signer
from skillaudit.proof.leaves import SealedRange, SealLeaf
from skillaudit.proof.policy import Grade, Policy
from skillaudit.proof.verify import Depth, Verifier, VerifyRequest
from skillaudit.proof.verify.witness import Anchored, AnchorReading

EVENTS = int(os.environ.get("SKILLAUDIT_BENCH_VERIFY_EVENTS", "10000000"))
PER_RUN = 125
BLOCK_RUNS = 4_000
RUN_US = 6_250
"""Between two starts: 20,000 events a second."""
BETWEEN = (PER_RUN - 1) * 1_000 // RUN_US
"""Other runs that start before a run's finish."""
SEAL_ROWS = 60_000_000 // RUN_US * 2
"""What comes in a minute."""
RUNS_CHECKED = 200
ROUNDS = 8
WARM_RUNS = 5
COMMANDS = 5
NAME = "bench.example.org/log"
TARGET_EVENTS = 125_000_000
START_US = 1_790_000_000_000_000

_BLOCK = """
CREATE OR REPLACE TEMP TABLE block AS
WITH runs AS (
    SELECT
        run_key, format(
            '{{:08x}}-{{:04x}}-7{{}}-8{{}}-{{}}', at_ms >> 16, at_ms & 65535, noise[:3], noise[4:6], noise[7:18]
        ) AS id, md5('salt ' || run_key) AS salt, md5('source') AS source_id,
        run_key + 1 AS source_seq, {start_us} + run_key * {run_us} AS at_us
    FROM (
        SELECT run_key, ({start_us} + run_key * {run_us}) // 1000 AS at_ms, md5('run ' || run_key) AS noise
        FROM range({first}, {end}) AS r(run_key)
    )
),
fields AS (
    SELECT run_key, seq, string_agg(
        name || ' ' || sha256(
            'skillaudit field 1' || chr(10)
            || left(sha256('skillaudit salt 1' || chr(10) || salt || chr(10) || seq || '.' || name || chr(10)), 32)
            || chr(10) || name || chr(10) || strlen(content) || ':' || content
        ) || chr(10), '' ORDER BY place) AS body
    FROM (
        SELECT run_key, salt, 0 AS seq, unnest([1, 2, 3, 4]) AS place,
            unnest(['caller_id', 'channel_id', 'inputs', 'attributes']) AS name, unnest(['u', '', '{{}}', '{{}}']) AS content
        FROM runs
        UNION ALL
        SELECT run_key, salt, {last}, unnest([5, 6]), unnest(['output', 'error']), unnest(['done', '']) FROM runs
    )
    GROUP BY run_key, seq
),
headed AS (
    SELECT r.*, s.seq, r.at_us + s.seq * 1000 AS event_us,
        CASE WHEN s.seq BETWEEN 1 AND {last} - 1 THEN
            '{{"content":"' || repeat(md5(r.run_key || '.' || s.seq), 12) || '","model":"m-1"}}'
        ELSE f.body END AS body,
        CASE s.seq
            WHEN 0 THEN 'start 0 ' || r.at_us || ' 0: 7:skill-' || (r.run_key % 9) || ' ' || r.source_id || ' ' || r.source_seq
            WHEN {last} THEN 'finish {last} ' || (r.at_us + {last} * 1000) || ' 2:ok 0 1000 0 0 0 0:'
            ELSE 'log ' || s.seq || ' ' || (r.at_us + s.seq * 1000) || ' 4:step'
        END AS header
    FROM runs AS r CROSS JOIN range({last} + 1) AS s(seq)
    LEFT JOIN fields AS f ON f.run_key = r.run_key AND f.seq = s.seq
)
SELECT *, sha256(
    'skillaudit event 1' || chr(10)
    || substr(sha256('skillaudit salt 1' || chr(10) || salt || chr(10) || (seq // 2) || chr(10)), 1 + 32 * (seq % 2), 32)
    || chr(10) || header || chr(10) || body
) AS digest
FROM headed
"""
_EVENTS = """
INSERT INTO store.events_sealed
SELECT run_key, seq, 'step', make_timestamptz(event_us), ('0x' || left(digest, 16))::UBIGINT, body
FROM block WHERE seq BETWEEN 1 AND {last} - 1 ORDER BY run_key, seq
"""
_HEADS = """
CREATE OR REPLACE TEMP TABLE heads AS
SELECT run_key, any_value(id) AS id, any_value(salt) AS salt, any_value(source_id) AS source_id,
    any_value(source_seq) AS source_seq, any_value(at_us) AS at_us,
    unhex(sha256('skillaudit run 1' || chr(10) || '36:' || any_value(id) || chr(10)
        || string_agg(header || ' ' || digest || chr(10), '' ORDER BY seq))) AS head,
    unhex(sha256('skillaudit run 1' || chr(10) || '36:' || any_value(id) || chr(10)
        || string_agg(header || ' ' || digest || chr(10), '' ORDER BY seq) FILTER (seq = 0))) AS start_head,
    ('0x' || left(any_value(digest) FILTER (seq = 0), 16))::UBIGINT AS start_tag,
    ('0x' || left(any_value(digest) FILTER (seq = {last}), 16))::UBIGINT AS finish_tag
FROM block GROUP BY run_key
"""
_RUNS = """
INSERT INTO store.runs BY NAME
SELECT run_key, ('0x' || left(sha256(id), 16))::UBIGINT AS run_hash, id, 'bench' AS topic, 'skill-' || (run_key % 9) AS skill_id,
    'u' AS caller_id, '' AS channel_id, '{{}}' AS inputs, make_timestamptz(at_us) AS started_at,
    make_timestamptz(at_us + {last} * 1000) AS finished_at, 'ok' AS status, 'done' AS output, '' AS error,
    0 AS tool_calls_count, 1000 AS runtime_us, '' AS parent_run_id, 0 AS total_input_tokens, 0 AS total_output_tokens,
    0 AS total_thinking_tokens, '{{}}' AS attributes, source_id, source_seq, {last} + 1 AS events_expected,
    {last} - 1 AS events_stored, 'complete' AS completeness, 'finished' AS liveness, '' AS missing, '' AS lost, 0 AS conflicts,
    make_timestamptz(at_us + {last} * 1000) AS last_event_at, make_timestamptz(at_us) AS received_at, false AS by_storage,
    'boottime' AS clock, unhex(salt) AS salt, start_tag, {last} AS finish_seq, finish_tag, head, 0 AS known, false AS refused,
    'bench/0' AS partition, run_key + greatest(run_key - {between}, 0) AS record_offset
FROM heads ORDER BY run_key
"""
_LEDGER = """
INSERT INTO store.ledger BY NAME
SELECT 'bench/0' AS partition, {place} AS idx, CASE part WHEN 0 THEN 'start' ELSE 'finish' END AS kind, id AS run_id, source_id, source_seq,
    CASE part WHEN 0 THEN 1 ELSE {last} + 1 END AS events, CASE part WHEN 0 THEN start_head ELSE head END AS head,
    at_us + part * {last} * 1000 AS received_us, {place} AS record_offset, ('0x' || left(sha256(id), 16))::UBIGINT AS run_hash
FROM heads CROSS JOIN range(2) AS p(part) ORDER BY 2
"""


def make(path: Path, events: int) -> Database:
    """A database of so many events."""
    database, runs, last = open_database(path), events // PER_RUN, PER_RUN - 1
    # In the order of time: before each start the finishes that came before it, and the other way round.
    place = (
        f"CASE part WHEN 0 THEN run_key + greatest(run_key - {BETWEEN}, 0)"
        f" ELSE run_key + least(run_key + {BETWEEN} + 1, {runs}) END"
    )
    with contextlib.closing(database.cursor()) as cursor:
        cursor.execute("SET TimeZone = 'UTC'")
        for first in range(0, runs, BLOCK_RUNS):
            numbers = {
                "first": first,
                "end": min(first + BLOCK_RUNS, runs),
                "last": last,
                "start_us": START_US,
                "run_us": RUN_US,
                "between": BETWEEN,
                "place": place,
            }
            for statement in (_BLOCK, _EVENTS, _HEADS, _RUNS, _LEDGER):
                cursor.execute(statement.format(**numbers))
        cursor.execute(
            "INSERT INTO store.positions (partition, cluster, next_offset, last_offset, last_digest, records, received_us,"
            " read_to_us, end_offset, ledger_next) VALUES ('bench/0', '', ?, 0, '', 0, 0, 0, 0, ?)",
            [2 * runs, 2 * runs],
        )
        cursor.execute(
            "INSERT INTO store.sources SELECT md5('source'), 'bench', 'bench/0', 'h', 1, 'b', '1', 'boottime', make_timestamptz(?),"
            " 0, 0, NULL, ?, ?, 0, 0, 0, 0, 0, '', NULL, 'live', ?, ?",
            [START_US, *[runs] * 4],
        )
        _seal(cursor, 2 * runs)
        cursor.execute("CHECKPOINT")
    return database


def _seal(cursor: Any, rows: int) -> None:
    from skillaudit.proof.statements import statements

    journal = Journal(cursor)
    for first in range(0, rows, SEAL_ROWS):
        count = min(SEAL_ROWS, rows - first)
        bounds = {"partition": "bench/0", "first": first, "rows": count}
        hashes = cursor.execute(statements("checks/ledger.sql")["rows_of_seal"], bounds).fetchall()
        blocks = merkle.block_roots(b"".join(bytes.fromhex(row[0]) for row in hashes))
        root = merkle.root_of(blocks)
        at_us = START_US + (first + count) // 2 * RUN_US + 1_000_000
        seal = SealLeaf(at_us, (SealedRange("bench/0", first, count, root, first + count),))
        journal.append(seal.encode(), at_us)
        cursor.execute("INSERT INTO store.ledger_nodes VALUES ('bench/0', ?, ?)", [first, blocks])


def check_all(database: Database, depth: Depth) -> tuple[float, float]:
    """Wall and processor seconds."""
    with contextlib.closing(database.cursor()) as cursor:
        wall, cpu = time.perf_counter(), time.process_time()
        report = Verifier(cursor).check(VerifyRequest(depth=depth), time.time_ns() // 1000)
        assert report.exit_code == 0, report.counts
        return time.perf_counter() - wall, time.process_time() - cpu


def anchored(database: Database) -> VerifyRequest:
    """Sign the journal, as the sealer does; the request of a verifier who knows the key and read the checkpoint from an anchor."""
    signer, now_us = Signer(NAME, bytes(32)), time.time_ns() // 1000
    with contextlib.closing(database.cursor()) as cursor:
        journal = Journal(cursor)
        checkpoint = Checkpoint(NAME, journal.size(), journal.root())
        row = [checkpoint.size, checkpoint.signed([signer]), now_us, "{}"]
        cursor.execute("INSERT INTO store.checkpoints VALUES (?, ?, ?, ?)", row)
    held = Anchored(
        NAME, checkpoint.size, checkpoint.root, now_us, "newest", (NAME,), False, checkpoint.size, ()
    )
    return VerifyRequest(
        policy=Policy(grade=Grade.ANCHORED, keys=(signer.verifier.text,)),
        anchors=(AnchorReading(uri="file:/anchor", checkpoints=(held,)),),
    )


def ids_of(database: Database, runs: int) -> list[str]:
    """Of runs drawn at random."""
    with contextlib.closing(database.cursor()) as cursor:
        keys = random.Random(1).sample(range(runs), min(RUNS_CHECKED, runs))
        return [cursor.execute("SELECT id FROM runs WHERE run_key = ?", [key]).fetchone()[0] for key in keys]


def check_runs(database: Database, request: VerifyRequest, ids: list[str]) -> list[tuple[float, float]]:
    """Milliseconds of each run, wall and processor time."""
    with contextlib.closing(database.cursor()) as cursor:
        verifier, taken = Verifier(cursor), []
        for run_id in ids:
            wall, cpu = time.perf_counter(), time.process_time()
            report = verifier.check(replace(request, run_id=run_id), time.time_ns() // 1000)
            taken.append(((time.perf_counter() - wall) * 1_000, (time.process_time() - cpu) * 1_000))
            assert (report.exit_code, report.grade) == (0, "anchored"), report.counts
        return taken


def check_by_command(path: Path, ids: list[str]) -> list[float]:
    """Milliseconds of `skillaudit verify RUN` on the closed file, each time."""
    taken = []
    for run_id in ids[:COMMANDS]:
        began = time.perf_counter()
        command = [sys.executable, "-m", "skillaudit.cli", "verify", run_id, "--db", str(path)]
        subprocess.run(command, check=True, capture_output=True)
        taken.append((time.perf_counter() - began) * 1_000)
    return taken


def main() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "bench.duckdb"
        with contextlib.closing(make(path, EVENTS)) as database:
            request, ids = anchored(database), ids_of(database, EVENTS // PER_RUN)
            check_runs(database, request, ids[:WARM_RUNS])
            rounds = [check_runs(database, request, ids) for _ in range(ROUNDS)]
            found = [*one_run(rounds), *all_runs(database)]
        command = median(check_by_command(path, ids))
    return [
        *found,
        result("verify_run_command_ms", command, f"ms, a process of its own, at {EVENTS:,} events"),
    ]


def one_run(rounds: list[list[tuple[float, float]]]) -> list[dict[str, Any]]:
    """Of the quietest round: what others take of the machine only adds."""
    quietest = min(rounds, key=lambda taken: median([cpu for _, cpu in taken]))
    wall, cpu = ([run[place] for run in quietest] for place in (0, 1))
    at = f"at {EVENTS:,} events, quietest of {ROUNDS} rounds"
    return [
        result("verify_run_ms", median(wall), f"ms {at}", goal="value <= 10"),
        result("verify_run_p95_ms", p95(wall), f"ms {at}"),
        result("verify_run_cpu_ms", median(cpu), f"ms of processor time {at}"),
    ]


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def all_runs(database: Database) -> list[dict[str, Any]]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    quick, quick_cpu = check_all(database, Depth.QUICK)
    full, full_cpu = check_all(database, Depth.FULL)
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    scale, cores = TARGET_EVENTS / EVENTS, os.cpu_count() or 1
    of = f"extrapolated from {EVENTS:,} events to 1M runs x 125"
    return [
        result("verify_full_us", full / EVENTS * 1e6, "us/event"),
        result("verify_full_1m_runs_s", full * scale, f"s, {of}", goal="value <= 600"),
        result("verify_full_1m_runs_cpu_s", full_cpu * scale / cores, f"s of {cores} whole cores, {of}"),
        result("verify_quick_1m_runs_s", quick * scale, f"s, {of}", goal="value <= 60"),
        result("verify_quick_1m_runs_cpu_s", quick_cpu * scale / cores, f"s of {cores} whole cores, {of}"),
        result("verify_memory_mb", grown_mb, "MB more than before the checks"),
    ]
