"""The control log, as the verifier read it by himself: every act that was done stands in it, byte for byte."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from skillaudit.contract.errors import InvalidRecordError
from skillaudit.proof.acts import LIFE, OWN, parse_act
from skillaudit.proof.findings import Finding, Kind

if TYPE_CHECKING:
    from skillaudit.proof.verify.engine import Engine

FILE: Final = "acts.sql"
_LIFE: Final = frozenset(kind.value for kind in LIFE)
"""What a database says of its own life is no act upon the record, and in no log."""


class LoggedAct(NamedTuple):
    """One line of the log."""

    act_id: str
    digest: str
    """SHA-256 of the line, in hex."""
    offset: int
    own: str = ""
    """Of what only a database says of itself, the kind: no database applies it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlReading:
    """What the control log said."""

    partition: str = ""
    """As the database calls it."""
    acts: tuple[LoggedAct, ...] = ()
    error: str = ""
    """Why it could not be read."""
    absent: bool = False
    """It is not there, as `error` says: that is how a log looks into which nothing was ever written."""


def logged_act(line: bytes, offset: int) -> LoggedAct | None:
    """An act of the log; None for a line that is none: it is a dead letter of who read it."""
    try:
        act = parse_act(line)
        own = act.kind.value if act.kind in OWN else ""
        return LoggedAct(act.act_id, sha256(line).hexdigest(), offset, own)
    except InvalidRecordError:
        return None


def check_logged(engine: Engine, reading: ControlReading) -> Iterator[Finding]:
    """The acts of the database against the log, and the other way round as far as the database has read it."""
    if reading.error and not (reading.absent and _is_unused(engine, reading)):
        yield Finding(Kind.NOT_CHECKED, f"could not check acts against the control log: {reading.error}")
        return
    for own in (it for it in reading.acts if it.own):
        says = f"the control log holds an act of kind {own.own} ({reading.partition}#{own.offset}), which nobody orders and no database applies: who wrote it there?"
        yield Finding(Kind.INCIDENT, says, {"act_id": own.act_id})
    known = _first(it for it in reading.acts if not it.own)
    stored: set[str] = set()
    for act_id, kind, line, journal_idx in engine.rows(FILE, "lines"):
        stored.add(act_id)
        it = known.get(act_id)
        if kind not in _LIFE and (it is None or it.digest != sha256(line.encode()).hexdigest()):
            where = {"act_id": act_id} | ({} if journal_idx is None else {"journal_idx": journal_idx})
            yield Finding(Kind.ACT_UNLISTED, f"({kind}) the control log does not hold it", where)
    reached = engine.rows(FILE, "control_reached", partition=reading.partition)[0][0]
    for it in known.values():
        if it.offset < reached and it.act_id not in stored:
            says = f"the control log holds it ({reading.partition}#{it.offset}), this database read past it, and did not record it"
            yield Finding(Kind.ACT_ALTERED, says, {"act_id": it.act_id})


def _is_unused(engine: Engine, reading: ControlReading) -> bool:
    """Whether the database, too, knows of no act that went through a log."""
    reached = engine.rows(FILE, "control_reached", partition=reading.partition)[0][0]
    return not reached and all(kind in _LIFE for _, kind, _, _ in engine.rows(FILE, "lines"))


def _first(acts: Iterable[LoggedAct]) -> dict[str, LoggedAct]:
    """A line may be written twice; the first one is what is applied."""
    found: dict[str, LoggedAct] = {}
    for it in acts:
        found.setdefault(it.act_id, it)
    return found


def control_members(reading: ControlReading | None) -> dict[str, Any] | None:
    """A reading as it travels."""
    if reading is None:
        return None
    return {
        "partition": reading.partition,
        "acts": [list(it) for it in reading.acts],
        "error": reading.error,
        "absent": reading.absent,
    }


def parse_control(members: dict[str, Any] | None) -> ControlReading | None:
    """The inverse; `KeyError`, `TypeError` or `ValueError` for anything else."""
    if members is None:
        return None
    return ControlReading(
        partition=str(members["partition"]),
        acts=tuple(
            LoggedAct(str(it[0]), str(it[1]), int(it[2]), *map(str, it[3:4])) for it in members["acts"]
        ),
        error=str(members["error"]),
        absent=bool(members.get("absent", False)),
    )
