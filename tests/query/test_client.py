"""Both clients: retries and their bounds, errors, sessions, secrets. The sync one against a real server."""

import asyncio
import inspect
from datetime import UTC, datetime

import httpx
import pytest

from skillaudit.contract.errors import (
    InvalidRecordError,
    NotYetMaterializedError,
    RetryableError,
    RunNotFoundError,
    SettingsError,
    UnreachableError,
)
from skillaudit.contract.memory import MemoryStorage
from skillaudit.contract.records import RunFilter, SkillRun
from skillaudit.contract.settings import Settings
from skillaudit.contract.storage import AuditReader, StorageAdmin
from skillaudit.contract.testing.support import at, log, record
from skillaudit.query import problems
from skillaudit.query.client import HttpReader, SyncHttpReader
from skillaudit.query.codec import SESSION_HEADER, run_json, session_token
from skillaudit.query.requests import ATTEMPTS_MAX, Pause, Request, wait_for
from skillaudit.query.server import HttpServer, create_app

URL = "http://localhost:8765"
RUN = SkillRun(skill_id="s", id="r")
OK = httpx.Response(200, content=run_json(RUN))


class Script:
    """A server that gives prepared answers, the last one for ever, and keeps the requests."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []

    def __call__(self, request):
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    def reader(self, **options):
        return HttpReader(URL, transport=httpx.MockTransport(self), **options)


def said(kind, detail="why"):
    found = problems.problem(kind, detail)
    return httpx.Response(found.status, content=found.json(), headers={"Content-Type": problems.MEDIA_TYPE})


def test_the_sync_client_has_the_same_methods():
    """The same names and parameters; no `async`."""
    for name, method in inspect.getmembers(HttpReader, inspect.iscoroutinefunction):
        if name.startswith("_") or name == "aclose":
            continue
        twin = getattr(SyncHttpReader, name)
        assert inspect.signature(twin) == inspect.signature(method)
        assert not inspect.iscoroutinefunction(twin)


def test_it_is_an_audit_reader_and_an_admin():
    """What `open_storage` composes."""
    reader = HttpReader(URL)
    assert isinstance(reader, AuditReader)
    assert isinstance(reader, StorageAdmin)


@pytest.mark.parametrize(
    "broken",
    [
        httpx.ConnectError("refused"),
        httpx.RemoteProtocolError("disconnected"),
        said(problems.NOT_READY),
        said(problems.RATE_LIMITED),
    ],
)
async def test_a_passing_trouble_is_not_seen(broken):
    """A restart, a rush: asked again, a little later."""
    script = Script(broken, broken, OK)
    async with script.reader() as reader:
        assert await reader.get_run("r") == RUN
    assert len(script.requests) == 3


async def test_attempts_are_bounded():
    """Then the caller hears of it, address and all."""
    script = Script(httpx.ConnectError("refused"))
    async with script.reader() as reader:
        with pytest.raises(UnreachableError, match="localhost:8765"):
            await reader.get_run("r")
    assert len(script.requests) == ATTEMPTS_MAX


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.ReadTimeout("slow"), UnreachableError),
        (said(problems.TIMED_OUT), RetryableError),
        (said(problems.NOT_YET), NotYetMaterializedError),
        (said(problems.UNAUTHORISED), SettingsError),
        (httpx.Response(200, content=b"<html>"), InvalidRecordError),
        (httpx.Response(302, headers={"Location": "http://evil.example"}), UnreachableError),
        (httpx.Response(502, content=b"<html>"), UnreachableError),
    ],
)
async def test_what_asking_again_would_not_change_is_not_asked_again(answer, error):
    """One request, and the error a caller can sort by."""
    script = Script(answer)
    async with script.reader() as reader:
        with pytest.raises(error):
            await reader.get_run("r")
    assert len(script.requests) == 1


async def test_a_purge_is_never_sent_twice():
    """A broken answer may mean that it was done; a refused connection can't."""
    script = Script(httpx.RemoteProtocolError("disconnected"))
    async with script.reader() as reader:
        with pytest.raises(UnreachableError):
            await reader.purge_older_than(at(0))
    assert len(script.requests) == 1
    script = Script(httpx.ConnectError("refused"), httpx.Response(200, content=b'{"purged":2}'))
    async with script.reader() as reader:
        assert await reader.purge_older_than(at(0)) == 2


async def test_the_token_is_sent_and_never_shown():
    """Not in texts, not in errors."""
    script = Script(OK)
    reader = script.reader(token="s3cret")
    async with reader:
        await reader.get_run("r")
    assert script.requests[0].headers["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in repr(reader)
    for client in (HttpReader, SyncHttpReader):
        with pytest.raises(SettingsError) as caught:
            client(URL, token="s3cret\nx")
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "localhost:8765", "ftp://x", "http://"])
def test_an_address_that_is_none_is_refused(url):
    """At once, naming the setting."""
    with pytest.raises(SettingsError, match="url"):
        HttpReader(url)


async def test_after_wait_for_reads_carry_the_positions():
    """The furthest of each partition; a session too large for a header does without."""
    waited = httpx.Response(200, content=b'{"positions":{}}')
    script = Script(waited, waited, OK)
    async with script.reader() as reader:
        await reader.wait_for({"t/0": 5, "t/1": 1}, 1)
        await reader.wait_for({"t/0": 3, "t/1": 2}, 1)
        await reader.get_run("r")
    assert script.requests[-1].headers[SESSION_HEADER] == session_token({"t/0": 5, "t/1": 2})
    script = Script(waited, OK)
    async with script.reader() as reader:
        await reader.wait_for({f"outbox/{n}": n for n in range(2_000)}, 1)
        await reader.get_run("r")
    assert SESSION_HEADER not in script.requests[-1].headers


def test_a_long_wait_is_several_requests():
    """Until its own time is over, whatever bound the server has."""
    now_s = iter([0.0, 0.0, 4.0, 4.0, 9.5, 9.5, 12.0])
    exchange = wait_for({"t/0": 1}, 10, lambda: next(now_s))
    waits = []
    for step in exchange:
        assert isinstance(step, Request)
        waits.append(step.body.partition(b"timeout_ms")[2])
        if len(waits) == 3:
            break
        assert isinstance(exchange.throw(NotYetMaterializedError("not yet")), Pause)
    assert waits == [b'":5000}', b'":5000}', b'":500}']
    with pytest.raises(NotYetMaterializedError):
        exchange.throw(NotYetMaterializedError("not yet"))


async def test_pages_that_changed_meanwhile_are_read_again():
    """An event that came in behind: the list is as of one moment, or there is none."""
    memory = MemoryStorage()
    await memory.start_run(SkillRun(skill_id="s", id="r"))
    for sequence in range(2, 1_502):
        await memory.append_log(log("r", sequence))

    class Late(httpx.ASGITransport):
        """Delivers event 1 between the first page and the second."""

        asked = 0

        async def handle_async_request(self, request):
            self.asked += 1
            if self.asked == 2:
                await memory.append_log(log("r", 1))
            return await super().handle_async_request(request)

    transport = Late(app=create_app(memory))
    async with HttpReader(URL, transport=transport) as reader:
        assert [event.sequence for event in await reader.list_logs_by_run("r")] == list(range(1, 1_502))
    assert transport.asked == 4


async def test_pages_that_never_stand_still_end_in_an_error():
    """Bounded."""
    script = Script(httpx.Response(200, content=b'{"preceding":1,"next":null,"events":[]}'))
    async with script.reader() as reader:
        with pytest.raises(RetryableError, match="keep changing"):
            await reader.list_logs_by_run("r")


async def test_no_ids_no_request():
    """`{}` without touching anything; many ids go in several requests."""
    script = Script(httpx.Response(200, content=b'{"last_runs":{},"states":[]}'))
    async with script.reader() as reader:
        assert await reader.last_run_by_skills([]) == {}
        assert await reader.list_run_states([]) == {}
        assert script.requests == []
        await reader.list_run_states([f"r{n}" for n in range(2_500)])
    assert len(script.requests) == 3


async def test_the_sync_client_reads_a_real_server():
    """Every method once, from a thread as a script would."""
    memory = MemoryStorage()
    top, child = SkillRun(skill_id="s", id="a/b", caller_id="c"), SkillRun(skill_id="s", parent_run_id="a/b")
    await record(memory, top, child, status="ok")
    await memory.append_log(log("a/b", 1))
    settings = Settings(http_listen="127.0.0.1:0")
    app = create_app(memory, purge=memory.purge_older_than, token="word", settings=settings)

    def use(url):
        with SyncHttpReader(url, token="word") as reader:
            assert reader.get_run("a/b").caller_id == "c"
            assert len(reader.list_logs_by_run("a/b")) == 1
            assert len(reader.list_runs_by_skill("s", 10)) == 2
            assert len(reader.list_runs_by_skill_paginated("s", 1, 10)) == 1
            assert reader.count_runs_by_skill("s") == 2
            assert len(reader.list_runs_by_caller("c", 10)) == 1
            assert len(reader.list_runs_filtered(RunFilter(status="ok"), 0, 10)) == 2
            assert reader.count_runs_filtered(RunFilter(top_level_only=True)) == 1
            assert [run.id for run in reader.list_children_by_parent("a/b")] == [child.id]
            assert [run.id for run in reader.walk_parent_chain(child.id)] == ["a/b", child.id]
            assert len(reader.list_finished_runs_before(datetime.now(UTC), 10)) == 2
            assert list(reader.last_run_by_skills(["s", "t"])) == ["s"]
            assert reader.get_run_state("a/b").events == 1
            assert len(reader.list_run_states(["a/b", child.id, "x"])) == 2
            assert reader.list_orphans(10) == []
            reader.wait_for(reader.positions(), 1)
            with pytest.raises(RunNotFoundError):
                reader.get_run("x")
            assert reader.purge_older_than(datetime.now(UTC)) == 2
        with SyncHttpReader(url) as stranger, pytest.raises(SettingsError):
            stranger.positions()

    async with HttpServer(app, settings) as server:
        await asyncio.to_thread(use, server.url)
    with SyncHttpReader(server.url) as late, pytest.raises(UnreachableError):
        await asyncio.to_thread(late.positions)
