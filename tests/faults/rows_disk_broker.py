"""The broker's disk full, and space returning: what it did not acknowledge waits in the outbox."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, NamedTuple

from tests.faults.rows import Case, row
from tests.faults.rows_broker import RESEND, FireAndForget
from tests.faults.stage import Agents, check, consume_all, through_kafka
from tests.faults.stage_kafka import CASE_S_MAX, PATIENCE_S, Topics, flush_s, forwarding, publisher_of
from tests.support.small_fs import SmallFs, small_fs
from tests.support.waiting import until

DISK_BYTES = 192 << 20
_DATA = "/var/lib/kafka/data"
_BROKER_USER = 1_000
DIES_S_MAX = 120.0


class Cramped(NamedTuple):
    """A broker and the file system of its log."""

    broker: Any
    disk: SmallFs


@contextlib.asynccontextmanager
async def cramped_broker() -> AsyncGenerator[Cramped]:
    """A broker whose log is on a file system that a row may fill."""
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
    share=1,
    test=0,
    off=RESEND,
    off_cases_max=2,
    off_in_tests=False,
    off_in_share=False,
    resource=cramped_broker,
    broker=True,
    root="a small file system for the broker's log",
    case_s_max=CASE_S_MAX,
    not_in_tests="long: a broker dies and starts again",
)
async def broker_disk_full(case: Case) -> None:
    """Whatever was acknowledged is in what the broker finds again, and whatever was not is sent again."""
    broker, disk = case.resource
    settings = await through_kafka(
        case,
        broker.bootstrap,
        kafka_request_timeout_ms=2_000,
        forwarder="host" if case.switched_off else "thread",
    )
    stop = case.directory / "stop"
    plan = {
        "runs": 100_000,
        "events_per_s": 200.0,
        "payload_bytes": 2_000,
        "stop_file": str(stop),
        "flush_s": 2 * flush_s(case),
    }
    async with contextlib.AsyncExitStack() as stack:
        if case.switched_off:
            publisher = await stack.enter_async_context(publisher_of(case, settings, resend=FireAndForget))
            await stack.enter_async_context(forwarding(settings, publisher))
        agents = await stack.enter_async_context(Agents(case, settings, [plan] * 2))
        await agents.until_noted(100, PATIENCE_S)
        try:
            disk.fill(case.random.randint(0, 1 << 20))
            await until(lambda: not broker._runs(), DIES_S_MAX)
            await agents.until_noted(agents.noted_lines() + 200, PATIENCE_S)
        finally:
            disk.free()
        await asyncio.to_thread(broker.resume)
        await agents.until_noted(agents.noted_lines() + 100, PATIENCE_S)
        stop.touch()
        await agents.join(PATIENCE_S)
    await consume_all(settings, PATIENCE_S)
    check(case, settings, agents.noted())
    async with Topics(broker.bootstrap) as topics:  # or the disk is full by itself after some cases
        await topics.delete(settings.kafka_topic)
