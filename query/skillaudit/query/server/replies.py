"""Responses of prepared JSON. Small ones go out whole; large ones in pieces, so that no copy of all of it is made."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Final, TypeVar

import orjson
from fastapi import Response
from fastapi.responses import StreamingResponse

from skillaudit.query.problems import MEDIA_TYPE, Problem

T = TypeVar("T")

JSON: Final = "application/json"
WHOLE_BYTES_MAX: Final = 1024 * 1024
PIECE_BYTES: Final = 64 * 1024


def json_reply(body: bytes, headers: Mapping[str, str] | None = None) -> Response:
    """A body that is JSON already."""
    return Response(body, media_type=JSON, headers=dict(headers or {}))


def problem_reply(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """A problem."""
    return Response(
        problem.json(), status_code=problem.status, media_type=MEDIA_TYPE, headers=dict(headers or {})
    )


def listing(
    name: str,
    items: Iterable[T],
    encode: Callable[[T], bytes],
    head: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An object with the members of `head`, then the list `name`: what tells about the list comes before it."""
    pieces = _pieces(name, (encode(item) for item in items), head or {})
    begun: list[bytes] = []
    held_bytes = 0
    for piece in pieces:
        begun.append(piece)
        held_bytes += len(piece)
        if held_bytes > WHOLE_BYTES_MAX:
            return StreamingResponse(
                _stream(chain(begun, pieces)), media_type=JSON, headers=dict(headers or {})
            )
    return json_reply(b"".join(begun), headers)


def _pieces(name: str, items: Iterator[bytes], head: Mapping[str, Any]) -> Iterator[bytes]:
    members = [orjson.dumps(key) + b":" + orjson.dumps(value) for key, value in head.items()]
    held = bytearray(b"{" + b"".join(member + b"," for member in members) + orjson.dumps(name) + b":[")
    separator = b""
    for item in items:
        held += separator
        held += item
        separator = b","
        if len(held) >= PIECE_BYTES:
            yield bytes(held)
            held.clear()
    yield bytes(held) + b"]}"


async def _stream(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
