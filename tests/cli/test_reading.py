"""`runs`, `show`, `outbox status`, `settings`: data on stdout and nothing else, JSON where it is asked for."""

import json

import pytest
from tests.cli.conftest import STEPS

from skillaudit.producer import Sink, SkillRun


def listed(command, *words, **options):
    said = command("runs", "--json", *words, **options)
    assert said.code == 0, said.err
    return [run["id"] for run in json.loads(said.out)["runs"]]


def test_runs(command, recorded):
    """Newest first, a line each, the count on stderr; dry runs only when they are asked for."""
    said = command("runs")
    rows = [line.split()[0] for line in said.out.splitlines()]
    newest_first = [recorded.long, recorded.failed, recorded.child, recorded.parent, recorded.bare]
    assert (said.code, rows) == (0, ["id", *newest_first])
    assert said.err == "5 of 5 runs\n"
    assert recorded.dry in command("runs", "--dry-runs").out


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("--status", "error"), ["failed"]),
        (("--status", "dry_run"), ["dry"]),
        (("--skill", "support"), ["parent"]),
        (("--caller", "u-1"), ["parent"]),
        (("--top-level", "--since", "1h"), ["long", "failed", "parent"]),
        (("--until", "2021-01-01"), ["bare"]),
        (("--limit", "1", "--offset", "1"), ["failed"]),
        (("--skill", "nobody's"), []),
    ],
)
def test_filters(command, recorded, words, names):
    """Each option is the filter's member of its name."""
    assert listed(command, *words) == [getattr(recorded, name) for name in names]


def test_what_a_run_says_as_json(command, recorded):
    """The record's own names, and what the record says of itself."""
    [run] = json.loads(command("runs", "--json", "--skill", "bare").out)["runs"]
    assert (run["id"], run["status"], run["finished_at"]) == (recorded.bare, "running", None)
    assert (run["started_at"], run["state"]["completeness"]) == ("2020-01-01T00:00:00.000000Z", "unproven")


def test_show(command, recorded):
    """What the run was, then its events in order."""
    said = command("show", recorded.parent)
    assert (said.code, said.err) == (0, "")
    for text in ("complete", "finished", "because", '{"q":"why?"}', "3 in, 2 out, 0 thinking"):
        assert text in said.out
    events = said.out[said.out.index("event ") :].splitlines()[1:]
    assert [line.split()[:2] for line in events] == [["1", "step"], ["2", "tool_call"], ["3", "tool_result"]]


def test_show_a_child(command, recorded):
    """With its ancestors."""
    assert recorded.parent in command("show", recorded.child).out


def test_show_as_json(command, recorded):
    """The run and the whole of its events."""
    said = command("show", recorded.parent, "--json")
    shown = json.loads(said.out)
    assert (said.code, said.err) == (0, "")
    assert shown["run"]["id"] == recorded.parent
    assert [event["sequence"] for event in shown["events"]] == [1, 2, 3]
    assert shown["events"][2]["payload"] | {"call_id": ""} == {
        "name": "search",
        "content": "found",
        "call_id": "",
    }


def test_show_some_events_whole(command, recorded):
    """`--events` chooses, `--payloads` prints the bytes as recorded, a line each."""
    said = command("show", recorded.long, "--events", "7-8", "--payloads")
    payloads = [json.loads(line) for line in said.out.splitlines() if line.startswith("{")]
    assert [payload["content"].split()[0] for payload in payloads] == ["6", "7"]
    [only] = json.loads(command("show", recorded.long, "--events", str(STEPS), "--json").out)["events"]
    assert only["sequence"] == STEPS


def test_outbox_status(command, recorded):
    """Sources that wait or live; the finished ones on demand; whose outbox it is on stderr."""
    settings = recorded.settings
    said = command("outbox", "status")
    assert (said.code, len(said.out.splitlines())) == (0, 1)
    assert f"{settings.outbox_dir}: " in said.err
    assert "0 records waiting" in said.err


def test_outbox_status_of_a_living_process(command, recorded, tmp_path):
    """Its backlog, and that nobody reads it."""
    settings = type(recorded.settings)(data=tmp_path, outbox_free_bytes_min=0)
    with Sink.from_settings(settings, flush_timeout_ms=0) as sink:
        run = sink.start_run(SkillRun(skill_id="s"))
        run.step("waits")
        [source] = json.loads(command("outbox", "status", "--json", settings=settings).out)["sources"]
        assert (source["backlog_records"], source["is_read"], source["trouble"]) == (3, False, "")
        row = command("outbox", "status", settings=settings).out.splitlines()[1]
        assert row.split()[0] == source["source_id"]


def test_settings(command, recorded):
    """Each with its value and the variable that sets it."""
    said = command("settings")
    values = json.loads(command("settings", "--json").out)
    assert values["data"] == str(recorded.settings.data)
    assert {line.split()[-1] for line in said.out.splitlines()[1:]} == {
        f"SKILLAUDIT_{n.upper()}" for n in values
    }


@pytest.mark.parametrize("words", [("settings",), ("settings", "--json")], ids=" ".join)
def test_secrets_are_not_printed(command, words):
    """That one is set is all that is told."""
    said = command(*words, SKILLAUDIT_KAFKA_SASL_PASSWORD="hunter2")
    assert "(set)" in said.out
    assert "hunter2" not in said.out + said.err


def test_topics_print(command, recorded):
    """Commands of Kafka's own tool, one a line; no broker is asked."""
    said = command("topics", "--print", "--replication", "3", "--kafka", "kafka.internal:9092")
    lines = said.out.splitlines()
    assert (said.code, said.err, len(lines)) == (0, "", 3)
    assert all(
        line.startswith("kafka-topics.sh --bootstrap-server kafka.internal:9092 --create") for line in lines
    )
    assert "min.insync.replicas=2" in lines[0]


def test_dead_letters_of_a_clean_database(command):
    """None."""
    said = command("dead-letters", "list", "--json")
    assert (said.code, json.loads(said.out)) == (0, [])


READERS = [
    ("runs",),
    ("show", "FAILED"),
    ("show", "FAILED", "--payloads"),
    ("outbox", "status", "--all"),
    ("settings",),
    ("topics", "--print"),
    ("dead-letters", "list"),
    ("--help",),
    ("runs", "--help"),
]


@pytest.mark.parametrize("words", READERS, ids=" ".join)
def test_no_escape_codes_where_nobody_looks(command, recorded, words):
    """Neither the command's own nor the record's: what agents recorded never reaches a terminal as control."""
    said = command(*(recorded.failed if word == "FAILED" else word for word in words))
    assert said.code == 0
    assert "\x1b" not in said.out + said.err


def test_payloads_read_as_json(command, recorded):
    """What was recorded as an object is shown as one, not in the spelling of a programming language."""
    assert 'arguments={"q": "why"}' in command("show", recorded.parent).out


def test_events_that_a_run_does_not_have(command, recorded):
    """An empty table says why it is."""
    said = command("show", recorded.child, "--events", "7-9")
    assert (said.code, said.err) == (0, "skillaudit: the run has none of these events; it has 1 event\n")


def test_an_outbox_that_is_not_there(command, recorded, tmp_path):
    """Told as such; it is no error, and none is made."""
    settings = type(recorded.settings)(data=tmp_path / "data")
    said = command("outbox", "status", settings=settings)
    assert (said.code, "there is no outbox at" in said.err) == (0, True)
    assert not (tmp_path / "data").exists()


def test_a_page_that_may_not_be_all(command, recorded):
    """A list that ends at its limit says how to see more."""
    assert command("runs", "--limit", "1").err == "1 of 5 runs\n"
    assert command("runs", "--limit", "1", "--skill", "bare").err == "1 of 1 run\n"


def test_all_of_no_dead_letters(command):
    """A job that replays what waits has nothing to complain of where nothing does."""
    said = command("dead-letters", "replay", "--all")
    assert (said.code, said.out) == (0, "0 replayed, 0 still malformed\n")
