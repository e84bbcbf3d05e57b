"""librdkafka's mock cluster, driven by ctypes: a broker for faults that no real one shows on demand, up in milliseconds.

It comes with the wheel of confluent-kafka. It speaks Kafka's protocol, so the clients under test are the real ones, but it
proves nothing of durability: beyond 5 MiB a partition it drops the oldest data silently, it does not check the sequence
numbers of idempotent producers, and it knows no CreateTopics and no ACLs. Whoever uses it keeps data below `PARTITION_BYTES_MAX`.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import confluent_kafka

PARTITION_BYTES_MAX: Final = 5 * 1024 * 1024
_PRODUCER: Final = 0
_ALL_BROKERS: Final = -1
_NOBODY: Final = -1
_ERROR_TEXT_BYTES: Final = 512


class Api(IntEnum):
    """Kinds of requests, by their numbers in the protocol."""

    PRODUCE = 0
    FETCH = 1
    METADATA = 3
    INIT_PRODUCER_ID = 22


class Answer(IntEnum):
    """Error codes of the protocol."""

    NO_ERROR = 0
    NOT_LEADER_FOR_PARTITION = 6
    REQUEST_TIMED_OUT = 7
    NOT_ENOUGH_REPLICAS = 19
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45
    KAFKA_STORAGE_ERROR = 56


class MockClusterError(RuntimeError):
    """The mock cluster refused a command."""


class MockCluster:
    """One mock cluster; `async with` is not needed, `with` ends it. Safe from any thread: the library locks."""

    def __init__(self, brokers: int = 1) -> None:
        """Brokers are numbered from 1."""
        library = _library()
        text = ctypes.create_string_buffer(_ERROR_TEXT_BYTES)
        options = library.rd_kafka_conf_new()
        library.rd_kafka_conf_set_log_cb(options, None)
        self._client = library.rd_kafka_new(_PRODUCER, options, text, _ERROR_TEXT_BYTES)
        if not self._client:
            raise MockClusterError(text.value.decode())
        self._library = library
        self._cluster = library.rd_kafka_mock_cluster_new(self._client, brokers)
        library.rd_kafka_mock_start_request_tracking(self._cluster)

    def __enter__(self) -> Self:
        """It runs already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it; clients see their connections close."""
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)

    @property
    def bootstrap(self) -> str:
        """host:port of all brokers, comma-separated."""
        text: bytes = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster)
        return text.decode()

    def create_topic(self, name: str, partitions: int, replication: int = 1) -> None:
        """Make a topic."""
        _check(
            self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, replication)
        )

    def push_errors(self, api: Api, answers: Sequence[Answer]) -> None:
        """The next requests of this kind get these answers, one each, and do nothing."""
        codes = (ctypes.c_int * len(answers))(*answers)
        self._library.rd_kafka_mock_push_request_errors_array(self._cluster, api, len(answers), codes)

    def clear_errors(self, api: Api) -> None:
        """Answer requests of this kind properly from now on."""
        self._library.rd_kafka_mock_clear_request_errors(self._cluster, api)

    def push_late_answers(self, broker: int, api: Api, delays_ms: Sequence[int]) -> None:
        """The next requests of this kind to this broker are carried out, and answered so much later."""
        pairs = [ctypes.c_int(value) for delay_ms in delays_ms for value in (Answer.NO_ERROR, delay_ms)]
        _check(
            self._library.rd_kafka_mock_broker_push_request_error_rtts(
                self._cluster,
                ctypes.c_int32(broker),
                ctypes.c_int16(api),
                ctypes.c_size_t(len(delays_ms)),
                *pairs,
            )
        )

    def set_leader(self, topic: str, partition: int, broker: int | None) -> None:
        """Make a broker the leader, or leave the partition without one."""
        leader = _NOBODY if broker is None else broker
        _check(
            self._library.rd_kafka_mock_partition_set_leader(self._cluster, topic.encode(), partition, leader)
        )

    def down(self, broker: int = _ALL_BROKERS) -> None:
        """Close all connections and take no new ones."""
        _check(self._library.rd_kafka_mock_broker_set_down(self._cluster, broker))

    def up(self, broker: int = _ALL_BROKERS) -> None:
        """Take connections again."""
        _check(self._library.rd_kafka_mock_broker_set_up(self._cluster, broker))

    def requests(self, api: Api) -> int:
        """How many requests of this kind came so far."""
        count = ctypes.c_size_t()
        found = self._library.rd_kafka_mock_get_requests(self._cluster, ctypes.byref(count))
        kinds = [self._library.rd_kafka_mock_request_api_key(found[n]) for n in range(count.value)]
        self._library.rd_kafka_mock_request_destroy_array(found, count.value)
        return kinds.count(api)


@functools.cache
def _library() -> Any:
    """The library inside the wheel, with the types that ctypes can't guess."""
    beside = Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs"
    library: Any = ctypes.CDLL(str(next(beside.glob("librdkafka*"))))
    pointer, text, i16, i32, size = (
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_int16,
        ctypes.c_int32,
        ctypes.c_size_t,
    )
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "rd_kafka_conf_new": (pointer, []),
        "rd_kafka_conf_set_log_cb": (None, [pointer, pointer]),
        "rd_kafka_new": (pointer, [ctypes.c_int, pointer, text, size]),
        "rd_kafka_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_new": (pointer, [pointer, ctypes.c_int]),
        "rd_kafka_mock_cluster_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_bootstraps": (text, [pointer]),
        "rd_kafka_mock_topic_create": (ctypes.c_int, [pointer, text, ctypes.c_int, ctypes.c_int]),
        "rd_kafka_mock_push_request_errors_array": (None, [pointer, i16, size, pointer]),
        "rd_kafka_mock_clear_request_errors": (None, [pointer, i16]),
        "rd_kafka_mock_partition_set_leader": (ctypes.c_int, [pointer, text, i32, i32]),
        "rd_kafka_mock_broker_set_down": (ctypes.c_int, [pointer, i32]),
        "rd_kafka_mock_broker_set_up": (ctypes.c_int, [pointer, i32]),
        "rd_kafka_mock_start_request_tracking": (None, [pointer]),
        "rd_kafka_mock_get_requests": (ctypes.POINTER(pointer), [pointer, pointer]),
        "rd_kafka_mock_request_api_key": (i16, [pointer]),
        "rd_kafka_mock_request_destroy_array": (None, [ctypes.POINTER(pointer), size]),
    }
    for name, (answer, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = answer, arguments
    # Variadic: the named arguments only, the others follow as they are given.
    library.rd_kafka_mock_broker_push_request_error_rtts.restype = ctypes.c_int
    library.rd_kafka_mock_broker_push_request_error_rtts.argtypes = [pointer, i32, i16, size]
    return library


def _check(code: int) -> None:
    if code:
        raise MockClusterError(f"the mock cluster answers with error {code}")
