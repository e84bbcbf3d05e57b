"""`DuckDBReader` beyond the conformance suite: bytes, pages, orphans and purged runs, colliding hashes, large runs."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from skillaudit.consumer.database import open_database
from skillaudit.contract.clock import from_us
from skillaudit.contract.errors import InvalidRecordError, NotYetMaterializedError, RunNotFoundError
from skillaudit.contract.records import Completeness, RunFilter, SkillRun, SkillRunLog
from skillaudit.contract.testing.support import at, log, record
from skillaudit.query import reading
from skillaudit.query.paging import read_page
from skillaudit.query.reading import DuckDBReader

ROW_HASH = 7


def insert_run(database, run_key, run_id, *, started_us=0, run_hash=ROW_HASH, **members):
    """A row of store.runs, whatever other columns it has."""
    insert(
        database,
        "runs",
        run_key=run_key,
        id=run_id,
        run_hash=run_hash,
        started_at=from_us(started_us),
        **members,
    )


def insert(database, table, **members):
    """A row with a neutral value in every column that is not named."""
    cursor = database.cursor()
    try:
        columns = cursor.execute(
            "SELECT column_name, data_type, is_nullable FROM duckdb_columns()"
            " WHERE schema_name = 'store' AND table_name = ?",
            [table],
        ).fetchall()
        neutral = {"VARCHAR": "", "BOOLEAN": False, "TIMESTAMP WITH TIME ZONE": from_us(0)}
        row = {name: None if nullable else neutral.get(kind, 0) for name, kind, nullable in columns}
        row |= {"inputs": "{}", "attributes": "{}"} if "inputs" in row else {}
        row |= members
        places = ", ".join(f"${name}" for name in row)
        cursor.execute(f"INSERT INTO store.{table} ({', '.join(row)}) VALUES ({places})", row)
    finally:
        cursor.close()


async def test_recorded_json_keeps_its_bytes(storage):
    """Payloads byte for byte in `payload_json`; inputs and attributes byte for byte beside the parsed object."""
    payload = b'{"b" : 1.0,"a":"\\u00e9\\/","n":123456789012345678,"e":1E5}'
    await storage.start_run(SkillRun(skill_id="s", id="r", inputs={"z": 1, "a": "é"}))
    await storage.append_log(
        SkillRunLog.from_json(
            run_id="r", sequence=1, event_type="step", payload_json=payload, created_at=from_us(1)
        )
    )
    [event] = await storage.list_logs_by_run("r")
    assert event.payload_json == payload
    assert event.payload == {"b": 1.0, "a": "é/", "n": 123456789012345678, "e": 1e5}
    assert (await storage.get_run("r")).inputs.json == '{"z":1,"a":"é"}'.encode()


async def test_a_collision_of_hashes_finds_the_right_run(database, storage):
    """Two ids with one hash: the id decides."""
    hashed = reading.hash_of("b")
    for key, run_id in enumerate(("a", "b", "c")):
        insert_run(database, key, run_id, run_hash=hashed, skill_id=run_id)
    assert (await storage.get_run("b")).skill_id == "b"


async def test_the_first_to_arrive_answers_where_topics_share_an_id(database, storage):
    """Several topics are several namespaces; without a topic the oldest arrival is meant."""
    hashed = reading.hash_of("r")
    for key, topic in enumerate(("first", "second")):
        insert_run(database, key, "r", run_hash=hashed, topic=topic, skill_id=topic)
    assert (await storage.get_run("r")).skill_id == "first"


ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=4)
rows = st.dictionaries(ids, st.integers(0, 3), max_size=40)


@given(rows, st.integers(1, 7))
@hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_pages_never_overlap(tmp_path_factory, runs, size):
    """Whatever ids and ties there are, the pages are the list, newest first, ties by id descending."""
    expected = sorted(((started, run_id) for run_id, started in runs.items()), reverse=True)
    with open_database(tmp_path_factory.mktemp("pages") / "audit.duckdb") as database:
        for key, (run_id, started) in enumerate(runs.items()):
            insert_run(database, key, run_id, started_us=started, status="ok")
        async with DuckDBReader(database.cursor) as reader:
            paged = []
            for offset in range(0, len(runs) + size, size):
                paged += await reader.list_runs_filtered(RunFilter(), offset, size)
    assert [run.id for run in paged] == [run_id for _, run_id in expected]


async def test_pages_of_events_are_the_list(storage):
    """By number, by bytes, from anywhere; `preceding` counts what comes before."""
    await storage.start_run(SkillRun(skill_id="s", id="r"))
    for sequence in (2, 3, 5, 8, 13):
        await storage.append_log(log("r", sequence))
    whole = await storage.list_logs_by_run("r")
    first = await read_page(storage, "r", None, 2)
    assert (list(first.events), first.preceding, first.next) == (whole[:2], 0, 5)
    second = await read_page(storage, "r", first.next, 2)
    assert (list(second.events), second.preceding, second.next) == (whole[2:4], 2, 13)
    last = await read_page(storage, "r", 9, 2)
    assert (list(last.events), last.preceding, last.next) == (whole[4:], 4, None)
    small = await read_page(storage, "r", None, 2, bytes_max=1)
    assert (list(small.events), small.next) == (whole[:1], 3)
    assert (await read_page(storage, "unknown", None, 2)).events == ()


async def test_orphans_have_events_and_a_state(storage):
    """In order of arrival; no run, but what is stored of them can be read."""
    for run_id in ("o2", "o1"):
        await storage.append_log(log(run_id, 1))
    assert [state.run_id for state in await storage.list_orphans(10)] == ["o2", "o1"]
    assert [state.run_id for state in await storage.list_orphans(1)] == ["o2"]
    assert len(await storage.list_logs_by_run("o1")) == 1
    assert (await storage.get_run_state("o1")).events == 1
    with pytest.raises(RunNotFoundError):
        await storage.get_run("o1")


async def test_a_purged_run_reads_purged(database, storage):
    """From its tombstone: the run is gone, not unknown."""
    insert(
        database,
        "tombstones",
        run_key=1,
        id="gone",
        run_hash=reading.hash_of("gone"),
        liveness="finished",
        missing="2-3",
    )
    state = await storage.get_run_state("gone")
    assert (state.completeness, state.missing) == (Completeness.PURGED, ((2, 3),))


@pytest.mark.parametrize("run_id", ["", "\ud800", "a" * 10_000])
async def test_ids_that_cannot_be_stored_are_not_found(storage, run_id):
    """Asked for, they are unknown like any other."""
    for read in (storage.get_run, storage.get_run_state, storage.walk_parent_chain):
        with pytest.raises(RunNotFoundError):
            await read(run_id)
    assert await storage.list_logs_by_run(run_id) == []
    assert await storage.list_children_by_parent(run_id) == []
    assert await storage.last_run_by_skills([run_id]) == {}


async def test_arguments_that_cannot_be_meant_are_refused(storage):
    """A time without a zone, text that is no Unicode."""
    naive = datetime(2026, 1, 1)  # noqa: DTZ001  the point of the test
    for wanted in (RunFilter(since=naive), RunFilter(until=naive), RunFilter(skill_id="\ud800")):
        with pytest.raises(InvalidRecordError):
            await storage.list_runs_filtered(wanted, 0, 1)
    with pytest.raises(InvalidRecordError, match="cutoff"):
        await storage.list_finished_runs_before(naive, 1)


async def test_a_sessions_time_zone_changes_nothing(database, storage):
    """Times travel as microseconds, whatever a cursor's zone is."""
    await record(storage, SkillRun(skill_id="s", id="r", started_at=at(us=1)), status="ok")
    await storage.get_run("r")  # what was written is in the database now

    def elsewhere():
        cursor = database.cursor()
        cursor.execute("SET TimeZone = 'Asia/Kolkata'")
        return cursor

    async with DuckDBReader(elsewhere) as reader:
        assert (await reader.get_run("r")).started_at == at(us=1)
        wanted = RunFilter(since=at(us=1).astimezone(UTC), until=at(us=2))
        assert await reader.count_runs_filtered(wanted) == 1


async def test_wait_for_returns_when_positions_are_reached(storage):
    """A partition nobody knows counts as at 0."""
    await storage.start_run(SkillRun(skill_id="s"))
    await storage.wait_for({storage.PARTITION: 1}, 1)
    await storage.wait_for({"unknown/0": 0}, 0)
    with pytest.raises(NotYetMaterializedError, match="outbox/"):
        await storage.wait_for({storage.PARTITION: 2}, 0.05)


async def test_the_consumers_own_wait_is_used_where_there_is_one(database):
    """It is woken by commits; the database is not asked."""
    asked = []

    async def wait(positions, timeout_s):
        asked.append((dict(positions), timeout_s))

    async with DuckDBReader(database.cursor, positions_wait=wait) as reader:
        await reader.wait_for({"t/0": 9}, 2)
    assert asked == [({"t/0": 9}, 2)]


async def test_a_large_run_is_read_whole(database, storage):
    """100,000 events, in order; generously bounded here, measured elsewhere."""
    await storage.start_run(SkillRun(skill_id="s", id="large"))
    await storage.get_run("large")
    cursor = database.cursor()
    cursor.execute(
        "INSERT INTO store.events_sealed BY NAME SELECT (SELECT run_key FROM main.runs WHERE id = 'large') AS run_key,"
        " i AS sequence, 'step' AS event_type, make_timestamptz(i) AS created_at, 0 AS tag,"
        " '{\"n\":' || i || ',\"content\":\"' || repeat('x', 400) || '\"}' AS payload FROM range(1, 100001) t(i)"
    )
    cursor.close()
    begun = time.perf_counter()
    logs = await storage.list_logs_by_run("large")
    assert time.perf_counter() - begun < 20
    assert [event.sequence for event in logs] == list(range(1, 100_001))
    assert logs[-1].payload["n"] == 100_000


async def test_finished_before_has_no_upper_bound(storage):
    """Unlike other lists."""
    for number in range(60):
        await record(storage, SkillRun(skill_id="s", id=f"r{number}"), status="ok")
    later = datetime.now(UTC) + timedelta(days=1)
    assert len(await storage.list_finished_runs_before(later, 1 << 70)) == 60
