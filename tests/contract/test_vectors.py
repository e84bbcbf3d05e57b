"""The golden vectors are the specification of tags and heads: Python, DuckDB and Go agree on them, byte for byte."""

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

import duckdb
import orjson
import pytest

from skillaudit.contract import digests, events
from skillaudit.contract.records import RunStats, SkillRun
from skillaudit.contract.wire import RunFinished, RunLog, RunStarted, fast_log, parse_record

VECTORS = Path(__file__).parent.parent / "vectors"
CONTENT = json.loads((VECTORS / "digests.json").read_text(encoding="utf-8"))
RUNS, REDACTED = CONTENT["runs"], CONTENT["redacted"]
SQL = (VECTORS / "digests.sql").read_text(encoding="utf-8")


def by_name(run):
    return run["name"]


def parsed(run):
    """The run's events as the strict parser reads its records, each beside its vector."""
    return [(event, parse_record(event["record"].encode())) for event in run["events"]]


def header_and_body(run, event):
    """Header and body by `contract.digests`, from a parsed event."""
    if isinstance(event, RunStarted):
        header = digests.start_header(
            event.at_us, event.parent_run_id, event.skill_id, event.source_id, event.source_seq
        )
        values = (
            event.caller_id.encode(),
            event.channel_id.encode(),
            event.inputs_json,
            event.attributes_json,
        )
        fields = zip(digests.START_FIELDS, values, strict=True)
        return header, digests.fields_body(run["salt"], 0, fields)
    if isinstance(event, RunLog):
        return digests.log_header(event.seq, event.at_us, event.event_type), event.payload_json
    header = digests.finish_header(*(getattr(event, name) for name in FINISH_HEADER))
    fields = zip(digests.FINISH_FIELDS, (event.output.encode(), event.error.encode()), strict=True)
    return header, digests.fields_body(run["salt"], event.seq, fields)


FINISH_HEADER = (
    "seq",
    "at_us",
    "status",
    "tool_calls",
    "runtime_us",
    "input_tokens",
    "output_tokens",
    "thinking_tokens",
    "lost",
)


def test_the_file_is_what_its_generator_makes():
    """digests.json is current; the generator is independent of the project."""
    source = VECTORS / "make_digests.py"
    assert "import skillaudit" not in source.read_text(encoding="utf-8")
    spec = importlib.util.spec_from_file_location("make_digests", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.text() == (VECTORS / "digests.json").read_text(encoding="utf-8")


def test_the_vectors_cover_what_the_format_has():
    """Starts, logs, finishes, a child, a declared loss, a long run, texts beyond ASCII."""
    assert {run["name"] for run in RUNS} == {
        "ascii",
        "non-ascii",
        "empty",
        "awkward",
        "child",
        "lost",
        "long",
    }
    assert max(len(run["events"]) for run in RUNS) > 2 * digests._LINES_MAX
    assert [run["lost"] for run in RUNS if run["lost"]] == ["3-5,7,9-10"]


@pytest.mark.parametrize("run", RUNS, ids=by_name)
def test_python_computes_headers_bodies_digests_and_heads(run):
    """`contract.digests` gives the vectors' bytes, and each prefix's head both while it grows and looking ahead."""
    growing = digests.RunDigest(run["run_id"], run["salt"])
    for vector, event in parsed(run):
        header, body = header_and_body(run, event)
        assert header.decode() == vector["header"]
        assert body.decode() == vector["body"]
        assert digests.event_salt(run["salt"], event.seq).decode() == vector["salt"]
        digest = growing.digest(event.seq, header, body)
        assert digest == vector["digest"] == digests.event_digest(vector["salt"].encode(), header, body)
        assert event.tag == int(vector["tag"], 16) == int(digest[: digests.TAG_DIGITS], 16)
        lost = (growing.events, event.seq - 1) if growing.events < event.seq else None
        ahead = growing.head_with(header, digest, lost)
        if lost:
            growing.add_lost(*lost)
        growing.add(header, digest)
        assert growing.head() == ahead == vector["head"]
        assert growing.events == event.seq + 1
        if isinstance(event, RunFinished):
            assert event.head == ahead


@pytest.mark.parametrize("run", RUNS, ids=by_name)
def test_python_computes_each_redactable_field(run):
    """Salt and digest of each field of starts and finishes."""
    for vector in run["events"]:
        for field in vector["fields"]:
            salt = digests.field_salt(run["salt"], vector["seq"], field["name"])
            assert salt.decode() == field["salt"]
            value = field["value"].encode()
            assert digests.field_digest(salt, field["name"], value).decode() == field["digest"]


@pytest.mark.parametrize("run", RUNS, ids=by_name)
def test_the_encoders_make_the_vectors_records(run):
    """`contract.events` writes the records of the vectors, byte for byte."""
    for vector, event in parsed(run):
        assert encoded(event, vector["tag"]) == vector["record"].encode()


def encoded(event, tag):
    if isinstance(event, RunLog):
        names = orjson.dumps(event.run_id), orjson.dumps(event.event_type)
        return events.encode_log(
            names[0], event.seq, event.at_us, tag, names[1], event.payload_json, event.lost
        )
    common = {"at_us": event.at_us, "tag": tag, "source_id": event.source_id, "source_seq": event.source_seq}
    if isinstance(event, RunStarted):
        run = SkillRun(
            skill_id=event.skill_id,
            id=event.run_id,
            caller_id=event.caller_id,
            channel_id=event.channel_id,
            parent_run_id=event.parent_run_id,
        )
        identity = events.StartIdentity(**common, salt=event.salt, clock=event.clock)
        return events.encode_start(run, identity, event.inputs_json, event.attributes_json)
    stats = RunStats(
        status=event.status,
        output=event.output,
        error=event.error,
        tool_calls=event.tool_calls,
        runtime_seconds=event.runtime_us / 1_000_000,
        input_tokens=event.input_tokens,
        output_tokens=event.output_tokens,
        thinking_tokens=event.thinking_tokens,
    )
    identity = events.FinishIdentity(**common, seq=event.seq, head=event.head, lost=event.lost)
    return events.encode_finish(event.run_id, stats, identity)


@pytest.mark.parametrize("run", RUNS, ids=by_name)
def test_plain_logs_are_recognized_without_the_parser(run):
    """The fast path takes a Writer's logs with ASCII names and no loss, and nothing else of the vectors."""
    plain = run["name"] in {"ascii", "child", "long"}
    for vector, event in parsed(run):
        fast = fast_log(vector["record"].encode())
        before_loss = run["name"] == "lost" and isinstance(event, RunLog) and not event.lost
        assert fast == (event if isinstance(event, RunLog) and (plain or before_loss) else None)


def test_duckdb_alone_computes_digests_and_heads():
    """The SQL beside the vectors: `sha256`, `strlen` and `string_agg` are all a check in the engine needs."""
    rows = [sql_row(run, event) for run in RUNS for _, event in parsed(run)]
    expected = [
        (run["run_id"], v["seq"], v["header"], v["digest"], int(v["tag"], 16), v["head"])
        for run in sorted(RUNS, key=lambda run: run["run_id"].encode())
        for v in run["events"]
    ]
    assert by_sql(rows) == expected


def test_duckdb_alone_computes_what_was_redacted():
    """From the columns, digests and salts that are left: the same statement."""
    rows = [
        dict.fromkeys(SQL_COLUMNS)
        | event["stored"]
        | {"run_id": run["run_id"], "run_salt": None, "run_lost": run["lost"]}
        for run in REDACTED
        for event in run["events"]
    ]
    expected = [
        (run["run_id"], v["stored"]["seq"], v["header"], v["digest"], int(v["digest"][:16], 16), v["head"])
        for run in sorted(REDACTED, key=lambda run: run["run_id"].encode())
        for v in run["events"]
    ]
    assert by_sql(rows, REDACTED) == expected


def by_sql(rows, redacted=()):
    """What the SQL beside the vectors makes of rows of events, and of what was kept of redacted runs."""
    with duckdb.connect() as connection:
        types = ", ".join(f"{column} {TYPES.get(column, 'VARCHAR')}" for column in SQL_COLUMNS)
        connection.execute(f"CREATE TABLE events ({types})")
        connection.executemany(
            f"INSERT INTO events VALUES ({', '.join('?' for _ in SQL_COLUMNS)})",
            [[row[column] for column in SQL_COLUMNS] for row in rows],
        )
        for table, value in (("redactions", "digest"), ("run_salts", "salt")):
            connection.execute(
                f"CREATE TABLE {table} (run_id VARCHAR, seq BIGINT, field VARCHAR, {value} VARCHAR)"
            )
            for run in redacted:
                connection.executemany(
                    f"INSERT INTO {table} VALUES (?, ?, ?, ?)",
                    [[run["run_id"], it["seq"], it["field"], it[value]] for it in run[table]],
                )
        return connection.execute(SQL).fetchall()


@pytest.mark.parametrize("run", REDACTED, ids=by_name)
def test_python_computes_what_was_redacted(run):
    """By `contract.digests`: with the run's salt, as long as it was there; what is left of it says nothing of what is gone."""
    start, *_ = events_of = [parse_record(record.encode()) for record in run["records"]]
    growing = digests.RunDigest(run["run_id"], start.salt)
    gone = {(it["seq"], it["field"]): it["digest"] for it in run["redactions"]}
    salts = {(it["seq"], it["field"]): it["salt"] for it in run["run_salts"]}
    assert not gone.keys() & salts.keys()
    for vector, event in zip(run["events"], events_of, strict=True):
        header, body = header_and_body({"salt": start.salt}, event)
        digest = growing.digest(event.seq, header, body)
        assert (header.decode(), digest) == (vector["header"], vector["digest"])
        if growing.events < event.seq:
            growing.add_lost(growing.events, event.seq - 1)
        growing.add(header, digest)
        assert growing.head() == vector["head"]
        place = (event.seq, None)
        assert gone.get(place, digest) == digest
        assert salts.get(place, digests.event_salt(start.salt, event.seq).decode()) == (
            digests.event_salt(start.salt, event.seq).decode()
        )
    assert events_of[-1].head == growing.head()


TYPES = dict.fromkeys(
    (
        "seq",
        "at_us",
        "source_seq",
        "tool_calls",
        "runtime_us",
        "input_tokens",
        "output_tokens",
        "thinking_tokens",
    ),
    "BIGINT",
)


SQL_COLUMNS = (
    *(
        "kind",
        "run_id",
        "run_salt",
        "run_lost",
        "seq",
        "at_us",
        "parent_run_id",
        "skill_id",
        "source_id",
        "source_seq",
    ),
    *("caller_id", "channel_id", "event_type", "inputs", "attributes", "payload", "output", "error"),
    *FINISH_HEADER[2:],
)


def sql_row(run, event):
    """What the tables hold of an event; the members it doesn't have are NULL."""
    row = {"kind": {RunStarted: "start", RunLog: "log", RunFinished: "finish"}[type(event)]}
    row |= {"run_id": event.run_id, "run_salt": run["salt"], "run_lost": run["lost"]}
    row |= {"seq": event.seq, "at_us": event.at_us}
    for name in (
        "parent_run_id",
        "skill_id",
        "source_id",
        "source_seq",
        "caller_id",
        "channel_id",
        "event_type",
    ):
        row[name] = getattr(event, name, None)
    for name in ("inputs", "attributes", "payload"):
        value = getattr(event, f"{name}_json", None)
        row[name] = None if value is None else value.decode()
    for name in ("output", "error", *FINISH_HEADER[2:]):
        row[name] = getattr(event, name, None)
    return row


def test_a_go_program_agrees(tmp_path):
    """A verifier of Go's standard library, which reads nothing but the records, finds the same tags and heads."""
    go = shutil.which("go")
    if go is None:
        reason = "no `go` on PATH: the vectors were not checked by a foreign program"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    done = subprocess.run(
        [go, "run", str(VECTORS / "go" / "main.go"), str(VECTORS / "digests.json")],
        cwd=tmp_path,
        env=os.environ | {"GOTOOLCHAIN": "local", "GOFLAGS": "", "GO111MODULE": "off"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"checked {sum(len(run['events']) for run in RUNS + REDACTED)} events, 0 differ\n"
