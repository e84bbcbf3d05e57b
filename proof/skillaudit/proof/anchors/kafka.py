"""An anchor in a Kafka topic: one partition, no deletion, no compaction, and rights that the database's administrator
should not have.

Each call connects, does its work within a bound, and disconnects: an anchor is written once a minute at most.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any, Final

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka import errors as kafka_errors

from skillaudit.contract.errors import SettingsError, UnreachableError
from skillaudit.contract.kafka_options import connection_options
from skillaudit.contract.settings import Settings
from skillaudit.proof.anchors.base import (
    CLOCKS_APART_US,
    AnchorObject,
    AnchorTrust,
    Receipt,
    StoredObject,
    parse_object,
    told_us,
)
from skillaudit.proof.errors import NewestUnknownError
from skillaudit.proof.kafka import cluster_metadata, mapped_errors, stopped

PUBLISH_TIMEOUT_S: Final = 10.0
"""For all that one `publish` sends."""
READ_TIMEOUT_S: Final = 30.0
"""For one portion of a reading."""
NEWEST_RECORDS: Final = 16
"""How many records at the end are looked through first for the newest object: an older one may have been repeated there."""
NEWEST_RECORDS_MAX: Final = 10_000
"""How many are at most, where more than these may be newer than the largest object found."""
PORTION_RECORDS_MAX: Final = 10_000
PORTION_BYTES_MAX: Final = 16 * 1024 * 1024
FETCH_BYTES_MAX: Final = 16 * 1024 * 1024
WALK_RECORDS: Final = 64
"""The first step back from the end when objects behind a size are looked for; each further one is twice as long."""
PROBES_MAX: Final = 1_000
PROBE_RECORDS_MIN: Final = 32
"""Of what lies before the place so found one record in this many is looked at, or fewer, so that it is `PROBES_MAX` at most."""
PROBE_BYTES: Final = 64 * 1024


class KafkaAnchor:
    """`Anchor` in partition 0 of a topic. Not to be called from inside an event loop: it blocks."""

    def __init__(self, topic: str, settings: Settings, uri: str = "") -> None:
        """`settings`: for the connection; the topic's name is `topic`."""
        self.uri = uri or f"kafka:{topic}"
        self.trust = AnchorTrust.BROKER
        self._topic = topic
        self._settings = settings
        self._partition = TopicPartition(topic, 0)
        self.records_read = 0
        """Records taken from the topic so far."""

    def __repr__(self) -> str:
        """Topic and address."""
        return f"KafkaAnchor({self._topic!r} at {self._settings.kafka_bootstrap_servers})"

    def publish(self, objects: Sequence[AnchorObject]) -> list[Receipt]:
        """As `Anchor.publish`; acknowledged by all replicas in sync."""
        return asyncio.run(self._publish(objects)) if objects else []

    def newest(self) -> StoredObject | None:
        """As `Anchor.newest`."""
        return asyncio.run(self._newest())

    def objects(self, after: int = 0) -> Iterator[StoredObject]:
        """As `Anchor.objects`: in the order of the topic, read in portions, from where they begin."""
        at = asyncio.run(self._behind(after)) if after else 0
        while True:
            portion, at = asyncio.run(self._portion(at))
            if not portion:
                return
            yield from (stored for stored in portion if stored.content.checkpoint.size > after)

    def at(self, size: int) -> StoredObject | None:
        """As `Anchor.at`; the first one, where it is there more than once."""
        found = (stored for stored in self.objects(size - 1) if stored.content.checkpoint.size == size)
        return next(found, None)

    def close(self) -> None:
        """Nothing is held."""

    async def _publish(self, objects: Sequence[AnchorObject]) -> list[Receipt]:
        options = connection_options(self._settings)
        with self._mapped("publish to"):
            producer: Any = AIOKafkaProducer(**options, acks="all", enable_idempotence=True)
            try:
                async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                    await producer.start()
                    await self._check_topic(producer.client)
                    sent = [
                        await producer.send_and_wait(self._topic, content.encode(), partition=0)
                        for content in objects
                    ]
            finally:
                await stopped(producer)
        return [Receipt(int(s.timestamp or 0) * 1000, f"{self._topic}/0#{s.offset}") for s in sent]

    async def _newest(self) -> StoredObject | None:
        """The largest object of those that may be the newest. Who may append, and nothing else, could hide it behind old ones
        said again; but it was taken after the moment that any older one speaks of, so all that was taken since then is looked at.
        """
        async with self._consumer() as consumer:
            begin, end = await self._begin(consumer), await self._end(consumer)
            low, largest = end, None
            first = max(begin, end - NEWEST_RECORDS)
            while first < low:
                largest, low = await self._largest(consumer, first, low, largest), first
                since = await self._since(consumer, largest, begin, end)
                first = max(since, end - NEWEST_RECORDS_MAX)
                if since < low <= first:
                    raise NewestUnknownError(
                        f"{self._topic} says old objects again in more than its last {NEWEST_RECORDS_MAX:,} records: its newest"
                        " can't be told from them; `skillaudit verify --all` reads all of it"
                    )
            return largest

    async def _largest(
        self, consumer: Any, at: int, end: int, largest: StoredObject | None
    ) -> StoredObject | None:
        while at < end:
            found, at = await self._read(consumer, at, end)
            largest = max(
                [*found, *([largest] if largest else [])],
                key=lambda it: it.content.checkpoint.size,
                default=None,
            )
        return largest

    async def _since(self, consumer: Any, largest: StoredObject | None, begin: int, end: int) -> int:
        """From which offset on there may be larger ones."""
        at_us = None if largest is None else told_us(largest)
        if at_us is None:
            return begin
        at_ms = max(0, at_us - CLOCKS_APART_US) // 1000
        found = (await consumer.offsets_for_times({self._partition: at_ms}))[self._partition]
        return end if found is None else max(begin, int(found.offset))

    async def _behind(self, after: int) -> int:
        """An offset before which there are no objects larger than `after`: sought backwards from the end, as they are
        appended in order. Who may append, and nothing else, could hide newer ones behind many old ones said again; so
        some of what lies before is looked at, too.
        """
        async with self._consumer() as consumer:
            begin, low = await self._begin(consumer), await self._end(consumer)
            step = WALK_RECORDS
            while low > begin:
                first = max(begin, low - step)
                found, _ = await self._read(consumer, first, low)
                if step > WALK_RECORDS and all(it.content.checkpoint.size <= after for it in found):
                    break
                low, step = first, step * 2
        async with self._consumer(PROBE_BYTES) as consumer:
            apart = max(PROBE_RECORDS_MIN, (low - begin) // PROBES_MAX)
            for at in range(begin, low, apart):
                found, _ = await self._read(consumer, at, at + 1)
                if found and found[0].content.checkpoint.size > after:
                    return max(begin, at - apart)
        return low

    async def _portion(self, at: int) -> tuple[list[StoredObject], int]:
        """Objects from offset `at` on, and the offset behind them; none at the end."""
        async with self._consumer() as consumer:
            return await self._read(consumer, at, await self._end(consumer))

    async def _read(self, consumer: Any, at: int, end: int) -> tuple[list[StoredObject], int]:
        at = max(at, await self._begin(consumer))
        found: list[StoredObject] = []
        size_bytes = 0
        if at < end:
            consumer.seek(self._partition, at)
        while at < end and len(found) < PORTION_RECORDS_MAX and size_bytes < PORTION_BYTES_MAX:
            wanted = min(PORTION_RECORDS_MAX - len(found), end - at)
            answer = await consumer.getmany(self._partition, timeout_ms=500, max_records=wanted)
            for message in answer.get(self._partition, ()):
                size_bytes += len(message.value or b"")
                place = f"{self._topic}/0#{message.offset}"
                content = parse_object(message.value or b"", place)
                found.append(StoredObject(content, message.timestamp * 1000, place))
                at = message.offset + 1
                self.records_read += 1
        return found, at

    async def _begin(self, consumer: Any) -> int:
        return int((await consumer.beginning_offsets([self._partition]))[self._partition])

    async def _end(self, consumer: Any) -> int:
        return int((await consumer.end_offsets([self._partition]))[self._partition])

    @contextlib.asynccontextmanager
    async def _consumer(self, fetch_bytes: int = FETCH_BYTES_MAX) -> AsyncGenerator[Any]:
        """A connected consumer of the partition, for at most `READ_TIMEOUT_S`."""
        with self._mapped("read"):
            consumer: Any = AIOKafkaConsumer(
                **connection_options(self._settings),
                enable_auto_commit=False,
                auto_offset_reset="none",
                max_partition_fetch_bytes=fetch_bytes,
            )
            try:
                async with asyncio.timeout(READ_TIMEOUT_S):
                    await consumer.start()
                    await self._check_topic(consumer._client)  # noqa: SLF001  there is no accessor
                    consumer.assign([self._partition])
                    yield consumer
            finally:
                await stopped(consumer)

    async def _check_topic(self, client: Any) -> None:
        answer = (await cluster_metadata(client, [self._topic]))["topics"][0]
        error = kafka_errors.for_code(answer["error_code"])
        if error is kafka_errors.UnknownTopicOrPartitionError:
            raise UnreachableError(
                f"the cluster has no topic {self._topic}; `skillaudit topics` creates it, with one partition"
            )
        if error is not kafka_errors.NoError:
            raise error(self._topic)
        if len(answer["partitions"]) != 1:
            raise SettingsError(
                f"the topic {self._topic} must have one partition to be an anchor, it has more"
            )

    def _mapped(self, doing: str) -> contextlib.AbstractContextManager[None]:
        return mapped_errors(doing, f"{self._topic} at {self._settings.kafka_bootstrap_servers}")
