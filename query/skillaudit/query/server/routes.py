"""The routes under /api/v1: arguments in, one call of the reader, prepared JSON out."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias
from urllib.parse import unquote, urlencode

import orjson
from fastapi import APIRouter, Depends, Path, Query, Response

from skillaudit.contract.records import RunState, SkillRun, SkillRunLog, list_limit
from skillaudit.query.codec import log_json, run_json, state_json, time_text
from skillaudit.query.paging import read_page
from skillaudit.query.problems import INVALID_FILTER, problem
from skillaudit.query.server import schemas
from skillaudit.query.server.cursors import cursor_of, offset_of
from skillaudit.query.server.replies import json_reply, listing
from skillaudit.query.server.surface import ProblemError, SurfaceOf, session

API: Final = "/api/v1"

router: Final = APIRouter(prefix=API, dependencies=[Depends(session)])
purging: Final = APIRouter(prefix=API)


def run_id_of(
    segment: Annotated[
        str, Path(alias="id", description="percent-encoded; `-` where `run_id` names the run")
    ],
    run_id: Annotated[str | None, Query(description="the id, where it can't be a segment of a path")] = None,
) -> str:
    """The run's id: the path arrives here as it was sent, since an id may hold slashes."""
    if run_id is not None:
        return run_id
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError as exc:
        raise ProblemError(problem(INVALID_FILTER, "the run id in the path is not UTF-8")) from exc


RunId: TypeAlias = Annotated[str, Depends(run_id_of)]


def answers(model: type[Any]) -> dict[int | str, dict[str, Any]]:
    """The published shape of a good answer."""
    return {200: {"model": model}}


@router.get("/runs", responses=answers(schemas.Runs), summary="Runs, newest first")
async def list_runs(query: Annotated[schemas.RunsQuery, Query()], surface: SurfaceOf) -> Response:
    """Newest first; ties by id, descending. `next` is null on the last page; `Link` holds the same as an address."""
    wanted = query.filter()
    head: dict[str, Any] = {"next": None}
    if query.count != "none":
        head["total"] = await surface.reader.count_runs_filtered(wanted)
    if query.count == "only":
        return _runs([], head)
    limit = list_limit(query.limit)
    offset = max(query.offset, 0) if query.cursor is None else offset_of(query.cursor, wanted)
    runs = await surface.reader.list_runs_filtered(wanted, offset, limit)
    if len(runs) < limit:
        return _runs(runs, head)
    head["next"] = cursor_of(wanted, offset + limit)
    return _runs(runs, head, {"Link": f'<?{_next_query(query, head["next"])}>; rel="next"'})


def _next_query(query: schemas.RunsQuery, cursor: str) -> str:
    given = query.model_dump(mode="json", exclude_unset=True, exclude={"offset", "cursor"})
    return urlencode({**given, "cursor": cursor})


@router.get("/runs/{id}", responses=answers(schemas.Run), summary="One run")
async def get_run(run_id: RunId, surface: SurfaceOf) -> Response:
    """The run; `not-found` where its start is not stored."""
    return json_reply(run_json(await surface.reader.get_run(run_id)))


@router.get("/runs/{id}/events", responses=answers(schemas.RunEvents), summary="Events of a run, by number")
async def list_events(
    segment: Annotated[str, Path(alias="id")],
    query: Annotated[schemas.EventsQuery, Query()],
    surface: SurfaceOf,
) -> Response:
    """A page of events. It may hold fewer than `limit` where payloads are large; follow `next` until it is null."""
    run_id = run_id_of(segment, query.run_id)
    page = await read_page(surface.reader, run_id, query.first, query.limit)

    def encode(log: SkillRunLog) -> bytes:
        return log_json(log, as_text=query.payload == "text")

    return listing("events", page.events, encode, {"preceding": page.preceding, "next": page.next})


@router.get("/runs/{id}/children", responses=answers(schemas.Runs), summary="Runs that this run started")
async def list_children(run_id: RunId, surface: SurfaceOf) -> Response:
    """All of them, oldest first."""
    return _runs(await surface.reader.list_children_by_parent(run_id))


@router.get("/runs/{id}/chain", responses=answers(schemas.Runs), summary="A run and its ancestors")
async def walk_chain(run_id: RunId, surface: SurfaceOf) -> Response:
    """Root first, the run itself last; at most 32."""
    return _runs(await surface.reader.walk_parent_chain(run_id))


@router.get("/runs/{id}/state", responses=answers(schemas.RunState), summary="Is its record whole?")
async def get_state(run_id: RunId, surface: SurfaceOf) -> Response:
    """Liveness, completeness and integrity; orphans and purged runs have a state, too."""
    return json_reply(state_json(await surface.reader.get_run_state(run_id)))


@router.post("/run-states", responses=answers(schemas.RunStates), summary="The states of many runs")
async def list_states(body: schemas.RunStatesBody, surface: SurfaceOf) -> Response:
    """Without those of which nothing is or was stored. A POST because of its many ids; it changes nothing."""
    states = await surface.reader.list_run_states(body.run_ids)
    return _states(list(states.values()))


@router.get("/orphans", responses=answers(schemas.RunStates), summary="Runs without a stored start")
async def list_orphans(query: Annotated[schemas.OrphansQuery, Query()], surface: SurfaceOf) -> Response:
    """Oldest first by arrival."""
    return _states(await surface.reader.list_orphans(query.limit))


@router.get("/finished-before", responses=answers(schemas.Runs), summary="Runs that finished before a time")
async def finished_before(
    query: Annotated[schemas.FinishedBeforeQuery, Query()], surface: SurfaceOf
) -> Response:
    """Oldest first."""
    return _runs(await surface.reader.list_finished_runs_before(query.cutoff, query.limit))


@router.post("/skills/last-runs", responses=answers(schemas.LastRuns), summary="When skills last ran")
async def last_runs(body: schemas.LastRunsBody, surface: SurfaceOf) -> Response:
    """Skill id -> newest start. A POST because of its many ids; it changes nothing."""
    found = await surface.reader.last_run_by_skills(body.skill_ids, body.include_failed)
    return json_reply(orjson.dumps({"last_runs": {skill: time_text(at) for skill, at in found.items()}}))


@router.get("/positions", responses=answers(schemas.Positions), summary="How far the database has consumed")
async def get_positions(surface: SurfaceOf) -> Response:
    """Partition -> next offset."""
    return _positions(await surface.reader.positions())


@router.post("/positions/wait", responses=answers(schemas.Positions), summary="Wait for positions")
async def wait_for_positions(body: schemas.WaitBody, surface: SurfaceOf) -> Response:
    """Answers once they are reached, `not-yet-materialised` after `timeout_ms` or the server's own bound."""
    await surface.reader.wait_for(body.positions, min(body.timeout_ms / 1000, surface.session_wait_s_max))
    return _positions(body.positions)


@purging.post("/purge", responses=answers(schemas.Purged), summary="Delete old runs")
async def purge(body: schemas.PurgeBody, surface: SurfaceOf) -> Response:
    """Deletes the runs that started strictly before `older_than`, and their events."""
    if surface.purge is None:
        raise RuntimeError("the route exists only where there is something to purge")
    return json_reply(orjson.dumps({"purged": await surface.purge(body.older_than)}))


def _runs(
    runs: list[SkillRun], head: dict[str, Any] | None = None, headers: dict[str, str] | None = None
) -> Response:
    return listing("runs", runs, run_json, {"next": None} if head is None else head, headers)


def _states(states: list[RunState]) -> Response:
    return listing("states", states, state_json)


def _positions(positions: dict[str, int]) -> Response:
    return json_reply(orjson.dumps({"positions": positions}))
