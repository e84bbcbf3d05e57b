"""What the routes answer from, kept in the app's state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, TypeAlias

from fastapi import Depends, Header, Request
from prometheus_client import CollectorRegistry

from skillaudit.contract.admin import Operations
from skillaudit.contract.storage import AuditReader
from skillaudit.query.codec import SESSION_HEADER, parse_session_token
from skillaudit.query.problems import Problem
from skillaudit.query.verifying import Checks

Purge: TypeAlias = Callable[[datetime], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class ReadyReport:
    """Whether the process behind the surface does its work; the reasons are for people."""

    ready: bool = True
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """Everything a route may use."""

    reader: AuditReader
    purge: Purge | None
    ready: Callable[[], ReadyReport]
    database_id: str
    session_wait_s_max: float
    registry: CollectorRegistry
    operations: Operations | None = None
    checks: Checks | None = None
    scratch_dir: Path | None = None
    """Where a copy of the database may lie for a while; None: the system's place for such."""


class ProblemError(Exception):
    """A problem that no error of the contract stands for."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.title)
        self.problem = problem


def surface_of(request: Request) -> Surface:
    """The surface of the app that got the request."""
    surface: Surface = request.app.state.surface
    return surface


SurfaceOf: TypeAlias = Annotated[Surface, Depends(surface_of)]


async def session(
    surface: SurfaceOf,
    after: Annotated[
        str | None,
        Header(alias=SESSION_HEADER, description="a session token: answer once the database has got so far"),
    ] = None,
) -> None:
    """Wait until the database has consumed what the request's session token says, else `NotYetMaterializedError`."""
    if after:
        await surface.reader.wait_for(parse_session_token(after), surface.session_wait_s_max)
