"""What a client asks, as a table: every method of the reader is a generator that yields requests and returns records.

No I/O here. A shell (client.py: one async, one plain) performs what is yielded, sends the reply back in, and returns
what the generator returns. Retrying, waiting and paging are decided here once, so that both clients do the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import quote

import orjson

from skillaudit.contract.errors import (
    InvalidRecordError,
    NotYetMaterializedError,
    RetryableError,
    RunNotFoundError,
    UnreachableError,
)
from skillaudit.contract.records import RunFilter, RunState, SkillRun, SkillRunLog
from skillaudit.contract.storage import Positions
from skillaudit.query.codec import (
    Object,
    decoded,
    log_of_json,
    parse_time,
    positions_of_json,
    run_of_json,
    state_of_json,
    time_text,
)
from skillaudit.query.paging import EVENTS_LIMIT_MAX
from skillaudit.query.problems import error_of, is_transient, parse_problem
from skillaudit.query.rows import storable

T = TypeVar("T")

API: Final = "/api/v1"
ATTEMPTS_MAX: Final = 4
RETRY_PAUSES_S: Final = (0.05, 0.2, 0.8)
IDS_PER_REQUEST_MAX: Final = 1_000
SNAPSHOT_ATTEMPTS_MAX: Final = 5
WAIT_MS_PER_REQUEST_MAX: Final = 5_000
"""A longer wait is several requests, so that no connection idles for minutes."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `repeatable`: performing it twice does no harm, so a broken connection is no reason to give up."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    repeatable: bool = True


@dataclass(frozen=True, slots=True)
class Reply:
    """Its answer."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before the next request."""

    seconds: float


class NoConnectionError(UnreachableError):
    """The request may be sent again: it did not get through, or did no harm if it did."""


Exchange: TypeAlias = Generator[Request | Pause, Reply | None, T]


def ask(request: Request, decode: Callable[[Any], T]) -> Exchange[T]:
    """The decoded answer, or the error the server's problem stands for; asks again a bounded number of times."""
    for pause_s in (*RETRY_PAUSES_S, None):
        try:
            reply = yield request
        except NoConnectionError:
            if pause_s is None:
                raise
        else:
            if reply is None:
                raise TypeError("a request was answered with nothing")
            if 200 <= reply.status < 300:  # noqa: PLR2004
                return decoded(reply.body, decode)
            said = parse_problem(reply.status, reply.body)
            if pause_s is None or not is_transient(said):
                raise error_of(said)
        yield Pause(pause_s)
    raise AssertionError("unreachable: the last attempt returns or raises")


def run_path(run_id: str, what: str = "") -> tuple[str, tuple[tuple[str, str], ...]]:
    """Path and query that name a run. Ids that can't be a segment of a path travel as `run_id=`, with `-` in place."""
    try:
        segment = quote(run_id, safe="", errors="strict")
    except UnicodeEncodeError as exc:  # a lone surrogate, which no stored id can hold
        raise RunNotFoundError(run_id) from exc
    if segment in ("", ".", ".."):
        return f"{API}/runs/-{what}", (("run_id", run_id),)
    return f"{API}/runs/{segment}{what}", ()


def get_run(run_id: str) -> Exchange[SkillRun]:
    """GET /runs/{id}."""
    return ask(Request("GET", *run_path(run_id)), run_of_json)


def list_logs_by_run(run_id: str) -> Exchange[list[SkillRunLog]]:
    """GET /runs/{id}/events, page after page; begins again when an event came in behind the pages already read."""
    if not storable([run_id]):
        return []
    for _ in range(SNAPSHOT_ATTEMPTS_MAX):
        logs = yield from _pages(run_id)
        if logs is not None:
            return logs
    raise RetryableError(f"the events of run {run_id!r} keep changing while they are read; read again later")


def _pages(run_id: str) -> Exchange[list[SkillRunLog] | None]:
    logs: list[SkillRunLog] = []
    path, named = run_path(run_id, "/events")
    query = (*named, ("limit", str(EVENTS_LIMIT_MAX)), ("payload", "text"))
    start: tuple[tuple[str, str], ...] = ()
    while True:
        page = yield from ask(Request("GET", path, (*query, *start)), _events_page)
        if page.preceding != len(logs):
            return None
        logs += page.events
        if page.next is None:
            return logs
        start = (("from", str(page.next)),)


@dataclass(frozen=True, slots=True)
class _Page:
    events: list[SkillRunLog]
    preceding: int
    next: int | None


def _events_page(found: Object) -> _Page:
    return _Page([log_of_json(it) for it in found["events"]], found["preceding"], found["next"])


def list_runs_filtered(wanted: RunFilter, offset: int, limit: int) -> Exchange[list[SkillRun]]:
    """GET /runs."""
    page = (("offset", str(max(offset, 0))), ("limit", str(limit)))
    return ask(Request("GET", f"{API}/runs", (*filter_query(wanted), *page)), _runs)


def count_runs_filtered(wanted: RunFilter) -> Exchange[int]:
    """GET /runs?count=only."""
    request = Request("GET", f"{API}/runs", (*filter_query(wanted), ("count", "only")))
    return ask(request, lambda found: int(found["total"]))


def filter_query(wanted: RunFilter) -> tuple[tuple[str, str], ...]:
    """A filter as query parameters. One that is there and empty matches the empty string."""
    texts = (
        ("status", wanted.status),
        ("skill", wanted.skill_id),
        ("caller", wanted.caller_id),
        ("channel", wanted.channel_id),
        ("top_level", "true" if wanted.top_level_only else None),
        ("include_dry_run", "true" if wanted.include_dry_run else None),
        ("since", None if wanted.since is None else instant_text("since", wanted.since)),
        ("until", None if wanted.until is None else instant_text("until", wanted.until)),
    )
    return tuple((name, str(text)) for name, text in texts if text is not None)


def instant_text(name: str, at: datetime) -> str:
    """RFC 3339 of a timezone-aware time; a naive one is refused, since nobody knows which instant it means."""
    if at.tzinfo is None:
        raise InvalidRecordError(f"{name} has no time zone; use datetime(..., tzinfo=UTC)")
    return time_text(at)


def list_children_by_parent(parent_run_id: str) -> Exchange[list[SkillRun]]:
    """GET /runs/{id}/children."""
    if not parent_run_id or not storable([parent_run_id]):
        return []
    return (yield from ask(Request("GET", *run_path(parent_run_id, "/children")), _runs))


def walk_parent_chain(run_id: str) -> Exchange[list[SkillRun]]:
    """GET /runs/{id}/chain."""
    return ask(Request("GET", *run_path(run_id, "/chain")), _runs)


def list_finished_runs_before(cutoff: datetime, limit: int) -> Exchange[list[SkillRun]]:
    """GET /finished-before."""
    query = (("cutoff", instant_text("cutoff", cutoff)), ("limit", str(limit)))
    return ask(Request("GET", f"{API}/finished-before", query), _runs)


def last_run_by_skills(skill_ids: Sequence[str], include_failed: bool) -> Exchange[dict[str, datetime]]:
    """POST /skills/last-runs, some ids at a time; no ids, no request."""
    found: dict[str, datetime] = {}
    for some in _parts(skill_ids):
        body = _body({"skill_ids": some, "include_failed": include_failed})
        found |= yield from ask(Request("POST", f"{API}/skills/last-runs", (), body), _last_runs)
    return found


def get_run_state(run_id: str) -> Exchange[RunState]:
    """GET /runs/{id}/state."""
    return ask(Request("GET", *run_path(run_id, "/state")), state_of_json)


def list_run_states(run_ids: Sequence[str]) -> Exchange[dict[str, RunState]]:
    """POST /run-states, some ids at a time; no ids, no request."""
    found: dict[str, RunState] = {}
    for some in _parts(run_ids):
        states = yield from ask(Request("POST", f"{API}/run-states", (), _body({"run_ids": some})), _states)
        found |= {state.run_id: state for state in states}
    return found


def list_orphans(limit: int) -> Exchange[list[RunState]]:
    """GET /orphans."""
    return ask(Request("GET", f"{API}/orphans", (("limit", str(limit)),)), _states)


def positions() -> Exchange[dict[str, int]]:
    """GET /positions."""
    return ask(Request("GET", f"{API}/positions"), positions_of_json)


def wait_for(
    wanted: Positions, timeout_s: float, now_s: Callable[[], float] = time.monotonic
) -> Exchange[None]:
    """POST /positions/wait, as often as it takes; the server bounds each wait."""
    deadline_s = now_s() + timeout_s
    while True:
        remaining_ms = int((deadline_s - now_s()) * 1000)
        timeout_ms = min(max(remaining_ms, 0), WAIT_MS_PER_REQUEST_MAX)
        body = _body({"positions": dict(wanted), "timeout_ms": timeout_ms})
        try:
            yield from ask(Request("POST", f"{API}/positions/wait", (), body), positions_of_json)
        except NotYetMaterializedError:
            if now_s() >= deadline_s:
                raise
            yield Pause(RETRY_PAUSES_S[0])
        else:
            return


def purge_older_than(t: datetime) -> Exchange[int]:
    """POST /purge."""
    body = _body({"older_than": instant_text("t", t)})
    request = Request("POST", f"{API}/purge", (), body, repeatable=False)
    return ask(request, lambda found: int(found["purged"]))


def _runs(found: Object) -> list[SkillRun]:
    return [run_of_json(it) for it in found["runs"]]


def _states(found: Object) -> list[RunState]:
    return [state_of_json(it) for it in found["states"]]


def _last_runs(found: Object) -> dict[str, datetime]:
    return {str(skill): parse_time(at) for skill, at in found["last_runs"].items()}


def _parts(ids: Sequence[str]) -> list[list[str]]:
    once = storable(ids)
    return [once[i : i + IDS_PER_REQUEST_MAX] for i in range(0, len(once), IDS_PER_REQUEST_MAX)]


def _body(members: Object) -> bytes:
    try:
        return orjson.dumps(members)
    except TypeError as exc:
        raise InvalidRecordError(f"an argument can't be sent as JSON: {exc}") from exc
