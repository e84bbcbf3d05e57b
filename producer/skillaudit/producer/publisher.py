"""What a forwarder publishes through: the one seam between it and Kafka.

Also the partitioner, because a source keeps its topic's partition count for its whole life: which partition a key goes
to is decided here, never by a client library.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Protocol

from skillaudit.contract.errors import RejectedError, RetryableError

OFFSET_UNKNOWN: Final = -1
"""The batch is stored, but the broker no longer knows where (it had it already)."""

RECORD_OVERHEAD_BYTES: Final = 32
"""What a record costs in a batch beside key and value, at most (lengths, offset, time, attributes)."""
BATCH_OVERHEAD_BYTES: Final = 64
"""What a batch costs beside its records."""

_KEYS_REMEMBERED_MAX: Final = 65_536
_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF


class PublisherBrokenError(RetryableError):
    """The publisher can't go on (jammed sequence numbers, a dead sender, no answer): open it anew, send again."""


class PartitionUnavailableError(RetryableError):
    """Nobody leads the partition now. Nothing was handed over and the publisher is not spent: others go on."""


class RefusedForGoodError(RejectedError):
    """The broker will never take this batch as it stands; the text says why, in the broker's words."""


class RecordPublisher(Protocol):
    """Publishes batches to the partitions of one topic, in order within a partition.

    All calls come from one event loop. A caller has at most one `send` under way per partition and waits for its
    acknowledgement before it sends the next one to that partition: that keeps the order whatever fails. After `send`
    has raised anything but `PartitionUnavailableError` the publisher is spent: the caller calls `abandon`, then `open`,
    and sends again everything that was not acknowledged.
    """

    topic: str

    async def open(self) -> str:
        """Connect; returns the cluster's id. Raises `UnreachableError` within a bound, or a `StopError`."""
        ...

    async def partition_count(self) -> int:
        """How many partitions the topic has now. Raises `UnreachableError` where there is no such topic (yet)."""
        ...

    async def send(self, partition: int, records: Sequence[tuple[bytes, bytes]]) -> int:
        """Publish (key, value) records as one batch; returns the first one's offset once all replicas in sync have it.

        `OFFSET_UNKNOWN` where the broker had the batch already and can't say where. Raises `RefusedForGoodError` when
        the batch can never be taken (with several records: at least one of them, or all together, is the cause),
        `PartitionUnavailableError` when it may work a little later, `PublisherBrokenError` or `UnreachableError` when
        it may work after `open`: such a batch may have been stored nevertheless.
        """
        ...

    async def close(self) -> None:
        """Release the connections after everything sent was acknowledged; bounded; safe to call again."""
        ...

    async def abandon(self) -> None:
        """Release the connections at once, waiting for nothing; safe to call again, and after `close`."""
        ...

    def release_inherited(self) -> None:
        """In a forked child: close the copies of the parent's connections, without a word on them."""
        ...


def murmur2(data: bytes) -> int:
    """Kafka's hash of record keys: 32-bit MurmurHash2 with the seed of the Java client."""
    length = len(data)
    h = _SEED ^ length
    whole = length & ~3
    for (word,) in struct.iter_unpack("<I", data[:whole]):
        k = word * _M & _MASK
        k = (k ^ k >> 24) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    if whole != length:
        h = (h ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


@lru_cache(maxsize=_KEYS_REMEMBERED_MAX)
def partition_for(key: bytes, count: int) -> int:
    """The partition of `key` among `count`, as Java's default partitioner has it."""
    return (murmur2(key) & 0x7FFFFFFF) % count
