"""Kafka, as this part sees it: the one module here that imports aiokafka.

Facts it stands on (aiokafka 0.14): one request per node and one batch per partition are in flight, so order survives
retries. A batch of an idempotent producer takes its sequence number when it is first drained and a refused batch's
numbers are never given back, so after any refusal every later batch of that partition fails: the producer is spent and
has to be opened anew. That holds for a batch, too, which expires while its partition has no leader, so such a partition
is given none. With idempotence a batch is retried for ever, so a bound of our own (`_ack_timeout_s`) is needed.
A closed batch doesn't linger. `send_batch` checks no size, so the broker's limit decides, not the client's. Its
metadata requests would create a missing topic with the broker's defaults: `partition_count` asks without that first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NoReturn, Self, TypeVar

# pyright: reportMissingTypeStubs=false
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.protocol.metadata import MetadataRequest

from skillaudit.contract.errors import RejectedError, SettingsError, UnreachableError
from skillaudit.contract.kafka_options import connection_options
from skillaudit.contract.settings import Settings
from skillaudit.producer.publisher import (
    OFFSET_UNKNOWN,
    PartitionUnavailableError,
    PublisherBrokenError,
    RefusedForGoodError,
)
from skillaudit.producer.topics import TopicPlan, TopicState

_T = TypeVar("_T")

_NOBODY: Final = -1
"""The leader that metadata name for a partition without one."""
_CLOSE_TIMEOUT_S: Final = 5.0
_CANCEL_ROUNDS_MAX: Final = 100
_LOG_INTERVAL_S: Final = 30.0
_ADMIN_ATTEMPTS_MAX: Final = 20
_ADMIN_BACKOFF_S: Final = 0.25

_REFUSED_FOR_GOOD: Final = (
    kafka_errors.MessageSizeTooLargeError,
    kafka_errors.RecordListTooLargeError,
    kafka_errors.InvalidTimestampError,
    kafka_errors.UnsupportedForMessageFormatError,
    kafka_errors.PolicyViolationError,
)
"""What resending can't change. A missing permission is not among them: that is for the operator to mend, and the
records wait for it. Nor is InvalidTopicError: it says something about the settings, not about the record.
"""
_NEEDS_OPERATOR: Final = (
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.ClusterAuthorizationFailedError,
    kafka_errors.AuthenticationFailedError,
    kafka_errors.SaslAuthenticationFailed,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.InvalidTopicError,
)


def producer_options(settings: Settings) -> dict[str, Any]:
    """What the producer is given. Raises `SettingsError`.

    `linger_ms` stays 0: batches are built by hand, and the forwarder's own reading interval is the linger.
    """
    compression = settings.kafka_compression
    return connection_options(settings) | {
        "acks": "all",
        "enable_idempotence": True,
        "linger_ms": 0,
        "max_batch_size": settings.kafka_batch_bytes,
        "compression_type": None if compression == "none" else compression,
    }


class KafkaPublisher:
    """`RecordPublisher` on aiokafka: idempotent, acks=all, batches built by hand."""

    def __init__(self, settings: Settings, topic: str = "") -> None:
        """`topic`: default the first of `kafka_topic`."""
        self.topic = topic or settings.kafka_topics[0]
        self._settings = settings
        self._producer: Any = None
        self._ack_timeout_s = 2 * settings.kafka_request_timeout_ms / 1000

    def __repr__(self) -> str:
        """Topic, address and state."""
        state = "closed" if self._producer is None else "open"
        return f"KafkaPublisher({self.topic!r} at {self._settings.kafka_bootstrap_servers}, {state})"

    async def open(self) -> str:
        """As `RecordPublisher.open`."""
        await self.abandon()
        _quiet_this_thread()
        try:
            self._producer = AIOKafkaProducer(**producer_options(self._settings))
        except (RuntimeError, ValueError) as exc:
            raise SettingsError(f"Kafka can't be used with these settings: {exc}") from exc
        try:
            async with asyncio.timeout(self._settings.kafka_request_timeout_ms / 1000):
                await self._producer.start()
                metadata = await self._metadata([])
        except (kafka_errors.KafkaError, OSError, TimeoutError) as exc:
            await self.abandon()
            _raise_mapped(exc, f"no session with Kafka at {self._settings.kafka_bootstrap_servers}")
        except BaseException:
            await self.abandon()
            raise
        return str(metadata.cluster_id)

    async def partition_count(self) -> int:
        """As `RecordPublisher.partition_count`; never creates the topic."""
        try:
            async with asyncio.timeout(self._settings.kafka_request_timeout_ms / 1000):
                answer = (await self._metadata([self.topic])).to_object()["topics"][0]
                error = kafka_errors.for_code(answer["error_code"])
                if error is not kafka_errors.NoError:
                    raise error(self.topic)
                return len(answer["partitions"])
        except kafka_errors.UnknownTopicOrPartitionError as exc:
            raise UnreachableError(
                f"the cluster has no topic {self.topic!r}; `skillaudit topics` creates it"
            ) from exc
        except (kafka_errors.KafkaError, OSError, TimeoutError) as exc:
            _raise_mapped(exc, f"no answer about topic {self.topic!r}")

    async def _metadata(self, topics: list[str]) -> Any:
        client = self._opened().client
        request = MetadataRequest(topics, allow_auto_topic_creation=False)
        return await client.send(client.get_random_node(), request)

    async def send(self, partition: int, records: Sequence[tuple[bytes, bytes]]) -> int:
        """As `RecordPublisher.send`."""
        producer = self._opened()
        batch = producer.create_batch()
        append = batch.append
        for key, value in records:
            if append(key=key, value=value, timestamp=None) is None:
                raise ValueError(f"{len(records)} records are more than one batch of kafka_batch_bytes")
        batch.close()
        try:
            async with asyncio.timeout(self._ack_timeout_s):
                await self._check_leader(producer, partition)
                acknowledged = await producer.send_batch(batch, self.topic, partition=partition)
                metadata = await acknowledged
        except TimeoutError as exc:
            raise PublisherBrokenError(
                f"no acknowledgement from {self.topic}/{partition} within {self._ack_timeout_s:g} s"
            ) from exc
        except (kafka_errors.KafkaError, OSError, AssertionError) as exc:
            _raise_mapped(exc, f"{self.topic}/{partition}")
        return OFFSET_UNKNOWN if metadata is None else int(metadata.offset)

    async def _check_leader(self, producer: Any, partition: int) -> None:
        client = producer.client
        await client._wait_on_metadata(self.topic)  # noqa: SLF001  what `send_batch` does next
        if client.cluster.leader_for_partition(TopicPartition(self.topic, partition)) == _NOBODY:
            client.force_metadata_update()
            raise PartitionUnavailableError(f"{self.topic}/{partition} has no leader")

    async def close(self) -> None:
        """As `RecordPublisher.close`."""
        producer = self._producer
        if producer is None:
            return
        with contextlib.suppress(TimeoutError, kafka_errors.KafkaError, OSError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await producer.stop()
        await self.abandon()

    async def abandon(self) -> None:
        """As `RecordPublisher.abandon`."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        producer._closed = True  # noqa: SLF001  its `stop` waits for batches that may never be acknowledged
        await _end_sender(producer._sender.sender_task)  # noqa: SLF001
        with contextlib.suppress(TimeoutError, kafka_errors.KafkaError, OSError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await producer.client.close()
        _FILTER.threads.discard(threading.get_ident())

    def release_inherited(self) -> None:
        """As `RecordPublisher.release_inherited`: no method of asyncio's, whose epoll is shared with the parent."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        producer._closed = True  # noqa: SLF001
        for connection in tuple(producer.client._conns.values()):  # noqa: SLF001
            writer = connection._writer  # noqa: SLF001
            if writer is not None and (sock := writer.transport.get_extra_info("socket")) is not None:
                with contextlib.suppress(OSError):
                    os.close(sock._sock.detach())  # noqa: SLF001  no object is left that would close it again

    def _opened(self) -> Any:
        if self._producer is None:
            raise PublisherBrokenError("the publisher is not open")
        return self._producer


async def _end_sender(task: asyncio.Task[None] | None) -> None:
    """Cancel aiokafka's sender. Its first cancellation waits for requests under way; each further one cancels one."""
    for _ in range(_CANCEL_ROUNDS_MAX):
        if task is None or task.done():
            break
        task.cancel()
        await asyncio.wait([task], timeout=0.01)
    if task is not None and task.done() and not task.cancelled():
        task.exception()  # looked at, so that asyncio doesn't report it as never retrieved


def _raise_mapped(exc: BaseException, what: str) -> NoReturn:
    """What aiokafka raises becomes ours where it enters."""
    text = f"{what}: {exc}" if str(exc) else f"{what}: {type(exc).__name__}"
    if isinstance(exc, _REFUSED_FOR_GOOD):
        raise RefusedForGoodError(text) from exc
    if isinstance(exc, _NEEDS_OPERATOR):
        raise UnreachableError(f"{text}; nothing is lost, but somebody has to grant or correct this") from exc
    if isinstance(exc, kafka_errors.KafkaError) and not exc.retriable:
        raise PublisherBrokenError(text) from exc
    raise UnreachableError(text) from exc


class KafkaTopicAdmin:
    """`TopicAdmin` on aiokafka. Use as `async with`; retries what a cluster answers right after it started, bounded."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: Any = None

    async def __aenter__(self) -> Self:
        """Connect."""
        _quiet_this_thread()
        await self._retried(self._connect)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Disconnect."""
        if self._client is not None:
            await self._client.close()
            self._client = None
        _FILTER.threads.discard(threading.get_ident())

    async def _connect(self) -> None:
        client = AIOKafkaAdminClient(**connection_options(self._settings))
        try:
            await client.start()
        except BaseException:
            await client.close()
            raise
        self._client = client

    async def describe(self, names: Sequence[str]) -> dict[str, TopicState]:
        """As `TopicAdmin.describe`; creates nothing."""
        return await self._retried(lambda: self._describe(names))

    async def _describe(self, names: Sequence[str]) -> dict[str, TopicState]:
        client = self._client._client  # noqa: SLF001  its own describe_topics would create what is missing
        request = MetadataRequest(list(names), allow_auto_topic_creation=False)
        answer = (await client.send(client.get_random_node(), request)).to_object()
        found = {
            t["topic"]: t
            for t in answer["topics"]
            if not _is_error(t["error_code"], kafka_errors.UnknownTopicOrPartitionError)
        }
        configs = await self._configs(list(found)) if found else {}
        return {
            name: TopicState(
                name=name,
                partitions=len(topic["partitions"]),
                replication=min((len(p["replicas"]) for p in topic["partitions"]), default=0),
                config=configs.get(name, {}),
            )
            for name, topic in found.items()
        }

    async def _configs(self, names: list[str]) -> dict[str, dict[str, str]]:
        answers = await self._client.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        )
        result: dict[str, dict[str, str]] = {}
        for answer in answers:
            for resource in answer.to_object()["resources"]:
                _is_error(resource["error_code"])
                name = resource["resource_name"]
                result[name] = {e["config_names"]: e["config_value"] for e in resource["config_entries"]}
        return result

    async def create(self, topic: TopicPlan) -> bool:
        """As `TopicAdmin.create`; returns once the cluster's metadata show the topic."""
        created = await self._retried(lambda: self._create(topic))
        for _ in range(_ADMIN_ATTEMPTS_MAX):
            if await self.describe([topic.name]):
                break
            await asyncio.sleep(_ADMIN_BACKOFF_S)
        return created

    async def _create(self, topic: TopicPlan) -> bool:
        new = NewTopic(topic.name, topic.partitions, topic.replication, topic_configs=dict(topic.config))
        answer = await self._client.create_topics([new], timeout_ms=self._settings.kafka_request_timeout_ms)
        for entry in answer.to_object()["topic_errors"]:
            error = kafka_errors.for_code(entry["error_code"])
            if error is kafka_errors.TopicAlreadyExistsError:
                return False
            if error is not kafka_errors.NoError:
                raise error(entry.get("error_message") or topic.name)
        return True

    async def delete(self, names: Sequence[str]) -> None:
        """Delete topics, with everything in them; those that don't exist are no error."""
        answer = await self._retried(
            lambda: self._client.delete_topics(
                list(names), timeout_ms=self._settings.kafka_request_timeout_ms
            )
        )
        for name, code in answer.topic_error_codes:
            error = kafka_errors.for_code(code)
            if error not in (kafka_errors.NoError, kafka_errors.UnknownTopicOrPartitionError):
                raise RejectedError(f"the broker does not delete the topic {name}: {error.__name__}")

    async def _retried(self, call: Callable[[], Awaitable[_T]]) -> _T:
        for attempt in range(1, _ADMIN_ATTEMPTS_MAX + 1):
            try:
                async with asyncio.timeout(self._settings.kafka_request_timeout_ms / 1000):
                    return await call()
            except (kafka_errors.KafkaError, OSError, TimeoutError) as exc:
                fatal = isinstance(exc, kafka_errors.BrokerResponseError) and not exc.retriable
                if isinstance(exc, _NEEDS_OPERATOR) or attempt == _ADMIN_ATTEMPTS_MAX or fatal:
                    _raise_for_admin(exc, self._settings.kafka_bootstrap_servers)
            await asyncio.sleep(_ADMIN_BACKOFF_S)
        raise AssertionError("unreachable")  # pragma: no cover


def _is_error(code: int, *allowed: type[kafka_errors.KafkaError]) -> bool:
    """False for success, True for an allowed error; raises any other."""
    error = kafka_errors.for_code(code)
    if error is kafka_errors.NoError:
        return False
    if error in allowed:
        return True
    raise error()


def _raise_for_admin(exc: Exception, servers: str) -> NoReturn:
    said = exc or type(exc).__name__
    if isinstance(exc, kafka_errors.BrokerResponseError) and not exc.retriable:
        raise RejectedError(f"the cluster at {servers} refuses: {said}") from exc
    raise UnreachableError(f"no answer from the cluster at {servers}: {said}") from exc


class _OncePerInterval(logging.Filter):
    """Lets a message of aiokafka from our threads pass once per interval: while a broker is away it repeats itself ten
    times a second, at ERROR, and the agent's own log is no place for that. Other threads' messages are not touched.
    """

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()
        self._seen: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record passes."""
        if record.thread not in self.threads or record.levelno < logging.WARNING:
            return True
        now = time.monotonic()
        if now - self._seen.get(str(record.msg), -_LOG_INTERVAL_S) < _LOG_INTERVAL_S:
            return False
        self._seen[str(record.msg)] = now
        return True


_FILTER: Final = _OncePerInterval()
_AIOKAFKA_LOGGERS: Final = (
    "aiokafka",  # its client's, whatever the module is called
    "aiokafka.conn",
    "aiokafka.cluster",
    "aiokafka.producer.producer",
    "aiokafka.producer.sender",
    "aiokafka.admin.client",
)


def _quiet_this_thread() -> None:
    _FILTER.threads.add(threading.get_ident())
    for name in _AIOKAFKA_LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)
