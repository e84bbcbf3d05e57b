"""Cursors of run lists: opaque to clients, so that what is inside can become something better than an offset."""

from __future__ import annotations

import base64
import binascii
from hashlib import sha256
from typing import Any

import orjson

from skillaudit.contract.records import RunFilter
from skillaudit.query.problems import CURSOR_MISMATCH, INVALID_FILTER, problem
from skillaudit.query.requests import filter_query
from skillaudit.query.server.surface import ProblemError


def cursor_of(wanted: RunFilter, offset: int) -> str:
    """Where the page after `offset` runs of this filter begins."""
    return base64.urlsafe_b64encode(orjson.dumps([offset, _digest(wanted)])).decode().rstrip("=")


def offset_of(cursor: str, wanted: RunFilter) -> int:
    """The offset in a cursor of the same filter; a problem for any other."""
    try:
        found: Any = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        offset, digest = found
        offset = max(int(offset), 0)
    except (ValueError, TypeError, binascii.Error) as exc:
        raise ProblemError(problem(INVALID_FILTER, "cursor: not one that this server gave")) from exc
    if digest != _digest(wanted):
        raise ProblemError(
            problem(CURSOR_MISMATCH, "the cursor was given for other filters; begin without it")
        )
    return offset


def _digest(wanted: RunFilter) -> str:
    return sha256(orjson.dumps(filter_query(wanted))).hexdigest()[:16]
