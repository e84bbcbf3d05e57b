"""Acts: each stands in the journal as it was applied; nothing is gone without one; and none broke a hold or the minimum.

Holds are worked out from the acts themselves, in the journal's order, not from what the database says of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from skillaudit.contract.digests import FINISH_FIELDS
from skillaudit.contract.errors import InvalidRecordError
from skillaudit.contract.ranges import contains
from skillaudit.contract.words import counted
from skillaudit.proof.acts import VIOLATIONS, Act, ActKind, Violated, parse_act
from skillaudit.proof.findings import FINDINGS_MAX, Finding, Findings, Kind
from skillaudit.proof.leaves import encode_act
from skillaudit.proof.verify.engine import Engine
from skillaudit.proof.verify.logged import check_logged
from skillaudit.proof.verify.request import VerifyRequest

FILE: Final = "acts.sql"
PLACES_MAX: Final = 100_000
"""Redacted places of one run by one act that are compared with the act."""
_BROKEN: Final[Mapping[str, tuple[Kind, str]]] = {
    "hold": (Kind.PURGE_VIOLATES_HOLD, "that were held"),
    "minimum": (Kind.PURGE_VIOLATES_MINIMUM, "before their minimum age"),
}
_DAY_US: Final = 86_400_000_000


@dataclass(slots=True)
class ActTotals:
    """What was done lawfully."""

    purged: int = 0
    redacted: int = 0
    """Runs with redactions."""


@dataclass(slots=True)
class _Applied:
    """The acts in the journal's order, and which holds stood when each came."""

    by_id: dict[str, Act] = field(default_factory=dict[str, Act])
    holds_before: dict[str, tuple[Act, ...]] = field(default_factory=dict[str, tuple[Act, ...]])
    holds: dict[str, Act] = field(default_factory=dict[str, Act])
    released: dict[str, str] = field(default_factory=dict[str, str])
    violated: dict[str, Mapping[str, Violated]] = field(default_factory=dict[str, Mapping[str, Violated]])
    """Of each purge what it said it went over,"""
    named: Counter[tuple[str, Kind]] = field(default_factory=Counter[tuple[str, Kind]])
    """and how many of its runs are found to be so."""


def check_acts(
    engine: Engine, request: VerifyRequest, findings: Findings, proven: int | None = None
) -> ActTotals:
    """In the engine's snapshot. `proven`: leaves that are proven to the grade asked for; None: all."""
    applied = _Applied()
    findings.add_all(_recorded(engine, applied))
    findings.add_all(_holds(engine, applied))
    findings.add_all(_keys(engine, applied))
    if request.control is not None:
        findings.add_all(check_logged(engine, request.control))
    if proven is not None:
        findings.add_all(_unproven(engine, proven))
    totals = ActTotals()
    runs_of = {act_id: frozenset(act.runs) for act_id, act in applied.by_id.items()}
    for found in engine.chunks(FILE, "tombstones"):
        for row in found:
            problems = list(_purged(row, applied, runs_of, request.policy.min_retention_days))
            totals.purged += not problems
            applied.named.update((str(it.subject.get("act_id")), it.kind) for it in problems)
            findings.add_all(problems)
    findings.add_all(_unnamed(engine, applied))
    for row in engine.rows(FILE, "redactions", limit=PLACES_MAX):
        problems = list(_redacted(row, applied))
        totals.redacted += not problems
        findings.add_all(problems)
    for run_key, seq, name in engine.rows(FILE, "redactions_twice", limit=100):
        says = f"run key {run_key}, event {seq} {name or ''} stands twice among the redactions"
        findings.add(Finding(Kind.REDACTED_WITHOUT_ACT, says))
    findings.add_all(_stray_salts(engine))
    engine.tell("acts", len(applied.by_id), len(applied.by_id))
    return totals


def _recorded(engine: Engine, applied: _Applied) -> Iterator[Finding]:
    for act_id, kind, line, journal_idx, leaf in engine.rows(FILE, "acts"):
        where = {"act_id": act_id}
        try:
            act = parse_act(line.encode())
            expected = encode_act(line.encode())
        except InvalidRecordError as exc:
            yield Finding(Kind.ACT_ALTERED, f"is none: {exc}", where)
            continue
        if (
            journal_idx is None
            and act_id not in applied.by_id
            and (act.act_id, act.kind.value) == (act_id, kind)
        ):
            yield Finding(
                Kind.ACT_UNPROVEN, f"({kind}) is applied, and waits for its place in the journal", where
            )
            _apply(act, applied)
            continue
        if leaf is None or bytes(leaf) != expected:
            says = (
                f"is not what the journal holds of it (leaf {journal_idx})"
                if leaf
                else "is not in the journal"
            )
            yield Finding(Kind.ACT_ALTERED, says, where)
            continue
        if (act.act_id, act.kind.value) != (act_id, kind) or act_id in applied.by_id:
            yield Finding(Kind.ACT_ALTERED, "is stored under another name or kind, or twice", where)
            continue
        _apply(act, applied)
        if act.kind is ActKind.RESTORE:
            yield Finding(Kind.RESTORED, "the database was put back to an older copy, and caught up", where)
    for idx, kind, act_id in engine.rows(FILE, "unapplied"):
        says = f"the journal holds it ({kind}), and it was never recorded here"
        yield Finding(Kind.ACT_ALTERED, says, {"act_id": act_id, "journal_idx": idx})
    for idx, reason in engine.rows(FILE, "incidents"):
        yield Finding(
            Kind.INCIDENT, f"the journal notes an incident: {str(reason)[:200]}", {"journal_idx": idx}
        )


def _unproven(engine: Engine, proven: int) -> Iterator[Finding]:
    """What anybody could have appended to the journal who writes the database, and then done in the name of it."""
    for act_id, kind, idx in engine.rows(FILE, "unproven", size=proven):
        says = f"({kind or 'not recorded here'}) no checkpoint of the grade asked for covers it"
        yield Finding(Kind.ACT_UNPROVEN, says, {"act_id": act_id or "?", "journal_idx": idx})


def _apply(act: Act, applied: _Applied) -> None:
    applied.by_id[act.act_id] = act
    in_force = (hold for hold_id, hold in applied.holds.items() if hold_id not in applied.released)
    applied.holds_before[act.act_id] = tuple(in_force)
    if act.kind is ActKind.PURGE:
        applied.violated[act.act_id] = act.violates or {}
    elif act.kind is ActKind.HOLD:
        applied.holds[act.act_id] = act
    elif act.kind is ActKind.RELEASE:
        applied.released.setdefault(act.scope["hold"], act.act_id)


def _holds(engine: Engine, applied: _Applied) -> Iterator[Finding]:
    stored = {row[0]: row[1:] for row in engine.rows(FILE, "holds")}
    for act_id in sorted(stored.keys() | applied.holds.keys()):
        hold = applied.holds.get(act_id)
        row = stored.get(act_id)
        if hold is None or row is None:
            says = (
                "a hold stands in the database that no act placed"
                if hold is None
                else "its hold is gone from the database"
            )
            yield Finding(Kind.ACT_ALTERED, says, {"act_id": act_id})
        elif _json(row[0]) != dict(hold.scope) or row[1:] != (applied.released.get(act_id), hold.at_us):
            yield Finding(
                Kind.ACT_ALTERED, "its hold in the database is not the one it placed", {"act_id": act_id}
            )


def _keys(engine: Engine, applied: _Applied) -> Iterator[Finding]:
    """Who signs without an act, where any key has one. The journal's first checkpoint introduces the keys under it: it is
    older than any act that could.
    """
    texts = [str(act.scope.get("key", "")) for act in applied.by_id.values() if act.kind is ActKind.KEY]
    if not texts:
        return
    recorded = {"+".join(text.split("+")[:2]) for text in texts}
    signers: dict[str, int] = dict(engine.rows(FILE, "signers"))
    first = min(signers.values(), default=0)
    for key, size in sorted(signers.items()):
        if size > first and key not in recorded:
            says = f"signs since the checkpoint of {size}, and no act introduced it"
            yield Finding(Kind.KEY_UNRECORDED, says, {"key": key})


def _stray_salts(engine: Engine) -> Iterator[Finding]:
    for run_key, run_id, seq, name, salts, how in engine.rows(FILE, "stray_salts", limit=FINDINGS_MAX + 1):
        place = f"event {seq}{f' {name}' if name else ''}"
        more = f" and {counted(salts - 1, 'more place')}" if salts > 1 else ""
        if run_id is None:
            says = f"salts are kept of {place}{more} of run key {run_key}, which no run has"
            yield Finding(Kind.COLUMN_ALTERED, says)
        elif how == "own":
            says = f"salts are kept of {place}{more}, and it has its own salt, from which they follow"
            yield Finding(Kind.COLUMN_ALTERED, says, {"run_id": run_id})
        else:
            says = f"a salt is kept of {place}{more}, whose content was taken out: it could be guessed"
            yield Finding(Kind.COLUMN_ALTERED, says, {"run_id": run_id})


def _json(text: str) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:
        return None


def _purged(
    row: Sequence[Any], applied: _Applied, runs_of: Mapping[str, frozenset[str]], minimum_days: int
) -> Iterator[Finding]:
    run_id, act_id, started_us, violates, partition, offset, received_us, before_ledger, sound, orphan = row
    where = {"run_id": run_id}
    if not sound or violates not in {"", *VIOLATIONS}:
        says = "the row that is left of it is not what the ledger says"
        yield Finding(Kind.COLUMN_ALTERED, says, where)
    act = applied.by_id.get(act_id)
    if act is None or act.kind is not ActKind.PURGE:
        if before_ledger:
            yield Finding(Kind.RUN_UNPROVEN, "was purged by a release that recorded no acts", where)
        else:
            yield Finding(
                Kind.RUN_MISSING, "is said to be purged, and no act in the journal does that", where
            )
        return
    where = {**where, "act_id": act_id}
    named = run_id in runs_of[act_id] or (
        not orphan
        and "started_before" in act.scope
        and started_us is not None
        and started_us < act.scope["started_before"]
    )
    reached = partition is None or offset < act.positions.get(partition, 0)
    if orphan and partition is not None:
        if reached:
            says = "is said to have had no start when it was purged, and that was received before"
            yield Finding(Kind.COLUMN_ALTERED, says, where)
        # Its start came later, if to the same place, and says nothing of what was purged.
        reached = not act.positions.keys().isdisjoint({partition, ""})
        received_us = None
    if not named or not reached:
        yield Finding(Kind.RUN_MISSING, "is said to be purged by an act that does not reach it", where)
        return
    said = {
        kind
        for kind, it in applied.violated[act_id].items()
        if partition is not None and contains(it.places.get(partition, ()), offset)
    } | {violates}
    holds = [hold.act_id for hold in applied.holds_before[act_id] if _covers(hold, run_id, None)]
    if holds or "hold" in said:
        by = f" ({', '.join(holds)})" if holds else ""
        yield Finding(Kind.PURGE_VIOLATES_HOLD, f"was purged while it was held{by}", where)
    days = max(minimum_days, int(act.policy.get("min_retention_days", 0)))
    newest = max((at for at in (received_us, started_us) if at), default=None)
    if (days and newest is not None and newest > act.at_us - days * _DAY_US) or "minimum" in said:
        yield Finding(
            Kind.PURGE_VIOLATES_MINIMUM, f"was purged before it was {counted(days, 'day')} old", where
        )


def _unnamed(engine: Engine, applied: _Applied) -> Iterator[Finding]:
    """Runs that a purge said it went over a rule for, and that are not found among those it purged."""
    for act_id, violated in applied.violated.items():
        for kind, it in violated.items():
            broken, how = _BROKEN[kind]
            more = it.runs - applied.named[act_id, broken]
            if more > 0 and kind == "minimum":
                more -= _kept_young(engine, applied, applied.by_id[act_id])
            if more > 0:
                says = f"it says that it purged {counted(more, 'more run')} {how}"
                yield Finding(broken, says, {"act_id": act_id})


def _kept_young(engine: Engine, applied: _Applied, act: Act) -> int:
    """Runs that a forced purge said it went over the minimum age for, and that a hold kept which it did not know of."""
    order, days = list(applied.holds), int(act.policy.get("min_retention_days", 0))
    known = order.index(act.last_hold) + 1 if act.last_hold in applied.holds else 0
    in_force = applied.holds_before[act.act_id]
    unseen = [hold for hold in in_force if order.index(hold.act_id) >= known]
    if act.last_hold is None or not unseen or not days:
        return 0
    where = {
        "partitions": list(act.positions),
        "positions": list(act.positions.values()),
        "limit_us": act.at_us - days * _DAY_US,
        "before_us": act.scope.get("started_before"),
        "ids": list(act.runs) or None,
        **_scopes("unseen", unseen),
        **_scopes("seen", [hold for hold in in_force if hold not in unseen]),
    }
    return int(engine.rows(FILE, "kept_young", **where)[0][0])


def _scopes(name: str, holds: Iterable[Act]) -> dict[str, Any]:
    """What holds cover together, as a statement is told it."""
    scopes = [hold.scope for hold in holds]
    return {
        f"{name}_all": any("all" in scope for scope in scopes),
        f"{name}_runs": [run_id for scope in scopes for run_id in scope.get("runs", ())],
        f"{name}_skills": [scope["skill_id"] for scope in scopes if "skill_id" in scope],
    }


def _covers(hold: Act, run_id: str, skill_id: str | None) -> bool:
    scope = hold.scope
    if "runs" in scope:
        return run_id in scope["runs"]
    if "skill_id" in scope:
        return skill_id is not None and scope["skill_id"] == skill_id
    return True


def _redacted(row: Sequence[Any], applied: _Applied) -> Iterator[Finding]:
    run_key, run_id, skill_id, act_id, finish_seq, _, places = row
    act = applied.by_id.get(act_id)
    if run_id is None:
        yield Finding(
            Kind.REDACTED_WITHOUT_ACT, f"redactions are stored of run key {run_key}, which no run has"
        )
        return
    where = {"run_id": run_id}
    if act is None or act.kind not in {ActKind.REDACT, ActKind.ERASE} or run_id not in act.runs:
        says = "content was taken out of it, and no act in the journal does that"
        yield Finding(Kind.REDACTED_WITHOUT_ACT, says, {**where, "sequence": places[0]["seq"]})
        return
    for place in _beyond(act, places, finish_seq):
        says = f"{place['field'] or 'its payload'} was taken out, and the act names another place"
        yield Finding(Kind.REDACTED_WITHOUT_ACT, says, {**where, "sequence": place["seq"], "act_id": act_id})
    holds = [hold.act_id for hold in applied.holds_before[act_id] if _covers(hold, run_id, skill_id)]
    if holds:
        says = f"content was taken out of it while it was held ({', '.join(holds)})"
        yield Finding(Kind.REDACTION_VIOLATES_HOLD, says, {**where, "act_id": act_id})


def _beyond(
    act: Act, places: Iterable[Mapping[str, Any]], finish_seq: int | None
) -> Iterator[Mapping[str, Any]]:
    """Places that the act doesn't name. An erasure names all; a redaction one event, or one field of a start or finish."""
    if act.kind is ActKind.ERASE:
        return
    name = act.scope.get("field")
    for place in places:
        if name is not None:
            seq = finish_seq if name in FINISH_FIELDS else 0
            right = (place["seq"], place["field"]) == (seq, name)
        else:
            right = place["seq"] == act.scope["seq"]
        if not right:
            yield place
