"""Acts over HTTP: their JSON, in both directions, and the client's half of `Operations`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

import orjson

from skillaudit.contract.admin import ActOrder, ActReport, HoldScope, StoredAct, StoredHold
from skillaudit.query.client import HttpReader
from skillaudit.query.codec import Object, parse_time, time_text
from skillaudit.query.requests import API, Request, ask

ACTS: Final = f"{API}/acts"


class HttpActs(HttpReader):
    """Acts are never sent twice: an `UnreachableError` may mean that one was written."""

    async def purge(
        self, order: ActOrder, *, before: datetime | None = None, runs: Sequence[str] = ()
    ) -> ActReport:
        """As `Operations.purge`."""
        scope = {"runs": list(runs)} if runs else {"before": None if before is None else time_text(before)}
        return await self._order("purge", order, scope)

    async def redact(self, order: ActOrder, run_id: str, seq: int, field: str | None = None) -> ActReport:
        """As `Operations.redact`."""
        return await self._order("redact", order, {"run": run_id, "seq": seq, "field": field})

    async def erase(self, order: ActOrder, runs: Sequence[str]) -> ActReport:
        """As `Operations.erase`."""
        return await self._order("erase", order, {"runs": list(runs)})

    async def hold(self, order: ActOrder, scope: HoldScope) -> ActReport:
        """As `Operations.hold`."""
        return await self._order("hold", order, scope_json(scope))

    async def release(self, order: ActOrder, hold_id: str) -> ActReport:
        """As `Operations.release`."""
        return await self._order("release", order, {"hold": hold_id})

    async def record_key(self, order: ActOrder, origin: str, key: str) -> ActReport:
        """As `Operations.record_key`."""
        return await self._order("key", order, {"origin": origin, "key": key})

    async def list_acts(self, limit: int, kind: str | None = None) -> list[StoredAct]:
        """As `Operations.list_acts`."""
        query = (("limit", str(limit)), *((("kind", kind),) if kind else ()))
        return await self._do(ask(Request("GET", ACTS, query), _acts))

    async def list_holds(self, *, released: bool = False) -> list[StoredHold]:
        """As `Operations.list_holds`."""
        query = (("released", "true" if released else "false"),)
        return await self._do(ask(Request("GET", f"{API}/holds", query), _holds))

    async def _order(self, kind: str, order: ActOrder, scope: Mapping[str, Any]) -> ActReport:
        body = orjson.dumps({**asdict(order), **scope})
        request = Request("POST", f"{ACTS}/{quote(kind)}", (), body, repeatable=False)
        return await self._do(ask(request, report_of_json))


def report_json(report: ActReport) -> bytes:
    """What became of an order."""
    return orjson.dumps(asdict(report))


def report_of_json(found: Object) -> ActReport:
    """The same back."""
    counts = {name: int(found[name]) for name in ("runs", "events", "held", "young")}
    acts, holds = (tuple(map(str, found.get(name, ()))) for name in ("acts", "holds"))
    return ActReport(acts=acts, holds=holds, **counts)


def act_json(act: StoredAct) -> dict[str, Any]:
    """An act."""
    return {**asdict(act), "at": time_text(act.at), "applied_at": time_text(act.applied_at)}


def scope_json(scope: HoldScope) -> dict[str, Any]:
    """What a hold keeps: the one member that is given."""
    if scope.runs:
        return {"runs": list(scope.runs)}
    return {"skill_id": scope.skill_id} if scope.skill_id is not None else {"everything": scope.everything}


def hold_json(hold: StoredHold) -> dict[str, Any]:
    """A hold."""
    return {**asdict(hold), "scope": scope_json(hold.scope), "placed_at": time_text(hold.placed_at)}


def _acts(found: Object) -> list[StoredAct]:
    return [_act(it) for it in found["acts"]]


def _act(found: Object) -> StoredAct:
    times: dict[str, Any] = {name: parse_time(found[name]) for name in ("at", "applied_at")}
    return StoredAct(**{**found, **times})


def _holds(found: Object) -> list[StoredHold]:
    return [_hold(it) for it in found["holds"]]


def _hold(found: Object) -> StoredHold:
    read: dict[str, Any] = {"scope": _scope(found["scope"]), "placed_at": parse_time(found["placed_at"])}
    return StoredHold(**{**found, **read})


def _scope(found: Object) -> HoldScope:
    return HoldScope(
        runs=tuple(found.get("runs", ())),
        skill_id=found.get("skill_id"),
        everything=bool(found.get("everything", False)),
    )
