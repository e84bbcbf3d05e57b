"""Deleting runs by an act. What is left of each is a tombstone, so that a record delivered again is counted, not stored.

An orphan, of which no start has come, goes by its id alone, and is reached by where its first record stands: a purge by age
names those that it takes. It counts as started when that record arrived, by the broker's time, or, where records carry none,
when it was made; and as everybody's where holds are concerned, since its skill is not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import duckdb
import orjson

from skillaudit.consumer.arrow import Kind, make_table
from skillaudit.consumer.lookup import next_number
from skillaudit.consumer.statements import statements
from skillaudit.contract.digests import run_hash
from skillaudit.proof.acts import Act

DAY_US: Final = 86_400_000_000
_SQL: Final = statements("purging.sql")
_ACTS: Final = statements("acts.sql")
_DELETIONS: Final = tuple(text for name, text in _SQL.items() if name.startswith("delete_"))
_REACH: Final = {"partition": Kind.TEXT, "position": Kind.I64}


@dataclass(frozen=True, slots=True)
class Purged:
    """What one application of a purge did."""

    runs: int = 0
    events: int = 0
    held: int = 0
    """Runs that a hold kept."""
    young: int = 0
    """Runs that the minimum age kept."""
    holds: tuple[str, ...] = ()
    """Holds that kept some, by their acts."""


def register_reach(cursor: duckdb.DuckDBPyConnection, reach: Mapping[str, int]) -> None:
    """Let statements see how far an act reaches; at least one partition."""
    cursor.register("reach", make_table(_REACH, list(reach.items())))


def choose(cursor: duckdb.DuckDBPyConnection, act: Act, *, planned: bool = False) -> Purged:
    """Fill `chosen` with the runs that the act names, as far as `reach` goes, and mark what keeps each back.

    `planned`: the act is not stored yet; the holds that count are those in force now.
    """
    if act.runs:
        choose_named(cursor, act.runs)
    else:
        cursor.execute(_SQL["choose_older"], {"before_us": act.scope["started_before"]})
    days = int(act.policy.get("min_retention_days", 0))
    young_us = act.at_us - days * DAY_US if days else None
    return _mark(cursor, "" if planned else act.act_id, None if planned else act.last_hold, young_us)


def _mark(
    cursor: duckdb.DuckDBPyConnection, act_id: str, last_hold: str | None, young_us: int | None
) -> Purged:
    holds = mark_held(cursor, act_id, last_hold)
    if young_us is not None:
        cursor.execute(_SQL["young"], {"limit_us": young_us})
    free, held, young = cursor.execute(_SQL["counts"]).fetchall()[0]
    return Purged(runs=free, held=held, young=young, holds=holds)


def choose_old_orphans(
    cursor: duckdb.DuckDBPyConnection,
    topic: str,
    before_us: int,
    *,
    received_us: int | None,
    young_us: int | None,
) -> Purged:
    """Fill `chosen` with the topic's orphans that count as started before a time, and arrived before `received_us`; as
    `choose` for an act that is planned. `young_us`: from when on they are too young to go.
    """
    cursor.execute(
        _SQL["choose_old_orphans"], {"topic": topic, "before_us": before_us, "received_us": received_us}
    )
    return _mark(cursor, "", None, young_us)


def choose_named(cursor: duckdb.DuckDBPyConnection, run_ids: Sequence[str]) -> None:
    """Fill `chosen` with the runs of these ids, as far as `reach` goes."""
    cursor.execute(_SQL["choose_named"], _ids(run_ids))


def last_hold(cursor: duckdb.DuckDBPyConnection) -> str:
    """The act that placed the newest hold; "" where there is none."""
    return str(cursor.execute(_ACTS["last_hold"]).fetchall()[0][0])


def mark_held(
    cursor: duckdb.DuckDBPyConnection, act_id: str, last_hold: str | None = None
) -> tuple[str, ...]:
    """Mark the chosen runs that a hold covered when the act came; returns the acts of the holds that cover some. Those placed
    behind `last_hold` count as `unseen`.
    """
    covering: list[str] = []
    which = {"act_id": act_id, "last_hold": last_hold}
    for hold_id, scope, unseen in cursor.execute(_ACTS["holds_before"], which).fetchall():
        members: dict[str, Any] = orjson.loads(scope)
        mark: dict[str, Any] = {"unseen": unseen}
        if "runs" in members:
            marked = cursor.execute(_SQL["hold_named"], mark | _ids(members["runs"]))
        elif "skill_id" in members:
            marked = cursor.execute(_SQL["hold_skill"], mark | {"skill_id": members["skill_id"]})
        else:
            marked = cursor.execute(_SQL["hold_all"], mark)
        if marked.fetchall()[0][0]:
            covering.append(hold_id)
    return tuple(covering)


def held_keys(cursor: duckdb.DuckDBPyConnection) -> set[int]:
    """Of the chosen runs those that are held."""
    return {row[0] for row in cursor.execute("SELECT run_key FROM chosen WHERE held").fetchall()}


def free_partitions(cursor: duckdb.DuckDBPyConnection, *, force: bool) -> list[str]:
    """Partitions of which a chosen run may go."""
    return [row[0] for row in cursor.execute(_SQL["free_partitions"], {"force": force}).fetchall()]


class FreeRun(NamedTuple):
    """A chosen run that may go."""

    id: str
    partition: str
    topic: str | None
    """Of an orphan of which an earlier release did not store the partition: it is in one of the topic's."""


def free_runs(cursor: duckdb.DuckDBPyConnection, *, force: bool) -> list[FreeRun]:
    """The chosen runs that may go, in order of arrival."""
    return [FreeRun(*row) for row in cursor.execute(_SQL["free_runs"], {"force": force}).fetchall()]


def chosen_ids(cursor: duckdb.DuckDBPyConnection) -> set[str]:
    """The ids of the chosen runs."""
    return {row[0] for row in cursor.execute(_SQL["chosen_ids"]).fetchall()}


def topics_of_orphans(cursor: duckdb.DuckDBPyConnection) -> list[str]:
    """Topics in which there are orphans."""
    return [row[0] for row in cursor.execute(_SQL["topics_of_orphans"]).fetchall()]


def orphans_of_ids(cursor: duckdb.DuckDBPyConnection, run_ids: Sequence[str]) -> set[str]:
    """Those of these ids that orphans have."""
    return {row[0] for row in cursor.execute(_SQL["orphans_of_ids"], _ids(run_ids)).fetchall()}


class Violation(NamedTuple):
    """Runs that may only go by force."""

    kind: str
    """`hold` or `minimum`."""
    partition: str
    first: int
    last: int
    """Positions of the starts of the first and the last of them, of an orphan that of its first record; of the chosen runs
    between them all are.
    """
    runs: int


def violations(cursor: duckdb.DuckDBPyConnection, run_ids: Sequence[str] | None = None) -> list[Violation]:
    """What stands against the chosen runs; `run_ids`: of these alone."""
    ids = None if run_ids is None else list(run_ids)
    return [Violation(*row) for row in cursor.execute(_SQL["violations"], {"ids": ids}).fetchall()]


def count_before(cursor: duckdb.DuckDBPyConnection, before_us: int) -> int:
    """Runs that started before a time."""
    return int(cursor.execute(_SQL["count_before"], {"before_us": before_us}).fetchall()[0][0])


def received_since(cursor: duckdb.DuckDBPyConnection, since_us: int) -> dict[str, int]:
    """Partition -> position below which every start arrived before `since_us`; only partitions with one that did not."""
    return dict(cursor.execute(_SQL["received_since"], {"since_us": since_us}).fetchall())


def purge(cursor: duckdb.DuckDBPyConnection, act: Act, now_us: int) -> Purged:
    """Delete what the act names as far as `reach` goes, in the caller's transaction, with nothing being moved."""
    found = choose(cursor, act)
    held, young = found.held, found.young
    if act.force:
        held, young = int(cursor.execute(_SQL["keep_unseen"]).fetchall()[0][0]), 0
    else:
        cursor.execute(_SQL["keep_back"])
    runs, events = cursor.execute(_SQL["events"]).fetchall()[0]
    if runs:
        purge_id = _count(cursor, act, int(runs), int(events))
        cursor.execute(_SQL["tombstones"], {"purge_id": purge_id})
        cursor.execute(_SQL["dead_letters"], {"now_us": now_us})
        for deletion in _DELETIONS:
            cursor.execute(deletion)
    kept_by = found.holds if held else ()
    return Purged(runs=int(runs), events=int(events), held=held, young=young, holds=kept_by)


def _count(cursor: duckdb.DuckDBPyConnection, act: Act, runs: int, events: int) -> int:
    """The purge's number; an act that reaches its partitions one by one is one purge."""
    stored = cursor.execute(_SQL["purge_of"], {"act_id": act.act_id}).fetchall()
    counts = {"runs": runs, "events": events}
    if stored:
        cursor.execute(_SQL["more_purged"], {"purge_id": stored[0][0], **counts})
        return int(stored[0][0])
    purge_id = next_number(cursor, "next_purge_id")
    which = {
        "purge_id": purge_id,
        "at_us": act.at_us,
        "cutoff_us": act.scope.get("started_before", act.at_us),
        "policy": str(act.policy.get("name", "requested")),
        "act_id": act.act_id,
    }
    cursor.execute(_SQL["new_purge"], {**which, **counts})
    return purge_id


def _ids(run_ids: Sequence[str]) -> dict[str, list[str] | list[int]]:
    return {"ids": list(run_ids), "hashes": [run_hash(run_id) for run_id in run_ids]}
