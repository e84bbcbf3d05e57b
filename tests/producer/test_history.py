"""Import of recorded trajectories: deterministic, resumable, nothing lost, the bad ones refused by name."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.producer.support import ListLog, check_run
from tests.producer.test_messages import MESSAGES, leaves

from skillaudit.contract.clock import to_us
from skillaudit.contract.errors import LockedError, OutboxFullError, RejectedError
from skillaudit.contract.eventlog import RecordKind
from skillaudit.contract.memory import MemoryStorage
from skillaudit.contract.outbox.reader import SourceReader, iter_lines
from skillaudit.contract.records import Completeness
from skillaudit.contract.settings import Settings
from skillaudit.contract.wire import parse_record
from skillaudit.producer import Sink
from skillaudit.producer.history import import_file
from skillaudit.producer.outbox import OutboxLog
from skillaudit.producer.trajectories import Entry, read_entries

USER = {"role": "user", "content": "q"}
ASSISTANT = {
    "role": "assistant",
    "content": "a",
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}],
}
TOOL = {"role": "tool", "tool_call_id": "c1", "name": "f", "content": "r"}
LAST = {"role": "assistant", "content": "done"}
CONVERSATION = [
    {"role": "system", "content": "be good"},
    USER,
    ASSISTANT,
    TOOL,
    LAST,
    {"role": "user", "content": "###STOP###"},
]
AT = datetime(2024, 5, 1, tzinfo=UTC)


@pytest.fixture
def data(tmp_path):
    return Settings(data=tmp_path / "data", outbox_free_bytes_min=0)


def write(tmp_path, content, name="runs.json"):
    path = tmp_path / name
    if not isinstance(content, bytes):
        content = json.dumps(content).encode()
    path.write_bytes(content)
    return path


def stored(settings, source_id):
    with SourceReader(settings.outbox_dir / source_id, 0) as reader:
        return [line.record for line in iter_lines(reader)]


def runs_of(records):
    """Run -> its records."""
    result = {}
    for record in records:
        event = orjson.loads(record)
        if "run_id" in event:
            result.setdefault(event["run_id"], []).append(record)
    return result


def test_a_trajectory_becomes_a_run(tmp_path, data):
    """What came before the first answer is the run's inputs; the rest its events; what came after, and every other
    member, its attributes; the last answer its output.
    """
    path = write(tmp_path, [{"task_id": 7, "reward": 1.0, "info": {"deep": [1]}, "traj": CONVERSATION}])
    report = import_file(path, data, at=AT)
    assert (report.runs, report.events, report.appended, report.refused) == (1, 4, 8, ())
    records = stored(data, report.source_id)
    assert [orjson.loads(r)["type"] for r in records] == [
        "source.opened", "run.started", "run.log", "run.log", "run.log", "run.log", "run.finished", "source.closed",
    ]  # fmt: skip
    (run,) = runs_of(records).values()
    check_run(run)
    start, *logs, finish = (parse_record(record) for record in run)
    assert (start.skill_id, start.source_seq, start.at_us, start.clock) == ("runs", 1, to_us(AT), "import")
    assert orjson.loads(start.inputs_json) == {"messages": CONVERSATION[:2]}
    assert orjson.loads(start.attributes_json) == {
        "task_id": 7, "reward": 1.0, "info": {"deep": [1]}, "messages_after": CONVERSATION[-1:],
    }  # fmt: skip
    assert [(log.event_type, orjson.loads(log.payload_json)) for log in logs] == [
        ("step", {"content": "a"}),
        ("tool_call", {"name": "f", "call_id": "c1", "arguments": {"x": 1}}),
        ("tool_result", {"name": "f", "call_id": "c1", "content": "r"}),
        ("step", {"content": "done"}),
    ]
    assert (finish.status, finish.output, finish.tool_calls) == ("ok", "done", 1)


def test_a_second_import_changes_nothing(tmp_path, data):
    """Also under another name and with another --at: the file's content counts, and what was fixed at first."""
    path = write(tmp_path, [{"traj": CONVERSATION}, {"traj": CONVERSATION, "n": 2}, {"traj": CONVERSATION}])
    first = import_file(path, data)
    records = stored(data, first.source_id)
    again = import_file(write(tmp_path, path.read_bytes(), "copy.json"), data, at=AT)
    assert (again.source_id, again.runs, again.events, again.appended) == (first.source_id, 3, 12, 0)
    assert stored(data, first.source_id) == records
    assert len(runs_of(records)) == 3, "the same trajectory twice in a file is two runs"


async def test_a_second_import_into_a_log_repeats_exact_duplicates(tmp_path, data):
    """Same bytes, so that readers drop them: no conflict, every run complete; also against what the outbox got."""
    path = write(tmp_path, [{"traj": CONVERSATION}, {"traj": CONVERSATION}])
    report = import_file(path, data)
    log, storage = ListLog(), MemoryStorage()
    for target in (log, storage):
        with Sink(target, settings=data) as sink:
            import_file(path, sink)
            import_file(path, sink)
    records = stored(data, report.source_id)
    assert log.records == records + records
    for run_id in runs_of(records):
        state = await storage.get_run_state(run_id)
        assert (state.completeness, state.conflicts) == (Completeness.COMPLETE, 0)


@pytest.mark.parametrize("cut", range(1, 18))
def test_an_interrupted_import_goes_on(tmp_path, data, cut):
    """Whichever record was the last one taken, the source holds in the end what one import would have written."""
    content = [{"traj": CONVERSATION}, {"traj": CONVERSATION[:3]}, {"traj": CONVERSATION}]
    path = write(tmp_path, content)
    whole = Settings(data=tmp_path / "other", outbox_free_bytes_min=0)
    whole_key, key = whole.data / "imports" / "key", data.data / "imports" / "key"
    report = import_file(path, whole, at=AT)
    key.parent.mkdir(parents=True)
    key.write_bytes(whole_key.read_bytes())
    leave_behind(data, report.source_id, stored(whole, report.source_id)[:cut])
    again = import_file(path, data, at=AT)
    assert stored(data, again.source_id) == stored(whole, report.source_id)
    assert (again.runs, again.events) == (report.runs, report.events)
    assert 0 < again.appended < report.appended


def leave_behind(settings, source_id, records):
    """A source as an import that was killed leaves it."""
    log = OutboxLog(settings, source_id=source_id)
    for record in records:
        log.append("", record, RecordKind.RESERVED, wait_ms=0)
    log.close(0)


def test_a_full_outbox_interrupts_and_the_import_goes_on(tmp_path, data):
    """OutboxFullError names what to do; with room again, importing again adds the rest."""
    path = write(tmp_path, [{"traj": [USER, {"role": "assistant", "content": "x" * 300_000}]}] * 6)
    small = Settings(
        data=data.data,
        outbox_free_bytes_min=0,
        outbox_bytes_max=1 << 20,
        outbox_block_ms_max=0,
        segment_bytes=1 << 20,
    )
    with pytest.raises(OutboxFullError):
        import_file(path, small, block_ms_max=0)
    report = import_file(path, data)
    records = stored(data, report.source_id)
    assert 0 < report.appended < len(records)
    for run in runs_of(records).values():
        check_run(run)
    assert report.runs == len(runs_of(records)) == 6


FORMS = {
    "a list": json.dumps([{"traj": CONVERSATION}, {"traj": CONVERSATION}]),
    "a list on many lines": json.dumps([{"traj": CONVERSATION}, {"traj": CONVERSATION}], indent=2),
    "lines": "\n".join(json.dumps({"messages": CONVERSATION}) for _ in range(2)),
    "lines with blanks": "\n\n".join(json.dumps({"messages": CONVERSATION}) for _ in range(2)) + "\r\n \n",
    "lines of bare lists": "\n".join(json.dumps(CONVERSATION) for _ in range(2)),
    "a list of bare lists": json.dumps([CONVERSATION, CONVERSATION]),
    "with a mark of order": "\ufeff" + json.dumps([{"trajectory": CONVERSATION}] * 2),
}


@pytest.mark.parametrize("form", FORMS)
def test_files_come_in_several_forms(tmp_path, data, form):
    """The same trajectories, however they are written down."""
    report = import_file(write(tmp_path, FORMS[form].encode()), data)
    assert (report.runs, report.events, report.refused) == (2, 8, ())


@pytest.mark.parametrize("content", [{"messages": CONVERSATION}, CONVERSATION])
@pytest.mark.parametrize("indent", [None, 2])
def test_one_trajectory_alone(tmp_path, data, content, indent):
    """An object, or a bare list of messages, is one run."""
    report = import_file(write(tmp_path, json.dumps(content, indent=indent).encode()), data)
    assert (report.runs, report.events, report.refused) == (1, 4, ())


def test_shared_conversations(tmp_path, data):
    """`{"from", "value"}` is read in chat messages' words."""
    conversation = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    report = import_file(write(tmp_path, [{"conversations": conversation}]), data)
    start, step, finish = (parse_record(r) for r in stored(data, report.source_id)[1:-1])
    assert orjson.loads(start.inputs_json) == {"messages": [USER]}
    assert (orjson.loads(step.payload_json), finish.output) == ({"content": "a"}, "a")


def test_what_a_trajectory_says_of_its_run(tmp_path, data):
    """skill, caller, channel, status, error, output, usage and times."""
    messages = [
        {**USER, "timestamp": 1_714_600_000},
        {
            **LAST,
            "timestamp": 1_714_600_001_500,
            "model": "m",
            "usage": {"prompt_tokens": 3, "completion_tokens": 4},
        },
        {**TOOL, "timestamp": "2024-05-01T21:46:43Z"},
    ]
    entry = {
        "skill_id": "s", "user_id": "u", "channel_id": "ch", "status": "budget_exceeded", "error": "too long",
        "output": {"n": 1}, "finished_at": "2024-05-01T23:46:50+02:00", "messages": messages,
    }  # fmt: skip
    report = import_file(write(tmp_path, [entry]), data)
    start, step, result, finish = (parse_record(r) for r in stored(data, report.source_id)[1:-1])
    assert (start.skill_id, start.caller_id, start.channel_id) == ("s", "u", "ch")
    assert [e.at_us - 1_714_600_000_000_000 for e in (start, step, result, finish)] == [
        0,
        1_500_000,
        3_000_000,
        10_000_000,
    ]
    assert (finish.status, finish.error, finish.output) == ("budget_exceeded", "too long", '{"n":1}')
    assert (finish.input_tokens, finish.output_tokens, finish.runtime_us) == (3, 4, 10_000_000)
    assert orjson.loads(step.payload_json)["model"] == "m"


def test_without_times_the_files_own_counts_at_its_first_import(tmp_path, data):
    """Kept beside the key: touching the file changes nothing."""
    path = write(tmp_path, [{"traj": CONVERSATION}])
    os.utime(path, ns=(0, 1_600_000_000_123_456_000))
    report = import_file(path, data)
    assert {parse_record(r).at_us for r in stored(data, report.source_id)} == {1_600_000_000_123_456}
    key = data.data / "imports" / "key"
    assert key.stat().st_mode & 0o777 == 0o600
    os.utime(path, ns=(0, 1_700_000_000_000_000_000))
    log = ListLog()
    with Sink(log, settings=data) as sink:
        import_file(path, sink)
    assert log.records == stored(data, report.source_id)


BAD = [
    (b'{"messages": [', "not JSON"),
    (b"7", "neither an object nor a list"),
    (b'{"no": 1}', "no list of messages"),
    (b'{"messages": [3]}', "message 0 is no object"),
    (b'{"messages": [{"content": "x"}]}', "message 0 has no role"),
    (b'{"messages": [{"role": "assistant", "tool_calls": [3]}]}', "message 0"),
    (b'{"messages": [], "messages": []}', "a member stands twice"),
    (b'{"messages": [], "x": "\xff"}', "not UTF-8"),
    (b'{"messages": [], "status": "running"}', "status"),
    (b'{"messages": [], "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    (b'{"messages": [], "x": "' + b"x" * (12 << 20) + b'"}', "record_bytes_max"),
    (b'{"messages": [{"role": "assistant", "content": "' + b"x" * (12 << 20) + b'"}]}', "record_bytes_max"),
]


def test_bad_trajectories_are_refused_by_name(tmp_path, data):
    """Index and reason; the others go in, numbered without gaps, so that no run counts as missing."""
    good = json.dumps({"messages": CONVERSATION}).encode()
    lines = [good]
    for bad, _ in BAD:
        lines += [bad, good]
    report = import_file(write(tmp_path, b"\n".join(lines)), data)
    assert [(r.index, reason in r.reason) for r, (_, reason) in zip(report.refused, BAD, strict=True)] == [
        (2 * n + 1, True) for n in range(len(BAD))
    ]
    assert report.refused_count == len(BAD)
    starts = [parse_record(r) for r in stored(data, report.source_id) if b"run.started" in r]
    assert [start.source_seq for start in starts] == list(range(1, len(BAD) + 2))
    again = import_file(tmp_path / "runs.json", data)
    assert (again.refused, again.appended) == (report.refused, 0)


@pytest.mark.parametrize("content", [b"", b" \n ", b"[]", b"[ ]\n"])
def test_a_file_of_nothing(tmp_path, data, content):
    """No runs, nothing refused, nothing on the disk."""
    report = import_file(write(tmp_path, content), data)
    assert (report.runs, report.events, report.appended, report.refused_count) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("content", "runs", "reason"),
    [
        (json.dumps([{"traj": CONVERSATION}] * 2).encode()[:-200], 1, "cut off"),
        (json.dumps([{"traj": CONVERSATION}] * 2).encode() + b" x", 2, "follows the list"),
        (b"nonsense", 0, "not JSON"),
    ],
)
def test_a_broken_file_gives_what_it_has(tmp_path, data, content, runs, reason):
    """What can be read goes in; the rest is one refusal."""
    report = import_file(write(tmp_path, content), data)
    assert report.runs == runs
    assert reason in report.refused[0].reason
    for run in runs_of(stored(data, report.source_id) if runs else []).values():
        check_run(run)


def test_a_disabled_sink_is_no_target(tmp_path):
    """There is nowhere to import to, and that is said."""
    with pytest.raises(RejectedError, match="disabled"):
        import_file(write(tmp_path, [{"traj": []}]), Sink(None, settings=Settings(data=tmp_path)))


def test_two_imports_of_one_file_at_a_time(tmp_path, data):
    """The second one is refused as long as the first holds the source."""
    path = write(tmp_path, [{"traj": CONVERSATION}] * 3)
    refused = []

    def progress(done, size):
        with pytest.raises(LockedError):
            import_file(path, data)
        refused.append(done)

    import_file(path, data, progress=progress)
    assert len(refused) == 3
    assert refused[-1] <= path.stat().st_size


def test_a_sinks_mask_counts(tmp_path, data):
    """The mask and the encoding of the Sink apply to what is imported."""

    def mask(value, *, field, event_type, skill_id):
        assert skill_id == "runs"
        return "***" if field in ("output", "error") else {"masked": field}

    log = ListLog()
    with Sink(log, settings=data, mask=mask) as sink:
        import_file(write(tmp_path, [{"traj": CONVERSATION}]), sink)
    assert b"###STOP###" not in b"".join(log.records)
    assert b'"output":"***"' in b"".join(log.records)


@settings(max_examples=50, deadline=None)
@given(st.lists(MESSAGES, max_size=4))
def test_nothing_of_a_file_is_lost(tmp_path_factory, conversations):
    """Every text of every message stands in its run: inputs, payloads or attributes; check by the oracle."""
    tmp_path = tmp_path_factory.mktemp("import")
    log = ListLog()
    with Sink(log, settings=Settings(data=tmp_path)) as sink:
        report = import_file(write(tmp_path, [{"messages": c} for c in conversations]), sink)
    assert (report.runs, report.refused) == (len(conversations), ())
    for conversation, run in zip(conversations, runs_of(log.records).values(), strict=True):
        check_run(run)
        events = [orjson.loads(record) for record in run]
        there = leaves([[e.get(name) for name in ("inputs", "attributes", "payload")] for e in events])
        assert {m["content"] for m in conversation} <= set(there)
        kinds = [e.get("event_type") for e in events]
        assert kinds.count("step") == sum(m["role"] == "assistant" for m in conversation)


def test_a_second_import_tells_what_the_first_left_waiting(tmp_path, data):
    """It appends nothing, and does not call acknowledged what no broker has."""
    away = replace(data, kafka_bootstrap_servers="127.0.0.1:1", forwarder="none", flush_timeout_ms=0)
    path = write(tmp_path, [CONVERSATION])
    first, second = import_file(path, away), import_file(path, away)
    assert (first.flush.pending, second.appended) == (first.appended, 0)
    assert (second.flush.pending, second.flush.acknowledged) == (first.appended, 0)


def test_an_interrupted_import_keeps_its_skill(tmp_path, data):
    """Going on under another name of file or skill changes no record: half a run of each would fit no digest."""

    class InterruptedImportError(Exception):
        pass

    def interrupt(_done, _size):
        raise InterruptedImportError

    entries = [[*CONVERSATION, {"role": "user", "content": str(n)}] for n in range(3)]
    with pytest.raises(InterruptedImportError):
        import_file(write(tmp_path, entries, "a.json"), data, progress=interrupt)
    report = import_file(write(tmp_path, entries, "b.json"), data, skill_id="other")
    starts = [json.loads(r) for r in stored(data, report.source_id) if b'"run.started"' in r]
    assert [s["skill_id"] for s in starts] == ["a", "a", "a"]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.lists(JSON_VALUES, max_size=6), st.sampled_from([None, 0, 3]), st.booleans())
def test_the_elements_of_a_list_are_found(tmp_path_factory, values, indent, ascii_only):
    """Whatever brackets, quotes and escapes they hold: the same as a parser of the whole finds."""
    path = tmp_path_factory.mktemp("scan") / "list.json"
    path.write_text(
        json.dumps([{"messages": values}, *values], indent=indent, ensure_ascii=ascii_only), encoding="utf-8"
    )
    entries = list(read_entries(Path(path)))
    assert all(isinstance(entry, Entry) for entry in entries)
    assert [json.loads(entry.data) for entry in entries] == [{"messages": values}, *values]
    assert [entry.index for entry in entries] == list(range(len(values) + 1))
