"""What the forwarder's tests share: sources written by hand, and a topic in memory with one fault each."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from skillaudit.contract import events
from skillaudit.contract.digests import START_FIELDS, RunDigest, fields_body, log_header, start_header
from skillaudit.contract.errors import UnreachableError
from skillaudit.contract.events import FinishIdentity, SourceCounts, StartIdentity
from skillaudit.contract.outbox.acknowledgement import read_acknowledgement
from skillaudit.contract.outbox.layout import encode_line, header_record, segment_name
from skillaudit.contract.outbox.locks import FileLock
from skillaudit.contract.records import RunStats, SkillRun
from skillaudit.producer.forwarder import Forwarder
from skillaudit.producer.forwarder_core import ForwarderLimits
from skillaudit.producer.forwarder_sources import Scope
from skillaudit.producer.publisher import PartitionUnavailableError, PublisherBrokenError, RefusedForGoodError

FAST = ForwarderLimits(
    poll_interval_ms=1,
    poll_interval_ms_max=2,
    discovery_interval_ms=1,
    ack_interval_ms=1,
    backoff_ms_min=1,
    backoff_ms_max=2,
    leader_interval_ms=1,
    drain_timeout_ms=1_000,
)
AT_US = 1_700_000_000_000_000
SALT = "5a" * 16


class HandwrittenSource:
    """A source directory written line by line. Holds the `writer` lock until `die`."""

    def __init__(self, outbox_dir: Path, number: int = 1, *, alive: bool = False) -> None:
        self.source_id = f"{number:032x}"
        self.dir = outbox_dir / self.source_id
        self.dir.mkdir(parents=True)
        self.lock = FileLock(self.dir / "writer")
        if alive:
            assert self.lock.try_acquire()
        (self.dir / "source.json").write_text(json.dumps({"source_id": self.source_id}))
        self.segment = 0
        self.lines = 0
        self.runs: dict[str, Run] = {}
        self.next_segment()

    def next_segment(self) -> None:
        self.segment += 1
        self._write(encode_line(header_record(self.source_id, self.segment, self.lines + 1)))

    def append(self, record: bytes) -> bytes:
        self._write(encode_line(record))
        self.lines += 1
        return record

    def _write(self, line: bytes) -> None:
        with (self.dir / segment_name(self.segment)).open("ab") as file:
            file.write(line)

    def run(self, run_id: str) -> Run:
        self.runs[run_id] = Run(self, run_id, len(self.runs) + 1)
        return self.runs[run_id]

    def heartbeat(self, beat: int = 1) -> bytes:
        return self.append(
            events.encode_heartbeat(
                self.source_id, AT_US, beat, SourceCounts(runs_started=0, runs_finished=0)
            )
        )

    def close(self) -> bytes:
        counts = SourceCounts(runs_started=len(self.runs), runs_finished=0)
        return self.append(events.encode_source_closed(self.source_id, AT_US, "process", counts))

    def die(self) -> None:
        self.lock.release()

    def acknowledgement(self):
        return read_acknowledgement(self.dir)


class Run:
    """A run's records as a Writer makes them; `events` and `head` as a heartbeat would say."""

    def __init__(self, source: HandwrittenSource, run_id: str, source_seq: int) -> None:
        self.source = source
        self.run_id = run_id
        self.source_seq = source_seq
        self.digest = RunDigest(run_id, SALT)
        self.records = [self._start()]

    def _start(self) -> bytes:
        run = SkillRun(id=self.run_id, skill_id="s", caller_id="c")
        header = start_header(AT_US, "", "s", self.source.source_id, self.source_seq)
        values = {
            "caller_id": b"c",
            "channel_id": b"",
            "inputs": b'{"q":"\\"inputs\\":{}"}',
            "attributes": b'{"a":[1]}',
        }
        digest = self.digest.digest(0, header, fields_body(SALT, 0, [(n, values[n]) for n in START_FIELDS]))
        identity = StartIdentity(
            at_us=AT_US,
            tag=digest[:16],
            salt=SALT,
            source_id=self.source.source_id,
            source_seq=self.source_seq,
            clock="manual",
        )
        self.digest.add(header, digest)
        return self.source.append(events.encode_start(run, identity, values["inputs"], values["attributes"]))

    def log(self, size: int = 20, *, lost: tuple[int, int] | None = None) -> bytes:
        if lost:
            self.digest.add_lost(*lost)
        seq = self.digest.events
        payload = json.dumps({"n": seq, "pad": "x" * size}, separators=(",", ":")).encode()
        header = log_header(seq, AT_US + seq, "step")
        digest = self.digest.digest(seq, header, payload)
        self.digest.add(header, digest)
        record = events.encode_log(
            events.json_string(self.run_id),
            seq,
            AT_US + seq,
            digest[:16],
            b'"step"',
            payload,
            events.format_ranges([lost]) if lost else "",
        )
        self.records.append(self.source.append(record))
        return record

    def finish(self) -> bytes:
        identity = FinishIdentity(
            seq=self.digest.events,
            at_us=AT_US,
            tag="0" * 16,
            source_id=self.source.source_id,
            source_seq=self.source_seq,
            head="0" * 64,
            lost="",
        )
        record = events.encode_finish(self.run_id, RunStats(status="ok"), identity)
        self.records.append(self.source.append(record))
        return record

    def is_open_entry(self) -> dict[str, object]:
        """What `source.closed` should say of it while it is open."""
        return {
            "run_id": self.run_id,
            "source_seq": self.source_seq,
            "events": self.digest.events,
            "head": self.digest.head(),
        }


class TopicInMemory:
    """A `RecordPublisher` without faults; everything stored is in `partitions`."""

    topic = "t"

    def __init__(self, partitions: int = 3) -> None:
        self.partitions: dict[int, list[tuple[bytes, bytes]]] = {n: [] for n in range(partitions)}
        self.is_open = False
        self.opened = 0
        self.batches = 0

    async def open(self) -> str:
        self.opened += 1
        self.is_open = True
        return "cluster-1"

    async def partition_count(self) -> int:
        return len(self.partitions)

    async def send(self, partition: int, records: Sequence[tuple[bytes, bytes]]) -> int:
        assert self.is_open, "sent to a publisher that is not open"
        self.batches += 1
        await asyncio.sleep(0)
        return self.store(partition, records)

    def store(self, partition: int, records: Sequence[tuple[bytes, bytes]]) -> int:
        log = self.partitions[partition]
        log.extend(records)
        return len(log) - len(records)

    async def close(self) -> None:
        self.is_open = False

    async def abandon(self) -> None:
        self.is_open = False

    def release_inherited(self) -> None:
        self.is_open = False

    @property
    def values(self) -> list[bytes]:
        return [value for log in self.partitions.values() for _, value in log]

    def of_key(self, key: str) -> list[bytes]:
        """In the order of the partition; each key has one."""
        logs = [[v for k, v in log if k == key.encode()] for log in self.partitions.values()]
        with_it = [log for log in logs if log]
        assert len(with_it) <= 1, f"{key} is in several partitions"
        return with_it[0] if with_it else []

    def of_type(self, kind: str) -> list[dict[str, object]]:
        return [m for m in map(json.loads, self.values) if m["type"] == kind]


class TopicThatForgetsAcks(TopicInMemory):
    """Every `every`-th batch is stored, but its acknowledgement never comes back."""

    def __init__(self, partitions: int = 3, every: int = 2) -> None:
        super().__init__(partitions)
        self.every = every

    async def send(self, partition, records):
        number = self.batches + 1
        offset = await super().send(partition, records)
        if number % self.every == 0:
            self.is_open = False
            raise PublisherBrokenError("no acknowledgement")
        return offset


class TopicThatDropsBatches(TopicInMemory):
    """The first `count` batches are neither stored nor acknowledged: jammed sequence numbers."""

    def __init__(self, partitions: int = 3, count: int = 3) -> None:
        super().__init__(partitions)
        self.count = count

    async def send(self, partition, records):
        if self.count > 0:
            self.count -= 1
            self.is_open = False
            raise PublisherBrokenError("OutOfOrderSequenceNumber")
        return await super().send(partition, records)


class TopicThatRefuses(TopicInMemory):
    """Batches with a value longer than `bytes_max` (or in sum longer than `batch_bytes_max`) are refused for good."""

    def __init__(self, partitions: int = 3, bytes_max: int = 1_000, batch_bytes_max: int = 1 << 30) -> None:
        super().__init__(partitions)
        self.bytes_max = bytes_max
        self.batch_bytes_max = batch_bytes_max
        self.refusals = 0

    async def send(self, partition, records):
        sizes = [len(v) for _, v in records]
        if max(sizes) > self.bytes_max or (len(sizes) > 1 and sum(sizes) > self.batch_bytes_max):
            self.is_open = False
            self.refusals += 1
            raise RefusedForGoodError("MessageSizeTooLarge")
        return await super().send(partition, records)


class TopicThatIsAway(TopicInMemory):
    """Can't be reached for the first `attempts` attempts."""

    def __init__(self, partitions: int = 3, attempts: int = 5) -> None:
        super().__init__(partitions)
        self.attempts = attempts

    async def open(self) -> str:
        if self.opened < self.attempts:
            self.opened += 1
            raise UnreachableError("connection refused")
        return await super().open()


class TopicThatHoldsBack(TopicInMemory):
    """Batches of the partitions in `held` wait until they are let go."""

    def __init__(self, partitions: int = 3, held: Sequence[int] = ()) -> None:
        super().__init__(partitions)
        self.held = {n: asyncio.Event() for n in held}
        self.waiting: set[int] = set()

    async def send(self, partition, records):
        if partition in self.held:
            self.waiting.add(partition)
            await self.held[partition].wait()
        return await super().send(partition, records)


class TopicWithoutLeader(TopicInMemory):
    """Nobody leads the partitions in `leaderless`."""

    def __init__(self, partitions: int = 3, leaderless: Sequence[int] = ()) -> None:
        super().__init__(partitions)
        self.leaderless = set(leaderless)
        self.turned_away = 0

    async def send(self, partition, records):
        if partition in self.leaderless:
            self.turned_away += 1
            raise PartitionUnavailableError(f"{self.topic}/{partition} has no leader")
        return await super().send(partition, records)


async def until(condition, timeout_s: float = 10.0) -> None:
    """Wait until `condition()` holds; fails after the timeout."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  conditions are of any kind
            await asyncio.sleep(0.001)


@asynccontextmanager
async def forwarding(outbox_dir: Path, topic, *, limits=FAST, scope=Scope.ALL, **options):
    """A forwarder that runs while the block does; its failures surface."""
    forwarder = Forwarder(outbox_dir, topic, limits=limits, scope=scope, **options)
    stop = asyncio.Event()
    task = asyncio.ensure_future(forwarder.run(stop))
    waiter = asyncio.ensure_future(asyncio.sleep(0))
    try:
        await waiter
        yield forwarder
    finally:
        stop.set()
        forwarder.nudge()
        await task


async def forward_all(outbox_dir: Path, topic, *, count: int | None = None, **options):
    """Forward until every line of every live source (or `count` records) is acknowledged and dead ones are gone."""
    async with forwarding(outbox_dir, topic, **options) as forwarder:
        await until(lambda: settled(outbox_dir, forwarder, count))
    return forwarder.report


def settled(outbox_dir: Path, forwarder, count: int | None) -> bool:
    if count is not None:
        return forwarder.report.acknowledged >= count
    return not [d for d in outbox_dir.iterdir() if len(d.name) == 32 and list(d.glob("*.seg"))]


class TopicOnDisk(TopicInMemory):
    """Each partition is a file; after storing batch number `deadly` the process is killed, the batch unacknowledged."""

    def __init__(self, directory: Path, deadly: int) -> None:
        super().__init__()
        self.directory = directory
        self.deadly = deadly
        self.stored = 0
        directory.mkdir(exist_ok=True)

    def store(self, partition, records):
        path = self.directory / str(partition)
        lines = "".join(json.dumps([k.decode(), v.decode()]) + "\n" for k, v in records)
        with path.open("a") as file:
            file.write(lines)
        self.stored += 1
        if self.stored == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return path.read_text().count("\n") - len(records)


def partitions_on_disk(directory: Path) -> dict[int, list[tuple[str, bytes]]]:
    return {
        int(path.name): [(k, v.encode()) for k, v in map(json.loads, path.read_text().splitlines())]
        for path in directory.iterdir()
    }


def forward_to_disk(outbox_dir: str, topic_dir: str, deadly: str) -> None:
    """For a process of its own."""
    limits = replace(FAST, batch_bytes_max=1_500)
    topic = TopicOnDisk(Path(topic_dir), int(deadly))
    asyncio.run(forward_all(Path(outbox_dir), topic, limits=limits))
