"""Checks of the record over HTTP: the request in, lines of JSON out, the report last."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final, cast

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from skillaudit.contract.errors import InvalidRecordError, SkillauditError
from skillaudit.proof.verify.report import Report
from skillaudit.proof.verify.wire import parse_request
from skillaudit.query.problems import problem_of
from skillaudit.query.server import schemas
from skillaudit.query.server.surface import SurfaceOf
from skillaudit.query.verifying import Progress

LINES: Final = "application/x-ndjson"

verifying: Final = APIRouter(prefix="/api/v1")


@verifying.post(
    "/verify",
    response_class=StreamingResponse,
    responses={200: {"content": {LINES: {"schema": schemas.VerifyLine.model_json_schema()}}}},
    summary="Check the record",
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}},
)
async def verify(request: Request, surface: SurfaceOf) -> StreamingResponse:
    """Lines of JSON: `progress` now and then, at the end `report`, or `problem`. Closing the connection stops the check.

    Keys, anchors and rules come with the request, from the verifier's policy; `skillaudit verify` makes it.
    """
    if surface.checks is None:
        raise RuntimeError("the route exists only where there is a database to check")
    try:
        members: Any = orjson.loads(await request.body())
    except orjson.JSONDecodeError:
        raise InvalidRecordError("the request to verify is no JSON") from None
    if not isinstance(members, dict):
        raise InvalidRecordError("the request to verify is no JSON object")
    lines = surface.checks.run(parse_request(cast("dict[str, Any]", members)))
    first = await anext(lines)  # what is wrong from the start is an answer of its own
    return StreamingResponse(_lines(first, lines), media_type=LINES)


async def _lines(first: Progress | Report, rest: AsyncGenerator[Progress | Report]) -> AsyncGenerator[bytes]:
    try:
        yield _line(first)
        async for item in rest:
            yield _line(item)
    except SkillauditError as exc:
        yield b'{"problem":%b}\n' % problem_of(exc).json()
    finally:
        await rest.aclose()


def _line(item: Progress | Report) -> bytes:
    if isinstance(item, Report):
        return orjson.dumps({"report": item.json()}, option=orjson.OPT_APPEND_NEWLINE)
    progress = {"what": item.what, "done": item.done, "of": item.of}
    return orjson.dumps({"progress": progress}, option=orjson.OPT_APPEND_NEWLINE)
