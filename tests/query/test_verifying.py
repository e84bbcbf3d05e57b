"""Checks over HTTP: in the process that has the database, one at a time, stoppable, with the verifier's own policy."""

import asyncio
import contextlib
import json
import threading
import time
from dataclasses import replace

import httpx
import pytest
from tests.attacks.world import build, copy_of
from tests.support.records import MemoryRecords
from tests.support.waiting import until

from skillaudit.contract.errors import RejectedError, RunNotFoundError, UnreachableError
from skillaudit.contract.memory import MemoryStorage
from skillaudit.contract.settings import Settings
from skillaudit.proof.verify import Report, VerifyRequest, sentence
from skillaudit.proof.verify.engine import VerifyStoppedError
from skillaudit.proof.verify.wire import request_members
from skillaudit.proof.verify.witness import read_anchors
from skillaudit.query.checking import HttpVerifier
from skillaudit.query.server import HttpServer, create_app
from skillaudit.query.verifying import BusyError, Checks
from skillaudit.storage.records import OWNER, records_opener
from skillaudit.storage.verifying import verify

HERE = Settings(http_listen="127.0.0.1:0")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build(tmp_path_factory.mktemp("world"))


@pytest.fixture
def copy(world, tmp_path):
    with copy_of(world, tmp_path) as tampered:
        yield tampered


@contextlib.asynccontextmanager
async def served(copy, factory=None, records=None, checks=Checks):
    checks = checks(factory or copy.connection.cursor, records=records)
    async with (
        HttpServer(create_app(MemoryStorage(), checks=checks), HERE) as server,
        HttpVerifier(server.url) as http,
    ):
        yield http


async def test_a_check_over_http_says_what_one_here_says(world, copy):
    """The same report but for its time; keys and anchors went along with the request."""
    request = VerifyRequest(policy=world.policy, anchors=read_anchors(world.policy))
    async with served(copy) as http:
        report = await http.verify(request)
        assert (report.exit_code, report.grade, report.runs) == (0, "anchored", 36)
        copy.events("UPDATE {events} SET tag = 0 WHERE run_key = 5 AND sequence = 3")
        report = await http.verify(request)
        assert (report.exit_code, set(report.counts)) == (5, {"EVENT_ALTERED", "RUN_ABANDONED"})


async def test_records_are_read_by_who_has_the_database(world, copy):
    """The owner's reader, with its settings; the report names the cluster, and who read it."""
    copy.events("UPDATE {events} SET tag = tag + 1 WHERE run_key = 5 AND sequence = 3")
    request = VerifyRequest(against_kafka=True)
    read = MemoryRecords(world.topic.records, world.topic.ends)
    async with served(copy, records=lambda: read) as http:
        report = await http.verify(request)
    assert (report.kafka["by"], report.kafka["cluster"], report.kafka["violations"]) == (
        "a test",
        "attacks",
        1,
    )
    assert read.closed


@pytest.mark.parametrize(
    "records", [None, records_opener(Settings(), OWNER)], ids=["no reader", "no Kafka in its settings"]
)
async def test_an_owner_without_kafka_says_so(copy, records):
    """It is not checked in part, and nobody is told that all is well."""
    async with served(copy, records=records) as http:
        with pytest.raises(RejectedError, match="Kafka"):
            await http.verify(VerifyRequest(against_kafka=True))


class Earlier(Checks):
    """Of a release that passes over what it does not know."""

    def run(self, request, *args):
        return super().run(replace(request, against_kafka=False), *args)


async def test_an_owner_of_an_earlier_release_is_told(copy):
    """What was asked for and not done is a part that was not checked."""
    async with served(copy, checks=Earlier) as http:
        settings = Settings(url=http._connection.url)
        report = await verify(settings, VerifyRequest(against_kafka=True))
    assert (report.exit_code, "earlier release" in sentence(report.findings[0])) == (7, True)


async def test_an_unknown_run_is_not_found(copy):
    """As for any other reader: the error is the one a local check raises."""
    async with served(copy) as http:
        with pytest.raises(RunNotFoundError):
            await http.verify(VerifyRequest(run_id="nowhere"))


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"depth":"full"}'])
async def test_a_malformed_request_is_refused(copy, body):
    async with served(copy) as http, httpx.AsyncClient() as client:
        reply = await client.post(http._connection.url + "/api/v1/verify", content=body)
        assert reply.status_code == 400


SEALS = "TEMP TABLE seals"
"""In the statement before which `NUMBERING` is told."""
NUMBERING = {"what": "ledger: numbering", "done": 1, "of": 4}


class Paused:
    """A cursor factory; its cursors wait at one statement until they are let go."""

    def __init__(self, factory, statement):
        self._factory, self._statement = factory, statement
        self.go = threading.Event()

    def __call__(self):
        return _PausedCursor(self._factory(), self._statement, self.go)


class _PausedCursor:
    def __init__(self, cursor, statement, go):
        self._cursor, self._statement, self._go = cursor, statement, go

    def execute(self, asked, *parameters):
        if self._statement in getattr(asked, "query", asked):
            assert self._go.wait(30)
        self._cursor.execute(asked, *parameters)
        return self

    def __getattr__(self, name):
        return getattr(self._cursor, name)


class Held:
    """A cursor factory that waits until it is let go."""

    def __init__(self, factory):
        self._factory = factory
        self.asked, self.go = threading.Event(), threading.Event()

    def __call__(self):
        self.asked.set()
        assert self.go.wait(30)
        return self._factory()


async def test_how_far_it_is_comes_over_http_before_the_report(world, copy):
    """A line now and then, while it is at work: what, how many, of how many. The report is the last."""
    paused = Paused(copy.connection.cursor, SEALS)
    told = []

    def tell(what, done, of):
        told.append((what, done, of))
        if what == NUMBERING["what"]:
            paused.go.set()

    async with served(copy, paused) as http:
        report = await http.verify(VerifyRequest(), tell)
    assert (report.runs, tuple(NUMBERING.values()) in told) == (36, True)
    paused = Paused(copy.connection.cursor, SEALS)
    async with served(copy, paused) as http, httpx.AsyncClient() as client:
        body = request_members(VerifyRequest())
        async with client.stream("POST", http._connection.url + "/api/v1/verify", json=body) as reply:
            lines = []
            async for line in reply.aiter_lines():
                lines.append(json.loads(line))
                if lines[-1].get("progress") == NUMBERING:
                    paused.go.set()
    assert [set(line) for line in lines] == [{"progress"}] * (len(lines) - 1) + [{"report"}]
    assert NUMBERING in [line.get("progress") for line in lines]


async def test_one_check_at_a_time(copy):
    """A second one is told to come again; the first goes on."""
    held = Held(copy.connection.cursor)
    async with served(copy, held) as http:
        first = asyncio.create_task(http.verify(VerifyRequest()))
        await until(held.asked.is_set)
        with pytest.raises(UnreachableError, match="another check"):
            await http.verify(VerifyRequest())
        held.go.set()
        assert isinstance(await first, Report)
        assert isinstance(await http.verify(VerifyRequest()), Report)


async def test_leaving_stops_the_check_and_frees_the_place(copy):
    """A client that goes away costs nothing more."""
    checks = Checks(copy.connection.cursor)
    lines = checks.run(VerifyRequest())
    begun = asyncio.ensure_future(anext(lines))
    await asyncio.sleep(0)
    begun.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await begun
    await lines.aclose()
    async with contextlib.aclosing(checks.run(VerifyRequest())) as again:
        assert isinstance([line async for line in again][-1], Report)


async def test_a_stopped_check_never_says_ok(copy):
    """Told to stop, it raises: what was not looked at is not called proven."""
    from skillaudit.proof.verify import Verifier

    with contextlib.closing(copy.connection.cursor()) as cursor:
        verifier = Verifier(cursor, lambda *_: verifier.stop())
        with pytest.raises(VerifyStoppedError):
            verifier.check(VerifyRequest(), time.time_ns() // 1000)


async def test_busy_is_no_verdict(copy):
    """The error asks to come again; its exit code is that of a check that could not be made."""
    held = Held(copy.connection.cursor)
    checks = Checks(held)
    first = asyncio.ensure_future(anext(checks.run(VerifyRequest())))
    await until(held.asked.is_set)
    with pytest.raises(BusyError) as busy:
        await anext(checks.run(VerifyRequest()))
    assert busy.value.exit_code == 7
    held.go.set()
    await first


def test_the_request_is_plain_json(world):
    """Whatever language asks."""
    members = request_members(VerifyRequest(policy=world.policy, anchors=read_anchors(world.policy)))
    assert set(members) == {
        "run_id",
        "since_us",
        "until_us",
        "depth",
        "sample",
        "seed",
        "sealed_from",
        "content_from",
        "database",
        "unsettled",
        "against_kafka",
        "policy",
        "anchors",
        "control",
    }
