"""From an operator's wish to acts: what there is to do is looked up, and how far it reaches is written into the act.

Runs in the writer's thread, so that the positions are those of what was looked at, and changes nothing. No act is made
where there is nothing to do. A wish that reaches into very many partitions, or names very many runs, becomes several acts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import duckdb

from skillaudit.consumer import purging
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.positions import topic_of
from skillaudit.consumer.redaction import RunRow, find_runs
from skillaudit.consumer.statements import statements
from skillaudit.contract.admin import ActOrder, ActReport, HoldScope
from skillaudit.contract.clock import uuid7
from skillaudit.contract.digests import FINISH_FIELDS, START_FIELDS
from skillaudit.contract.engine import engine_errors
from skillaudit.contract.errors import HeldError, HoldNotFoundError, RejectedError, RunNotFoundError
from skillaudit.contract.events import format_ranges
from skillaudit.contract.words import named
from skillaudit.proof.acts import Act, ActKind

PARTITIONS_PER_ACT_MAX: Final = 400
NAMES_BYTES_PER_ACT_MAX: Final = 24_000
"""Of run ids and their partitions together; an act has at most 60,000 bytes."""
VIOLATIONS_BYTES_PER_ACT_MAX: Final = 8_000
"""Of the places of runs over which a purge goes, by kind; of those beyond it the act says how many there are."""
VIOLATED_HOLDS_MAX: Final = 16
_ACTS: Final = statements("acts.sql")
_REDACTION: Final = statements("redaction.sql")


@dataclass(frozen=True, slots=True)
class Plan:
    """The acts to be written, and what was kept back already."""

    acts: Sequence[Act] = ()
    kept: ActReport = ActReport()  # noqa: RUF009  frozen


Planner: TypeAlias = Callable[[Materializer], Plan]


def plan_purge(
    order: ActOrder,
    before_us: int,
    *,
    min_days: int = 0,
    name: str = "requested",
    received: bool = False,
    orphans: bool = False,
) -> Planner:
    """Delete what started before a time. `received`: and what arrived before it, whatever its host's clock said.

    The minimum age counts from the later of start and arrival; what is younger is not even reached. `orphans`: runs whose
    start never came, too, by acts that name them: an orphan counts as started when its first record arrived, or, where
    records carry no broker's time, when that one was made. The plan alone judges its age: what the database knows of it may
    be another thing tomorrow, or in a rebuild.
    """

    def plan(materializer: Materializer) -> Plan:
        now_us = materializer.clock.wall_us()
        youngest_us = now_us - min_days * purging.DAY_US
        cut_us = before_us if order.force or not min_days else min(before_us, youngest_us)
        policy = _policy(order, min_days, name)
        act = _act(ActKind.PURGE, order, now_us, {"started_before": cut_us}, policy, {})
        limits = [before_us] if received else []
        if min_days and not order.force:
            limits.append(youngest_us)
        with _reading(materializer) as cursor:
            reach = _all_positions(materializer)
            if limits:
                reach = _lowered(reach, purging.received_since(cursor, min(limits)))
            found, partitions = _purgeable(cursor, act, reach)
            young = 0
            if min_days and not order.force and not received:
                young = purging.count_before(cursor, before_us) - found.runs - found.held
            broken = purging.violations(cursor) if order.force and partitions else []
            last_hold = purging.last_hold(cursor)
            waiting = Plan()
            if orphans:
                times = (before_us, before_us if received else None, youngest_us if min_days else None)
                waiting = _plan_orphans(materializer, cursor, order, now_us, policy, times)
        acts = [
            _act(
                ActKind.PURGE,
                order,
                now_us,
                act.scope,
                policy
                | _violates(
                    order, [it for it in broken if it.partition in set(part)], found.holds, last_hold
                ),
                {p: reach[p] for p in part},
            )
            for part in _parts(partitions)
        ]
        if order.force:
            return Plan([*acts, *waiting.acts])
        kept = ActReport(
            held=found.held + waiting.kept.held,
            young=young + (0 if received else waiting.kept.young),
            holds=tuple(dict.fromkeys((*found.holds, *waiting.kept.holds))),
        )
        return Plan([*acts, *waiting.acts], kept)

    return plan


def _plan_orphans(
    materializer: Materializer,
    cursor: duckdb.DuckDBPyConnection,
    order: ActOrder,
    now_us: int,
    policy: Mapping[str, Any],
    times: tuple[int, int | None, int | None],
) -> Plan:
    """Delete those that are old enough: started before, arrived before, and too young from when on. Topic by topic: the
    same id may be a run of another one.
    """
    before_us, received_us, young_us = times
    acts: list[Act] = []
    kept = purging.Purged()
    for topic in purging.topics_of_orphans(cursor):
        found = purging.choose_old_orphans(
            cursor, topic, before_us, received_us=received_us, young_us=young_us
        )
        reach = _all_positions(materializer)
        acts += _named_purges(cursor, order, now_us, policy, reach, found.holds)
        kept = purging.Purged(
            held=kept.held + found.held, young=kept.young + found.young, holds=(*kept.holds, *found.holds)
        )
    return Plan(acts, ActReport(held=kept.held, young=kept.young, holds=kept.holds))


def _named_purges(
    cursor: duckdb.DuckDBPyConnection,
    order: ActOrder,
    now_us: int,
    policy: Mapping[str, Any],
    reach: Mapping[str, int],
    holds: Sequence[str],
) -> list[Act]:
    """Of the chosen runs that may go, by their ids."""
    acts: list[Act] = []
    last_hold = purging.last_hold(cursor)
    free = purging.free_runs(cursor, force=order.force)
    for ids, partitions in _named_parts(_placed(free, reach)):
        over = purging.violations(cursor, ids) if order.force else []
        violates = _violates(order, over, holds, last_hold)
        positions = _positions_of(reach, partitions)
        acts.append(_act(ActKind.PURGE, order, now_us, {"runs": ids}, {**policy, **violates}, positions))
    return acts


def _placed(free: Iterable[purging.FreeRun], reach: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Run ids with each partition that they may be in."""
    for run in free:
        yield run.id, run.partition
        if run.topic is not None:  # a rebuild knows in which of them it is
            yield from ((run.id, name) for name in reach if topic_of(name) == run.topic)


def plan_purge_of(order: ActOrder, run_ids: Sequence[str], *, min_days: int = 0) -> Planner:
    """Delete these runs, orphans among them; those that a hold or the minimum age keeps are left out."""

    def plan(materializer: Materializer) -> Plan:
        now_us = materializer.clock.wall_us()
        policy = _policy(order, min_days, "requested")
        act = _act(ActKind.PURGE, order, now_us, {"runs": list(run_ids)}, policy, {})
        with _reading(materializer) as cursor:
            reach = _all_positions(materializer)
            purging.register_reach(cursor, reach)
            found = purging.choose(cursor, act, planned=True)
            missing = set(run_ids) - purging.chosen_ids(cursor)
            if missing:
                raise RunNotFoundError(min(missing))
            acts = _named_purges(cursor, order, now_us, policy, reach, found.holds)
        if order.force:
            return Plan(acts)
        return Plan(acts, ActReport(held=found.held, young=found.young, holds=found.holds))

    return plan


def plan_redact(order: ActOrder, run_id: str, seq: int, field: str | None) -> Planner:
    """Take out one place of a run; nothing where it is taken out already."""

    def plan(materializer: Materializer) -> Plan:
        with _reading(materializer) as cursor:
            reach = _all_positions(materializer)
            runs = _unheld(cursor, order, (run_id,), reach)
            left = [run for run in runs if _has_left(cursor, run, seq, field)]
            partitions = _partitions_of(cursor, left)
        scope = {"run": run_id, "seq": seq} | ({"field": field} if field else {})
        positions = _positions_of(reach, partitions)
        return Plan(
            [_act(ActKind.REDACT, order, materializer.clock.wall_us(), scope, _forced(order), positions)]
            if left
            else []
        )

    return plan


def plan_erase(order: ActOrder, run_ids: Sequence[str]) -> Planner:
    """Take all content out of these runs; those that were erased before are left out."""

    def plan(materializer: Materializer) -> Plan:
        with _reading(materializer) as cursor:
            reach = _all_positions(materializer)
            runs = _unheld(cursor, order, run_ids, reach)
            left = [run for run in runs if not _is_erased(cursor, run)]
            named = [(run.id, partition) for run in left for partition in _partitions_of(cursor, [run])]
        now_us = materializer.clock.wall_us()
        return Plan(
            [
                _act(
                    ActKind.ERASE,
                    order,
                    now_us,
                    {"runs": ids},
                    _forced(order),
                    _positions_of(reach, partitions),
                )
                for ids, partitions in _named_parts(named)
            ]
        )

    return plan


def plan_hold(order: ActOrder, scope: HoldScope) -> Planner:
    """Keep runs, stored or still to come."""
    given = [bool(scope.runs), scope.skill_id is not None, scope.everything]
    if sum(given) != 1:
        raise RejectedError("a hold names runs, or one skill, or everything: exactly one of these")
    scopes: list[dict[str, Any]] = [{"all": True}]
    if scope.runs:
        scopes = [{"runs": ids} for ids, _ in _named_parts([(run_id, "") for run_id in scope.runs])]
    elif scope.skill_id is not None:
        scopes = [{"skill_id": scope.skill_id}]

    def plan(materializer: Materializer) -> Plan:
        now_us = materializer.clock.wall_us()
        return Plan([_act(ActKind.HOLD, order, now_us, members, {}, {}) for members in scopes])

    return plan


def plan_release(order: ActOrder, hold_id: str) -> Planner:
    """End a hold that is in force."""

    def plan(materializer: Materializer) -> Plan:
        with _reading(materializer) as cursor:
            found = cursor.execute(_ACTS["hold"], {"act_id": hold_id}).fetchall()
        if not found or found[0][1] is not None:
            raise HoldNotFoundError(hold_id)
        return Plan([_act(ActKind.RELEASE, order, materializer.clock.wall_us(), {"hold": hold_id}, {}, {})])

    return plan


def plan_note(order: ActOrder, kind: ActKind, scope: Mapping[str, Any]) -> Planner:
    """Record something that has no effect on runs: a key, a restore."""

    def plan(materializer: Materializer) -> Plan:
        return Plan([_act(kind, order, materializer.clock.wall_us(), scope, {}, {})])

    return plan


# what is stored


@contextlib.contextmanager
def _reading(materializer: Materializer) -> Generator[duckdb.DuckDBPyConnection]:
    """A cursor for looking things up while nothing is written; its temporary tables are its own."""
    with (
        materializer.sealer.writing,
        contextlib.closing(materializer.database.cursor()) as cursor,
        engine_errors("look up what an act is about"),
    ):
        yield cursor


def _all_positions(materializer: Materializer) -> dict[str, int]:
    """How far everything is consumed. Rows of an earlier release that lack a partition are in the partition ''."""
    return {name: stored.next_offset for name, stored in materializer.positions().items()} | {"": 0}


def _lowered(reach: Mapping[str, int], limits: Mapping[str, int]) -> dict[str, int]:
    """The same, at most to these limits; a partition that is limited to nothing falls out."""
    lowered = {name: min(position, limits.get(name, position)) for name, position in reach.items()}
    return {name: position for name, position in lowered.items() if position >= 0}


def _purgeable(
    cursor: duckdb.DuckDBPyConnection, act: Act, reach: Mapping[str, int]
) -> tuple[purging.Purged, list[str]]:
    if not reach:
        return purging.Purged(), []
    purging.register_reach(cursor, reach)
    found = purging.choose(cursor, act, planned=True)
    return found, purging.free_partitions(cursor, force=act.force)


def _find(
    cursor: duckdb.DuckDBPyConnection, run_ids: Sequence[str], reach: Mapping[str, int]
) -> list[RunRow]:
    purging.register_reach(cursor, reach)
    runs = find_runs(cursor, run_ids)
    missing = set(run_ids) - {run.id for run in runs}
    waiting = purging.orphans_of_ids(cursor, sorted(missing)) if missing else set[str]()
    if missing - waiting:
        raise RunNotFoundError(min(missing - waiting))
    if waiting:
        orphan = min(waiting)
        raise RejectedError(
            f"nothing was done: the start of run {orphan!r} was never received, so there is no salt with which digests could "
            f"stay in the place of its content; `skillaudit purge {orphan}` deletes all that is stored of it"
        )
    return runs


def _unheld(
    cursor: duckdb.DuckDBPyConnection, order: ActOrder, run_ids: Sequence[str], reach: Mapping[str, int]
) -> list[RunRow]:
    runs = _find(cursor, run_ids, reach)
    purging.choose_named(cursor, run_ids)
    holds = purging.mark_held(cursor, "")
    held = purging.held_keys(cursor)
    if held and not order.force:
        names = sorted(run.id for run in runs if run.run_key in held)
        raise HeldError(
            f"nothing was done: {named('run', list(map(repr, names)))} kept by the {named('hold', holds)}; `skillaudit release HOLD` "
            "ends one, and a forced act goes over it, recorded for ever"
        )
    return runs


def _has_left(cursor: duckdb.DuckDBPyConnection, run: RunRow, seq: int, field: str | None) -> bool:
    """Whether the place is there and holds something yet; `RejectedError` where the run has no such place."""
    done = set(cursor.execute(_REDACTION["redacted"], {"run_key": run.run_key}).fetchall())
    starts, ends = (
        (seq == 0 and not run.bare) or field in START_FIELDS,
        seq == run.finish or field in FINISH_FIELDS,
    )
    if field is not None and field not in (
        START_FIELDS if seq == 0 else FINISH_FIELDS if seq == run.finish else ()
    ):
        raise RejectedError(
            f"event {seq} of run {run.id!r} has no field {field!r}; the start is 0 and has {', '.join(START_FIELDS)}, "
            f"the finish{f' is {run.finish} and' if run.finish_seq is not None else ''} has {', '.join(FINISH_FIELDS)}"
        )
    if starts or ends:
        names = [field] if field else START_FIELDS if starts else FINISH_FIELDS
        return any((seq, name) not in done for name in names)
    if not cursor.execute(_REDACTION["log"], {"run_key": run.run_key, "seq": seq}).fetchall():
        raise RejectedError(f"run {run.id!r} has no event {seq}; `skillaudit show` lists those it has")
    return (seq, None) not in done


def _is_erased(cursor: duckdb.DuckDBPyConnection, run: RunRow) -> bool:
    found = cursor.execute(_REDACTION["mark"], {"run_key": run.run_key}).fetchall()
    return bool(found and found[0][0])


def _partitions_of(cursor: duckdb.DuckDBPyConnection, runs: Iterable[RunRow]) -> list[str]:
    keys = [run.run_key for run in runs]
    query = "SELECT DISTINCT partition FROM store.runs WHERE run_key IN (SELECT unnest($keys::BIGINT[])) ORDER BY 1"
    return [row[0] for row in cursor.execute(query, {"keys": keys}).fetchall()]


# acts


def _act(
    kind: ActKind,
    order: ActOrder,
    now_us: int,
    scope: Mapping[str, Any],
    policy: Mapping[str, Any],
    positions: Mapping[str, int],
) -> Act:
    return Act(
        act_id=uuid7(),
        kind=kind,
        actor=order.actor,
        at_us=now_us,
        reason=order.reason,
        scope=scope,
        policy=policy,
        positions=positions,
    )


def _policy(order: ActOrder, min_days: int, name: str) -> dict[str, Any]:
    return {"name": name} | ({"min_retention_days": min_days} if min_days else {}) | _forced(order)


def _forced(order: ActOrder) -> dict[str, Any]:
    return {"force": True} if order.force else {}


def _violates(
    order: ActOrder, broken: Sequence[purging.Violation], holds: Sequence[str], last_hold: str
) -> dict[str, Any]:
    """What a forced purge goes over, as far as it is known now: how many runs, and where their starts stand; and up to which
    hold it is known.
    """
    if not order.force:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for kind in sorted({it.kind for it in broken}):
        of_kind = [it for it in broken if it.kind == kind]
        found[kind] = {"runs": sum(it.runs for it in of_kind), "at": _places(of_kind)}
    if "hold" in found:
        found["hold"]["by"] = list(holds[:VIOLATED_HOLDS_MAX])
    return {"violates": found, "last_hold": last_hold}


def _places(broken: Iterable[purging.Violation]) -> dict[str, str]:
    """Partition -> ranges of positions, as many as there is room for."""
    found: dict[str, list[tuple[int, int]]] = {}
    room = VIOLATIONS_BYTES_PER_ACT_MAX
    for it in broken:
        if it.first < 0:  # an earlier release stored them, without their places: they are counted alone
            continue
        room -= len(format_ranges([(it.first, it.last)])) + 1
        room -= len(it.partition.encode()) + 8 if it.partition not in found else 0
        if room < 0:
            break
        found.setdefault(it.partition, []).append((it.first, it.last))
    return {partition: format_ranges(places) for partition, places in found.items()}


def _positions_of(reach: Mapping[str, int], partitions: Iterable[str]) -> dict[str, int]:
    return {partition: reach[partition] for partition in sorted(partitions)}


def _parts(partitions: Sequence[str]) -> list[Sequence[str]]:
    return [
        partitions[first : first + PARTITIONS_PER_ACT_MAX]
        for first in range(0, len(partitions), PARTITIONS_PER_ACT_MAX)
    ]


def _named_parts(named: Iterable[tuple[str, str]]) -> list[tuple[list[str], set[str]]]:
    """Run ids and their partitions, in portions that fit an act each."""
    parts: list[tuple[list[str], set[str]]] = []
    size = NAMES_BYTES_PER_ACT_MAX
    for run_id, partition in named:
        more = 2 * len(run_id.encode()) + len(partition) + 32
        if size + more > NAMES_BYTES_PER_ACT_MAX:
            parts.append(([], set()))
            size = 0
        size += more
        if run_id not in parts[-1][0][-1:]:
            parts[-1][0].append(run_id)
        parts[-1][1].add(partition)
    return parts
