"""The judge outside the product: what agents noted after each call returned, against what is stored.

An agent process appends one JSON line to its own account file after a call returned, by one `os.write`:

    {"run": ID, "begin": n}                          start_run returned; n: which run of this process it is, from 0
    {"run": ID, "seq": 1.., "sha256": HEX}           a log's call returned; hash of the payload's bytes as the agent knows them
    {"run": ID, "end": n}                            finish returned, after n logs
    {"run": ID, "lost": n}                           a log's call returned and said that the event was dropped and counted
    {"positions": {...}}                             what its last flush reported

A process that is killed between a call's return and its line has stored one event more than it noted, per thread: the
only difference that is allowed, only at the end of what it noted, and only in a row in which agents die.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

UNNOTED_EVENTS_MAX = 1
"""Events of one run that may be stored beyond its account: the one whose line was cut off."""


@dataclass(slots=True)
class Account:
    """What one agent noted of one run."""

    run_id: str
    logs: dict[int, str] = field(default_factory=dict[int, str])
    """seq -> sha256 of its payload."""
    end: int | None = None
    lost: int = 0
    begun: bool = False


@dataclass(slots=True)
class Verdict:
    """What was found; every list is empty where the contract was kept."""

    runs: int = 0
    events: int = 0
    """Starts, logs and finishes that agents were told are safe."""
    lost: list[str] = field(default_factory=list[str])
    duplicated: list[str] = field(default_factory=list[str])
    altered: list[str] = field(default_factory=list[str])
    """Another payload under the number: altered, or in another order."""
    unnamed: list[str] = field(default_factory=list[str])
    """Reads otherwise than it is: complete and is not, or the other way round."""
    foreign: list[str] = field(default_factory=list[str])
    """Stored, and no agent knows of it."""
    troubles: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    """Conflicts, dead letters, orphans, incidents that the fault does not explain."""

    def __bool__(self) -> bool:
        """Whether all is well."""
        return not (
            self.lost or self.duplicated or self.altered or self.unnamed or self.foreign or self.troubles
        )

    def __str__(self) -> str:
        """Counts, and the first three of each kind."""
        kinds = ("lost", "duplicated", "altered", "unnamed", "foreign")
        found = {kind: getattr(self, kind) for kind in kinds}
        texts = [f"{len(items)} {kind}: {items[:3]}" for kind, items in found.items() if items]
        texts += [f"{len(rows)} {name}: {rows[:3]}" for name, rows in self.troubles.items() if rows]
        return "; ".join(texts) or f"{self.runs} runs, {self.events} events, nothing lost"


def read_accounts(paths: Iterable[Path]) -> dict[str, Account]:
    """Run id -> what was noted of it. A last line without its end was cut off and counts as not noted."""
    accounts: dict[str, Account] = {}
    for path in paths:
        if not path.exists():
            continue
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                _take(accounts, json.loads(line))
    return accounts


def _take(accounts: dict[str, Account], entry: dict[str, Any]) -> None:
    if "run" not in entry:
        return
    account = accounts.setdefault(entry["run"], Account(entry["run"]))
    if "begin" in entry:
        account.begun = True
    elif "sha256" in entry:
        assert entry["seq"] not in account.logs, f"the account itself tells {entry['seq']} twice"
        account.logs[entry["seq"]] = entry["sha256"]
    elif "end" in entry:
        account.end = entry["end"]
    elif "lost" in entry:
        account.lost += entry["lost"]


def read_positions(paths: Iterable[Path]) -> dict[str, int]:
    """The furthest position that the agents' flushes reported, by partition."""
    positions: dict[str, int] = {}
    for path in paths:
        for line in path.read_bytes().splitlines():
            for name, offset in json.loads(line).get("positions", {}).items():
                positions[name] = max(offset, positions.get(name, 0))
    return positions


_STORED = """
SELECT r.id, r.completeness, r.liveness, e.logs
FROM main.runs r
LEFT JOIN (SELECT run_key, list(struct_pack(n := sequence, h := sha256(payload)) ORDER BY sequence) AS logs
           FROM main.events GROUP BY run_key) e USING (run_key)
"""
_TWICE = "SELECT id, count(*) FROM main.runs GROUP BY id HAVING count(*) > 1"
TROUBLES = ("orphans", "conflicts", "dead_letters", "incidents")


def troubles(cursor: duckdb.DuckDBPyConnection) -> dict[str, list[Any]]:
    """What a person would have to look at, as text; nothing, where all is well."""
    found = {
        name: cursor.execute(f"SELECT COLUMNS(*)::VARCHAR FROM main.{name}").fetchall() for name in TROUBLES
    }
    return {name: rows for name, rows in found.items() if rows}


def judge(
    cursor: duckdb.DuckDBPyConnection,
    accounts: Mapping[str, Account],
    *,
    expected: Iterable[str] = (),
    deaths_allowed: bool = False,
    foreign_allowed: bool = False,
) -> Verdict:
    """Compare. `expected`: names of `TROUBLES` that this fault explains, which the caller looks at itself.

    `deaths_allowed`: agents are killed here, so that the last line of an account may be cut off. `foreign_allowed`:
    other agents write, too; or a run may have begun whose line was cut off (one a thread).
    """
    verdict = Verdict(runs=len(accounts))
    verdict.duplicated += [str(row) for row in cursor.execute(_TWICE).fetchall()]
    stored = {row[0]: row[1:] for row in cursor.execute(_STORED).fetchall()}
    for run_id, account in accounts.items():
        verdict.events += account.begun + len(account.logs) + (account.end is not None)
        if run_id not in stored:
            verdict.lost.append(f"run {run_id}")
        else:
            _judge_run(verdict, account, *stored[run_id], deaths_allowed)
    if not foreign_allowed:
        verdict.foreign += sorted(stored.keys() - accounts.keys())
    verdict.troubles = {name: rows for name, rows in troubles(cursor).items() if name not in set(expected)}
    return verdict


def _judge_run(
    verdict: Verdict,
    account: Account,
    completeness: str,
    liveness: str,
    logs: list[dict[str, Any]] | None,
    deaths_allowed: bool,
) -> None:
    found: dict[int, str] = {}
    for log in logs or ():
        if log["n"] in found:
            verdict.duplicated.append(f"{account.run_id}#{log['n']}")
        found[log["n"]] = log["h"]
    verdict.lost += [f"{account.run_id}#{seq}" for seq in sorted(account.logs.keys() - found.keys())]
    verdict.altered += [
        f"{account.run_id}#{seq}"
        for seq in account.logs.keys() & found.keys()
        if account.logs[seq] != found[seq]
    ]
    noted_to = max(account.logs, default=0)
    unnoted = sorted(found.keys() - account.logs.keys())
    # Behind the finish of a run whose end was noted there is nothing to be cut off.
    allowed = UNNOTED_EVENTS_MAX if account.end is None and deaths_allowed else 0
    if len(unnoted) > allowed or any(seq <= noted_to for seq in unnoted):
        verdict.foreign.append(f"{account.run_id}#{unnoted}")
    if account.end is not None and len(found) != account.end - account.lost:
        verdict.unnamed.append(
            f"{account.run_id} holds {len(found)} of {account.end} logs, {account.lost} declared lost"
        )
    wrong = _reads_wrong(account, completeness, liveness, cut=deaths_allowed and not unnoted)
    if wrong:
        verdict.unnamed.append(f"{account.run_id} reads {completeness}, {liveness}{wrong}")


def _reads_wrong(account: Account, completeness: str, liveness: str, *, cut: bool) -> str:
    """Why a run may not read so; empty where it may. `cut`: its finish may be what was cut off from its account."""
    if account.end is None:
        if liveness == "finished" and not cut:
            return ", and was never finished"
        return ", and is not finished" if liveness != "finished" and completeness == "complete" else ""
    if account.lost:
        return "" if completeness == "declared-loss" else f" with {account.lost} events declared lost"
    whole = (completeness, liveness) == ("complete", "finished")
    return "" if whole else f", and was finished after {account.end} logs"


def assert_kept(
    cursor: duckdb.DuckDBPyConnection, accounts: Mapping[str, Account], **options: Any
) -> Verdict:
    """As `judge`; an AssertionError that tells what was not kept."""
    verdict = judge(cursor, accounts, **options)
    assert verdict, str(verdict)
    return verdict
