"""The judge outside the product: what agents noted after each call returned, against what is stored.

The lines that agents append to their account files, one after each call, and what is hashed in them: `notes.py`. A run holds
what was given for its start, for each of its events under its number, and for its finish, each with its time: those times lie
between the agent's own readings of the clock around the call.

A thread that is killed between a call's return and its line has stored one start, event or finish more than it noted. That
is the only difference which is allowed: only at the end of what was noted of a run, of each thread once in all its runs,
and of no more threads than were killed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
from tests.faults.notes import LOG_DIGEST_SQL, finish_digest, start_digest

Span = tuple[int, int]
"""From one moment to another, in microseconds."""
FINISH = -1
"""Where a number of an event stands: the finish. The start is 0."""
ROUNDING_US = 2_000
"""Clocks are read one after the other, and rounded."""


class BrokenError(AssertionError):
    """The contract is not kept: what a judge says, and nobody else. Where a mechanism is switched off nothing less counts."""


def must(kept: object, told: object) -> None:
    """A judge's assertion."""
    if not kept:
        raise BrokenError(told)


@dataclass(slots=True)
class Account:
    """What one agent noted of one run."""

    run_id: str
    logs: dict[int, str] = field(default_factory=dict[int, str])
    """seq -> hash of its type and payload."""
    end: int | None = None
    lost: int = 0
    begun: bool = False
    start: str = ""
    """Hash of what was given to start it."""
    finish: str = ""
    """Hash of what was given to finish it."""
    took_us: int | None = None
    """The runtime that was given."""
    spans: dict[int, Span] = field(default_factory=dict[int, Span])
    """Number -> within what its call was made, by the agent's clock; not where that says nothing of the product's."""
    recorder: str = ""
    """The thread that noted it."""

    def span_of(self, number: int) -> Span | None:
        """Within what the event's time lies; None where the agent did not read its clock."""
        if number not in self.spans:
            return None
        low, high = self.spans[number]
        return low - ROUNDING_US, high + ROUNDING_US


@dataclass(slots=True)
class Verdict:
    """What was found; every list is empty where the contract was kept."""

    runs: int = 0
    events: int = 0
    """Starts, logs and finishes that agents were told are safe."""
    lost: list[str] = field(default_factory=list[str])
    duplicated: list[str] = field(default_factory=list[str])
    altered: list[str] = field(default_factory=list[str])
    """A start, an event or a finish is there otherwise than it was given: altered, or in another order."""
    unnamed: list[str] = field(default_factory=list[str])
    """Reads otherwise than it is: complete and is not, or the other way round."""
    foreign: list[str] = field(default_factory=list[str])
    """Stored, and no agent knows of it."""
    cut_off: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Who may have been killed before its line, as far as that is known, and the call: as many as may be no fault of anybody."""
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
                take(accounts, json.loads(line), str(path))
    return accounts


def take(accounts: dict[str, Account], entry: dict[str, Any], source: str = "") -> None:
    """One line, which is of a run or of something else. `source`: the process whose line it is."""
    if "run" not in entry:
        return
    recorder = f"{source} {entry.get('by', '')}"
    account = accounts.setdefault(entry["run"], Account(entry["run"], recorder=recorder))
    if "begin" in entry:
        assert not account.begun, f"the account itself tells the start of {account.run_id} twice"
        account.begun, account.start = True, entry["sha256"]
        _take_span(account, 0, entry["at"])
    elif "seq" in entry:
        assert entry["seq"] not in account.logs, f"the account itself tells {entry['seq']} twice"
        account.logs[entry["seq"]] = entry["sha256"]
        _take_span(account, entry["seq"], entry["at"])
    elif "end" in entry:
        assert account.end is None, f"the account itself tells the finish of {account.run_id} twice"
        account.end, account.finish, account.took_us = entry["end"], entry["sha256"], entry["took"]
        _take_span(account, FINISH, entry["at"])
    elif "lost" in entry:
        account.lost += entry["lost"]


def _take_span(account: Account, number: int, at: Sequence[int] | None) -> None:
    if at is not None:
        account.spans[number] = (at[0], at[0] + at[1])


def read_positions(paths: Iterable[Path]) -> dict[str, int]:
    """The furthest position that the agents' flushes reported, by partition."""
    positions: dict[str, int] = {}
    for path in paths:
        for line in path.read_bytes().splitlines():
            for name, offset in json.loads(line).get("positions", {}).items():
                positions[name] = max(offset, positions.get(name, 0))
    return positions


LOGS_SQL = f"""
SELECT run_key, list(struct_pack(n := sequence, h := {LOG_DIGEST_SQL}, at := epoch_us(created_at)) ORDER BY sequence) AS logs
FROM main.events GROUP BY run_key
"""
"""The logs of each run: number, hash, time."""
_STORED = f"""
SELECT id, completeness, liveness, skill_id, caller_id, channel_id, parent_run_id, inputs, attributes, epoch_us(started_at),
       status, output, error, tool_calls_count, total_input_tokens, total_output_tokens, total_thinking_tokens,
       epoch_us(finished_at), runtime_us, epoch_us(last_event_at), events_stored, events_expected, conflicts, e.logs
FROM main.runs LEFT JOIN ({LOGS_SQL}) e USING (run_key)
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """A run as the database tells it."""

    completeness: str
    liveness: str
    start: str
    started_us: int
    finish: str
    finished_us: int | None
    runtime_us: int
    last_us: int | None
    events_stored: int
    events_expected: int | None
    conflicts: int
    logs: tuple[tuple[int, str, int], ...]
    """Number, hash, time."""

    @property
    def digests(self) -> dict[int, str]:
        """Number -> hash."""
        return {number: digest for number, digest, _ in self.logs}

    @property
    def times(self) -> dict[int, int]:
        """Number -> time, of start and finish, too."""
        times = {number: at_us for number, _, at_us in self.logs} | {0: self.started_us}
        return times if self.finished_us is None else times | {FINISH: self.finished_us}


def read_stored(cursor: duckdb.DuckDBPyConnection) -> dict[str, Stored]:
    """Every run."""
    return {found[0]: _stored(*found[1:]) for found in cursor.execute(_STORED).fetchall()}


def _stored(completeness: str, liveness: str, *found: Any) -> Stored:
    start, finish, more, logs = found[:7], found[7:14], found[14:20], found[20]
    return Stored(
        completeness,
        liveness,
        start_digest(*start),
        start[-1],
        finish_digest(*finish),
        *more,
        tuple((log["n"], log["h"], log["at"]) for log in logs or ()),
    )


def differences(account: Account, stored: Stored) -> list[str]:
    """What is stored otherwise than it was given or when, of what was noted and is there; in words."""
    wrong: list[str] = []
    if account.begun and account.start != stored.start:
        wrong.append("its start is not what was given")
    found = stored.digests
    shared = sorted(account.logs.keys() & found.keys())
    wrong += [f"event {n} is not what was given" for n in shared if account.logs[n] != found[n]]
    if account.end is not None and stored.finished_us is not None:
        if account.finish != stored.finish:
            wrong.append("its finish is not what was given")
        wrong += _wrong_runtime(account, stored.runtime_us)
    for number, at_us in sorted(stored.times.items()):
        span = account.span_of(number)
        noted = number in account.logs or number == 0 or account.end is not None
        if noted and span is not None and not span[0] <= at_us <= span[1]:
            what = {0: "its start", FINISH: "its finish"}.get(number, f"event {number}")
            wrong.append(f"{what} is of another time: {at_us}, the call was made within {span}")
    return wrong


def _wrong_runtime(account: Account, runtime_us: int) -> list[str]:
    """What was given, or the time between the two calls."""
    if account.took_us is not None:
        return (
            [] if runtime_us == account.took_us else [f"a runtime of {runtime_us} us is not what was given"]
        )
    if FINISH not in account.spans or 0 not in account.spans:
        return []
    (begun, begun_by), (ended, ended_by) = account.spans[0], account.spans[FINISH]
    fits = ended - begun_by - ROUNDING_US <= runtime_us <= ended_by - begun + ROUNDING_US
    return [] if fits else [f"a runtime of {runtime_us} us is not the time between its calls"]


def altered(cursor: duckdb.DuckDBPyConnection, accounts: Mapping[str, Account]) -> list[str]:
    """The differences of all runs that were noted and are there: for judges of their own."""
    return [
        f"{run_id}: {text}"
        for run_id, stored in read_stored(cursor).items()
        if run_id in accounts
        for text in differences(accounts[run_id], stored)
    ]


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
    killed_threads: int = 0,
    foreign_allowed: bool = False,
    elsewhere: Collection[str] = (),
) -> Verdict:
    """Compare. `expected`: names of `TROUBLES` that this fault explains, which the caller looks at itself.

    `killed_threads`: so many that recorded may have been killed, each perhaps between a call and its line. `foreign_allowed`:
    other agents write, too. `elsewhere`: ids of runs that another judge judges.
    """
    verdict, expected = Verdict(runs=len(accounts)), set(expected)
    verdict.duplicated += [str(row) for row in cursor.execute(_TWICE).fetchall()]
    stored = read_stored(cursor)
    for run_id, account in accounts.items():
        verdict.events += account.begun + len(account.logs) + (account.end is not None)
        if run_id not in stored:
            verdict.lost.append(f"run {run_id}")
        else:
            _judge_run(verdict, account, stored[run_id], may_be_cut=killed_threads > 0)
            if "conflicts" not in expected:
                _judge_counts(verdict, account, stored[run_id])
    if not foreign_allowed:
        for run_id in sorted(stored.keys() - accounts.keys() - set(elsewhere)):
            _judge_unknown(verdict, run_id, stored[run_id], may_be_cut=killed_threads > 0)
    _judge_cut_off(verdict, killed_threads)
    verdict.troubles = {name: rows for name, rows in troubles(cursor).items() if name not in expected}
    return verdict


def _judge_unknown(verdict: Verdict, run_id: str, stored: Stored, *, may_be_cut: bool) -> None:
    """Nobody noted its start, and so nobody can have done more in it."""
    if may_be_cut and not stored.logs and stored.finished_us is None:
        verdict.cut_off.append(("", f"the start of {run_id}"))
    else:
        verdict.foreign.append(run_id)


def _judge_cut_off(verdict: Verdict, killed_threads: int) -> None:
    """Each thread dies once; whose an un-noted start was is not known."""
    often = [who for who, calls in Counter(who for who, _ in verdict.cut_off).items() if who and calls > 1]
    if often or len(verdict.cut_off) > killed_threads:
        calls = [call for who, call in verdict.cut_off if not often or who in often]
        verdict.foreign.append(f"{len(calls)} calls without a line, {killed_threads} killed: {calls[:5]}")


def _judge_run(verdict: Verdict, account: Account, stored: Stored, *, may_be_cut: bool) -> None:
    found = stored.digests
    if len(found) < len(stored.logs):
        verdict.duplicated.append(f"{account.run_id} holds {len(stored.logs)} events of {len(found)} numbers")
    verdict.lost += [f"{account.run_id}#{seq}" for seq in sorted(account.logs.keys() - found.keys())]
    verdict.altered += [f"{account.run_id}: {text}" for text in differences(account, stored)]
    noted_to = max(account.logs, default=0)
    unnoted = sorted(found.keys() - account.logs.keys())
    # Behind the finish of a run whose end was noted there is nothing to be cut off.
    may_be_cut = may_be_cut and account.end is None
    if may_be_cut and len(unnoted) == 1 and unnoted[0] > noted_to:
        verdict.cut_off.append((account.recorder, f"{account.run_id}#{unnoted[0]}"))
    elif unnoted:
        verdict.foreign.append(f"{account.run_id}#{unnoted}")
    elif may_be_cut and stored.liveness == "finished":
        verdict.cut_off.append((account.recorder, f"the finish of {account.run_id}"))
    if account.end is not None and len(found) != account.end - account.lost:
        verdict.unnamed.append(
            f"{account.run_id} holds {len(found)} of {account.end} logs, {account.lost} declared lost"
        )
    completeness, liveness = stored.completeness, stored.liveness
    wrong = _reads_wrong(account, completeness, liveness, cut=may_be_cut and not unnoted)
    if wrong:
        verdict.unnamed.append(f"{account.run_id} reads {completeness}, {liveness}{wrong}")


def _judge_counts(verdict: Verdict, account: Account, stored: Stored) -> None:
    """What the run says of its own events is what it holds: nothing counted twice, nothing beside it."""
    run_id, last_us = account.run_id, max(stored.times.values())
    if stored.events_stored != len(stored.logs):
        verdict.duplicated.append(f"{run_id} counts {stored.events_stored} of {len(stored.logs)} events")
    if account.end is not None and stored.events_expected != account.end + 2:
        verdict.unnamed.append(f"{run_id} expects {stored.events_expected} events, told {account.end + 2}")
    if stored.conflicts:
        verdict.duplicated.append(f"{run_id} has {stored.conflicts} conflicts")
    if stored.last_us != last_us:
        verdict.altered.append(f"{run_id}: its last event was at {last_us}, and it says {stored.last_us}")


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
    """As `judge`; a BrokenError that tells what was not kept."""
    verdict = judge(cursor, accounts, **options)
    must(verdict, str(verdict))
    return verdict
