"""Health and metrics, outside /api: for supervisors and scrapers."""

from __future__ import annotations

import asyncio
from typing import Final

import orjson
from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from skillaudit.query.problems import NOT_READY, problem
from skillaudit.query.server import schemas
from skillaudit.query.server.replies import json_reply
from skillaudit.query.server.surface import ProblemError, SurfaceOf

OPEN_PATHS: Final = frozenset({"/livez", "/readyz"})
"""Asked without a token: a supervisor has none, and they tell nothing about what is stored."""

probes: Final = APIRouter()


@probes.get("/livez", responses={200: {"model": schemas.Alive}}, summary="Does the process answer?")
async def livez(surface: SurfaceOf) -> Response:
    """Also tells whose database this is, so that a reader knows it found the right process."""
    return json_reply(orjson.dumps({"status": "alive", "database": surface.database_id}))


@probes.get("/readyz", responses={200: {"model": schemas.Ready}}, summary="Does it do its work?")
async def readyz(surface: SurfaceOf) -> Response:
    """`not-ready` with reasons where it does not."""
    report = surface.ready()
    if not report.ready:
        said = "; ".join(report.reasons) or "no reason given"
        raise ProblemError(problem(NOT_READY, said, reasons=list(report.reasons)))
    return json_reply(orjson.dumps({"status": "ready"}))


@probes.get("/metrics", response_class=Response, summary="Prometheus' text")
async def metrics(request: Request, surface: SurfaceOf) -> Response:
    """Everything in the registry that the process handed in."""
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    text = await asyncio.to_thread(encode, surface.registry)  # collectors may read the database
    return Response(text, headers={"Content-Type": media_type})
