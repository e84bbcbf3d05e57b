"""Encoding events: the exact bytes that go into the outbox and into Kafka. Version 1 of the format.

One JSON object per record, UTF-8, fixed member order, no white space. `payload` is a log's last member, so that a
reader slices its bytes where the plain prefix ends. The members of each type, in order (those in brackets optional):

    run.started     v type run_id seq at_us tag skill_id caller_id channel_id parent_run_id salt source_id source_seq
                    clock inputs attributes
    run.log         v type run_id seq at_us tag event_type [lost] payload
    run.finished    v type run_id seq at_us tag status output error tool_calls runtime_us input_tokens output_tokens
                    thinking_tokens events source_id source_seq head lost
    run.refused     v type run_id seq at_us tag reason bytes        (takes the place of a record the broker refuses)
    source.opened   v type source_id at_us host pid boot_id version clock
    source.heartbeat v type source_id at_us beat runs_started runs_finished open backlog_records backlog_bytes
                    oldest_us refused lost
    source.closed   v type source_id at_us by runs_started runs_finished open

A bare Storage's writes have no tag and carry `by: "storage"` and a `call_id` (UUIDv7) in its place:

    run.started     v type run_id at_us by call_id skill_id caller_id channel_id parent_run_id inputs attributes
    run.log         v type run_id seq at_us by call_id event_type payload
    run.finished    v type run_id at_us by call_id status output error tool_calls runtime_us input_tokens output_tokens
                    thinking_tokens

`open` lists `{"run_id", "source_seq", "events", "head"}`; `events` counts the start. `lost` is a list of inclusive
ranges as text, `"5-7,9"`, empty where nothing was lost. The key of a record is its run_id, or its source_id.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from skillaudit.contract.records import RunStats, SkillRun, SkillRunLog

FORMAT_VERSION: Final = 1

STARTED: Final = "run.started"
LOG: Final = "run.log"
FINISHED: Final = "run.finished"
REFUSED: Final = "run.refused"
SOURCE_OPENED: Final = "source.opened"
SOURCE_HEARTBEAT: Final = "source.heartbeat"
SOURCE_CLOSED: Final = "source.closed"

RUN_ID_BYTES_MAX: Final = 512
"""Bytes of UTF-8 in a run id at most: it is a Kafka key and part of every record."""

HEARTBEAT_RUNS_MAX: Final = 1_000
"""Open runs that one heartbeat lists at most; the others take their turn."""


def json_string(text: str) -> bytes:
    """A JSON string of `text`; raises `TypeError` for lone surrogates."""
    return orjson.dumps(text)


def encode_log(
    run_id_json: bytes, seq: int, at_us: int, tag: str, event_type_json: bytes, payload: bytes, lost: str = ""
) -> bytes:
    """A `run.log`. `run_id_json` and `event_type_json` are JSON strings, `payload` a JSON object's bytes."""
    declared = b'"lost":"%b",' % lost.encode() if lost else b""
    return (
        b'{"v":1,"type":"run.log","run_id":%b,"seq":%d,"at_us":%d,"tag":"%b","event_type":%b,%b"payload":%b}'
        % (
            run_id_json,
            seq,
            at_us,
            tag.encode(),
            event_type_json,
            declared,
            payload,
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StartIdentity:
    """What a Writer's start carries beside the run's own fields."""

    at_us: int
    tag: str
    salt: str
    source_id: str
    source_seq: int
    clock: str


def encode_start(run: SkillRun, identity: StartIdentity, inputs: bytes, attributes: bytes) -> bytes:
    """A Writer's `run.started`; `inputs` and `attributes` are JSON objects' bytes."""
    return _object(
        ("v", FORMAT_VERSION),
        ("type", STARTED),
        ("run_id", run.id),
        ("seq", 0),
        ("at_us", identity.at_us),
        ("tag", identity.tag),
        ("skill_id", run.skill_id),
        ("caller_id", run.caller_id),
        ("channel_id", run.channel_id),
        ("parent_run_id", run.parent_run_id),
        ("salt", identity.salt),
        ("source_id", identity.source_id),
        ("source_seq", identity.source_seq),
        ("clock", identity.clock),
        ("inputs", orjson.Fragment(inputs)),
        ("attributes", orjson.Fragment(attributes)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishIdentity:
    """What a Writer's finish carries beside the stats."""

    seq: int
    at_us: int
    tag: str
    source_id: str
    source_seq: int
    head: str
    lost: str


def encode_finish(run_id: str, stats: RunStats, identity: FinishIdentity) -> bytes:
    """A Writer's `run.finished`."""
    return _object(
        ("v", FORMAT_VERSION),
        ("type", FINISHED),
        ("run_id", run_id),
        ("seq", identity.seq),
        ("at_us", identity.at_us),
        ("tag", identity.tag),
        *_stats(stats),
        ("events", identity.seq + 1),
        ("source_id", identity.source_id),
        ("source_seq", identity.source_seq),
        ("head", identity.head),
        ("lost", identity.lost),
    )


def encode_refused(run_id: str, seq: int, at_us: int, tag: str, reason: str, size_bytes: int) -> bytes:
    """What takes the place of a record that the broker refuses for good: same run, number and tag, no content."""
    return _object(
        ("v", FORMAT_VERSION),
        ("type", REFUSED),
        ("run_id", run_id),
        ("seq", seq),
        ("at_us", at_us),
        ("tag", tag),
        ("reason", reason),
        ("bytes", size_bytes),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRun:
    """An open run as a heartbeat lists it: `events` counts the start, `head` is the head through them."""

    run_id: str
    source_seq: int
    events: int
    head: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCounts:
    """What a heartbeat says of its source, in one consistent moment."""

    runs_started: int
    runs_finished: int
    open: Sequence[OpenRun] = ()
    backlog_records: int = 0
    backlog_bytes: int = 0
    oldest_us: int = 0
    refused: int = 0
    lost: int = 0


def encode_source_opened(
    source_id: str, at_us: int, host: str, pid: int, boot_id: str, clock: str, version: str
) -> bytes:
    """A `source.opened`."""
    return _object(
        ("v", FORMAT_VERSION),
        ("type", SOURCE_OPENED),
        ("source_id", source_id),
        ("at_us", at_us),
        ("host", host),
        ("pid", pid),
        ("boot_id", boot_id),
        ("version", version),
        ("clock", clock),
    )


def encode_heartbeat(source_id: str, at_us: int, beat: int, counts: SourceCounts) -> bytes:
    """A `source.heartbeat`; `beat` numbers them 1, 2, 3 ... within the source."""
    return _object(
        ("v", FORMAT_VERSION),
        ("type", SOURCE_HEARTBEAT),
        ("source_id", source_id),
        ("at_us", at_us),
        ("beat", beat),
        ("runs_started", counts.runs_started),
        ("runs_finished", counts.runs_finished),
        ("open", _open(counts.open)),
        ("backlog_records", counts.backlog_records),
        ("backlog_bytes", counts.backlog_bytes),
        ("oldest_us", counts.oldest_us),
        ("refused", counts.refused),
        ("lost", counts.lost),
    )


def encode_source_closed(source_id: str, at_us: int, by: str, counts: SourceCounts) -> bytes:
    """A `source.closed`; `by` is `process`, or `adopter` where somebody else read the source to its end."""
    return _object(
        ("v", FORMAT_VERSION),
        ("type", SOURCE_CLOSED),
        ("source_id", source_id),
        ("at_us", at_us),
        ("by", by),
        ("runs_started", counts.runs_started),
        ("runs_finished", counts.runs_finished),
        ("open", _open(counts.open)),
    )


def encode_storage_start(run: SkillRun, at_us: int, call_id: str) -> bytes:
    """A bare Storage's start."""
    return _object(
        ("v", FORMAT_VERSION),
        ("type", STARTED),
        ("run_id", run.id),
        ("at_us", at_us),
        ("by", "storage"),
        ("call_id", call_id),
        ("skill_id", run.skill_id),
        ("caller_id", run.caller_id),
        ("channel_id", run.channel_id),
        ("parent_run_id", run.parent_run_id),
        ("inputs", run.inputs),
        ("attributes", run.attributes),
    )


def encode_storage_log(log: SkillRunLog, at_us: int, call_id: str) -> bytes:
    """A bare Storage's log; `seq` is the caller's sequence."""
    return _object(
        ("v", FORMAT_VERSION),
        ("type", LOG),
        ("run_id", log.run_id),
        ("seq", log.sequence),
        ("at_us", at_us),
        ("by", "storage"),
        ("call_id", call_id),
        ("event_type", log.event_type),
        ("payload", orjson.Fragment(log.payload_json)),
    )


def encode_storage_finish(run_id: str, stats: RunStats, at_us: int, call_id: str) -> bytes:
    """A bare Storage's finish."""
    return _object(
        ("v", FORMAT_VERSION),
        ("type", FINISHED),
        ("run_id", run_id),
        ("at_us", at_us),
        ("by", "storage"),
        ("call_id", call_id),
        *_stats(stats),
    )


def runtime_us(seconds: float) -> int:
    """Seconds as the integer microseconds that are stored and hashed."""
    return round(seconds * 1_000_000)


def format_ranges(ranges: Iterable[tuple[int, int]]) -> str:
    """Inclusive ranges as text: `"5-7,9"`."""
    return ",".join(str(lo) if lo == hi else f"{lo}-{hi}" for lo, hi in ranges)


def parse_ranges(text: str) -> tuple[tuple[int, int], ...]:
    """The ranges of `format_ranges`; raises `ValueError` for anything else."""
    if not text:
        return ()
    pairs = [part.partition("-") for part in text.split(",")]
    ranges = tuple((int(lo), int(hi if dash else lo)) for lo, dash, hi in pairs)
    if format_ranges(ranges) != text or any(lo > hi for lo, hi in ranges):
        raise ValueError(f"not a list of ascending ranges like 5-7,9: {text!r}")
    return ranges


def _stats(stats: RunStats) -> tuple[tuple[str, Any], ...]:
    return (
        ("status", stats.status),
        ("output", stats.output),
        ("error", stats.error),
        ("tool_calls", stats.tool_calls),
        ("runtime_us", runtime_us(stats.runtime_seconds)),
        ("input_tokens", stats.input_tokens),
        ("output_tokens", stats.output_tokens),
        ("thinking_tokens", stats.thinking_tokens),
    )


def _open(runs: Sequence[OpenRun]) -> list[dict[str, Any]]:
    return [
        {"run_id": r.run_id, "source_seq": r.source_seq, "events": r.events, "head": r.head} for r in runs
    ]


def _object(*members: tuple[str, Any]) -> bytes:
    return orjson.dumps(dict(members))
