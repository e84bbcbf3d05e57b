"""One record of each type and form, made by the encoders of `contract.events`."""

from datetime import UTC, datetime

import orjson

from skillaudit.contract import events
from skillaudit.contract.records import RunStats, SkillRun, SkillRunLog

AT = 1_763_800_000_000_000
HEX = "0123456789abcdef" * 4
RUN = SkillRun(
    skill_id="support",
    id="run-1",
    caller_id="u-42",
    channel_id="web",
    parent_run_id="run-0",
    inputs={"q": "é", "n": [1, 2.5, None]},
    attributes={"inputs": {"attributes": {}}},
)
STATS = RunStats(
    status="ok",
    output="done",
    error="",
    tool_calls=2,
    runtime_seconds=1.5,
    input_tokens=3,
    output_tokens=4,
    thinking_tokens=5,
)
COUNTS = events.SourceCounts(
    runs_started=3,
    runs_finished=1,
    open=[
        events.OpenRun(run_id="run-1", source_seq=1, events=4, head=HEX),
        events.OpenRun(run_id="run-2", source_seq=2, events=1, head=HEX),
    ],
    backlog_records=7,
    backlog_bytes=900,
    oldest_us=AT - 5,
    refused=1,
    lost=2,
)
PAYLOAD = b'{"name":"search","content":"caf\xc3\xa9","is_error":false}'


def started():
    identity = events.StartIdentity(
        at_us=AT, tag=HEX[:16], salt=HEX[:32], source_id=HEX[:32], source_seq=7, clock="boottime"
    )
    return events.encode_start(RUN, identity, orjson.dumps(RUN.inputs), orjson.dumps(RUN.attributes))


def log(payload=PAYLOAD, lost="", run_id="run-1", seq=3, event_type="tool_result"):
    return events.encode_log(orjson.dumps(run_id), seq, AT, HEX[:16], orjson.dumps(event_type), payload, lost)


def finished(lost=""):
    identity = events.FinishIdentity(
        seq=9, at_us=AT, tag=HEX[:16], source_id=HEX[:32], source_seq=7, head=HEX, lost=lost
    )
    return events.encode_finish("run-1", STATS, identity)


def bare_log():
    entry = SkillRunLog(
        run_id="run-1",
        sequence=4,
        event_type="step",
        payload=orjson.loads(PAYLOAD),
        created_at=datetime.now(UTC),
        payload_json=PAYLOAD,
    )
    return events.encode_storage_log(entry, AT, "call-1")


RECORDS = {
    "start": started(),
    "log": log(),
    "log after a loss": log(lost="1-2"),
    "finish": finished("5-7"),
    "refused": events.encode_refused("run-1", 4, AT, HEX[:16], "too large", 99),
    "bare start": events.encode_storage_start(RUN, AT, "call-1"),
    "bare log": bare_log(),
    "bare finish": events.encode_storage_finish("run-1", STATS, AT, "call-1"),
    "opened": events.encode_source_opened(HEX[:32], AT, "host", 12, "boot", "boottime", "0.1.0"),
    "heartbeat": events.encode_heartbeat(HEX[:32], AT, 1, COUNTS),
    "closed": events.encode_source_closed(HEX[:32], AT, "adopter", COUNTS),
}
