"""Fakes and an oracle for the tests of the recording surface."""

import hashlib
import threading
from collections.abc import Sequence
from typing import Any

import orjson

from skillaudit.contract.errors import OutboxFullError
from skillaudit.contract.eventlog import FlushReport, RecordKind
from skillaudit.contract.events import format_ranges, parse_ranges


class ListLog:
    """An event log that keeps what it takes."""

    def __init__(self, source_id: str = "5a" * 16) -> None:
        self.source_id = source_id
        self.items: list[tuple[str, bytes, RecordKind]] = []
        self.closed = False
        self._lock = threading.Lock()

    def append(self, key: str, record: bytes, kind: RecordKind, *, wait_ms: int) -> int:
        return self.append_many([(key, record, kind)], wait_ms=wait_ms)

    def append_many(self, items: Sequence[tuple[str, bytes, RecordKind]], *, wait_ms: int) -> int:
        with self._lock:  # not reentrant: a nested append of one thread would hang here
            self.items.extend(items)
            return len(self.items)

    def flush(self, timeout_s: float) -> FlushReport:
        return FlushReport(acknowledged=len(self.items), pending=0)

    def close(self, timeout_s: float) -> FlushReport:
        self.closed = True
        return self.flush(timeout_s)

    @property
    def records(self) -> list[bytes]:
        return [record for _, record, _ in self.items]

    def events(self, run_id: str) -> list[dict[str, Any]]:
        """The run's records, parsed, in order of append."""
        return [event for event in self.parsed() if event.get("run_id") == run_id]

    def parsed(self, kind: str = "") -> list[dict[str, Any]]:
        events = [orjson.loads(record) for record in self.records]
        return [event for event in events if event["type"].startswith(kind)]

    def run_records(self, run_id: str) -> list[bytes]:
        return [record for key, record, _ in self.items if key == run_id]


class FullLog(ListLog):
    """Refuses logs while `full`, and everything while `used_up`."""

    def __init__(self) -> None:
        super().__init__()
        self.full = False
        self.used_up = False
        self.refusals = 0

    def append_many(self, items: Sequence[tuple[str, bytes, RecordKind]], *, wait_ms: int) -> int:
        if self.used_up or (self.full and any(kind is RecordKind.LOG for _, _, kind in items)):
            self.refusals += 1
            raise OutboxFullError("full")
        return super().append_many(items, wait_ms=wait_ms)

    def has_room(self) -> bool:
        return not self.full


def T(value: str | bytes) -> bytes:  # noqa: N802  the format's own name
    data = value.encode() if isinstance(value, str) else value
    return b"%d:%b" % (len(data), data)


def _salt(run_salt: str, label: str) -> str:
    return hashlib.sha256(f"skillaudit salt 1\n{run_salt}\n{label}\n".encode()).hexdigest()


def _digest(run_salt: str, seq: int, header: bytes, body: bytes) -> str:
    digits = _salt(run_salt, str(seq // 2))
    salt = digits[32:] if seq % 2 else digits[:32]
    return hashlib.sha256(b"skillaudit event 1\n%b\n%b\n%b" % (salt.encode(), header, body)).hexdigest()


def _fields(run_salt: str, seq: int, fields: dict[str, bytes]) -> bytes:
    lines = []
    for name, value in fields.items():
        salt = _salt(run_salt, f"{seq}.{name}")[:32]
        text = b"skillaudit field 1\n%b\n%b\n%b" % (salt.encode(), name.encode(), T(value))
        lines.append(f"{name} {hashlib.sha256(text).hexdigest()}\n".encode())
    return b"".join(lines)


def _member(record: bytes, name: str, following: str) -> bytes:
    """The bytes of a member whose value holds no text like the names searched for."""
    start = record.index(f'"{name}":'.encode()) + len(name) + 3
    return record[start : record.index(f',"{following}":'.encode(), start) if following else len(record) - 1]


def check_run(records: Sequence[bytes]) -> None:
    """A whole run by the published rules alone, written anew from them: numbering, tags, head, counts, losses."""
    events = [orjson.loads(record) for record in records]
    start, finish = events[0], events[-1]
    assert (start["type"], finish["type"]) == ("run.started", "run.finished")
    salt = start["salt"]
    lost = parse_ranges(finish["lost"])
    losses = dict(lost)
    manifest = bytearray(b"skillaudit run 1\n%b\n" % T(start["run_id"]))  # grows in place
    expected = 0
    last_us = 0
    for event, record in zip(events, records, strict=True):
        while expected in losses:
            high = losses[expected]
            manifest += b"lost %b\n" % format_ranges([(expected, high)]).encode()
            expected = high + 1
        assert event["seq"] == expected, (event["seq"], expected)
        assert event["at_us"] >= last_us
        last_us = event["at_us"]
        header, body = _header_and_body(event, record, salt)
        digest = _digest(salt, event["seq"], header, body)
        assert event["tag"] == digest[:16], event["type"]
        manifest += b"%b %b\n" % (header, digest.encode())
        expected += 1
    assert finish["events"] == expected
    assert finish["head"] == hashlib.sha256(manifest).hexdigest()
    assert (finish["source_id"], finish["source_seq"]) == (start["source_id"], start["source_seq"])


def _header_and_body(event: dict[str, Any], record: bytes, salt: str) -> tuple[bytes, bytes]:
    seq, at_us = event["seq"], event["at_us"]
    if event["type"] == "run.log":
        return b"log %d %d %b" % (seq, at_us, T(event["event_type"])), _member(record, "payload", "")
    if event["type"] == "run.started":
        header = b"start 0 %d %b %b %b %d" % (
            at_us, T(event["parent_run_id"]), T(event["skill_id"]), event["source_id"].encode(), event["source_seq"],
        )  # fmt: skip
        fields = {
            "caller_id": event["caller_id"].encode(),
            "channel_id": event["channel_id"].encode(),
            "inputs": _member(record, "inputs", "attributes"),
            "attributes": _member(record, "attributes", ""),
        }
        return header, _fields(salt, 0, fields)
    numbers = [
        event[name]
        for name in ("tool_calls", "runtime_us", "input_tokens", "output_tokens", "thinking_tokens")
    ]
    header = b"finish %d %d %b %d %d %d %d %d %b" % (
        seq,
        at_us,
        T(event["status"]),
        *numbers,
        T(event["lost"]),
    )
    return header, _fields(salt, seq, {name: event[name].encode() for name in ("output", "error")})
