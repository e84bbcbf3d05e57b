"""The broker's disk full, and space returning: what it did not acknowledge waits in the outbox."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import tempfile
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from tests.conformance.compositions import with_topics
from tests.faults.oracle import BrokenError
from tests.faults.rows import Case, row
from tests.faults.rows_broker import RESEND, FireAndForget
from tests.faults.stage import Agents, check, consume_all, drain, through_kafka
from tests.faults.stage_kafka import (
    CASE_S_MAX,
    PATIENCE_S,
    Topics,
    forwarding,
    publisher_of,
    read_batches,
)
from tests.support.small_fs import SmallFs, small_fs
from tests.support.waiting import until

from skillaudit.contract.settings import Settings

DISK_BYTES = 192 << 20
ROOM_BYTES_MIN, GROWN_BYTES = 32 << 20, 64 << 20
"""A broker that finds less than the first to start in, its disk freed, is given the second."""
_DATA = "/var/lib/kafka/data"
_BROKER_USER = 1_000
DIES_S_MAX = 120.0
BROKERS_MAX = 3
"""Of one case: each that can't be brought back is judged by what it and the outbox hold, and the case begins anew."""
LIVES_MAX = 3
"""How often a broker that has ended is started again, its disk freed."""
COMES_BACK_S_MAX = 120.0
"""For a broker that answers, to take what waits for it."""
FLUSH_S = 1_200.0
"""Longer than the broker may take: who ends first must not be the agents."""
_LOG_LINES = 2_000
_TROUBLE = re.compile(r"ERROR|FATAL|Exception|WARN")
_TROUBLES_TOLD = 4
_SAID_CHARS = 1_500


class Cramped(NamedTuple):
    """A broker and the file system of its log."""

    broker: Any
    disk: SmallFs

    def runs(self) -> bool:
        """Whether the broker's process is there."""
        return bool(self.broker._runs())

    def state(self) -> str:
        """What there is to see, in one line; the troubles of its log at the end."""
        troubles = [line[:160] for line in self.broker.said(_LOG_LINES).splitlines() if _TROUBLE.search(line)]
        is_up = "runs" if self.runs() else "has ended"
        last = " | ".join(troubles[-_TROUBLES_TOLD:])
        return f"the broker {is_up}, {self.disk.free_bytes} bytes free on its disk, its log: {last}"


class Brokers:
    """The one that the cases share, until it can't be brought back."""

    def __init__(self) -> None:
        self._stack = contextlib.AsyncExitStack()
        self._now: Cramped | None = None

    async def get(self) -> Cramped:
        """The present one."""
        if self._now is None:
            self._now = await self._stack.enter_async_context(_cramped_broker())
        return self._now

    async def drop(self) -> None:
        """The next is a new one."""
        self._now = None
        await self._stack.aclose()


@contextlib.asynccontextmanager
async def cramped_brokers() -> AsyncGenerator[Brokers]:
    """Brokers whose logs are on file systems that a row may fill, one at a time."""
    brokers = Brokers()
    try:
        yield brokers
    finally:
        await brokers.drop()


@contextlib.asynccontextmanager
async def _cramped_broker() -> AsyncGenerator[Cramped]:
    from tests.support.broker import KafkaContainer

    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="skillaudit-disk-")))
        options = [f"uid={_BROKER_USER}", "mode=777"]
        disk = stack.enter_context(small_fs(directory, DISK_BYTES, kind="tmpfs", options=options))
        container = KafkaContainer().with_volume_mapping(str(disk.path), _DATA, "rw")
        broker = await asyncio.to_thread(container.start)
        try:
            yield Cramped(broker, disk)
        finally:
            await asyncio.to_thread(broker.stop)


@row(
    "broker-disk-full",
    about="the broker's log directory full under load, so that it ends; space returns, and it is started again",
    full=20,
    share=0,
    test=0,
    off=RESEND,
    off_cases_max=2,
    off_in_tests=False,
    off_in_share=False,
    resource=cramped_brokers,
    broker=True,
    root="a small file system for the broker's log",
    case_s_max=2 * CASE_S_MAX,
    not_in_tests="long: a broker dies and starts again",
)
async def broker_disk_full(case: Case) -> None:
    """Whatever was acknowledged is in what the broker finds again, and whatever was not is sent again.

    A broker that does not take records again, though its disk is freed and it was started anew, is no case that passed,
    and none that failed before the judge has looked: what it holds and what the outbox holds is brought to a new one.
    """
    brokers: Brokers = case.resource
    for number in range(BROKERS_MAX):
        try:
            await _full_once(case, await brokers.get(), f"stop-{number}")
        except _NotBroughtBack as gone:
            case.note(brokers_not_brought_back=1)
            await _judge_what_is_left(case, gone, brokers)
        except BaseException:
            await brokers.drop()
            raise
        else:
            return
    raise AssertionError(f"{BROKERS_MAX} brokers, one after the other, did not come back from a full disk")


async def _full_once(case: Case, cramped: Cramped, stop_name: str) -> None:
    settings = await through_kafka(
        case,
        cramped.broker.bootstrap,
        kafka_request_timeout_ms=2_000,
        forwarder="host" if case.switched_off else "thread",
    )
    stop = case.directory / stop_name
    plan = {
        "runs": 100_000,
        "events_per_s": 200.0,
        "payload_bytes": 2_000,
        "stop_file": str(stop),
        "flush_s": FLUSH_S,
    }
    async with contextlib.AsyncExitStack() as stack:
        if case.switched_off:
            publisher = await stack.enter_async_context(publisher_of(case, settings, resend=FireAndForget))
            await stack.enter_async_context(forwarding(settings, publisher))
        agents = await stack.enter_async_context(Agents(case, settings, [plan] * 2))
        await _recorded(agents, 100, "before the disk is full")
        try:
            cramped.disk.fill(case.random.randint(0, 1 << 20))
            with _told(cramped, "the broker has to end, its disk full"):
                await until(lambda: not cramped.runs(), DIES_S_MAX)
            await _recorded(agents, 200, "without a broker")
        finally:
            cramped.disk.free()
        left = _Left(settings, agents)
        await _start_again(case, cramped, left)
        await _recorded(agents, 100, "with the broker again")
        stop.touch()
        await _until_sent(case, cramped, left)
    with _told(cramped, "the consumer has to take everything"):
        await consume_all(settings, PATIENCE_S)
    check(case, settings, agents.noted())
    with _told(cramped, "the topic has to be deleted"):
        async with Topics(settings.kafka_bootstrap_servers) as topics:
            # Or the disk is full by itself after some cases.
            await topics.delete(settings.kafka_topic)


class _Left(NamedTuple):
    """What there is beside the broker."""

    settings: Settings
    agents: Agents


class _NotBroughtBack(Exception):  # noqa: N818  no error of ours
    """The broker does not take records again, its disk freed; `left` is what the judge has to look at."""

    def __init__(self, cramped: Cramped, left: _Left) -> None:
        super().__init__(cramped.state())
        self.left = left


@contextlib.contextmanager
def _told(cramped: Cramped, what: str) -> Generator[None]:
    """What is waited for in vain within the block is said, with what there is to see of the broker."""
    try:
        yield
    except TimeoutError as exc:
        raise TimeoutError(f"{what}: {exc}; {cramped.state()}") from exc


async def _recorded(agents: Agents, more: int, when: str) -> None:
    """So much more is noted, by agents that live."""
    await agents.until_noted(agents.noted_lines() + more, PATIENCE_S)
    ended = [process.said()[-300:] for process in agents.processes if not process.running]
    assert not ended, f"agents have ended {when}: {ended}"


async def _start_again(case: Case, cramped: Cramped, left: _Left) -> None:
    """What an operator does, a few times: free the disk (done), start the broker, look whether it answers, give it space."""
    from tests.support.broker import BrokerNotReadyError

    for _ in range(LIVES_MAX):
        if cramped.runs():
            await asyncio.to_thread(cramped.broker.halt)
        try:
            await asyncio.to_thread(cramped.broker.resume, timeout_s=COMES_BACK_S_MAX)
        except BrokerNotReadyError:
            case.note(starts_in_vain=1)
            if cramped.disk.free_bytes < ROOM_BYTES_MIN:  # full of what the broker itself wrote
                cramped.disk.grow(GROWN_BYTES)
                case.note(disks_made_larger=1)
        else:
            return
    raise _NotBroughtBack(cramped, left)


async def _until_sent(case: Case, cramped: Cramped, left: _Left) -> None:
    """The agents have ended, everything acknowledged. A broker that does not take it is what an operator looks after;
    one that takes another client's records, and not theirs, is no excuse.
    """
    agents = left.agents

    async def sent() -> bool:
        with contextlib.suppress(TimeoutError):
            await until(
                lambda: not any(p.running for p in agents.processes) or not cramped.runs(), COMES_BACK_S_MAX
            )
        return not any(p.running for p in agents.processes)

    for _ in range(LIVES_MAX):
        if await sent():
            break
        if cramped.runs() and await _takes_records(left.settings):
            if not await sent():
                raise BrokenError(
                    f"the broker takes another client's records, and not the agents': {cramped.state()}; "
                    f"they stand at: {await _stacks(agents)}"
                )
            break
        if cramped.runs() and (leaderless := await _leaderless(left.settings)):
            case.note(leaders_elected_by_hand=leaderless)
            await asyncio.to_thread(_elect, cramped)
        else:
            case.note(started_once_more=1)
            await _start_again(case, cramped, left)
    else:
        raise _NotBroughtBack(cramped, left)
    await agents.join(PATIENCE_S)


async def _stacks(agents: Agents) -> list[str]:
    """Where the threads of those that still run are; the whole of it is in the case's directory. They end by that."""
    running = [process for process in agents.processes if process.running]
    for process in running:
        os.kill(process.pid, signal.SIGABRT)  # PYTHONFAULTHANDLER is set for them
        await process.join()
    return [process.said()[-_SAID_CHARS:] for process in running]


async def _leaderless(settings: Settings) -> int:
    """Of the topic's partitions."""
    async with Topics(settings.kafka_bootstrap_servers) as topics:
        places = await topics.places(settings.kafka_topic)
    return sum(leader < 0 for leader, _ in places.values())


def _elect(cramped: Cramped) -> None:
    """Each partition has one replica: what it holds is all there is, and Kafka's election among those not in sync takes it."""
    with contextlib.suppress(RuntimeError):  # it ends so, too, where some of the partitions needed none
        cramped.broker.run_command(
            "kafka-leader-election.sh",
            "--bootstrap-server",
            "localhost:9092",
            "--election-type",
            "unclean",
            "--all-topic-partitions",
        )


async def _takes_records(settings: Settings) -> bool:
    """Whether the broker takes a record for each partition: the last one there is once more, which consumers drop."""
    try:
        async with asyncio.timeout(COMES_BACK_S_MAX):
            stored = await read_batches(settings, settings.kafka_topic)
            last = {partition: records[-1:] for partition, records in stored.items()}
            await _send(settings, last)
    except (KafkaError, OSError, TimeoutError):
        return False
    return True


async def _send(settings: Settings, records: Mapping[int, Sequence[tuple[bytes, bytes]]]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers, acks="all")
    await producer.start()
    try:
        for partition, own in records.items():
            for key, value in own:
                await producer.send_and_wait(settings.kafka_topic, value, key=key, partition=partition)
    finally:
        await producer.stop()


async def _judge_what_is_left(case: Case, gone: _NotBroughtBack, brokers: Brokers) -> None:
    """Nothing that was safe is missing in what the broker still gives and what the outbox holds, taken together."""
    settings, agents = gone.left
    try:
        async with asyncio.timeout(PATIENCE_S):
            given = await read_batches(settings, settings.kafka_topic)
    except (KafkaError, OSError, TimeoutError) as exc:
        raise RuntimeError(f"the broker gives nothing of what it acknowledged: {exc!r}; {gone}") from gone
    finally:
        await brokers.drop()
    new = (await brokers.get()).broker.bootstrap
    moved = await with_topics(replace(settings, kafka_bootstrap_servers=new))
    await _send(moved, given)
    await drain(moved, PATIENCE_S)
    apart = replace(case, events=0, facts={})
    check(apart, moved, agents.noted())
