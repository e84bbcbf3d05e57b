"""A small fleet's record, made by the product: three hosts, 36 runs, heartbeats, four seals, signed and anchored.

Everything comes from Writers by way of records and the materializer; seals, checkpoints and anchor objects from the
sealer and the publisher. What an attacker does to it happens on a copy, by plain SQL on the file, below the product.
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb
from tests.proof.support import MemoryCuts, MemoryState, signer

from skillaudit.consumer.database import Database, open_database
from skillaudit.consumer.materializer import Materializer
from skillaudit.contract.eventlog import FlushReport
from skillaudit.contract.records import SkillRun
from skillaudit.contract.sources import SourceRecord
from skillaudit.producer import Sink
from skillaudit.producer.publisher import partition_for
from skillaudit.proof.anchors import open_anchor
from skillaudit.proof.findings import SEVERITIES, Kind, Severity
from skillaudit.proof.policy import AnchorPolicy, Grade, Policy
from skillaudit.proof.publishing import Publisher
from skillaudit.proof.sealer import Sealer, Signing
from skillaudit.proof.verify import Depth, Memory, Report, Verifier, VerifyRequest, sentence
from skillaudit.proof.verify.witness import read_anchors

TOPIC = "skillaudit.events"
PARTITIONS = 3
SOURCES = 3
STAGES = 4
RUNS_PER_STAGE = 9
SIGNER = signer()
DAY_US = 86_400_000_000


class Collected:
    """An event log that keeps records in memory, under a source id of its own."""

    takes_heartbeats = False

    def __init__(self, source_id: str) -> None:
        self.source_id = source_id
        self.items: list[tuple[bytes, bytes]] = []

    def append(self, key: str, record: bytes, kind: Any, *, wait_ms: int) -> int:
        self.items.append((key.encode(), record))
        return len(self.items)

    def append_many(self, items: Any, *, wait_ms: int) -> int:
        for key, record, kind in items:
            self.append(key, record, kind, wait_ms=wait_ms)
        return len(self.items)

    def flush(self, timeout_s: float) -> FlushReport:
        return FlushReport(acknowledged=len(self.items), pending=0)

    close = flush


@dataclass
class Topic:
    """What a broker would hold: records by partition, with offsets and the broker's times."""

    late_us: int = 0
    """How far the hosts' clocks are ahead of the broker's."""
    records: list[SourceRecord] = field(default_factory=list)
    ends: dict[str, int] = field(default_factory=lambda: {f"{TOPIC}/{n}": 0 for n in range(PARTITIONS)})

    def append(self, items: list[tuple[bytes, bytes]]) -> list[SourceRecord]:
        made = []
        for key, value in items:
            partition = f"{TOPIC}/{partition_for(key, PARTITIONS)}"
            offset = self.ends[partition]
            self.ends[partition] = offset + 1
            made.append(
                SourceRecord(partition, offset, offset + 1, time.time_ns() // 1000 - self.late_us, key, value)
            )
        self.records += made
        return made


class Store:
    """The consumer's side, as the sealer and the publisher are given it."""

    def __init__(self, path: Path) -> None:
        self.database: Database = open_database(path)
        self.state, self.cuts = MemoryState(), MemoryCuts()
        self.materializer = Materializer(self.database, identity="attacks", cuts=self.cuts)
        signing = Signing(signers=[SIGNER], state=self.state, cuts=self.cuts)
        self.sealer = Sealer(self, signing=signing)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        return self.database.cursor()

    def transaction(self, doing: str) -> contextlib.AbstractContextManager[duckdb.DuckDBPyConnection]:
        return self.materializer.transaction(doing)

    def take(self, topic: Topic, records: list[SourceRecord]) -> None:
        self.materializer.apply(records, topic.ends)
        self.materializer.look(topic.ends, self.materializer.to_ask())
        self.materializer.tick(topic.ends)

    def seal(self, *anchors: str) -> None:
        now_us = time.time_ns() // 1000
        self.sealer.step(now_us, force=True)
        publisher = Publisher(self, [open_anchor(uri) for uri in anchors])
        publisher.step(now_us)
        publisher.close()

    def close(self) -> None:
        self.materializer.close()
        self.database.close()


@dataclass(frozen=True)
class World:
    """The finished record, and the verifier's own policy about it."""

    path: Path
    anchor: Path
    topic: Topic
    older: Path
    """A copy of the database as it was before the last stage."""
    abandoned: str
    """A run that its source listed as open in its last word, with 7 events."""

    @property
    def policy(self) -> Policy:
        return Policy(
            grade=Grade.ANCHORED,
            keys=(SIGNER.verifier.text,),
            anchors=(AnchorPolicy(f"file:{self.anchor}"),),
        )


def record_fleet(
    topic: Topic,
    drop: Callable[[bytes, bytes], bool] = lambda _key, _value: False,
    alter: Callable[[bytes, bytes], bytes] = lambda _key, value: value,
) -> Iterator[list[SourceRecord]]:
    """Stage by stage, what three hosts record; `drop`: records that never reach the topic, `alter`: what others become."""
    logs = [Collected(f"{n + 1:032x}") for n in range(SOURCES)]
    sinks = [Sink(log) for log in logs]
    left = sinks[0].start_run(SkillRun(skill_id="abandoned", caller_id="u-0"))
    for n in range(6):
        left.step(f"half done {n}")
    sent = [0] * SOURCES
    for stage in range(STAGES):
        for n in range(RUNS_PER_STAGE - (stage == 0)):
            _record_run(sinks[n % SOURCES], stage, n)
        for sink in sinks:
            source = sink._source_here()
            source.beat(time.time_ns() // 1000, list(source.open.values()), None)
        if stage == STAGES - 1:
            for sink in sinks:
                sink.close()
        fresh = []
        for number, log in enumerate(logs):
            fresh += [
                (key, alter(key, value)) for key, value in log.items[sent[number] :] if not drop(key, value)
            ]
            sent[number] = len(log.items)
        yield topic.append(fresh)


def _record_run(sink: Sink, stage: int, number: int) -> None:
    run = SkillRun(
        skill_id=f"skill-{number % 4}",
        caller_id=f"u-{number}",
        channel_id="web",
        inputs={"q": f"question {number}"},
        attributes={"model": "m-1"},
    )
    with sink.start_run(run) as writer:
        for step in range(7 + (stage + number) % 6):
            if step % 3 == 1:
                writer.tool_call("search", {"q": f"{stage}/{number}/{step}"})
            else:
                writer.step(f"thought {step} é", model="m-1", input_tokens=3, output_tokens=2)
        writer.finish(output=f"answer {number}")


def build(directory: Path, *, late_us: int = 0, **options: Any) -> World:
    """Make it. Exit code 0 by the policy's grade `anchored`."""
    directory.mkdir(parents=True, exist_ok=True)
    topic, store = Topic(late_us), Store(directory / "audit.duckdb")
    anchor, older = directory / "anchor", directory / "older.duckdb"
    try:
        for number, records in enumerate(record_fleet(topic, **options)):
            if number == STAGES - 1:
                with contextlib.closing(store.cursor()) as cursor:
                    cursor.execute("CHECKPOINT")
                shutil.copy(store.database.path, older)
            store.take(topic, records)
            if number == 1:
                move_to_sealed(store)
            store.seal(f"file:{anchor}")
        with contextlib.closing(store.cursor()) as cursor:
            found = cursor.execute("SELECT id FROM runs WHERE skill_id = 'abandoned'").fetchone()
    finally:
        store.close()
    return World(directory / "audit.duckdb", anchor, topic, older, found[0] if found else "")


def move_to_sealed(store: Store) -> None:
    """Half of the events lie in the sealed table, as in any record that is older than an hour."""
    with store.materializer.transaction("move the hot rows") as cursor:
        for table in ("store.events_hot_a", "store.events_hot_b"):
            cursor.execute(
                f"INSERT INTO store.events_sealed SELECT * FROM {table} ORDER BY run_key, sequence"
            )
            cursor.execute(f"DELETE FROM {table}")


class Tampered:
    """A copy of the record in an attacker's hands: plain SQL on the file."""

    def __init__(self, world: World, path: Path, anchor: Path | None = None) -> None:
        self.world = world
        self.path = path
        self.anchor = anchor or world.anchor
        self.connection = duckdb.connect(str(path))
        self.connection.execute("SET TimeZone = 'UTC'")

    def sql(self, text: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self.connection.execute(text, list(parameters)).fetchall()

    def one(self, text: str, *parameters: Any) -> Any:
        return self.sql(text, *parameters)[0][0]

    def events(self, text: str, *parameters: Any) -> None:
        """A change of events, in whichever table they are: `{events}` stands for it."""
        for table in ("events_sealed", "events_hot_a", "events_hot_b"):
            self.connection.execute(text.replace("{events}", f"store.{table}"), list(parameters))

    def table_of(self, run_key: int) -> str:
        for table in ("events_sealed", "events_hot_a", "events_hot_b"):
            if self.one(f"SELECT count(*) FROM store.{table} WHERE run_key = ?", run_key):
                return f"store.{table}"
        raise LookupError(run_key)

    def verify(self, **options: Any) -> Report:
        policy = options.pop("policy", None) or Policy(
            grade=Grade.ANCHORED,
            keys=(SIGNER.verifier.text,),
            anchors=(AnchorPolicy(f"file:{self.anchor}"),),
        )
        request = VerifyRequest(policy=policy, anchors=read_anchors(policy), **options)
        report = self._checked(request, Memory())
        if request.run_id is not None:
            kept = self._checked(request, self._memory(request))
            assert (kept.exit_code, names(kept)) == (report.exit_code, names(report)), (
                "a kept verifier says else"
            )
        return report

    def _checked(self, request: VerifyRequest, memory: Memory) -> Report:
        with contextlib.closing(self.connection.cursor()) as cursor:
            return Verifier(cursor, memory=memory).check(request, time.time_ns() // 1000)

    def _memory(self, request: VerifyRequest) -> Memory:
        """What a server's verifier knew before the attack: it checked some runs, that of the request among them."""
        memory = Memory()
        untouched = self.path != self.world.path
        with contextlib.closing(
            duckdb.connect(str(self.world.path), read_only=True) if untouched else self.connection.cursor()
        ) as before:
            before.execute("SET TimeZone = 'UTC'")
            ids = [
                row[0]
                for row in before.execute(
                    "SELECT id FROM runs ORDER BY id <> ?, run_key LIMIT 5", [request.run_id]
                ).fetchall()
            ]
            verifier = Verifier(before, memory=memory)
            for run_id in ids:
                verifier.check(replace(request, run_id=run_id), time.time_ns() // 1000)
        memory.catalog = None  # views are what is altered here, which a server's own process would have to do
        return memory

    def close(self) -> None:
        self.connection.close()


@contextlib.contextmanager
def copy_of(world: World, directory: Path) -> Iterator[Tampered]:
    """A copy of the record of one's own."""
    path = directory / "copy.duckdb"
    shutil.copy(world.path, path)
    with contextlib.closing(Tampered(world, path)) as tampered:
        yield tampered


def names(report: Report) -> set[str]:
    return set(report.counts)


def violations(report: Report) -> set[str]:
    return {name for name in report.counts if SEVERITIES[Kind(name)] is Severity.VIOLATION}


def told(report: Report) -> str:
    return "\n".join(sentence(finding) for finding in report.findings)


__all__ = ["Depth", "Kind", "Tampered", "World", "build", "copy_of", "names", "told", "violations"]
