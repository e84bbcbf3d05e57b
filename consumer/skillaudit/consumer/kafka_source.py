"""Kafka as a `RecordSource`: with `control_kafka` the only module of the consumer that imports aiokafka.

All partitions are assigned by hand: with one database there is one writer, and a rebalance in the background would read
offsets twice. Offsets come from the database alone; the group's offsets are written only to show lag. An offset out of
range is lost history and stops; nothing is ever reset. The last consumed record of each partition is read again at the
start and every `HISTORY_CHECK_INTERVAL_S` (aiokafka does not tell of reconnections): a recreated or truncated topic
raises no error by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Collection, Generator, Mapping
from typing import Any, Final

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.protocol.metadata import MetadataRequest

from skillaudit.contract.errors import DatabaseError, HistoryLostError, StopError, UnreachableError
from skillaudit.contract.kafka_options import connection_options
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import RecordBatch, SourceRecord, StoredPosition, record_digest

_log = logging.getLogger("skillaudit.consumer")

FETCH_BYTES_MAX: Final = 64 * 1024 * 1024
PARTITION_FETCH_BYTES_MAX: Final = 16 * 1024 * 1024
"""A record of the largest size a topic allows must fit."""
FETCH_BYTES_PER_S: Final = 2 * 1024 * 1024
"""What a connection is trusted with: an answer that is larger than the time allowed for it would be asked for for ever. A
record that is larger comes all the same, alone.
"""
FETCH_WAIT_MS: Final = 50
METADATA_AGE_MS: Final = 5_000
"""After which new partitions are noticed."""
HISTORY_CHECK_INTERVAL_S: Final = 10.0
COMMIT_TIMEOUT_S: Final = 2.0
COMMIT_RETRY_S: Final = 30.0
"""A group's coordinator that does not answer costs one batch so long, and the others nothing until then."""
START_ATTEMPTS_MAX: Final = 20
START_BACKOFF_S: Final = 0.25
_LOG_APPEND_TIME: Final = 1
_NOBODY: Final = -1
_NOT_AUTHORIZED: Final = kafka_errors.TopicAuthorizationFailedError


class MissingTopicError(UnreachableError):
    """The cluster answers, and has no such topic."""


class _NoGroupError(Exception):
    """The broker does not let this user commit in the group."""


class KafkaSource:
    """`RecordSource` over one or more topics; the partitions are `<topic>/<number>`."""

    def __init__(
        self, settings: Settings, *, group: str = "", topic_attempts_max: int = START_ATTEMPTS_MAX
    ) -> None:
        """`group`: where offsets are committed to show lag; none where empty. It takes no part in what is read.
        `topic_attempts_max`: how often a topic that is not there is looked for before `MissingTopicError`.
        """
        self._topic_attempts_max = topic_attempts_max
        self._settings = settings
        self._topics = settings.kafka_topics
        self._group = group
        self._consumer: Any = None
        self._positions: dict[str, StoredPosition] = {}
        self._known: dict[str, StoredPosition] = {}
        """Positions as of the last check. The next one looks at these: a topic that was made anew in between, and grew past
        the position, holds what was consumed last, but not what was consumed then.
        """
        self._next: dict[TopicPartition, int] = {}
        self._begins: dict[TopicPartition, int] = {}
        self._asked_ends: dict[TopicPartition, int] = {}
        self._checked_s = 0.0
        self._commit_again_s = float("-inf")
        self._absent = False
        """A topic was not there when it was last looked at: what comes back under its name may be another one."""
        self.identity = ""

    def __repr__(self) -> str:
        """Topics and partitions."""
        return f"KafkaSource({', '.join(self._topics)}, {len(self._next)} partitions)"

    async def open(self, positions: Mapping[str, StoredPosition]) -> None:
        """As `RecordSource.open`; raises `UnreachableError` after bounded attempts."""
        self._positions = dict(positions)
        self._known = {}
        self._next = {}
        self._consumer = await self._start(group=self._group or None)
        try:
            self.identity = f"kafka:{(await self._metadata())['cluster_id']}"
            partitions = await self._partitions()
            self._check_present(partitions)
            await self._assign(await self._led(partitions))
        except BaseException:
            await self.close()
            raise

    async def poll(self, records_max: int, timeout_ms: int) -> RecordBatch:
        """As `RecordSource.poll`; raises `MissingTopicError` while a topic is not there."""
        await self._look_for_topics()
        await self._take_new_partitions()
        await self._check_now_and_then()
        try:
            with self._mapped("read"):
                found = await self._consumer.getmany(timeout_ms=timeout_ms, max_records=records_max)
        except _NoGroupError as exc:
            await self._go_without_group(exc)
            return RecordBatch((), self._ends())
        except UnreachableError:
            self._seek_again()
            raise
        records: list[SourceRecord] = []
        for partition, messages in found.items():
            if not messages:
                continue
            name = f"{partition.topic}/{partition.partition}"
            records += [
                SourceRecord(
                    name,
                    m.offset,
                    m.offset + 1,
                    m.timestamp * 1000 if m.timestamp_type == _LOG_APPEND_TIME else 0,
                    m.key,
                    m.value,
                )
                for m in messages
            ]
            last = messages[-1]
            self._next[partition] = last.offset + 1
            self._positions[name] = StoredPosition(last.offset + 1, last.offset, record_digest(last.value))
            self._known.setdefault(name, self._positions[name])
        return RecordBatch(records, self._ends(), emptied=self._emptied())

    async def ends(self) -> Mapping[str, int]:
        """As `RecordSource.ends`; one that holds nothing and never held anything for us is left out."""
        partitions = sorted(await self._partitions())
        with self._mapped("ask for ends"):
            begins = await self._consumer.beginning_offsets(partitions)
            ends = await self._consumer.end_offsets(partitions)
        return {
            _name(partition): end
            for partition, end in ends.items()
            if end > begins[partition] or _name(partition) in self._positions
        }

    async def commit(self, positions: Mapping[str, int]) -> None:
        """As `RecordSource.commit`: the group's offsets, for people's tools. A failure changes nothing that counts."""
        offsets = {tp: positions[_name(tp)] for tp in self._next if _name(tp) in positions}
        if not self._group or not offsets or time.monotonic() < self._commit_again_s:
            return
        try:
            await asyncio.wait_for(self._consumer.commit(offsets), COMMIT_TIMEOUT_S)
        except (kafka_errors.KafkaError, TimeoutError) as exc:
            self._commit_again_s = time.monotonic() + COMMIT_RETRY_S
            _log.info("lag is not shown to the broker for now: %s", exc or type(exc).__name__)

    async def close(self) -> None:
        """As `RecordSource.close`."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await _stop(consumer)

    async def _go_without_group(self, exc: _NoGroupError) -> None:
        """The group only shows lag: a user who may not use it reads all the same."""
        _log.warning(
            "lag is not shown to the broker: %s; to have it, grant this user Read on that group", exc
        )
        self._group = ""
        consumer = await self._start(group=None)
        without, self._consumer = self._consumer, consumer
        await _stop(without)
        self._consumer.assign(sorted(self._next))
        self._seek_again()

    def _seek_again(self) -> None:
        """Back to where the records given so far end: an error of one partition drops what the client had taken of the
        others, and of that one before it, and it would go on behind that.
        """
        for partition, offset in self._next.items():
            self._consumer.seek(partition, offset)

    # starting

    async def _start(self, group: str | None) -> Any:
        last: Exception | None = None
        in_time = FETCH_BYTES_PER_S * self._settings.kafka_request_timeout_ms // 1_000
        for _ in range(START_ATTEMPTS_MAX):
            consumer = AIOKafkaConsumer(
                **connection_options(self._settings),
                group_id=group,
                enable_auto_commit=False,
                auto_offset_reset="none",
                max_partition_fetch_bytes=min(PARTITION_FETCH_BYTES_MAX, in_time),
                fetch_max_bytes=min(FETCH_BYTES_MAX, in_time),
                fetch_max_wait_ms=FETCH_WAIT_MS,
                metadata_max_age_ms=METADATA_AGE_MS,
            )
            try:
                await consumer.start()
            except (kafka_errors.KafkaError, OSError) as exc:
                await _stop(consumer)
                last = exc
                await asyncio.sleep(START_BACKOFF_S)
            except BaseException:
                await _stop(consumer)
                raise
            else:
                return consumer
        raise UnreachableError(
            f"no Kafka broker at {self._settings.kafka_bootstrap_servers}: {last}; check the address and the listener"
        ) from last

    async def _metadata(self) -> Any:
        """The cluster's id and our topics. aiokafka has no accessor for the id, and its own requests would create a
        missing topic with the broker's defaults.
        """
        client = self._consumer._client  # noqa: SLF001
        request = MetadataRequest(list(self._topics), allow_auto_topic_creation=False)
        with self._mapped("list the partitions"):
            return (await client.send(client.get_random_node(), request)).to_object()

    async def _partitions(self) -> set[TopicPartition]:
        missing: set[str] = set(self._topics)
        for _ in range(self._topic_attempts_max):
            topics = (await self._metadata())["topics"]
            with self._mapped("list the partitions"):
                if any(t["error_code"] == _NOT_AUTHORIZED.errno for t in topics):
                    raise _NOT_AUTHORIZED(", ".join(self._topics))
            found = {t["topic"]: t["partitions"] for t in topics}
            missing = {topic for topic in self._topics if not found.get(topic)}
            if not missing:
                return {TopicPartition(topic, p["partition"]) for topic in self._topics for p in found[topic]}
            await asyncio.sleep(START_BACKOFF_S)
        raise MissingTopicError(
            f"the cluster has no topic {', '.join(sorted(missing))}; `skillaudit topics` creates it"
        )

    async def _assign(self, partitions: Collection[TopicPartition]) -> None:
        """Read `partitions` from where the database stands; aiokafka forgets positions when the assignment changes.
        A partition without a leader joins when it has one: asking about it would keep the others waiting.
        """
        await self._check_history(set(partitions) - set(self._next))
        # Assigned and sought in one go: the client must find no partition without a position.
        self._consumer.assign(sorted(partitions))
        for partition in partitions:
            stored = self._positions.get(_name(partition))
            offset = self._next.get(partition, stored.next_offset if stored else self._begins[partition])
            self._next[partition] = offset
            self._consumer.seek(partition, offset)
        self._checked_s = time.monotonic()

    async def _look_for_topics(self) -> None:
        """A topic that was deleted gives no error, only nothing, and one that is made again nothing but other records."""
        absent = [topic for topic in self._topics if not self._consumer.partitions_for_topic(topic)]
        if absent:
            self._absent = True
            await self._partitions()  # says what is wrong, where it is not over already
        elif self._absent:
            self._check_present(await self._partitions())
            await self._check_history(set(self._next))
            self._absent = False

    async def _take_new_partitions(self) -> None:
        known = {
            TopicPartition(topic, number)
            for topic in self._topics
            for number in self._consumer.partitions_for_topic(topic) or ()
        }
        new = self._with_leader(known - set(self._next))
        if new:
            _log.info("new partitions: %s", ", ".join(sorted(map(_name, new))))
            await self._assign(new | set(self._next))

    async def _led(self, partitions: set[TopicPartition]) -> set[TopicPartition]:
        """Those that have a leader, as the cluster says; all of them where none has: then it is the cluster that is away."""
        topics = (await self._metadata())["topics"]
        led = {
            TopicPartition(t["topic"], p["partition"])
            for t in topics
            for p in t["partitions"]
            if p["leader"] != _NOBODY
        }
        return led & partitions or partitions

    def _with_leader(self, partitions: set[TopicPartition]) -> set[TopicPartition]:
        leader = self._consumer._client.cluster.leader_for_partition  # noqa: SLF001  aiokafka has no accessor
        return {it for it in partitions if leader(it) not in (None, _NOBODY)}

    # history

    def _check_present(self, partitions: Collection[TopicPartition]) -> None:
        """Topics only grow: one with fewer partitions than were consumed is another one under the same name."""
        present = set(map(_name, partitions))
        for name in sorted(set(self._positions) - present):
            topic, _, number = name.rpartition("/")
            if topic in self._topics and number.isdecimal():
                raise _history_lost(TopicPartition(topic, int(number)), "is not there any more")

    async def _check_now_and_then(self) -> None:
        if time.monotonic() - self._checked_s < HISTORY_CHECK_INTERVAL_S:
            return
        self._checked_s = time.monotonic()
        try:
            await self._check_history(self._with_leader(set(self._next)))
        except UnreachableError as exc:
            _log.info("the topics' history is checked later: %s", exc)

    @contextlib.asynccontextmanager
    async def _prober(self) -> AsyncGenerator[Any]:
        """A second client: looking back must not disturb what is being read."""
        prober = await self._start(group=None)
        try:
            yield prober
        finally:
            await _stop(prober)

    async def _check_history(self, partitions: Collection[TopicPartition]) -> None:
        """Raise `HistoryLostError` where a stored position no longer points at what it was stored for."""
        if not partitions:
            return
        with self._mapped("ask for offsets"):
            begins = await self._consumer.beginning_offsets(sorted(partitions))
            ends = await self._consumer.end_offsets(sorted(partitions))
        self._begins.update(begins)
        self._asked_ends.update(ends)
        again: dict[TopicPartition, StoredPosition] = {}
        reached = {name: stored for name, stored in self._positions.items() if stored.last_digest}
        for partition in sorted(partitions):
            stored = self._positions.get(_name(partition))
            if stored is not None:
                _check_bounds(partition, stored, begins[partition], ends[partition])
                known = self._known.get(_name(partition), stored)
                stored = known if known.last_offset >= begins[partition] else stored
                if stored.last_digest and stored.last_offset >= begins[partition]:
                    again[partition] = stored
        if again:
            async with self._prober() as prober:
                for partition, stored in again.items():
                    await self._check_last_record(prober, partition, stored)
        self._known.update({_name(it): reached[_name(it)] for it in partitions if _name(it) in reached})

    async def _check_last_record(
        self, prober: Any, partition: TopicPartition, stored: StoredPosition
    ) -> None:
        prober.assign([partition])
        prober.seek(partition, stored.last_offset)
        with self._mapped("read a record again"):
            try:
                message = await asyncio.wait_for(
                    prober.getone(partition), self._settings.kafka_request_timeout_ms / 1000
                )
            except TimeoutError as exc:
                raise UnreachableError(f"{_name(partition)} gave no record in time") from exc
        if message.offset != stored.last_offset or record_digest(message.value) != stored.last_digest:
            raise _history_lost(
                partition, f"holds another record at {stored.last_offset} than was consumed there"
            )

    def _ends(self) -> dict[str, int]:
        ends: dict[str, int] = {}
        for partition in self._next:
            # The client knows it from the first answer that held something of the partition. Until then it is the end
            # that was asked for at assignment: without it a partition not heard of yet would count as read.
            end = self._consumer.highwater(partition) or self._asked_ends.get(partition)
            # One that holds nothing, and of which nothing is stored, has no position that could ever reach its end.
            holds = end is not None and end > self._begins.get(partition, 0)
            if end is not None and (holds or _name(partition) in self._positions):
                ends[_name(partition)] = int(end)
        return ends

    def _emptied(self) -> dict[str, int]:
        """As of the last look at what the partitions hold."""
        return {
            _name(partition): begin
            for partition, begin in self._begins.items()
            if begin > 0
            and begin == self._asked_ends.get(partition)
            and _name(partition) not in self._positions
        }

    @contextlib.contextmanager
    def _mapped(self, doing: str) -> Generator[None]:
        try:
            yield
        except kafka_errors.GroupAuthorizationFailedError as exc:
            raise _NoGroupError(str(exc)) from exc
        except kafka_errors.OffsetOutOfRangeError as exc:
            partition = next(iter(exc.args[0]), None) if exc.args and exc.args[0] else None
            name = partition or TopicPartition(self._topics[0], 0)
            raise _history_lost(name, "no longer holds the position reached") from exc
        except (
            kafka_errors.TopicAuthorizationFailedError,
            kafka_errors.ClusterAuthorizationFailedError,
        ) as exc:
            raise StopError(f"can't {doing}: {exc}; grant this user Read and Describe on the topics") from exc
        except (kafka_errors.CorruptRecordException, kafka_errors.RecordTooLargeError) as exc:
            raise DatabaseError(f"can't {doing}: the broker's log holds what can't be read: {exc}") from exc
        except (kafka_errors.KafkaError, OSError) as exc:
            raise UnreachableError(
                f"can't {doing} at {self._settings.kafka_bootstrap_servers}: {exc}"
            ) from exc


def _name(partition: TopicPartition) -> str:
    return f"{partition.topic}/{partition.partition}"


def _check_bounds(partition: TopicPartition, stored: StoredPosition, begin: int, end: int) -> None:
    if end < stored.next_offset:
        raise _history_lost(partition, f"ends at {end}, before the stored position {stored.next_offset}")
    if begin > stored.next_offset:
        raise _history_lost(
            partition,
            f"begins at {begin}, behind the stored position {stored.next_offset}: retention was faster",
        )


def _history_lost(partition: TopicPartition, what: str) -> HistoryLostError:
    name = _name(partition)
    return HistoryLostError(
        f"{name} {what}; was the topic recreated or truncated? `skillaudit consume --accept-history-loss {name}` "
        "goes on with what is there, and records it",
        name,
    )


async def _stop(consumer: Any) -> None:
    with contextlib.suppress(kafka_errors.KafkaError, OSError):  # it is being thrown away either way
        await consumer.stop()
