"""Runs whose source is gone or silent: named as such, never too early, and taken back when it is heard again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import orjson
from tests.faults import stream
from tests.faults.fuse import open_fused
from tests.faults.oracle import BrokenError, must
from tests.faults.rows import Case, row
from tests.faults.stage import (
    Agents,
    check,
    consume_all,
    embedded,
    forward_all,
    shared_broker,
    stop_process,
    through_kafka,
    wake_process,
)
from tests.faults.switches import LocalTime
from tests.support.waiting import until

from skillaudit.consumer.materializer import Materializer, MaterializerPolicy
from skillaudit.contract import events
from skillaudit.contract.clock import ManualClock, to_us
from skillaudit.contract.events import FinishIdentity, OpenRun, SourceCounts, StartIdentity
from skillaudit.contract.records import RunState, RunStats, SkillRun
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import SourceRecord
from skillaudit.storage.hosting import HostedConsumer, host_consumer

SECOND_US = 1_000_000
BEAT_S = 30
LIMIT_S = 300
PARTITIONS = 3
STEADY, DIES, SLEEPS, CLOSES = "steady", "dies", "sleeps", "closes"
FATES = (STEADY, DIES, SLEEPS, CLOSES)
HOURS_S = 2 * 3600
LAG_S_MAX = 3600
ALWAYS_LATE = 2
"""Which of four cases has a consumer that never catches up before the end: an hour late from the first hour on."""


@dataclass(slots=True)
class Life:
    """One source: what it does, and when. Its one run waits for a person all the time."""

    number: int
    fate: str
    from_s: int
    """When it dies, falls asleep, or closes."""
    until_s: int
    """When it wakes."""
    beats: int = 0
    heard: list[int] = field(default_factory=list[int])
    """Broker times of its records."""

    @property
    def source_id(self) -> str:
        return f"{self.number:032x}"

    @property
    def run_id(self) -> str:
        return f"waits-{self.number}"

    def beats_at(self, now_s: int) -> bool:
        """Whether it is alive and awake."""
        if self.fate == STEADY or now_s < self.from_s:
            return True
        return self.fate == SLEEPS and now_s >= self.until_s


@dataclass(slots=True)
class Topic:
    """Records with the broker's time, by partition."""

    partitions: list[list[SourceRecord]] = field(default_factory=lambda: [[] for _ in range(PARTITIONS)])

    def append(self, key: str, value: bytes, at_us: int) -> None:
        """The broker stamps it."""
        number = crc32(key.encode()) % PARTITIONS
        log = self.partitions[number]
        log.append(SourceRecord(f"t/{number}", len(log), len(log) + 1, at_us, key.encode(), value))

    def ends(self) -> dict[str, int]:
        """Of every partition."""
        return {f"t/{number}": len(log) for number, log in enumerate(self.partitions)}


def _at_us(now_s: int) -> int:
    return stream.BASE_US + now_s * SECOND_US


def _start(life: Life, topic: Topic, now_s: int) -> None:
    run = SkillRun(id=life.run_id, skill_id="s")
    identity = StartIdentity(
        at_us=_at_us(now_s),
        tag=stream.tag(life.number, 0),
        salt="ab" * 16,
        source_id=life.source_id,
        source_seq=1,
        clock="manual",
    )
    opened = events.encode_source_opened(life.source_id, _at_us(now_s), "host", 1, "boot", "manual", "1")
    topic.append(life.source_id, opened, _at_us(now_s))
    topic.append(life.run_id, events.encode_start(run, identity, b"{}", b"{}"), _at_us(now_s))
    log = events.encode_log(
        orjson.dumps(life.run_id), 1, _at_us(now_s) + 7, stream.tag(life.number, 1), b'"step"', b"{}"
    )
    topic.append(life.run_id, log, _at_us(now_s))


def _counts(life: Life, *, finished: int = 0) -> SourceCounts:
    said = [OpenRun(run_id=life.run_id, source_seq=1, events=2, head="ef" * 32)]
    return SourceCounts(runs_started=1, runs_finished=finished, open=[] if finished else said)


def _beat(life: Life, topic: Topic, now_s: int) -> None:
    life.beats += 1
    topic.append(
        life.source_id,
        events.encode_heartbeat(life.source_id, _at_us(now_s), life.beats, _counts(life)),
        _at_us(now_s),
    )


def _end(life: Life, topic: Topic, now_s: int) -> None:
    identity = FinishIdentity(
        seq=2,
        at_us=_at_us(now_s),
        tag=stream.tag(life.number, 2),
        source_id=life.source_id,
        source_seq=1,
        head="cd" * 32,
        lost="",
    )
    topic.append(
        life.run_id, events.encode_finish(life.run_id, RunStats(status="ok"), identity), _at_us(now_s)
    )


class Consumer:
    """A materializer on an injected clock that reads the topic with a lag."""

    def __init__(self, case: Case, topic: Topic, clock: ManualClock) -> None:
        kind = type("Local", (LocalTime,), {"clock": clock}) if case.switched_off else None
        path = case.directory / "audit.duckdb"
        self._database = open_fused(path, kind=kind) if kind else open_fused(path)
        policy = MaterializerPolicy(abandon_after_ms=LIMIT_S * 1_000)
        self._materializer = Materializer(self._database, policy=policy, clock=clock)
        self._topic, self._clock = topic, clock
        self.read = [0] * PARTITIONS
        self.behind_us = HOURS_S * SECOND_US
        """How far the broker's time, as its stamps tell it, is behind the real one at most."""

    def take(self, until_us: int) -> None:
        """Everything that the broker stamped up to a moment; then time passes."""
        batch: list[SourceRecord] = []
        for number, log in enumerate(self._topic.partitions):
            fresh = [record for record in log[self.read[number] :] if record.received_us <= until_us]
            self.read[number] += len(fresh)
            batch += fresh
        newest_us = max((record.received_us for record in batch), default=0)
        self.behind_us = min(self.behind_us, self._clock.now_us - newest_us)
        ends = self._topic.ends()
        asked = self._materializer.to_ask()
        if asked:
            self._materializer.look(ends, asked)
        if batch:
            self._materializer.apply(batch, ends)
        self._materializer.tick(ends)

    def reads_to_us(self, partition: int, now_us: int) -> int:
        """The broker's time up to which a partition is read."""
        log, read = self._topic.partitions[partition], self.read[partition]
        return now_us if read == len(log) else log[read - 1].received_us if read else 0

    def runs(self) -> dict[str, tuple[str, int]]:
        """Run -> how it reads, and its last event's time in microseconds."""
        query = "SELECT id, liveness, epoch_us(last_event_at) FROM main.runs"
        return {row[0]: row[1:] for row in self._database.cursor().execute(query).fetchall()}

    def close(self) -> None:
        """Let go."""
        self._materializer.close()
        self._database.close()


@row(
    "abandoned-by-broker-time",
    about="Sources that beat for two hours while a person is asked, die, sleep and wake, close; a consumer on an injected clock that lags by up to an hour, "
    "in every fourth case by an hour throughout",
    judge="who reads abandoned, with which last event, against a model of the broker's time",
    synthetic=True,
    full=200,
    share=3,
    test=1,
    off={"broker-time": "silence is judged by the consumer's own clock"},
)
async def by_broker_time(case: Case) -> None:
    """Abandoned is who was silent beyond the limit in the broker's time, as far as that was read; nobody else."""
    await asyncio.to_thread(_by_broker_time, case)


def _by_broker_time(case: Case) -> None:
    chance, topic, clock = case.random, Topic(), ManualClock(_at_us(0))
    lives = [_life(chance, number) for number in range(8)]
    consumer = Consumer(case, topic, clock)
    for life in lives:
        _start(life, topic, 0)
    named = lag_s = late = 0
    for now_s in range(BEAT_S, HOURS_S + 1, BEAT_S):
        clock.now_us = _at_us(now_s)
        for life in lives:
            _live(life, topic, now_s)
        catches_up = chance.random() >= 0.97 and case.number % 4 != ALWAYS_LATE
        lag_s = 0 if catches_up else min(lag_s + BEAT_S, LAG_S_MAX)
        if chance.random() < 0.2:
            late += lag_s == LAG_S_MAX
            consumer.take(_at_us(now_s - lag_s))
            named += _assert_named(consumer, lives, clock.now_us)
    for life in lives:
        if life.beats_at(HOURS_S):
            _end(life, topic, HOURS_S)
    for _ in range(2):  # what was said with the last records is due with the next look
        consumer.take(clock.now_us)
    _assert_end(consumer, lives)
    consumer.close()
    case.events += sum(map(len, topic.partitions))
    case.note(looks_at_abandoned=named, looks_at_an_hours_lag=late)


def _life(chance: random.Random, number: int) -> Life:
    from_s = chance.randrange(60, HOURS_S - 1_800, BEAT_S)
    return Life(number, FATES[number % len(FATES)], from_s, from_s + chance.randrange(60, 1_500, BEAT_S))


def _live(life: Life, topic: Topic, now_s: int) -> None:
    if life.beats_at(now_s):
        _beat(life, topic, now_s)
    elif life.fate == CLOSES and now_s - BEAT_S < life.from_s <= now_s:
        closed = events.encode_source_closed(life.source_id, _at_us(now_s), "process", _counts(life))
        topic.append(life.source_id, closed, _at_us(now_s))


def _assert_named(consumer: Consumer, lives: list[Life], now_us: int) -> int:
    """By the records read so far alone; answers how many read abandoned."""
    found, abandoned = consumer.runs(), 0
    for life in lives:
        if life.run_id not in found or life.fate == CLOSES:
            continue
        reads, last_us = found[life.run_id]
        partition = crc32(life.source_id.encode()) % PARTITIONS
        own = consumer._topic.partitions[partition][: consumer.read[partition]]
        heard_us = max((r.received_us for r in own if (r.key or b"").decode() == life.source_id), default=0)
        silent_us = consumer.reads_to_us(partition, now_us) - max(heard_us, _at_us(0))
        if reads == "abandoned":
            abandoned += 1
            must(
                silent_us > LIMIT_S * SECOND_US,
                f"{life.run_id} ({life.fate}) reads abandoned after {silent_us / 1e6:g} s of silence",
            )
            must(last_us == _at_us(0) + 7, "the last event's time is not that of the last event")
        else:
            known_us = (
                silent_us - consumer.behind_us
            )  # a consumer that lags knows no later time of the broker
            must(
                known_us <= (LIMIT_S + BEAT_S) * SECOND_US,
                f"{life.run_id} ({life.fate}) reads {reads} after {known_us / 1e6:g} s of silence that it knows of",
            )
    return abandoned


def _assert_end(consumer: Consumer, lives: list[Life]) -> None:
    found = {run_id: reads for run_id, (reads, _) in consumer.runs().items()}
    expected = {life.run_id: "finished" if life.beats_at(HOURS_S) else "abandoned" for life in lives}
    must(found == expected, f"at the end: {found}, expected {expected}")


LIMIT_MS = 5_000
"""Beside other work a process, a forwarder or a broker may let more than a second pass: that is a silence, too."""
HEARTBEAT_MS = 200
NAMED_S_MAX = 90.0
SLOW = {"runs": 1, "open_at_once": 1, "logs_min": 8, "logs_max": 8, "events_per_s": 0.02, "burst": 2}
"""Starts a run, records two events, and does nothing for fifty seconds: it waits for a person."""
BEFORE_IT_WAITS = 3
WAITS_LIMITS = 2.0
"""It waits for so many times the limit."""


@asynccontextmanager
async def _waiting_agent(case: Case, settings: Settings) -> AsyncGenerator[tuple[Agents, str]]:
    async with Agents(case, settings, [SLOW]) as agents:
        await agents.until_noted(BEFORE_IT_WAITS)
        [run_id] = agents.noted()
        yield agents, run_id


async def _reads(hosted: HostedConsumer, run_id: str, liveness: str) -> RunState:
    async def state() -> Any:
        found = (await hosted.reader.list_run_states([run_id])).get(run_id)
        return found if found is not None and found.liveness == liveness else None

    try:
        return await until(state, NAMED_S_MAX)
    except TimeoutError:
        raise BrokenError(f"{run_id} does not come to read {liveness}") from None


async def _stays_open(hosted: HostedConsumer, run_id: str, span_s: float) -> None:
    for _ in range(int(span_s / 0.1)):
        found = (await hosted.reader.list_run_states([run_id]))[run_id]
        must(found.liveness == "open", f"an agent that waits and beats reads {found.liveness}")
        await asyncio.sleep(0.1)  # looked at all the time


def _assert_last(state: RunState, agents: Agents) -> None:
    """The time of the last event is that of the last call, by the agent's clock."""
    account = agents.noted()[state.run_id]
    span = account.span_of(max(account.logs))
    assert span is not None
    if state.last_event_at is None:
        raise BrokenError("the last event has no time")
    must(
        span[0] <= to_us(state.last_event_at) <= span[1],
        f"the last event was recorded within {span}, and reads {to_us(state.last_event_at)}",
    )


async def _abandoned_for_real(case: Case, settings: Settings) -> None:
    async with (
        host_consumer(settings, serve=False) as hosted,
        _waiting_agent(case, settings) as (agents, run_id),
    ):
        await _reads(hosted, run_id, "open")
        await _stays_open(hosted, run_id, WAITS_LIMITS * settings.abandon_after_ms / 1_000)
        pid = agents.processes[0].pid
        stop_process(pid)
        state = await _reads(hosted, run_id, "abandoned")
        _assert_last(state, agents)
        wake_process(pid)
        await _reads(hosted, run_id, "open")
        await agents.processes[0].kill()
        state = await _reads(hosted, run_id, "abandoned")
        must(state.completeness != "complete", "what a dead process did not finish reads complete")
        _assert_last(state, agents)
    if settings.uses_kafka:
        await forward_all(settings)
    await consume_all(settings)
    check(case, settings, agents.noted())


HEARTS = {"heartbeats": "the source beats once an hour"}


def _hearts(case: Case) -> dict[str, Any]:
    beats_ms = 3_600_000 if case.switched_off == "heartbeats" else HEARTBEAT_MS
    return {"abandon_after_ms": LIMIT_MS, "heartbeat_interval_ms": beats_ms}


@row(
    "abandoned-real-clock",
    about="An agent that waits longer than the limit, is stopped, woken and killed; embedded, limit 5 s",
    full=20,
    share=1,
    test=1,
    off=HEARTS,
)
async def real_clock(case: Case) -> None:
    """Waiting is no silence; being stopped is; whoever wakes is taken back; whoever dies is gone."""
    await _abandoned_for_real(case, embedded(case, **_hearts(case)))


@row(
    "abandoned-real-clock-kafka",
    about="The same through a broker, in the broker's time, limit 5 s",
    full=20,
    share=1,
    test=0,
    off=HEARTS,
    off_in_tests=False,
    resource=shared_broker,
    broker=True,
    not_in_tests="long: thirty seconds of real time, as its twin without a broker, which is in",
)
async def real_clock_kafka(case: Case) -> None:
    """As embedded."""
    await _abandoned_for_real(case, await through_kafka(case, case.resource, **_hearts(case)))
