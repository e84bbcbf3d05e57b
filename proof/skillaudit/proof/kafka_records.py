"""Kafka as `Records`: what a check reads again, partition by partition. No group, nothing committed, nothing ever reset.

The client lives as long as the check; each step of it is bounded in time. Not to be called from inside an event loop.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any, Final, TypeVar

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka_errors

from skillaudit.contract.errors import UnreachableError
from skillaudit.contract.kafka_options import connection_options
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import SourceRecord
from skillaudit.proof.kafka import cluster_metadata, mapped_errors, stopped
from skillaudit.proof.verify.records import PORTION_RECORDS_MAX, Bounds, Portion

READ_TIMEOUT_S: Final = 30.0
"""For one question, and for the next records of a partition."""
FETCH_BYTES_MAX: Final = 16 * 1024 * 1024
"""What is asked of a broker at once; a record that is larger comes all the same, alone."""
FETCH_WAIT_MS: Final = 20
"""At the end of a partition a broker answers after so long, and the question about the next one waits behind that."""
POLL_MS: Final = 500
_NOBODY: Final = -1
_LOG_APPEND_TIME: Final = 1
_T = TypeVar("_T")


class KafkaRecords:
    """`Records` of a cluster."""

    def __init__(self, settings: Settings, *, by: str) -> None:
        """`settings`: for the connection and the topics; `by`: who reads, for the report, which adds host and process."""
        self.by = f"{by} (process {os.getpid()} on {socket.gethostname()})"
        self.cluster = ""
        self.topics = settings.kafka_topics
        self._settings = settings
        self._runner = asyncio.Runner()
        self._consumer: Any = None

    def __repr__(self) -> str:
        """Topics and address."""
        return f"KafkaRecords({', '.join(self.topics)} at {self._settings.kafka_bootstrap_servers})"

    def bounds(self, partitions: Collection[str]) -> Mapping[str, Bounds]:
        """As `Records.bounds`."""
        return self._run("ask for the ends of topics", partial(self._bounds, partitions))

    def at(self, partition: str, at_us: int) -> int:
        """As `Records.at`."""
        return self._run(f"ask for a time in {partition}", partial(self._at, _parsed(partition), at_us))

    def read(self, partition: str, first: int, end: int) -> Iterator[Portion]:
        """As `Records.read`."""
        where, at = _parsed(partition), first
        self._run(f"read {partition}", partial(self._seek, where, at))
        while at < end:
            found = self._run(f"read {partition} from {at} on", partial(self._portion, where, at, end))
            yield found
            at = found.end

    def close(self) -> None:
        """As `Records.close`."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            self._runner.run(stopped(consumer))
        self._runner.close()

    def _run(self, doing: str, step: Callable[[], Awaitable[_T]]) -> _T:
        return self._runner.run(self._bounded(doing, step))

    async def _bounded(self, doing: str, step: Callable[[], Awaitable[_T]]) -> _T:
        where = f"of Kafka at {self._settings.kafka_bootstrap_servers}"
        with mapped_errors(doing, f"{where}; check that it runs and that this user may read the topics"):
            async with asyncio.timeout(READ_TIMEOUT_S):
                return await step()

    async def _client(self) -> Any:
        """Connected at the first use."""
        if self._consumer is None:
            consumer: Any = AIOKafkaConsumer(
                **connection_options(self._settings),
                enable_auto_commit=False,
                auto_offset_reset="none",
                max_partition_fetch_bytes=FETCH_BYTES_MAX,
                fetch_max_bytes=FETCH_BYTES_MAX,
                fetch_max_wait_ms=FETCH_WAIT_MS,
            )
            try:
                await consumer.start()
            except BaseException:
                await stopped(consumer)
                raise
            self._consumer = consumer
        return self._consumer

    async def _bounds(self, partitions: Collection[str]) -> Mapping[str, Bounds]:
        consumer = await self._client()
        wanted = {_parsed(name): name for name in partitions}
        client = consumer._client  # noqa: SLF001  there is no accessor
        found = await cluster_metadata(client, sorted({it.topic for it in wanted}))
        self.cluster = f"kafka:{found['cluster_id']}"
        led = {
            TopicPartition(topic["topic"], it["partition"]): it["leader"] != _NOBODY
            for topic in found["topics"]
            for it in topic["partitions"]
        }
        there = [it for it in wanted if it in led]
        silent = sorted(wanted[it] for it in there if not led[it])
        if silent:  # the client would wait for it, and the others with it
            raise UnreachableError(
                f"{', '.join(silent)} has no leader now; check the brokers, then ask again"
            )
        if not there:
            return {}
        begins = await consumer.beginning_offsets(there)
        ends = await consumer.end_offsets(there)
        return {wanted[it]: Bounds(int(begins[it]), int(ends[it])) for it in there}

    async def _at(self, partition: TopicPartition, at_us: int) -> int:
        consumer = await self._client()
        found = (await consumer.offsets_for_times({partition: max(at_us, 0) // 1000}))[partition]
        if found is None:
            found = (await consumer.end_offsets([partition]))[partition]
            return int(found)
        return int(found.offset)

    async def _seek(self, partition: TopicPartition, at: int) -> None:
        consumer = await self._client()
        consumer.assign([partition])
        consumer.seek(partition, at)

    async def _portion(self, partition: TopicPartition, at: int, end: int) -> Portion:
        consumer, first = await self._client(), at
        while at < end:
            try:
                answer = await consumer.getmany(
                    partition, timeout_ms=POLL_MS, max_records=PORTION_RECORDS_MAX
                )
            except kafka_errors.OffsetOutOfRangeError:  # retention goes on meanwhile
                first = at = await self._begin(consumer, partition, at)
                continue
            messages = answer.get(partition, ())
            if messages:
                name = f"{partition.topic}/{partition.partition}"
                records = [_record(name, message) for message in messages if message.offset < end]
                return Portion(first, min(messages[-1].offset + 1, end), records)
            at = max(at, await consumer.position(partition))  # what a cleaner took leaves no record
        return Portion(first, max(at, first), ())

    async def _begin(self, consumer: Any, partition: TopicPartition, at: int) -> int:
        begin = int((await consumer.beginning_offsets([partition]))[partition])
        if begin <= at:
            raise UnreachableError(
                f"{partition.topic}/{partition.partition} no longer holds offset {at}; was it made anew meanwhile?"
            )
        consumer.seek(partition, begin)
        return begin


def _parsed(partition: str) -> TopicPartition:
    topic, _, number = partition.rpartition("/")
    return TopicPartition(topic, int(number))


def _record(name: str, message: Any) -> SourceRecord:
    received_us = message.timestamp * 1000 if message.timestamp_type == _LOG_APPEND_TIME else 0
    return SourceRecord(name, message.offset, message.offset + 1, received_us, message.key, message.value)
