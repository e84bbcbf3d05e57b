"""Administrative acts: what was done to a record on purpose, by whom, when and why.

An act is one line of JSON, stored and hashed as it stands. It goes through the control log, so that every consumer of
the same events applies it, and a rebuilt database applies it again. Therefore it names runs by their ids or by a
cut-off, never by what one database calls them, and says how far it reaches into the events: `positions` names, per
partition of the events, the position at which it applied. It concerns what lies below, whenever that arrives, and
nothing else; of a partition that it does not name it concerns nothing.

Members, in this order: `act_id`, `kind`, `actor`, `at` (UTC, integer microseconds), `reason`, `scope`, `policy`,
`positions`. Members that are not named here are refused, not ignored: ignoring one could make an act reach further than
was meant. What `scope` holds, by kind:

    purge     {"runs": [id, ...]} or {"started_before": us}; policy {"name", "min_retention_days", "force", "violates"};
              runs of which no start has come only where they are named
    redact    {"run": id, "seq": n} with "field" where only one of a start or finish is meant; policy {"force"}
    erase     {"runs": [id, ...]}; policy {"force"}
    hold      {"runs": [id, ...]}, {"skill_id": text} or {"all": true}
    release   {"hold": act id}
    restore   {"database": id, "journal_size": n}
    cut       {partition: first row, ...}; what is not in the database that journals it, see `cuts.py`
    genesis, key, schema, incident, verify, export    names and texts, as their makers say

A forced purge says in `violates` what it went over, as far as was known when it was ordered: {"hold": {"runs": n, "at":
{partition: "5-9,22"}, "by": [hold, ...]}, "minimum": {"runs": n, "at": ...}}. `runs` is how many; `at` the positions of their
starts, of a run without one of its first record, each range from one run to another with no other purged one between them, as many as there was room for; `by` the
holds of the whole order that stood in its way, 16 at most. Empty: nothing. A purge without it is an earlier release's.
And it says in `last_hold` which hold was the newest then, "" where there was none: of the runs that no hold up to that one
covers it leaves those that a later one does, for it came into the log before the purge and was not known to it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, cast

import orjson

from skillaudit.contract import ranges
from skillaudit.contract.digests import FINISH_FIELDS, START_FIELDS
from skillaudit.contract.errors import InvalidRecordError
from skillaudit.contract.events import parse_ranges
from skillaudit.contract.ranges import Ranges

ACT_BYTES_MAX: Final = 60_000
"""Of one line: a leaf of the journal holds at most 65,535 bytes."""
REASON_BYTES_MAX: Final = 4_000
VIOLATIONS: Final = ("hold", "minimum")
"""Rules over which a forced purge goes."""
REDACTABLE: Final = (*START_FIELDS, *FINISH_FIELDS)


class ActKind(StrEnum):
    """What was done."""

    GENESIS = "genesis"
    PURGE = "purge"
    REDACT = "redact"
    ERASE = "erase"
    HOLD = "hold"
    RELEASE = "release"
    KEY = "key"
    SCHEMA = "schema"
    RESTORE = "restore"
    INCIDENT = "incident"
    CUT = "cut"
    VERIFY = "verify"
    EXPORT = "export"


LIFE: Final = frozenset({ActKind.GENESIS, ActKind.SCHEMA})
"""What a database says of itself as it begins a journal, and as it changes."""
OWN: Final = LIFE | {ActKind.CUT}
"""What is said by a database alone, of itself: nobody orders it, and a control log that holds it was written by somebody else."""


@dataclass(frozen=True, slots=True)
class Violated:
    """Runs that a purge went over a rule for."""

    runs: int
    places: Mapping[str, Ranges]
    """Partition -> positions of their starts; not of all, where there was no room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """One act. `scope`, `policy` and `positions` are plain JSON values; see the module's text for what they hold."""

    act_id: str
    kind: ActKind
    actor: str
    at_us: int
    reason: str = ""
    scope: Mapping[str, Any] = field(default_factory=dict[str, Any])
    policy: Mapping[str, Any] = field(default_factory=dict[str, Any])
    positions: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def runs(self) -> tuple[str, ...]:
        """The run ids it names; empty where it names none."""
        if "run" in self.scope:
            return (self.scope["run"],)
        return tuple(self.scope.get("runs", ()))

    @property
    def violates(self) -> Mapping[str, Violated] | None:
        """What a forced purge said it went over, by `VIOLATIONS`; None where it said nothing, which is not to say that
        there was nothing.
        """
        said = self.policy.get("violates")
        if not isinstance(said, dict):
            return None
        return {kind: _violated(it) for kind, it in cast("dict[str, Any]", said).items()}

    @property
    def last_hold(self) -> str | None:
        """The newest hold that a forced purge knew of, "" for none; None where it doesn't say."""
        return self.policy.get("last_hold") if self.force else None

    @property
    def force(self) -> bool:
        """Whether it goes over holds and the minimum age."""
        return bool(self.policy.get("force", False))


def act_line(act: Act) -> bytes:
    """Its one line of JSON, without the line feed. Raises `InvalidRecordError` for what `parse_act` would refuse."""
    members = {
        "act_id": act.act_id,
        "kind": act.kind.value,
        "actor": act.actor,
        "at": act.at_us,
        "reason": act.reason,
        "scope": dict(act.scope),
        "policy": dict(act.policy),
        "positions": dict(act.positions),
    }
    try:
        line = orjson.dumps(members)
    except TypeError as exc:
        raise InvalidRecordError(f"the act can't be written as JSON: {exc}") from exc
    parse_act(line)
    return line


def parse_act(line: bytes) -> Act:
    """Read a line; raises `InvalidRecordError` naming what is wrong, for anything that is not exactly an act."""
    if len(line) > ACT_BYTES_MAX:
        raise InvalidRecordError(f"an act has at most {ACT_BYTES_MAX} bytes, this line has {len(line)}")
    members = _load(line)
    for name in members:
        if name not in _MEMBERS:
            raise InvalidRecordError(
                f"an act has no member {name!r}; upgrade skillaudit if a newer one wrote it"
            )
    for name, check in _MEMBERS.items():
        if name not in members:
            raise InvalidRecordError(f"the act lacks the member {name!r}")
        check(name, members[name])
    kind = _kind(members["kind"])
    _SCOPES.get(kind, _texts)(members["scope"])
    return Act(
        act_id=members["act_id"],
        kind=kind,
        actor=members["actor"],
        at_us=members["at"],
        reason=members["reason"],
        scope=members["scope"],
        policy=members["policy"],
        positions=members["positions"],
    )


def parse_ordered(line: bytes) -> Act:
    """As `parse_act`, of a line that came through a control log: what a database says of itself is refused, too."""
    act = parse_act(line)
    if act.kind in OWN:
        raise InvalidRecordError(
            f"an act of kind {act.kind.value} is what a database says of itself, and nobody orders it: it is not applied."
            " Look who may write to the control log"
        )
    return act


def _load(line: bytes) -> dict[str, Any]:
    if b"\n" in line or b"\r" in line:
        raise InvalidRecordError("an act is one line")
    try:
        members = orjson.loads(line)  # takes no extensions of JSON and no lone surrogates, but a name twice
        json.loads(line, object_pairs_hook=_once)
    except (ValueError, RecursionError) as exc:
        raise InvalidRecordError(f"the act is no JSON: {exc}") from exc
    if not isinstance(members, dict):
        raise InvalidRecordError("an act is a JSON object")
    return cast("dict[str, Any]", members)


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) != len(pairs):
        raise InvalidRecordError("the act names a member twice")


def _kind(text: str) -> ActKind:
    try:
        return ActKind(text)
    except ValueError as exc:
        raise InvalidRecordError(f"no kind of act is called {text!r}; upgrade skillaudit") from exc


def _text(name: str, value: object, *, bytes_max: int = 512, empty: bool = False) -> None:
    if not isinstance(value, str) or not (empty or value) or len(value.encode()) > bytes_max:
        raise InvalidRecordError(f"{name} of an act is a text of {0 if empty else 1} to {bytes_max} bytes")


def _reason(name: str, value: object) -> None:
    _text(name, value, bytes_max=REASON_BYTES_MAX, empty=True)


def _number(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise InvalidRecordError(f"{name} of an act is an integer from 0 on")


def _object(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRecordError(f"{name} of an act is a JSON object")
    return cast("dict[str, Any]", value)


def _policy(name: str, value: object) -> None:
    policy = _object(name, value)
    if not isinstance(policy.get("force", False), bool):
        raise InvalidRecordError("force of an act's policy is true or false")
    _number("min_retention_days", policy.get("min_retention_days", 0))
    _text("last_hold", policy.get("last_hold", ""), empty=True)
    for kind, said in _object("violates", policy.get("violates", {})).items():
        if kind not in VIOLATIONS:
            raise InvalidRecordError(f"a purge violates {' or '.join(VIOLATIONS)}, not {kind!r}")
        try:
            _violated(said)
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise InvalidRecordError(f"violates of an act's policy is of another form: {exc}") from exc


def _violated(said: Mapping[str, Any]) -> Violated:
    _number("runs", said["runs"])
    places = {name: ranges.normalized(parse_ranges(text)) for name, text in said["at"].items()}
    return Violated(said["runs"], places)


def _positions(name: str, value: object) -> None:
    for position in _object(name, value).values():
        _number("a position", position)


_MEMBERS: Final[Mapping[str, Callable[[str, object], object]]] = {
    "act_id": _text,
    "kind": _text,
    "actor": _text,
    "at": _number,
    "reason": _reason,
    "scope": _object,
    "policy": _policy,
    "positions": _positions,
}


def _runs(value: object) -> None:
    if not isinstance(value, list) or not value:
        raise InvalidRecordError("runs of an act is a list of at least one run id")
    for run_id in cast("list[object]", value):
        _text("a run id", run_id)


def _true(value: object) -> None:
    if value is not True:
        raise InvalidRecordError("all of a hold is true")


def _field(value: object) -> None:
    if value not in REDACTABLE:
        raise InvalidRecordError(f"field of a redaction is one of {', '.join(REDACTABLE)}, not {value!r}")


_SELECTORS: Final[Mapping[str, Callable[[object], None]]] = {
    "runs": _runs,
    "run": lambda value: _text("run", value),
    "seq": lambda value: _number("seq", value),
    "field": _field,
    "started_before": lambda value: _number("started_before", value),
    "skill_id": lambda value: _text("skill_id", value, empty=True),
    "all": _true,
    "hold": lambda value: _text("hold", value),
    "database": lambda value: _text("database", value),
    "journal_size": lambda value: _number("journal_size", value),
}


def _one_of(*choices: tuple[str, ...]) -> Callable[[Mapping[str, Any]], None]:
    """A scope holds exactly the members of one of these choices."""

    def check(scope: Mapping[str, Any]) -> None:
        if not any(set(scope) == set(choice) for choice in choices):
            raise InvalidRecordError(
                f"scope of this act holds {' or '.join(' and '.join(c) for c in choices)}, "
                f"not {', '.join(scope) or 'nothing'}"
            )
        for name, value in scope.items():
            _SELECTORS[name](value)

    return check


def _texts(scope: Mapping[str, Any]) -> None:
    for name, value in scope.items():
        if isinstance(value, int) and not isinstance(value, bool):
            _number(name, value)
        else:
            _text(name, value, bytes_max=REASON_BYTES_MAX, empty=True)


_SCOPES: Final = {
    ActKind.PURGE: _one_of(("runs",), ("started_before",)),
    ActKind.REDACT: _one_of(("run", "seq"), ("run", "seq", "field")),
    ActKind.ERASE: _one_of(("runs",)),
    ActKind.HOLD: _one_of(("runs",), ("skill_id",), ("all",)),
    ActKind.RELEASE: _one_of(("hold",)),
    ActKind.RESTORE: _one_of(("database", "journal_size")),
}
