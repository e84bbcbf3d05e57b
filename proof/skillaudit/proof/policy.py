"""The verifier's policy: what a verifier knows and asks by himself, in a TOML file on his side.

    grade = "anchored"                       # self, signed or anchored: what must be proven for exit code 0
    anchor_age_s_max = 7200                  # an anchor older than this proves too little
    keys = ["audit.example.org/fleet-1+9ee50152+AeoB..."]      # verifier keys, as `skillaudit keys show` prints them
    min_retention_days = 183                 # a purge of younger runs breaks the rules
    expected_hosts = ["agent-1", "agent-2"]  # hosts of which a source must be there
    control_log = true                       # hold the acts against the control log that the settings name

    [[anchors]]
    uri = "file:/mnt/worm/audit"
    trust = "other"                          # other: in other hands than the database; same: in the same hands

    [cuts]                                   # what a database made again is known to lack, and may
    rows = { "skillaudit.events/0" = 812 }   # partition -> the first row that is here
    sources = { "0a1b..." = 17 }             # source -> runs with numbers below may not be here
    runs = ["0197..."]                       # runs whose start is not here: what is kept of them is not proven

Keys come from here and never from the database that is being checked.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Final, cast

from skillaudit.contract.errors import SettingsError
from skillaudit.contract.settings import Settings

POLICY_BYTES_MAX: Final = 1_000_000
ANCHOR_AGE_S_MAX: Final = 7_200
"""Where the policy does not say: twice the time in which an idle sealer seals."""
TRUSTS: Final = ("other", "same")


class Grade(Enum):
    """Who would have to cheat together for a rewritten record to pass. Ordered by `strength`.

    SELF: whoever writes the database. SIGNED: whoever does, and has the key. ANCHORED: those, and whoever keeps an
    anchor that is in other hands. (Witnesses will come after that.)
    """

    SELF = "self"
    SIGNED = "signed"
    ANCHORED = "anchored"

    @property
    def strength(self) -> int:
        """For comparing."""
        return list(Grade).index(self)


@dataclass(frozen=True, slots=True)
class AnchorPolicy:
    """An anchor that the verifier asks."""

    uri: str
    trust: str = "other"
    """`other`: in other hands than the database. `same`: in the same; what it says counts as much as the database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCuts:
    """What a database that was made again lacks, as the verifier knows it: exactly that, and nothing beside it, is no more than a note."""

    rows: Mapping[str, int] = field(default_factory=dict[str, int])
    """Partition -> the row with which its ledger begins."""
    sources: Mapping[str, int] = field(default_factory=dict[str, int])
    """Source -> runs with numbers below this one may lie before a cut."""
    runs: tuple[str, ...] = ()
    """Runs whose start lies before one; of what is kept of them nothing is proven."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a verifier knows by himself. The empty one asks for nothing but that the record agrees with itself."""

    grade: Grade = Grade.SELF
    anchor_age_s_max: int = ANCHOR_AGE_S_MAX
    keys: tuple[str, ...] = ()
    min_retention_days: int = 0
    expected_hosts: tuple[str, ...] = ()
    anchors: tuple[AnchorPolicy, ...] = ()
    cuts: KnownCuts = field(default_factory=KnownCuts)
    control_log: bool = False
    """Hold the acts against the control log, which whoever writes the database may not be able to write."""


def read_policy(path: Path, settings: Settings | None = None) -> Policy:
    """The policy in a file; `SettingsError` naming the file, what is wrong in it and what would be right. `settings`: for
    anchors on their broker; nothing is asked of any anchor.
    """
    try:
        with path.open("rb") as file:
            found = tomllib.loads(file.read(POLICY_BYTES_MAX).decode())
    except OSError as exc:
        raise SettingsError(f"can't read the policy {path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(f"the policy {path} is no TOML: {exc}") from exc
    policy = parse_policy(found, str(path))
    for index, anchor in enumerate(policy.anchors):
        check_anchor(anchor.uri, f"{path}: anchors[{index}]: uri", settings)
    return policy


def parse_policy(found: dict[str, Any], where: str) -> Policy:
    """A policy from its members; what it doesn't name asks for nothing. Where anchors or keys are named and no grade is,
    it asks for what they can prove.
    """
    _check_members(found, _MEMBERS, where)
    anchors = tuple(
        _anchor(entry, f"{where}: anchors[{index}]")
        for index, entry in enumerate(_list(found, "anchors", dict, where))
    )
    keys = tuple(_list(found, "keys", str, where))
    _check_keys(keys, where)
    default = Grade.ANCHORED if anchors else Grade.SIGNED if keys else Grade.SELF
    grade = found.get("grade", default.value)
    if grade not in [it.value for it in Grade]:  # a list: TOML has values that no set takes
        raise SettingsError(f'{where}: grade is "self", "signed" or "anchored", not {grade!r}')
    return Policy(
        grade=Grade(grade),
        anchor_age_s_max=_number(found, "anchor_age_s_max", ANCHOR_AGE_S_MAX, where),
        keys=keys,
        min_retention_days=_number(found, "min_retention_days", 0, where),
        expected_hosts=tuple(_list(found, "expected_hosts", str, where)),
        anchors=anchors,
        cuts=_cuts(found.get("cuts", {}), f"{where}: cuts"),
        control_log=_flag(found, "control_log", where),
    )


def policy_members(policy: Policy) -> dict[str, Any]:
    """The inverse of `parse_policy`: as it travels."""
    return {
        "grade": policy.grade.value,
        "anchor_age_s_max": policy.anchor_age_s_max,
        "keys": list(policy.keys),
        "min_retention_days": policy.min_retention_days,
        "expected_hosts": list(policy.expected_hosts),
        "anchors": [{"uri": it.uri, "trust": it.trust} for it in policy.anchors],
        "cuts": {
            "rows": dict(policy.cuts.rows),
            "sources": dict(policy.cuts.sources),
            "runs": list(policy.cuts.runs),
        },
        "control_log": policy.control_log,
    }


_MEMBERS: Final = tuple(policy_members(Policy()))
_ANCHOR_MEMBERS: Final = ("uri", "trust")
_CUTS_MEMBERS: Final = ("rows", "sources", "runs")


def _check_members(found: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    unknown = sorted(set(found) - set(known))
    if unknown:
        raise SettingsError(f"{where}: there is no member {unknown[0]!r}; known are {', '.join(known)}")


def _anchor(entry: dict[str, Any], where: str) -> AnchorPolicy:
    _check_members(entry, _ANCHOR_MEMBERS, where)
    uri, trust = entry.get("uri"), entry.get("trust", "other")
    if not isinstance(uri, str):
        what = "is missing" if uri is None else f"is a text, not {uri!r}"
        raise SettingsError(f'{where}: uri {what}; write one like "file:/mnt/worm/audit" or "kafka:<topic>"')
    if trust not in TRUSTS:
        raise SettingsError(f"{where}: trust is {' or '.join(map(_quoted, TRUSTS))}, not {trust!r}")
    return AnchorPolicy(uri, trust)


def _cuts(found: object, where: str) -> KnownCuts:
    if not isinstance(found, dict):
        raise SettingsError(f"{where} is a table, [cuts], not {found!r}")
    members = cast("dict[str, Any]", found)
    _check_members(members, _CUTS_MEMBERS, where)
    return KnownCuts(
        rows=_numbers(members, "rows", "a partition and the first row that is here", where),
        sources=_numbers(members, "sources", "a source and a number below which its runs may lack", where),
        runs=tuple(_list(members, "runs", str, where)),
    )


def _numbers(found: dict[str, Any], name: str, what: str, where: str) -> dict[str, int]:
    value = found.get(name, {})
    if not isinstance(value, dict):
        raise SettingsError(f'{where}: {name} names {what}: {{ "..." = 17 }}, not {value!r}')
    members = cast("dict[str, Any]", value)
    return {it: _number(members, it, 0, f"{where}: {name}") for it in members}


def check_anchor(uri: str, where: str, settings: Settings | None = None) -> None:
    """Raise `SettingsError`, with `where` in front, unless `uri` can be an anchor's; nothing is asked of it. Only for the
    verifier's own: a policy that travels is not held against other disks and brokers.
    """
    from skillaudit.proof.anchors import open_anchor

    try:
        open_anchor(uri, settings, make=False).close()
    except SettingsError as exc:
        raise SettingsError(f"{where}: {exc}") from exc


def _check_keys(keys: tuple[str, ...], where: str) -> None:
    if not keys:
        return
    from skillaudit.proof.errors import NoteError
    from skillaudit.proof.keys import parse_verifier

    for index, key in enumerate(keys):
        try:
            parse_verifier(key)
        except NoteError as exc:
            raise SettingsError(
                f"{where}: keys[{index}]: no verifier key, as `skillaudit keys show FILE` prints it: {exc}"
            ) from exc


def _quoted(text: str) -> str:
    return f'"{text}"'


_LISTS: Final[dict[type, str]] = {
    dict: 'one or more tables, [[anchors]] with a line uri = "..." each',
    str: 'a list of texts: ["...", "..."]',
}


def _list(found: dict[str, Any], name: str, kind: type, where: str) -> list[Any]:
    value = found.get(name, [])
    if not isinstance(value, list) or not all(isinstance(it, kind) for it in cast("list[object]", value)):
        raise SettingsError(f"{where}: {name} is {_LISTS[kind]}, not {value!r}")
    return list(cast("list[object]", value))


def _flag(found: dict[str, Any], name: str, where: str) -> bool:
    value = found.get(name, False)
    if not isinstance(value, bool):
        raise SettingsError(f"{where}: {name} is true or false, not {value!r}")
    return value


def _number(found: dict[str, Any], name: str, default: int, where: str) -> int:
    value = found.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 40:
        raise SettingsError(f"{where}: {name} is a whole number from 0 on, not {value!r}")
    return value
