"""An operator's acts over HTTP: dead letters and backups. Served only where the process can perform them."""

from __future__ import annotations

import asyncio
import tempfile
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from skillaudit.contract.admin import DeadLetter, Operations
from skillaudit.query.codec import time_text
from skillaudit.query.server import schemas
from skillaudit.query.server.replies import json_reply
from skillaudit.query.server.surface import SurfaceOf

PIECE_BYTES: Final = 1024 * 1024

operating: Final = APIRouter(prefix="/api/v1")


@operating.get("/dead-letters", responses={200: {"model": schemas.DeadLetters}}, summary="Malformed records")
async def list_dead_letters(
    surface: SurfaceOf,
    state: Annotated[schemas.DeadLetterState | None, Query(description="all where absent")] = None,
    limit: Annotated[int, Query(description="at most 500; anything else becomes 50")] = 50,
    after: Annotated[int, Query(ge=0, description="only those behind this id: the next page")] = 0,
) -> Response:
    """Oldest first, with what is wrong with each, without their bytes."""
    letters = await _operations(surface).list_dead_letters(state, limit, after)
    return json_reply(
        orjson.dumps({"dead_letters": [_members(letter, with_bytes=False) for letter in letters]})
    )


@operating.get(
    "/dead-letters/{id}", responses={200: {"model": schemas.DeadLetter}}, summary="One malformed record"
)
async def get_dead_letter(surface: SurfaceOf, id: int) -> Response:  # noqa: A002  the path's name for it
    """Key and bytes in base64."""
    letter = await _operations(surface).get_dead_letter(id)
    return json_reply(orjson.dumps(_members(letter, with_bytes=True)))


@operating.post(
    "/dead-letters/replay", responses={200: {"model": schemas.Replayed}}, summary="Parse them again"
)
async def replay_dead_letters(body: schemas.DeadLetterIds, surface: SurfaceOf) -> Response:
    """Those that are events now are applied, in one transaction; the others stay as they are."""
    report = await _operations(surface).replay_dead_letters(body.ids)
    return json_reply(
        orjson.dumps({"replayed": report.replayed, "still_malformed": list(report.still_malformed)})
    )


@operating.post(
    "/dead-letters/discard", responses={200: {"model": schemas.Discarded}}, summary="Set them aside"
)
async def discard_dead_letters(body: schemas.DeadLetterIds, surface: SurfaceOf) -> Response:
    """They no longer wait; their bytes stay."""
    return json_reply(orjson.dumps({"discarded": await _operations(surface).discard_dead_letters(body.ids)}))


@operating.get(
    "/backup",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/octet-stream": {}}}},
    summary="A consistent copy of the database",
)
async def backup(surface: SurfaceOf) -> Response:
    """The whole file as of one moment, made while batches go on. Takes the space of a copy meanwhile."""
    operations = _operations(surface)
    directory = tempfile.TemporaryDirectory(prefix="skillaudit-backup-", dir=surface.scratch_dir)
    try:
        copy = Path(directory.name) / "audit.duckdb"
        size = await operations.back_up(copy)
    except BaseException:
        await asyncio.to_thread(directory.cleanup)
        raise
    headers = {"Content-Length": str(size), "Content-Disposition": 'attachment; filename="audit.duckdb"'}
    return StreamingResponse(_pieces(copy, directory), media_type="application/octet-stream", headers=headers)


async def _pieces(copy: Path, directory: tempfile.TemporaryDirectory[str]) -> AsyncIterator[bytes]:
    try:
        file = await asyncio.to_thread(copy.open, "rb")
        try:
            while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                yield piece
        finally:
            file.close()
    finally:
        directory.cleanup()


def _operations(surface: SurfaceOf) -> Operations:
    if surface.operations is None:
        raise RuntimeError("the route exists only where there is somebody to perform it")
    return surface.operations


def _members(letter: DeadLetter, *, with_bytes: bool) -> dict[str, Any]:
    members: dict[str, Any] = {
        "id": letter.id,
        "partition": letter.partition,
        "offset": letter.offset,
        "received_at": None if letter.received_at is None else time_text(letter.received_at),
        "stored_at": time_text(letter.stored_at),
        "error": letter.error,
        "state": letter.state,
        "bytes": None if letter.record is None else len(letter.record),
    }
    if with_bytes:
        members["key"] = None if letter.key is None else b64encode(letter.key).decode()
        members["record"] = None if letter.record is None else b64encode(letter.record).decode()
    return members
