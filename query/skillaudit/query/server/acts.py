"""Acts over HTTP. Served where the process can perform them: it writes them to the control log and applies them."""

from __future__ import annotations

from typing import Annotated, Final

import orjson
from fastapi import APIRouter, Query, Response

from skillaudit.contract.admin import ActOrder, ActReport, HoldScope, Operations
from skillaudit.contract.errors import RejectedError
from skillaudit.query.acts import act_json, hold_json, report_json
from skillaudit.query.server import schemas
from skillaudit.query.server.replies import json_reply
from skillaudit.query.server.routes import answers
from skillaudit.query.server.surface import SurfaceOf

acting: Final = APIRouter(prefix="/api/v1")
_REPORT: Final = answers(schemas.ActReport)


@acting.post("/acts/purge", responses=_REPORT, summary="Delete runs")
async def purge(body: schemas.PurgeOrder, surface: SurfaceOf) -> Response:
    """Those that started before a time, or those named; what holds and the minimum age keep stays, unless it is forced."""
    if bool(body.runs) is (body.before is not None):
        raise RejectedError("a purge names runs or a time before which they started, one of both")
    return _reply(await _operations(surface).purge(_order(body), before=body.before, runs=body.runs))


@acting.post("/acts/redact", responses=_REPORT, summary="Take out one event's content")
async def redact(body: schemas.RedactOrder, surface: SurfaceOf) -> Response:
    """A payload, or a field of the start or finish. What proves the run stays."""
    return _reply(await _operations(surface).redact(_order(body), body.run, body.seq, body.field))


@acting.post("/acts/erase", responses=_REPORT, summary="Take out all content of runs")
async def erase(body: schemas.EraseOrder, surface: SurfaceOf) -> Response:
    """Payloads and fields, and what of these runs is still to come."""
    return _reply(await _operations(surface).erase(_order(body), body.runs))


@acting.post("/acts/hold", responses=_REPORT, summary="Keep runs from purges and redactions")
async def hold(body: schemas.HoldOrder, surface: SurfaceOf) -> Response:
    """Some runs, a skill's, or all; stored or still to come."""
    scope = HoldScope(runs=tuple(body.runs), skill_id=body.skill_id, everything=body.everything)
    return _reply(await _operations(surface).hold(_order(body), scope))


@acting.post("/acts/release", responses=_REPORT, summary="End a hold")
async def release(body: schemas.ReleaseOrder, surface: SurfaceOf) -> Response:
    """Named by the act that placed it."""
    return _reply(await _operations(surface).release(_order(body), body.hold))


@acting.post("/acts/key", responses=_REPORT, summary="Record which key signs")
async def record_key(body: schemas.KeyOrder, surface: SurfaceOf) -> Response:
    """For the record: verifiers take keys from their own policy."""
    return _reply(await _operations(surface).record_key(_order(body), body.origin, body.key))


@acting.get("/acts", responses=answers(schemas.Acts), summary="Acts, newest first")
async def list_acts(
    surface: SurfaceOf,
    kind: Annotated[str | None, Query(description="all where absent")] = None,
    limit: Annotated[int, Query(description="at most 500; anything else becomes 50")] = 50,
) -> Response:
    """As they were applied here."""
    found = await _operations(surface).list_acts(limit, kind)
    return json_reply(orjson.dumps({"acts": [act_json(act) for act in found]}))


@acting.get("/holds", responses=answers(schemas.Holds), summary="Holds, oldest first")
async def list_holds(
    surface: SurfaceOf, released: Annotated[bool, Query(description="those that ended, too")] = False
) -> Response:
    """Those in force."""
    found = await _operations(surface).list_holds(released=released)
    return json_reply(orjson.dumps({"holds": [hold_json(it) for it in found]}))


def _order(body: schemas.Order) -> ActOrder:
    return ActOrder(actor=body.actor, reason=body.reason, force=body.force)


def _reply(report: ActReport) -> Response:
    return json_reply(report_json(report))


def _operations(surface: SurfaceOf) -> Operations:
    if surface.operations is None:
        raise RuntimeError("the route exists only where there is somebody to perform it")
    return surface.operations
