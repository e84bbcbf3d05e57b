"""Agents' and forwarders' mechanisms switched off: what a row has to notice. Each stands behind the product's own interface.

bounded-by-disk        a bounded queue in memory drops what it has no room for
stored-before-return   events wait in a queue in memory and are stored a few at a time, as other SDKs do it
fork-noticed           a forked child goes on in its parent's source, as if nothing had happened
acknowledged-by-broker a batch counts as acknowledged when it was handed over, before the broker has it
replaced-whole         an acknowledgement is written over the one before, byte by byte, and synced in the end
named-when-whole       a segment has its name from the beginning, and gets its header there
duplicates-dropped     a consumer that stores what it reads
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import orjson
from aiokafka import AIOKafkaConsumer

from skillaudit.contract.eventlog import FlushReport, RecordKind
from skillaudit.contract.outbox.acknowledgement import (
    ACKNOWLEDGEMENT_NAME,
    Acknowledgement,
    write_acknowledgement,
)
from skillaudit.contract.outbox.layout import encode_line, header_record, segment_name
from skillaudit.contract.outbox.scan import take_line
from skillaudit.contract.settings import Settings
from skillaudit.producer.outbox import OutboxLog
from skillaudit.producer.outbox_files import FileSystem
from skillaudit.producer.outbox_forks import mark_process
from skillaudit.producer.outbox_segment import HEADER_BYTES_MAX, OutboxSegment
from skillaudit.producer.publisher import OFFSET_UNKNOWN, RecordPublisher

QUEUE_RECORDS = 32


class QueueInMemory:
    """An event log that returns before the record is stored; a full queue, and `flush`, store it."""

    takes_heartbeats = False

    def __init__(self, log: OutboxLog) -> None:
        self._log = log
        self._queue: list[tuple[str, bytes, RecordKind]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def append(self, key: str, record: bytes, kind: RecordKind, *, wait_ms: int) -> int:
        """Later."""
        return self.append_many([(key, record, kind)], wait_ms=wait_ms)

    def append_many(self, items: Sequence[tuple[str, bytes, RecordKind]], *, wait_ms: int) -> int:
        """Later."""
        del wait_ms
        self._queue += items
        if len(self._queue) >= QUEUE_RECORDS:
            self._store()
        return self._log.position

    def _store(self) -> None:
        queue, self._queue = self._queue, []
        self._log.append_many(queue, wait_ms=1_000)

    def flush(self, timeout_s: float) -> FlushReport:
        """Store, then flush."""
        self._store()
        return self._log.flush(timeout_s)

    def close(self, timeout_s: float) -> FlushReport:
        """Store, then close."""
        self._store()
        return self._log.close(timeout_s)


class DroppingQueue(QueueInMemory):
    """A queue of a thousand events that a thread empties now and then; what finds it full is dropped, and nobody is told."""

    QUEUE_RECORDS_MAX = 1_000
    EMPTIED_EVERY_S = 5.0

    def __init__(self, log: OutboxLog) -> None:
        super().__init__(log)
        self._guard = threading.Lock()
        self._closing = threading.Event()
        self._emptying = threading.Thread(target=self._empty, daemon=True)
        self._emptying.start()

    def append_many(self, items: Sequence[tuple[str, bytes, RecordKind]], *, wait_ms: int) -> int:
        """Later, or never."""
        del wait_ms
        with self._guard:
            if len(self._queue) < self.QUEUE_RECORDS_MAX:
                self._queue += items
        return self._log.position

    def _empty(self) -> None:
        while not self._closing.wait(self.EMPTIED_EVERY_S):
            self._store()

    def _store(self) -> None:
        with self._guard:
            super()._store()

    def close(self, timeout_s: float) -> FlushReport:
        """End the thread, then as any queue."""
        self._closing.set()
        self._emptying.join()
        return super().close(timeout_s)


class ForgetfulQueue(QueueInMemory):
    """The same, and nobody remembers at exit that something waits."""

    def close(self, timeout_s: float) -> FlushReport:
        """Close what is stored."""
        self._queue.clear()
        return self._log.close(timeout_s)


class StoredByATask(QueueInMemory):
    """An event log whose records are stored by a task that ends with the one that recorded."""

    def append_many(self, items: Sequence[tuple[str, bytes, RecordKind]], *, wait_ms: int) -> int:
        """Soon, if nobody cancels."""
        mine = tuple(items)
        try:
            caller = asyncio.current_task()
        except RuntimeError:  # a thread without a loop
            caller = None
        if caller is None or mine[0][2] is not RecordKind.LOG:
            return self._log.append_many(mine, wait_ms=wait_ms)

        async def store() -> None:
            await asyncio.sleep(0.002)
            self._log.append_many(mine, wait_ms=wait_ms)

        storing = asyncio.ensure_future(store())
        caller.add_done_callback(lambda _: storing.cancel())
        return self._log.position


class DeafToForks(OutboxLog):
    """In a forked child it believes to be its parent."""

    def begin_in_child(self) -> None:
        """Nothing happened."""
        self._mark = mark_process()


class HastyPublisher:
    """A publisher that says "acknowledged" when it has the batch; the broker gets it a little later."""

    LATER_S = 0.7

    def __init__(self, publisher: RecordPublisher) -> None:
        self._publisher = publisher
        self._later: set[asyncio.Task[None]] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._publisher, name)

    async def send(self, partition: int, records: Sequence[tuple[bytes, bytes]]) -> int:
        """Handed over is good enough."""
        task = asyncio.ensure_future(self._send(partition, tuple(records)))
        self._later.add(task)
        task.add_done_callback(self._later.discard)
        return OFFSET_UNKNOWN

    async def _send(self, partition: int, records: Sequence[tuple[bytes, bytes]]) -> None:
        await asyncio.sleep(self.LATER_S)
        await self._publisher.send(partition, records)


def write_acknowledgement_in_place(source_dir: Path, acknowledgement: Acknowledgement) -> None:
    """As the product's, but for the temporary file; a kill in between leaves half of it."""
    with tempfile.TemporaryDirectory() as beside:
        whole = Path(beside) / source_dir.name
        whole.mkdir()
        write_acknowledgement(whole, acknowledgement)
        content = (whole / ACKNOWLEDGEMENT_NAME).read_bytes()
    write_over(source_dir / ACKNOWLEDGEMENT_NAME, content)


def write_over(path: Path, content: bytes) -> None:
    """In two halves, as a larger file goes."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        for part in (content[: len(content) // 2], content[len(content) // 2 :]):
            os.write(fd, part)
        os.fsync(fd)
    finally:
        os.close(fd)


def create_segment_in_place(
    files: FileSystem,
    source_dir: Path,
    source_id: str,
    number: int,
    first_line: int,
    size: int,
    *,
    mapped: bool,
) -> OutboxSegment:
    """As the product's, but for the temporary name: whoever looks sees it grow."""
    path = source_dir / segment_name(number)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    segment = OutboxSegment(number, path, fd, size, None)
    assert mapped, "only for file systems that can map"
    files.allocate(fd, size)
    segment.mapping = files.map(fd, size)
    segment.prepare(files, HEADER_BYTES_MAX)
    segment.store(files, encode_line(header_record(source_id, number, first_line)))
    segment.first_line = first_line
    return segment


_NAIVE_TABLES = """
CREATE TABLE main.runs (run_key BIGINT, id VARCHAR, skill_id VARCHAR, caller_id VARCHAR, channel_id VARCHAR,
    parent_run_id VARCHAR, inputs VARCHAR, attributes VARCHAR, started_at TIMESTAMPTZ, status VARCHAR, output VARCHAR,
    error VARCHAR, tool_calls_count BIGINT, total_input_tokens BIGINT, total_output_tokens BIGINT,
    total_thinking_tokens BIGINT, finished_at TIMESTAMPTZ, runtime_us BIGINT, events_expected BIGINT, events_stored BIGINT,
    conflicts BIGINT, last_event_at TIMESTAMPTZ, completeness VARCHAR, liveness VARCHAR);
CREATE TABLE main.events (run_key BIGINT, sequence BIGINT, event_type VARCHAR, created_at TIMESTAMPTZ, payload VARCHAR);
CREATE TABLE main.orphans (n INT); CREATE TABLE main.conflicts (n INT);
CREATE TABLE main.dead_letters (n INT); CREATE TABLE main.incidents (kind VARCHAR);
"""
_NAIVE_RUN = """
INSERT INTO main.runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, make_timestamptz(?), ?, ?, ?, ?, ?, ?, ?, make_timestamptz(?), ?, ?, ?,
    0, make_timestamptz(?), ?, ?)
"""
_NAIVE_EVENT = "INSERT INTO main.events VALUES (?, ?, ?, make_timestamptz(?), ?)"
_STARTS = ("skill_id", "caller_id", "channel_id", "parent_run_id", "inputs", "attributes", "at_us")
_ENDS = (
    "status", "output", "error", "tool_calls", "input_tokens", "output_tokens", "thinking_tokens", "at_us", "runtime_us", "events",
)  # fmt: skip


async def consume_without_looking(settings: Settings) -> None:
    """Every record of the topic becomes a row, as often as it was delivered."""
    starts: dict[str, dict[str, Any]] = {}
    ends: dict[str, dict[str, Any]] = {}
    logs: dict[str, list[tuple[int, str, int, str]]] = {}
    for value in await _all_values(settings):
        record = orjson.loads(value)
        kind, run_id = record["type"], record.get("run_id", "")
        if kind == "run.started":
            objects = {name: orjson.dumps(record[name]).decode() for name in ("inputs", "attributes")}
            starts.setdefault(run_id, record | objects)
        elif kind == "run.finished":
            ends[run_id] = record
        elif kind == "run.log":
            payload = value[value.index(b'"payload":') + 10 : -1].decode()
            log = (record["seq"], record["event_type"], record["at_us"], payload)
            logs.setdefault(run_id, []).append(log)
    with duckdb.connect(str(settings.database)) as connection:
        connection.execute(_NAIVE_TABLES)
        for key, (run_id, start) in enumerate(starts.items()):
            end, own = ends.get(run_id, {}), logs.get(run_id, [])
            last_us = max(start["at_us"], end.get("at_us", 0), *(at_us for _, _, at_us, _ in own), 0)
            given = [start[name] for name in _STARTS] + [end.get(name) for name in _ENDS]
            states = ("complete", "finished") if end else ("incomplete", "open")
            connection.execute(_NAIVE_RUN, [key, run_id, *given, len(own), last_us, *states])
            if own:
                connection.executemany(_NAIVE_EVENT, [(key, *log) for log in own])


async def count_records(settings: Settings) -> int:
    """How many records the topic holds, those that were sent twice included."""
    return len(await _all_values(settings))


async def _all_values(settings: Settings) -> list[bytes]:
    consumer = AIOKafkaConsumer(
        *settings.kafka_topics,
        bootstrap_servers=settings.kafka_bootstrap_servers,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    values: list[bytes] = []
    try:
        ends = await consumer.end_offsets(consumer.assignment())
        while any([await consumer.position(partition) < end for partition, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                values += [record.value for record in records if record.value]
    finally:
        await consumer.stop()
    return values


def believe_torn_lines(outbox_dir: Path) -> None:
    """As if lines carried no checksum: what stands behind a segment's last whole line gets one that is right."""
    for path in outbox_dir.glob("*/*.seg"):
        content = path.read_bytes()
        at = _whole_to(content)
        record = content[at:].rstrip(b"\0").rstrip(b"\n").replace(b"\0", b" ")
        if record:
            with path.open("r+b") as file:
                file.seek(at)
                file.write(encode_line(record))


def _whole_to(content: bytes) -> int:
    """Offset behind the last line of an unbroken beginning."""
    at = 0
    while (line := take_line(content, at)) is not None:
        at = line.end
    return at
