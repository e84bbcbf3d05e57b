"""One forwarder for all processes of a host: what `skillaudit forward` runs.

It takes every source of the outbox directory that nobody else forwards, of living processes and dead ones; the agents
beside it set `forwarder` to `host`. One per directory: a second one is refused, with the first one named.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from skillaudit.contract.errors import LockedError, SettingsError
from skillaudit.contract.outbox.locks import FileLock, lock_holder
from skillaudit.contract.settings import Settings
from skillaudit.producer.forwarder import Forwarder, ForwardReport
from skillaudit.producer.forwarder_backlog import BacklogWatch, watching
from skillaudit.producer.forwarder_core import ForwarderLimits
from skillaudit.producer.forwarder_sources import Scope
from skillaudit.producer.publisher import RecordPublisher

HOST_LOCK_NAME: Final = "forwarder.lock"
PROGRESS_INTERVAL_S: Final = 1.0


def forwarder_limits(settings: Settings) -> ForwarderLimits:
    """The bounds that settings decide, the others as they are."""
    return ForwarderLimits(
        batch_bytes_max=settings.kafka_batch_bytes, poll_interval_ms=max(settings.kafka_linger_ms, 1)
    )


def make_publisher(settings: Settings) -> RecordPublisher:
    """The publisher that the settings name. Raises `SettingsError` where they name none."""
    if not settings.uses_kafka:
        raise SettingsError(
            "kafka_bootstrap_servers is not set; without a broker there is nothing to forward to"
        )
    from skillaudit.producer.kafka import KafkaPublisher

    return KafkaPublisher(settings)


async def run_host_forwarder(
    settings: Settings,
    stop: asyncio.Event,
    on_progress: Callable[[ForwardReport], None] | None = None,
    *,
    publisher: RecordPublisher | None = None,
    observe: Callable[[Forwarder], contextlib.AbstractContextManager[object]] | None = None,
) -> ForwardReport:
    """Forward everything in the outbox directory until `stop` is set, then end within seconds.

    Raises `LockedError` where another forwarder of the host runs, `OutboxMismatchError` where the directory is read by
    another consumer, topic or cluster. `on_progress` is called about once a second; what `observe` gives is entered
    for as long as the forwarder runs.
    """
    forwarder = Forwarder(
        settings.outbox_dir,
        publisher or make_publisher(settings),
        limits=forwarder_limits(settings),
        scope=Scope.ALL,
    )
    watch = BacklogWatch(settings.outbox_dir)
    with _only_one(settings.outbox_dir), observe(forwarder) if observe else contextlib.nullcontext():
        async with _progress(forwarder, watch, on_progress), watching(watch, beside=True):
            report = await forwarder.run(stop)
        await asyncio.to_thread(watch.look)
    return replace(report, oldest_s=watch.age_s)


@contextlib.contextmanager
def _only_one(outbox_dir: Path) -> Generator[None]:
    outbox_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(outbox_dir / HOST_LOCK_NAME)
    if not lock.try_acquire(b"%d\n" % os.getpid()):
        holder = lock_holder(lock.path)
        raise LockedError(
            f"process {holder or '(of another container)'} forwards {outbox_dir} already; one forwarder per directory"
        )
    try:
        yield
    finally:
        lock.release()


@asynccontextmanager
async def _progress(
    forwarder: Forwarder, watch: BacklogWatch, on_progress: Callable[[ForwardReport], None] | None
) -> AsyncGenerator[None]:
    async def tell() -> None:
        while on_progress is not None:
            await asyncio.sleep(PROGRESS_INTERVAL_S)
            on_progress(replace(forwarder.report, oldest_s=watch.age_s))

    task = asyncio.ensure_future(tell())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
