"""What stands before every route: names, token, origins, sizes, how many at once. Plain ASGI.

It also hands on the path as it was sent, because a run id may hold slashes, and answers HEAD as GET without its body.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from skillaudit.query.access import LOOPBACK_NAMES, host_allowed
from skillaudit.query.problems import (
    BLANK,
    FORBIDDEN_HOST,
    RATE_LIMITED,
    TOO_LARGE,
    UNAUTHORISED,
    Problem,
    problem,
)
from skillaudit.query.server.probes import OPEN_PATHS
from skillaudit.query.server.replies import problem_reply

REQUEST_BYTES_MAX: Final = 4 * 1024 * 1024
REQUESTS_MAX: Final = 64
"""Requests in work at once; further ones are told to come again."""

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'self'; object-src 'none'; frame-ancestors 'none'"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Who may ask, and how much."""

    allow_hosts: frozenset[str] = LOOPBACK_NAMES
    token: str | None = field(default=None, repr=False)
    request_bytes_max: int = REQUEST_BYTES_MAX
    requests_max: int = REQUESTS_MAX


class Metrics:
    """What the surface counts about itself."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "skillaudit_http_requests_total",
            "Requests answered",
            ["method", "route", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "skillaudit_http_request_seconds", "Time until the answer was sent", ["route"], registry=registry
        )


class Gate:
    """Refuses what may not pass, with a problem; passes on the rest."""

    def __init__(self, app: ASGIApp, policy: Policy, metrics: Metrics) -> None:
        self._app = app
        self._policy = policy
        self._metrics = metrics
        self._in_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        inner = {**scope, "path": _path_as_sent(scope), "method": _as_get(scope["method"])}
        exit_ = _Exit(send, head=scope["method"] == "HEAD")
        begun = time.perf_counter()
        self._in_work += 1
        try:
            refused = self._refusal(scope)
            if refused is None:
                await self._app(inner, _bounded(receive, self._policy.request_bytes_max), exit_)
            else:
                await problem_reply(refused, _refusal_headers(refused))(inner, receive, exit_)
        finally:
            self._in_work -= 1
            route = getattr(inner.get("route"), "path", "none")
            self._metrics.requests.labels(scope["method"], route, str(exit_.status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - begun)

    def _refusal(self, scope: Scope) -> Problem | None:
        headers = _headers(scope)
        host = headers.get(b"host", b"").decode("latin-1")
        if not host_allowed(host, self._policy.allow_hosts):
            return problem(
                FORBIDDEN_HOST, "the Host header names none of this server's names (http_allow_hosts)"
            )
        if not self._known(headers) and scope["path"] not in OPEN_PATHS:
            return problem(UNAUTHORISED, "send the header Authorization: Bearer <token>")
        if scope["method"] not in _SAFE and not _same_origin(headers, host):
            return Problem(BLANK, "Forbidden", 403, "the Origin header names another site")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._policy.request_bytes_max:
            return problem(TOO_LARGE, f"a request holds at most {self._policy.request_bytes_max} bytes")
        if self._in_work > self._policy.requests_max:
            return problem(RATE_LIMITED, f"more than {self._policy.requests_max} requests at once; ask again")
        return None

    def _known(self, headers: Mapping[bytes, bytes]) -> bool:
        if self._policy.token is None:
            return True
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        # Compared in constant time, whatever the scheme says: time must not tell how much of the token was right.
        right = hmac.compare_digest(given.strip(), self._policy.token.encode())
        return right and scheme.lower() == b"bearer"


class _Exit:
    """The way out: adds the headers that every answer carries, drops the body of HEAD, remembers the status."""

    def __init__(self, send: Send, *, head: bool) -> None:
        self._send = send
        self._head = head
        self.status = 500

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
        elif message["type"] == "http.response.body" and self._head:
            message = {**message, "body": b""}
        await self._send(message)


def _path_as_sent(scope: Scope) -> str:
    raw: bytes = scope.get("raw_path") or b""
    return raw.decode("latin-1") if raw else str(scope["path"])


def _as_get(method: str) -> str:
    return "GET" if method == "HEAD" else method


def _headers(scope: Scope) -> dict[bytes, bytes]:
    pairs: list[tuple[bytes, bytes]] = scope["headers"]
    return {name.lower(): value for name, value in pairs}


def _same_origin(headers: Mapping[bytes, bytes], host: str) -> bool:
    """A browser says where a page's request comes from; programs say nothing."""
    origin = headers.get(b"origin")
    return origin is None or origin.decode("latin-1").lower() in (
        f"http://{host.lower()}",
        f"https://{host.lower()}",
    )


def _refusal_headers(refused: Problem) -> dict[str, str]:
    extra: dict[int, dict[str, Any]] = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}
    return extra.get(refused.status, {})


def _bounded(receive: Receive, bytes_max: int) -> Receive:
    """A body without a length is counted as it comes."""
    held_bytes = 0

    async def counted() -> Message:
        nonlocal held_bytes
        message = await receive()
        held_bytes += len(message.get("body", b""))
        if held_bytes > bytes_max:
            raise HTTPException(413, f"a request holds at most {bytes_max} bytes")
        return message

    return counted
