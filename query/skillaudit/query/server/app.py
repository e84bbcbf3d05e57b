"""Making the app of a reader: routes, gate, problems, the published description."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException

from skillaudit.contract.admin import Operations
from skillaudit.contract.errors import SkillauditError
from skillaudit.contract.settings import Settings
from skillaudit.contract.storage import AuditReader
from skillaudit.query.access import LOOPBACK_NAMES, checked_token
from skillaudit.query.problems import (
    BLANK,
    INVALID_BODY,
    INVALID_FILTER,
    MEDIA_TYPE,
    TOO_LARGE,
    Problem,
    problem,
    problem_of,
)
from skillaudit.query.server import schemas
from skillaudit.query.server.acts import acting
from skillaudit.query.server.gate import REQUEST_BYTES_MAX, REQUESTS_MAX, Gate, Metrics, Policy
from skillaudit.query.server.operations import operating
from skillaudit.query.server.probes import probes
from skillaudit.query.server.replies import problem_reply
from skillaudit.query.server.routes import purging, router
from skillaudit.query.server.surface import ProblemError, Purge, ReadyReport, Surface
from skillaudit.query.server.verifying import verifying
from skillaudit.query.verifying import Checks

API_VERSION: Final = "1.0"


def create_app(  # noqa: PLR0913  what a surface is made of, each part with a default
    reader: AuditReader,
    *,
    purge: Purge | None = None,
    operations: Operations | None = None,
    checks: Checks | None = None,
    scratch_dir: Path | None = None,
    ready: Callable[[], ReadyReport] = ReadyReport,
    token: str | None = None,
    allow_hosts: Iterable[str] = LOOPBACK_NAMES,
    database_id: str = "",
    settings: Settings | None = None,
    registry: CollectorRegistry | None = None,
    request_bytes_max: int = REQUEST_BYTES_MAX,
    requests_max: int = REQUESTS_MAX,
) -> FastAPI:
    """The HTTP surface of a reader. The reader stays the caller's: the app doesn't close it.

    Without `purge` there is no such route, nor those of acts, dead letters and backups without `operations`; a backup lies in
    `scratch_dir` while it is sent. With a `token` every request but the health probes has to bear it.
    `allow_hosts`: names (no ports) that a Host header may hold, `*` for any; `access.allowed_hosts(settings)` gives
    those the settings name. `database_id` is what `/livez` answers, see `contract.owner`. The surface's own metrics
    go into `registry`, and `/metrics` shows all of it. `settings` gives `session_wait_ms_max`.
    """
    registry = registry or CollectorRegistry()
    app = FastAPI(
        title="skillaudit",
        version=API_VERSION,
        docs_url=None,  # its page loads from a content network
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.surface = Surface(
        reader=reader,
        purge=purge,
        ready=ready,
        database_id=database_id,
        session_wait_s_max=(settings or Settings()).session_wait_ms_max / 1000,
        registry=registry,
        operations=operations,
        checks=checks,
        scratch_dir=scratch_dir,
    )
    app.state.has_token = token is not None
    app.include_router(router)
    if purge is not None:
        app.include_router(purging)
    if operations is not None:
        app.include_router(operating)
        app.include_router(acting)
    if checks is not None:
        app.include_router(verifying)
    app.include_router(probes)
    policy = Policy(
        allow_hosts=frozenset(name.lower() for name in allow_hosts),
        token=None if token is None else checked_token(token, "the token"),
        request_bytes_max=request_bytes_max,
        requests_max=requests_max,
    )
    app.add_middleware(Gate, policy=policy, metrics=Metrics(registry))
    _handle_errors(app)
    _describe(app)
    return app


def _handle_errors(app: FastAPI) -> None:
    app.add_exception_handler(SkillauditError, _on_error)
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)


def _on_error(_: Request, exc: Exception) -> Response:
    return problem_reply(problem_of(cast("SkillauditError", exc)))


def _on_problem(_: Request, exc: Exception) -> Response:
    return problem_reply(cast("ProblemError", exc).problem)


def _on_invalid(_: Request, exc: Exception) -> Response:
    # Where and why, never what: the values may be anything.
    errors = cast("list[dict[str, Any]]", cast("RequestValidationError", exc).errors())
    found = [{"where": ".".join(map(str, it["loc"])), "why": str(it["msg"])} for it in errors]
    kind = INVALID_BODY if any(it["loc"][:1] == ("body",) for it in errors) else INVALID_FILTER
    said = "; ".join(f"{it['where']}: {it['why']}" for it in found)
    return problem_reply(problem(kind, said, errors=found))


def _on_http(_: Request, exc: Exception) -> Response:
    failed = cast("HTTPException", exc)
    if failed.status_code == TOO_LARGE.status:
        return problem_reply(problem(TOO_LARGE, failed.detail))
    if failed.status_code == INVALID_BODY.status:  # the framework's word for a body that is no text
        return problem_reply(problem(INVALID_BODY, failed.detail))
    title = HTTPStatus(failed.status_code).phrase
    said = "" if failed.detail == title else failed.detail
    return problem_reply(Problem(BLANK, title, failed.status_code, said), failed.headers)


def _on_bug(_: Request, __: Exception) -> Response:
    # The server's log has the traceback; it is raised again behind this answer.
    return problem_reply(Problem(BLANK, "Internal Server Error", 500, "the server's log says more"))


def _describe(app: FastAPI) -> None:
    """Publish problems as the answer to everything that fails, in the place of the framework's own."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = get_openapi(title=app.title, version=app.version, routes=app.routes)
            app.openapi_schema = _with_problems(found)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _with_problems(found: dict[str, Any]) -> dict[str, Any]:
    parts: dict[str, Any] = found.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        parts.pop(name, None)
    parts["Problem"] = schemas.Problem.model_json_schema()
    failed = {
        "description": "A problem (RFC 9457)",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for operations in found["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = failed
    return found
