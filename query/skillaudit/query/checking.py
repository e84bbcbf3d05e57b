"""`HttpVerifier`: a check of the record, asked of the process that owns the database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import httpx
import orjson

from skillaudit.contract.errors import UnreachableError
from skillaudit.proof.verify import Report, VerifyRequest, parse_report
from skillaudit.proof.verify.wire import request_members
from skillaudit.query.client import HttpReader
from skillaudit.query.codec import Object
from skillaudit.query.problems import error_of, parse_problem
from skillaudit.query.requests import API, Request

VERIFY_SILENCE_S: Final = 1_800.0
"""One step of a check of a large record may take this long without a word."""
_OK: Final = 200


class HttpVerifier(HttpReader):
    """Checks over HTTP. Keys and anchors are the caller's: they travel with the request."""

    async def verify(
        self, request: VerifyRequest, progress: Callable[[str, int, int], None] | None = None
    ) -> Report:
        """A check in the process that owns the database. Raises what the check raises there."""
        body = orjson.dumps(request_members(request))
        asked = self._connection.arguments(Request("POST", f"{API}/verify", (), body, repeatable=False))
        try:
            async with self._client.stream(**asked, timeout=VERIFY_SILENCE_S) as response:
                if response.status_code != _OK:
                    raise error_of(parse_problem(response.status_code, await response.aread()))
                async for line in response.aiter_lines():
                    found: Object = orjson.loads(line)
                    if "report" in found:
                        return parse_report(found["report"])
                    if "problem" in found:
                        raise error_of(parse_problem(500, orjson.dumps(found["problem"])))
                    told = found["progress"]
                    if progress is not None:
                        progress(str(told["what"]), int(told["done"]), int(told["of"]))
        except httpx.HTTPError as exc:
            raise UnreachableError(f"{self!r} broke off: {exc or type(exc).__name__}") from exc
        except (KeyError, TypeError, ValueError) as exc:
            raise UnreachableError(f"{self!r} does not answer as this release does: {exc}") from exc
        raise UnreachableError(f"{self!r} ended before its report")
