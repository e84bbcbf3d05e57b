"""Readers over HTTP: `HttpReader` for async code, `SyncHttpReader` for plain functions; the same methods, one codec.

Both are thin: `requests` decides what is asked and how often, the shells here only perform it. After `wait_for`, later
reads carry the positions with them, so that a read answered by another replica waits for them as well.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlencode

import httpx

from skillaudit.contract.errors import SettingsError, UnreachableError
from skillaudit.contract.records import RunFilter, RunState, SkillRun, SkillRunLog
from skillaudit.contract.storage import Positions
from skillaudit.query import requests
from skillaudit.query.access import checked_token, is_loopback
from skillaudit.query.codec import SESSION_HEADER, SESSION_TOKEN_CHARACTERS_MAX, session_token
from skillaudit.query.requests import Exchange, NoConnectionError, Pause, Reply, Request

T = TypeVar("T")

TIMEOUT_S: Final = 40.0
"""Longer than the server's `query_timeout_ms`, so that its reason is what the caller hears."""
CONNECT_TIMEOUT_S: Final = 5.0

_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_BROKEN: Final = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)


class _Connection:
    """What both clients know of the server: address, secret, session. The secret is in no text of it."""

    def __init__(self, url: str, token: str | None, timeout_s: float) -> None:
        self.url = url.rstrip("/")
        # Checked here: the library's own complaint would quote it.
        self._token = None if token is None else checked_token(token, "the token")
        self._after: dict[str, int] = {}
        self.timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S))
        try:
            parsed = httpx.URL(self.url)
        except httpx.InvalidURL as exc:
            raise SettingsError(f"url {url!r} is no address: {exc}") from exc
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise SettingsError(f"url {url!r} must be like http://127.0.0.1:8765")
        # The environment's proxies have no business between two processes of one machine.
        self.trust_env = not is_loopback(parsed.host)

    def reached(self, positions: Positions) -> None:
        """Later reads wait for these positions, too."""
        for name, offset in positions.items():
            self._after[name] = max(offset, self._after.get(name, 0))

    def arguments(self, request: Request) -> dict[str, Any]:
        """What httpx is called with."""
        headers = {"Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if request.body:
            headers["Content-Type"] = "application/json"
        after = session_token(self._after) if self._after else ""
        if after and len(after) <= SESSION_TOKEN_CHARACTERS_MAX:
            headers[SESSION_HEADER] = after
        query = "?" + urlencode(request.query) if request.query else ""
        return {
            "method": request.method,
            "url": self.url + request.path + query,
            "headers": headers,
            "content": request.body,
        }

    def mapped(self, exc: httpx.HTTPError, request: Request) -> UnreachableError:
        """One of our errors for the library's."""
        said = str(exc) or type(exc).__name__
        if isinstance(exc, _NOT_SENT) or (isinstance(exc, _BROKEN) and request.repeatable):
            return NoConnectionError(f"{self.url} can't be reached: {said}; does a consumer run there?")
        return UnreachableError(f"{self.url} does not answer: {said}")


class HttpReader:
    """`AuditReader` over HTTP, and `purge_older_than`. Belongs to one event loop; close it.

    `token` is sent as a bearer token, to this server only (redirects are not followed). Errors are those of a local
    reader; besides, `UnreachableError` after a bounded number of attempts, `SettingsError` for a refused token.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = TIMEOUT_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._connection = _Connection(url, token, timeout_s)
        self._client = httpx.AsyncClient(
            timeout=self._connection.timeout, trust_env=self._connection.trust_env, transport=transport
        )

    def __repr__(self) -> str:
        """The address; never the token."""
        return f"{type(self).__name__}({self._connection.url!r})"

    async def _do(self, exchange: Exchange[T]) -> T:
        try:
            step = next(exchange)
            while True:
                try:
                    reply = await self._perform(step)
                except UnreachableError as exc:
                    step = exchange.throw(exc)
                else:
                    step = exchange.send(reply)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _perform(self, step: Request | Pause) -> Reply | None:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            response = await self._client.request(**self._connection.arguments(step))
        except httpx.HTTPError as exc:
            raise self._connection.mapped(exc, step) from exc
        return Reply(response.status_code, response.content)

    async def get_run(self, run_id: str) -> SkillRun:
        """Return the run, or raise `RunNotFoundError`."""
        return await self._do(requests.get_run(run_id))

    async def list_logs_by_run(self, run_id: str) -> list[SkillRunLog]:
        """All its events in sequence order, as of one moment; empty where it has none."""
        return await self._do(requests.list_logs_by_run(run_id))

    async def list_runs_by_skill(self, skill_id: str, limit: int) -> list[SkillRun]:
        """Newest first, without dry runs."""
        return await self.list_runs_filtered(RunFilter(skill_id=skill_id), 0, limit)

    async def list_runs_by_skill_paginated(
        self, skill_id: str, offset: int, limit: int, include_dry_run: bool = False
    ) -> list[SkillRun]:
        """Newest first."""
        wanted = RunFilter(skill_id=skill_id, include_dry_run=include_dry_run)
        return await self.list_runs_filtered(wanted, offset, limit)

    async def count_runs_by_skill(self, skill_id: str, include_dry_run: bool = False) -> int:
        """How many the paginated list of the same flags holds in all."""
        return await self.count_runs_filtered(RunFilter(skill_id=skill_id, include_dry_run=include_dry_run))

    async def list_runs_by_caller(self, caller_id: str, limit: int) -> list[SkillRun]:
        """Newest first, every status."""
        return await self.list_runs_filtered(RunFilter(caller_id=caller_id, include_dry_run=True), 0, limit)

    async def list_runs_filtered(self, filter: RunFilter, offset: int, limit: int) -> list[SkillRun]:  # noqa: A002
        """Newest first; an offset below 0 counts as 0."""
        return await self._do(requests.list_runs_filtered(filter, offset, limit))

    async def count_runs_filtered(self, filter: RunFilter) -> int:  # noqa: A002
        """All rows that match, whatever the page."""
        return await self._do(requests.count_runs_filtered(filter))

    async def list_children_by_parent(self, parent_run_id: str) -> list[SkillRun]:
        """Oldest first, all of them; the empty string never matches anything."""
        return await self._do(requests.list_children_by_parent(parent_run_id))

    async def walk_parent_chain(self, run_id: str) -> list[SkillRun]:
        """The run and its ancestors, root first, the run last."""
        return await self._do(requests.walk_parent_chain(run_id))

    async def list_finished_runs_before(self, cutoff: datetime, limit: int) -> list[SkillRun]:
        """`finished_at` strictly before the cutoff, oldest first; `limit` <= 0 gives no rows."""
        return await self._do(requests.list_finished_runs_before(cutoff, limit))

    async def last_run_by_skills(
        self, skill_ids: Sequence[str], include_failed: bool = True
    ) -> dict[str, datetime]:
        """Skill id -> newest `started_at` of any status but `dry_run`, or of `ok` only."""
        return await self._do(requests.last_run_by_skills(skill_ids, include_failed))

    async def get_run_state(self, run_id: str) -> RunState:
        """Completeness, liveness and integrity of one run, or `RunNotFoundError`."""
        return await self._do(requests.get_run_state(run_id))

    async def list_run_states(self, run_ids: Sequence[str]) -> dict[str, RunState]:
        """The same for many; those of which nothing is or was stored have no key."""
        return await self._do(requests.list_run_states(run_ids))

    async def list_orphans(self, limit: int) -> list[RunState]:
        """Runs of which events are stored but no start, oldest first by arrival."""
        return await self._do(requests.list_orphans(limit))

    async def positions(self) -> dict[str, int]:
        """How far the database has consumed, as of now."""
        return await self._do(requests.positions())

    async def wait_for(self, positions: Positions, timeout_s: float) -> None:
        """Return once the database has consumed up to `positions`; raise `NotYetMaterializedError` after `timeout_s`."""
        await self._do(requests.wait_for(positions, timeout_s))
        self._connection.reached(positions)

    async def purge_older_than(self, t: datetime) -> int:
        """As `StorageAdmin.purge_older_than`. Never sent twice: an `UnreachableError` may mean that it was done."""
        return await self._do(requests.purge_older_than(t))

    async def aclose(self) -> None:
        """Close the connections; safe to call again."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        """Enter; leaving closes."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close."""
        await self.aclose()


class SyncHttpReader:
    """The same as plain functions, for code without an event loop. Safe for threads; close it."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = TIMEOUT_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._connection = _Connection(url, token, timeout_s)
        self._client = httpx.Client(
            timeout=self._connection.timeout, trust_env=self._connection.trust_env, transport=transport
        )

    def __repr__(self) -> str:
        """The address; never the token."""
        return f"{type(self).__name__}({self._connection.url!r})"

    def _do(self, exchange: Exchange[T]) -> T:
        try:
            step = next(exchange)
            while True:
                try:
                    reply = self._perform(step)
                except UnreachableError as exc:
                    step = exchange.throw(exc)
                else:
                    step = exchange.send(reply)
        except StopIteration as done:
            result: T = done.value
            return result

    def _perform(self, step: Request | Pause) -> Reply | None:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        try:
            response = self._client.request(**self._connection.arguments(step))
        except httpx.HTTPError as exc:
            raise self._connection.mapped(exc, step) from exc
        return Reply(response.status_code, response.content)

    def get_run(self, run_id: str) -> SkillRun:
        """Return the run, or raise `RunNotFoundError`."""
        return self._do(requests.get_run(run_id))

    def list_logs_by_run(self, run_id: str) -> list[SkillRunLog]:
        """All its events in sequence order, as of one moment; empty where it has none."""
        return self._do(requests.list_logs_by_run(run_id))

    def list_runs_by_skill(self, skill_id: str, limit: int) -> list[SkillRun]:
        """Newest first, without dry runs."""
        return self.list_runs_filtered(RunFilter(skill_id=skill_id), 0, limit)

    def list_runs_by_skill_paginated(
        self, skill_id: str, offset: int, limit: int, include_dry_run: bool = False
    ) -> list[SkillRun]:
        """Newest first."""
        wanted = RunFilter(skill_id=skill_id, include_dry_run=include_dry_run)
        return self.list_runs_filtered(wanted, offset, limit)

    def count_runs_by_skill(self, skill_id: str, include_dry_run: bool = False) -> int:
        """How many the paginated list of the same flags holds in all."""
        return self.count_runs_filtered(RunFilter(skill_id=skill_id, include_dry_run=include_dry_run))

    def list_runs_by_caller(self, caller_id: str, limit: int) -> list[SkillRun]:
        """Newest first, every status."""
        return self.list_runs_filtered(RunFilter(caller_id=caller_id, include_dry_run=True), 0, limit)

    def list_runs_filtered(self, filter: RunFilter, offset: int, limit: int) -> list[SkillRun]:  # noqa: A002
        """Newest first; an offset below 0 counts as 0."""
        return self._do(requests.list_runs_filtered(filter, offset, limit))

    def count_runs_filtered(self, filter: RunFilter) -> int:  # noqa: A002
        """All rows that match, whatever the page."""
        return self._do(requests.count_runs_filtered(filter))

    def list_children_by_parent(self, parent_run_id: str) -> list[SkillRun]:
        """Oldest first, all of them; the empty string never matches anything."""
        return self._do(requests.list_children_by_parent(parent_run_id))

    def walk_parent_chain(self, run_id: str) -> list[SkillRun]:
        """The run and its ancestors, root first, the run last."""
        return self._do(requests.walk_parent_chain(run_id))

    def list_finished_runs_before(self, cutoff: datetime, limit: int) -> list[SkillRun]:
        """`finished_at` strictly before the cutoff, oldest first; `limit` <= 0 gives no rows."""
        return self._do(requests.list_finished_runs_before(cutoff, limit))

    def last_run_by_skills(
        self, skill_ids: Sequence[str], include_failed: bool = True
    ) -> dict[str, datetime]:
        """Skill id -> newest `started_at` of any status but `dry_run`, or of `ok` only."""
        return self._do(requests.last_run_by_skills(skill_ids, include_failed))

    def get_run_state(self, run_id: str) -> RunState:
        """Completeness, liveness and integrity of one run, or `RunNotFoundError`."""
        return self._do(requests.get_run_state(run_id))

    def list_run_states(self, run_ids: Sequence[str]) -> dict[str, RunState]:
        """The same for many; those of which nothing is or was stored have no key."""
        return self._do(requests.list_run_states(run_ids))

    def list_orphans(self, limit: int) -> list[RunState]:
        """Runs of which events are stored but no start, oldest first by arrival."""
        return self._do(requests.list_orphans(limit))

    def positions(self) -> dict[str, int]:
        """How far the database has consumed, as of now."""
        return self._do(requests.positions())

    def wait_for(self, positions: Positions, timeout_s: float) -> None:
        """Return once the database has consumed up to `positions`; raise `NotYetMaterializedError` after `timeout_s`."""
        self._do(requests.wait_for(positions, timeout_s))
        self._connection.reached(positions)

    def purge_older_than(self, t: datetime) -> int:
        """As `StorageAdmin.purge_older_than`. Never sent twice: an `UnreachableError` may mean that it was done."""
        return self._do(requests.purge_older_than(t))

    def close(self) -> None:
        """Close the connections; safe to call again."""
        self._client.close()

    def __enter__(self) -> Self:
        """Enter; leaving closes."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close."""
        self.close()
