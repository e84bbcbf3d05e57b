"""The compositions of the whole pipeline, each as an open storage; nothing in them is a test's own."""

import contextlib
import functools
import secrets
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from skillaudit.contract.settings import Settings
from skillaudit.contract.storage import AuditReader
from skillaudit.producer import Sink
from skillaudit.producer.kafka import KafkaTopicAdmin
from skillaudit.producer.topics import ensure_topics, plan_topics
from skillaudit.storage import SessionStorage, open_reader, open_storage
from skillaudit.storage.hosting import host_consumer

PARTITIONS = 6


def settings_at(data: Path, **members) -> Settings:
    """Settings of a small pipeline that takes no notice of how full the machine's disk is."""
    own = {
        "data": data,
        "outbox_free_bytes_min": 0,
        "http_listen": "127.0.0.1:0",
        "metrics_listen": "",
        "batch_interval_ms": 1,
    }
    return Settings(**(own | members))


async def with_topics(settings: Settings) -> Settings:
    """The same settings, their topics made."""
    async with KafkaTopicAdmin(settings) as admin:
        await ensure_topics(admin, plan_topics(settings, partitions=PARTITIONS, replication=1))
    return settings


async def kafka_settings(data: Path, bootstrap: str, **members) -> Settings:
    """Settings for topics of a test's own on a real broker; they exist when this returns."""
    mark = secrets.token_hex(6)
    own = {
        "kafka_bootstrap_servers": bootstrap,
        "kafka_topic": f"test.{mark}.events",
        "kafka_control_topic": f"test.{mark}.control",
    }
    return await with_topics(settings_at(data, **(own | members)))


@contextlib.asynccontextmanager
async def opened(target: Settings | str, **overrides) -> AsyncGenerator[SessionStorage]:
    """An initialized storage."""
    async with open_storage(target, **overrides) as storage:
        await storage.initialize()
        yield storage


@contextlib.asynccontextmanager
async def over_http(settings: Settings) -> AsyncGenerator[SessionStorage]:
    """A consumer that serves, and a storage that reaches it by its address alone."""
    async with (
        host_consumer(settings, serve=True) as hosted,
        opened(settings, url=hosted.url) as storage,
    ):
        yield storage


class ReaderBehind:
    """An `AuditReader` that reads what a Sink has recorded: flush, wait for the positions of the report, ask."""

    FLUSH_S = 30

    def __init__(self, sink: Sink, reader: AuditReader) -> None:
        self._sink = sink
        self._reader = reader

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._reader, name)

        @functools.wraps(method)
        async def ask(*args, **kwargs):
            report = await self._sink.aflush(self.FLUSH_S)
            assert report.complete, report
            await self._reader.wait_for(report.positions, self.FLUSH_S)
            return await method(*args, **kwargs)

        return ask


@contextlib.asynccontextmanager
async def recording(settings: Settings, *, serve: bool) -> AsyncGenerator[tuple[Sink, ReaderBehind]]:
    """A Sink of these settings and a reader behind it, over HTTP or on the consumer's database."""
    async with contextlib.AsyncExitStack() as stack:
        hosted = await stack.enter_async_context(host_consumer(settings, serve=serve))
        reader: AuditReader = hosted.reader
        if serve:
            reader = await stack.enter_async_context(open_reader(hosted.url))
        sink = await stack.enter_async_context(Sink.from_settings(settings))
        yield sink, ReaderBehind(sink, reader)
