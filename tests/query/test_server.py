"""The routes and the gate in front of them, asked by a plain HTTP client as anybody might."""

from urllib.parse import quote

import orjson
import pytest
from prometheus_client import CollectorRegistry, Gauge
from tests.query.composed import DatabaseStorage
from tests.query.conftest import asgi_client

from skillaudit.contract.clock import from_us
from skillaudit.contract.errors import DatabaseError, QueryTimeoutError, SettingsError
from skillaudit.contract.memory import MemoryStorage
from skillaudit.contract.records import SkillRun, SkillRunLog
from skillaudit.contract.settings import Settings
from skillaudit.contract.testing.support import at, log, record
from skillaudit.query.access import allowed_hosts
from skillaudit.query.codec import SESSION_HEADER, session_token
from skillaudit.query.server import ReadyReport, create_app

HOSTILE_IDS = [
    "a/b",
    "a/events",
    "../../livez",
    "..",
    ".",
    "-",
    "%2F",
    "a%2fb",
    "a b+c&d=e?f#g;h",
    "\x00",
    "\r\nHost: evil",
    "ü\U0001f600",
    "\u202e\u2066",
    "x" * 512,
    "<script>",
    "'; DROP TABLE runs; --",
]


def problem(response, slug=None, status=None):
    """A valid problem (RFC 9457), of this type."""
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert isinstance(body["type"], str)
    assert isinstance(body["title"], str)
    assert body["title"]
    assert body["status"] == response.status_code >= 400
    if slug is not None:
        assert body["type"] == f"urn:skillaudit:problem:{slug}"
    if status is not None:
        assert response.status_code == status
    return body


@pytest.mark.parametrize("run_id", HOSTILE_IDS)
async def test_any_id_names_its_run(site, run_id):
    """Percent-encoded in the path; as a parameter where it can't be a segment. Never another route."""
    await site.memory.start_run(SkillRun(skill_id="s", id=run_id))
    await site.memory.append_log(log(run_id, 1))
    await site.memory.start_run(SkillRun(skill_id="s", id="child", parent_run_id=run_id))
    whole = run_id in (".", "..")
    path = "/api/v1/runs/" + ("-" if whole else quote(run_id, safe=""))
    named = {"run_id": run_id} if whole else None
    assert (await site.http.get(path, params=named)).json()["id"] == run_id
    events = (await site.http.get(path + "/events", params=named)).json()["events"]
    assert [(it["run_id"], it["sequence"]) for it in events] == [(run_id, 1)]
    children = (await site.http.get(path + "/children", params=named)).json()["runs"]
    assert [it["id"] for it in children] == ["child"]
    assert (await site.http.get(path + "/state", params=named)).json()["run_id"] == run_id
    assert (await site.http.get(path + "/chain", params=named)).json()["runs"][-1]["id"] == run_id


PAYLOAD = b'{ "b":1.0,\t"a":"\\u00e9\\/<script>","n":1E5 }'


async def test_a_payload_is_in_the_answer_byte_for_byte(site):
    """As an object the bytes stand in the body; as text a client gets them from a parser."""
    await site.memory.start_run(SkillRun(skill_id="s", id="r"))
    await site.memory.append_log(
        SkillRunLog.from_json(
            run_id="r", sequence=1, event_type="step", payload_json=PAYLOAD, created_at=from_us(1)
        )
    )
    body = (await site.http.get("/api/v1/runs/r/events")).content
    assert b'"payload":' + PAYLOAD + b"}" in body
    [event] = (await site.http.get("/api/v1/runs/r/events?payload=text")).json()["events"]
    assert event["payload_json"].encode() == PAYLOAD
    assert event["created_at"] == "1970-01-01T00:00:00.000001Z"


async def test_inputs_are_in_the_answer_byte_for_byte(database):
    """As the database holds them, whatever a parser would make of them."""
    async with DatabaseStorage(database) as storage, asgi_client(create_app(storage)) as http:
        await storage.start_run(SkillRun(skill_id="s", id="r"))
        await storage.get_run("r")
        cursor = database.cursor()
        cursor.execute("UPDATE store.runs SET inputs = ?", ['{"x" : 1.0, "y":"\\u00e9"}'])
        cursor.close()
        assert b'"inputs":{"x" : 1.0, "y":"\\u00e9"},' in (await http.get("/api/v1/runs/r")).content


async def test_events_are_paged(site):
    """By number, the next one named, null at the end."""
    await site.memory.start_run(SkillRun(skill_id="s", id="r"))
    for sequence in range(1, 8):
        await site.memory.append_log(log("r", sequence))
    seen, start = [], 0
    while start is not None:
        page = (await site.http.get("/api/v1/runs/r/events", params={"from": start, "limit": 3})).json()
        assert page["preceding"] == len(seen)
        seen += [it["sequence"] for it in page["events"]]
        start = page["next"]
    assert seen == list(range(1, 8))


async def test_lists_are_paged_by_cursor_and_link(site):
    """Following `next`, or the Link header, gives every run once."""
    await record(site.memory, *(SkillRun(skill_id="s", id=f"r{n}", started_at=at(n)) for n in range(5)))
    for follow in ("next", "link"):
        seen, url = [], "/api/v1/runs?skill=s&limit=2&count=exact"
        while url:
            reply = await site.http.get(url)
            page = reply.json()
            assert page["total"] == 5
            seen += [it["id"] for it in page["runs"]]
            if follow == "link":
                url = "/api/v1/runs" + reply.links["next"]["url"] if "next" in reply.links else None
            else:
                cursor = page["next"]
                url = cursor and f"/api/v1/runs?skill=s&limit=2&count=exact&cursor={cursor}"
        assert seen == ["r4", "r3", "r2", "r1", "r0"]


async def test_a_cursor_belongs_to_its_filters(site):
    """With others it would skip at random."""
    await record(site.memory, *(SkillRun(skill_id="s", id=f"r{n}") for n in range(3)))
    cursor = (await site.http.get("/api/v1/runs?skill=s&limit=2")).json()["next"]
    problem(await site.http.get(f"/api/v1/runs?skill=t&limit=2&cursor={cursor}"), "cursor-mismatch", 400)
    for other in ("x", "W10", "bnVsbA", "%C3%A9"):
        problem(await site.http.get(f"/api/v1/runs?cursor={other}"), "invalid-filter", 400)


async def test_an_empty_filter_matches_the_empty_string(site):
    """Who sends it asks for runs without a caller."""
    await record(site.memory, SkillRun(skill_id="s", id="none"), SkillRun(skill_id="s", caller_id="c"))
    found = (await site.http.get("/api/v1/runs?caller=")).json()["runs"]
    assert [it["id"] for it in found] == ["none"]


@pytest.mark.parametrize(
    "query",
    [
        "skil=x",
        "since=yesterday",
        "since=2026-01-01T00:00:00",
        "since=1700000000",
        "offset=x",
        "limit=1.5",
        "offset=99999999999999999999",
        "top_level=maybe",
        "count=all",
    ],
)
async def test_a_query_that_cannot_be_meant_is_refused(site, query):
    """Ignoring it would answer another question. The answer names the parameter."""
    body = problem(await site.http.get(f"/api/v1/runs?{query}"), "invalid-filter", 400)
    assert query.partition("=")[0] in body["detail"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("purge", b"{}"),
        ("purge", b""),
        ("purge", b"{"),
        ("purge", b'{"older_than":"2026-01-01"}'),
        ("purge", b'{"older_than":"2026-01-01T00:00:00Z","dry":true}'),
        ("run-states", b'{"run_ids":[1]}'),
        ("run-states", orjson.dumps({"run_ids": ["x"] * 1001})),
        ("skills/last-runs", b"[]"),
        ("positions/wait", b'{"positions":{"a":1.5}}'),
        ("positions/wait", b"\xff"),
    ],
)
async def test_a_body_that_cannot_be_meant_is_refused(site, path, body):
    """And nothing is done."""
    headers = {"Content-Type": "application/json"}
    reply = await site.http.post(f"/api/v1/{path}", content=body, headers=headers)
    problem(reply, "invalid-body", 400)


async def test_a_body_that_is_not_said_to_be_json_is_refused(site):
    """A page elsewhere can send text without asking; it must not purge."""
    content = b'{"older_than":"2026-01-01T00:00:00Z"}'
    problem(await site.http.post("/api/v1/purge", content=content, headers={"Content-Type": "text/plain"}))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("GET", "/docs", 404),
        ("GET", "/api/v1", 404),
        ("GET", "/api/v1/runs/", 404),
        ("DELETE", "/api/v1/runs", 405),
        ("PUT", "/api/v1/purge", 405),
        ("GET", "/api/v1/purge", 405),
    ],
)
async def test_what_is_not_there_is_a_problem_too(site, method, path, status):
    """`about:blank`: the status says all."""
    assert problem(await site.http.request(method, path), status=status)["type"] == "about:blank"


async def test_an_unknown_run_is_not_found(site):
    """Its id travels."""
    for what in ("", "/state", "/chain"):
        body = problem(await site.http.get(f"/api/v1/runs/a%2Fb{what}"), "not-found", 404)
        assert body["run_id"] == "a/b"
    assert (await site.http.get("/api/v1/runs/a%2Fb/events")).json()["events"] == []
    problem(await site.http.get("/api/v1/runs/%ff"), "invalid-filter", 400)


async def test_a_server_without_purge_has_no_such_route():
    """Reading replicas and files."""
    async with asgi_client(create_app(MemoryStorage())) as http:
        body = {"older_than": "2026-01-01T00:00:00Z"}
        problem(await http.post("/api/v1/purge", json=body), status=404)


async def test_purge(site):
    """Answers how many."""
    await record(
        site.memory, SkillRun(skill_id="s", started_at=at(0)), SkillRun(skill_id="s", started_at=at(9))
    )
    reply = await site.http.post("/api/v1/purge", json={"older_than": "2025-06-01T12:00:05Z"})
    assert reply.json() == {"purged": 1}


async def test_a_session_token_makes_a_read_wait(site):
    """Reached: answered. Not reached within the server's bound: a problem that says so. Garbage: refused."""
    here = await site.memory.positions()
    beyond = {name: offset + 1 for name, offset in here.items()}
    ask = {"url": "/api/v1/runs"}
    assert (await site.http.get(**ask, headers={SESSION_HEADER: session_token(here)})).is_success
    problem(
        await site.http.get(**ask, headers={SESSION_HEADER: session_token(beyond)}),
        "not-yet-materialised",
        503,
    )
    problem(await site.http.get(**ask, headers={SESSION_HEADER: "?"}), "invalid-filter", 400)


class Failing(MemoryStorage):
    """A reader of which every read fails in one way."""

    def __init__(self, exc):
        super().__init__()
        self.exc = exc

    async def get_run(self, run_id):
        raise self.exc


@pytest.mark.parametrize(
    ("exc", "slug", "status"),
    [
        (QueryTimeoutError("slow"), "query-timeout", 503),
        (DatabaseError("disk full"), "database-error", 500),
        (ZeroDivisionError("secret of the stack"), None, 500),
    ],
)
async def test_failures_are_problems(exc, slug, status):
    """A bug's text stays in the log."""
    async with asgi_client(create_app(Failing(exc))) as http:
        reply = await http.get("/api/v1/runs/r")
        problem(reply, slug, status)
        assert "secret" not in reply.text


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "", "[::2]:1"]
)
async def test_another_name_is_refused(site, host):
    """A page whose name resolves to this machine (DNS rebinding) sends its own name."""
    problem(await site.http.get("/api/v1/runs", headers={"Host": host}), "forbidden-host", 403)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8765", "[::1]:8765", "[::1]"])
async def test_loopbacks_names_are_served(site, host):
    """With any port: tunnels change it."""
    assert (await site.http.get("/api/v1/runs", headers={"Host": host})).is_success


async def test_names_can_be_allowed():
    """Those of the settings, or any."""
    settings = Settings(http_listen="10.0.0.7:80", http_allow_hosts="Audit.Example, other")
    assert allowed_hosts(settings) >= {"localhost", "10.0.0.7", "audit.example", "other"}
    async with asgi_client(create_app(MemoryStorage(), allow_hosts=allowed_hosts(settings))) as http:
        assert (await http.get("/livez", headers={"Host": "audit.example"})).is_success
        problem(await http.get("/livez", headers={"Host": "evil"}), "forbidden-host")
    async with asgi_client(create_app(MemoryStorage(), allow_hosts=["*"])) as http:
        assert (await http.get("/livez", headers={"Host": "evil"})).is_success


async def test_a_token_is_asked_for_everywhere_but_by_the_probes():
    """Bearer, and exactly this one."""
    async with asgi_client(create_app(MemoryStorage(), token="right")) as http:
        for path in ("/api/v1/runs", "/metrics", "/openapi.json", "/nope"):
            refused = await http.get(path)
            problem(refused, "unauthorised", 401)
            assert refused.headers["www-authenticate"] == "Bearer"
        for wrong in ("Bearer wrong", "Bearer", "right", "Basic right", "Bearer right2", "Bearer é".encode()):
            problem(await http.get("/api/v1/runs", headers={"Authorization": wrong}), "unauthorised")
        assert (await http.get("/api/v1/runs", headers={"Authorization": "bearer right"})).is_success
        for path in ("/livez", "/readyz"):
            assert (await http.get(path)).is_success


@pytest.mark.parametrize("token", ["", "two words", "é", "line\nbreak"])
def test_a_token_is_one_word(token):
    """Else no header could carry it."""
    with pytest.raises(SettingsError):
        create_app(MemoryStorage(), token=token)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1"])
async def test_a_foreign_page_cannot_post(site, origin):
    """Its browser says where it comes from."""
    body = {"older_than": "2026-01-01T00:00:00Z"}
    problem(await site.http.post("/api/v1/purge", json=body, headers={"Origin": origin}), status=403)
    own = {"Origin": "http://localhost:8765"}
    assert (await site.http.post("/api/v1/purge", json=body, headers=own)).is_success


async def test_requests_are_bounded():
    """With a length said, and without."""

    async def chunks():
        for _ in range(100):
            yield b" " * 100

    async with asgi_client(create_app(MemoryStorage(), request_bytes_max=1_000)) as http:
        json = {"Content-Type": "application/json"}
        for content in (b" " * 1_001, chunks()):
            reply = await http.post("/api/v1/run-states", content=content, headers=json)
            problem(reply, "too-large", 413)


async def test_too_many_requests_at_once_are_told_to_come_again():
    """Bounded: none would do."""
    async with asgi_client(create_app(MemoryStorage(), requests_max=0)) as http:
        reply = await http.get("/api/v1/runs")
        problem(reply, "rate-limited", 503)
        assert reply.headers["retry-after"] == "1"


async def test_head_is_get_without_the_body(site):
    """For supervisors and link checkers."""
    for path in ("/livez", "/api/v1/runs", "/nope"):
        get, head = await site.http.get(path), await site.http.head(path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["content-length"] == str(len(get.content))


async def test_every_answer_carries_the_headers_of_safety(site):
    """Refusals, too."""
    for reply in (
        await site.http.get("/api/v1/runs"),
        await site.http.get("/nope"),
        await site.http.get("/livez", headers={"Host": "evil"}),
    ):
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]
        assert reply.headers["cache-control"] == "no-store"


async def test_health_and_readiness():
    """Alive tells whose database it is; not ready tells why."""
    report = ReadyReport()
    app = create_app(MemoryStorage(), ready=lambda: report, database_id="d")
    async with asgi_client(app) as http:
        assert (await http.get("/livez")).json() == {"status": "alive", "database": "d"}
        assert (await http.get("/readyz")).json() == {"status": "ready"}
        report = ReadyReport(ready=False, reasons=("no partitions", "lag 7 s"))
        body = problem(await http.get("/readyz"), "not-ready", 503)
        assert body["reasons"] == ["no partitions", "lag 7 s"]
        assert (await http.get("/livez")).is_success


async def test_metrics_show_the_whole_registry():
    """The process's own, and the requests by route: never by id."""
    registry = CollectorRegistry()
    Gauge("backlog", "of the test", registry=registry).set(3)
    async with asgi_client(create_app(MemoryStorage(), registry=registry)) as http:
        await http.get("/api/v1/runs/secret-id")
        await http.get("/nope/secret-id")
        text = (await http.get("/metrics")).text
        assert "backlog 3.0" in text
        assert (
            'skillaudit_http_requests_total{method="GET",route="/api/v1/runs/{id}",status="404"} 1.0' in text
        )
        assert "secret-id" not in text


async def test_a_large_answer_is_streamed_whole(site):
    """In pieces, without a length; the JSON is one."""
    runs = [
        SkillRun(skill_id="s", id=f"r{n}", inputs={"x": "y" * 20_000}, started_at=at(n)) for n in range(100)
    ]
    await record(site.memory, *runs)
    reply = await site.http.get("/api/v1/runs?limit=100")
    assert "content-length" not in reply.headers
    assert [it["id"] for it in reply.json()["runs"]] == [run.id for run in reversed(runs)]


async def test_the_description_is_published(site):
    """OpenAPI 3.1: every operation names its answer, and a problem for what fails."""
    found = (await site.http.get("/openapi.json")).json()
    assert found["openapi"].startswith("3.1")
    operations = [it for methods in found["paths"].values() for it in methods.values()]
    assert len(operations) == 16
    for operation in operations:
        assert "application/problem+json" in operation["responses"]["default"]["content"]
        assert "422" not in operation["responses"]
    assert "HTTPValidationError" not in found["components"]["schemas"]
    assert {"Run", "RunState", "Problem", "Positions"} <= set(found["components"]["schemas"])
