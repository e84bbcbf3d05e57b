"""The oracle of pipeline tests: what the fleet's processes noted, compared with what is stored."""

import asyncio
import hashlib
import json
from collections import defaultdict
from pathlib import Path

import duckdb

from skillaudit.contract import AuditReader, Completeness, Liveness


def read_accounts(paths: list[Path]) -> dict[str, dict]:
    """Run id -> {"logs": [sha256 in order], "end": n or None}."""
    runs: dict[str, dict] = defaultdict(lambda: {"logs": [], "end": None})
    for path in paths:
        for line in path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                continue
            entry = json.loads(line)
            if "run" not in entry:
                continue
            run = runs[entry["run"]]
            if "sha256" in entry:
                run["logs"].append(entry["sha256"])
                assert entry["seq"] == len(run["logs"]), "the account itself is out of order"
            elif "end" in entry:
                run["end"] = entry["end"]
    return dict(runs)


def read_positions(paths: list[Path]) -> dict[str, int]:
    """What the last flush of each process reported, the furthest of each partition."""
    positions: dict[str, int] = {}
    for path in paths:
        for name, offset in json.loads(path.read_bytes().splitlines()[-1])["positions"].items():
            positions[name] = max(offset, positions.get(name, 0))
    return positions


async def assert_stored(reader: AuditReader, accounts: dict[str, dict]) -> None:
    """Everything noted as safe is stored exactly once, in order, byte for byte; what was not finished is named so."""
    states = await reader.list_run_states(list(accounts))

    async def check(run_id: str, account: dict) -> None:
        logs = await reader.list_logs_by_run(run_id)
        _compare(run_id, account, [log.sequence for log in logs], [log.payload_json for log in logs])
        state = states[run_id]
        _judge(account, (state.completeness, state.liveness, state.conflicts), state)

    await asyncio.gather(*(check(run_id, account) for run_id, account in accounts.items()))


def assert_rows(cursor: duckdb.DuckDBPyConnection, accounts: dict[str, dict]) -> None:
    """The same for many runs, by one statement on the views; and nothing else is stored."""
    rows = {row[0]: row[1:] for row in cursor.execute(ROWS).fetchall()}
    assert rows.keys() == accounts.keys()
    for run_id, (completeness, liveness, conflicts, sequences, payloads) in rows.items():
        _compare(run_id, accounts[run_id], sequences or [], [p.encode() for p in payloads or []])
        _judge(accounts[run_id], (completeness, liveness, conflicts), run_id)


ROWS = """
SELECT r.id, r.completeness, r.liveness, r.conflicts, e.sequences, e.payloads
FROM main.runs r
LEFT JOIN (SELECT run_key, list(sequence ORDER BY sequence) AS sequences, list(payload ORDER BY sequence) AS payloads
           FROM main.events GROUP BY run_key) e USING (run_key)
"""


def _compare(run_id: str, account: dict, sequences: list[int], payloads: list[bytes]) -> None:
    assert sequences == list(range(1, len(sequences) + 1)), run_id
    stored = [hashlib.sha256(payload).hexdigest() for payload in payloads]
    assert stored[: len(account["logs"])] == account["logs"], run_id
    assert account["end"] in (None, len(sequences)), run_id


def _judge(account: dict, found: tuple, told: object) -> None:
    completeness, liveness, conflicts = found
    assert conflicts == 0, told
    if account["end"] is not None:
        assert (completeness, liveness) == (Completeness.COMPLETE, Liveness.FINISHED), told


TROUBLES = ("orphans", "conflicts", "dead_letters", "incidents")


def troubles(cursor: duckdb.DuckDBPyConnection) -> dict[str, list[tuple]]:
    """What a person would have to look at; nothing, where all is well."""
    found = {name: cursor.execute(f"SELECT * FROM main.{name}").fetchall() for name in TROUBLES}
    return {name: rows for name, rows in found.items() if rows}


def content(cursor: duckdb.DuckDBPyConnection) -> list[tuple]:
    """Every run with its events, without what may differ between two databases that consumed the same."""
    return cursor.execute(CONTENT).fetchall()


CONTENT = """
SELECT r.id, r.skill_id, r.caller_id, r.status, r.output, epoch_us(r.started_at), epoch_us(r.finished_at), r.source_id,
       r.source_seq, r.events_expected, r.events_stored, r.completeness, r.liveness, r.head,
       (SELECT list(struct_pack(n := e.sequence, t := e.event_type, p := e.payload, at := epoch_us(e.created_at), g := e.tag)
                    ORDER BY e.sequence)
        FROM main.events e WHERE e.run_key = r.run_key) AS events
FROM main.runs r
ORDER BY r.id
"""
