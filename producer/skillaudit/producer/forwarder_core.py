"""What a forwarder knows and decides, without files, clocks or connections.

Every record read becomes an `Entry`: it waits in the `Lane` of its partition until it is sent, and stays in its source's
`SourceWindow` until it is acknowledged. A lane has one batch under way at most, so order within a partition holds
whatever fails. A window's acknowledged position is where its oldest unacknowledged record begins: acknowledgements of
later records count for nothing until the gap before them is closed.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Any, Final, NamedTuple

import orjson

from skillaudit.contract import events
from skillaudit.producer.publisher import BATCH_OVERHEAD_BYTES, RECORD_OVERHEAD_BYTES

MIB: Final = 1024 * 1024

GATED_TYPES: Final = frozenset({events.SOURCE_HEARTBEAT, events.SOURCE_CLOSED})
"""Records that count what was sent before them: they go out only when all of that is acknowledged."""


@dataclass(frozen=True, kw_only=True)
class ForwarderLimits:
    """Every bound of a forwarder."""

    records_in_flight_max: int = 20_000
    bytes_in_flight_max: int = 16 * MIB
    """Read and not yet acknowledged, over all sources. One record more may exceed it: a record is up to 15 MiB."""
    read_records_max: int = 2_000
    read_bytes_max: int = MIB
    """Taken from one source before the next has its turn."""
    batch_bytes_max: int = 128 * 1024
    batch_bytes_min: int = 16 * 1024
    """How far a lane shrinks its batches when the broker refuses a batch whose records it takes one by one."""
    poll_interval_ms: int = 5
    """Between two looks at sources that gave records lately: what lingering is elsewhere."""
    poll_interval_ms_max: int = 50
    """Between two looks at one when nothing comes; with more sources than this, a millisecond for each of them."""
    discovery_interval_ms: int = 1_000
    sources_max: int = 4_096
    """Sources open at a time; the others wait for their turn."""
    ack_interval_ms: int = 500
    ack_records_max: int = 50_000
    """Acknowledgements reach the disk after this much time or this many records: what a crash sends twice."""
    backoff_ms_min: int = 100
    backoff_ms_max: int = 15_000
    leader_interval_ms: int = 500
    """Between two attempts to send to a partition without a leader; the others go on beside it, as long as there is room
    for what is under way."""
    log_interval_ms: int = 60_000
    """Between two lines about an outage that goes on."""
    drain_timeout_ms: int = 5_000
    """What a stop, or a rebuilding after a refusal, waits for acknowledgements under way."""


class ForwarderState(Enum):
    """What a forwarder is doing."""

    NEW = "new"
    CONNECTING = "connecting"
    FORWARDING = "forwarding"
    REBUILDING = "rebuilding"
    """The publisher is spent; acknowledgements under way are waited for, bounded."""
    WAITING = "waiting"
    """Between two attempts to connect."""
    DRAINING = "draining"
    """Stopping: nothing more is read."""
    STOPPED = "stopped"


TRANSITIONS: Final[dict[ForwarderState, frozenset[ForwarderState]]] = {
    ForwarderState.NEW: frozenset({ForwarderState.CONNECTING, ForwarderState.DRAINING}),
    ForwarderState.CONNECTING: frozenset(
        {ForwarderState.FORWARDING, ForwarderState.WAITING, ForwarderState.DRAINING}
    ),
    ForwarderState.FORWARDING: frozenset({ForwarderState.REBUILDING, ForwarderState.DRAINING}),
    ForwarderState.REBUILDING: frozenset(
        {ForwarderState.CONNECTING, ForwarderState.WAITING, ForwarderState.DRAINING}
    ),
    ForwarderState.WAITING: frozenset({ForwarderState.CONNECTING, ForwarderState.DRAINING}),
    ForwarderState.DRAINING: frozenset({ForwarderState.STOPPED}),
    ForwarderState.STOPPED: frozenset(),
}


class IllegalTransitionError(AssertionError):
    """The forwarder's own mistake; nothing was changed."""


def next_state(state: ForwarderState, target: ForwarderState) -> ForwarderState:
    """`target`, where the table allows it."""
    if target not in TRANSITIONS[state]:
        raise IllegalTransitionError(f"a forwarder can't go from {state.value} to {target.value}")
    return target


_PREFIX: Final = re.compile(
    rb'\{"v":\d+,"type":"([a-z]+\.[a-z]+)","(?:run_id|source_id)":("[^"\\]*(?:\\.[^"\\]*)*")'
)

_TYPES: Final = {
    kind.encode(): kind
    for kind in (
        events.STARTED,
        events.LOG,
        events.FINISHED,
        events.REFUSED,
        events.SOURCE_OPENED,
        events.SOURCE_HEARTBEAT,
        events.SOURCE_CLOSED,
    )
}


def classify(record: bytes) -> tuple[str, bytes]:
    """(type, key) of a record: its run_id, or its source_id, as UTF-8. Raises `ValueError` where there is none."""
    match = _PREFIX.match(record)
    if match is None:
        return _classify_by_parsing(record)
    kind, text = match.groups()
    key = orjson.loads(text).encode() if b"\\" in text else text[1:-1]
    return _TYPES.get(kind) or kind.decode(), key


def is_bare_start(record: bytes) -> bool:
    """Whether a `run.started` was written by a bare storage: it has no number, tag or source."""
    match = _PREFIX.match(record)
    return match is not None and not record.startswith(b',"seq":', match.end())


def _classify_by_parsing(record: bytes) -> tuple[str, bytes]:
    """For records of another member order: a newer agent's, or foreign ones."""
    members: Any = orjson.loads(record)
    try:
        key: object = members.get("run_id") or members.get("source_id")
        kind: object = members.get("type", "")
    except AttributeError:
        key = kind = None
    if not isinstance(key, str):
        raise ValueError("a record without run_id or source_id")  # noqa: TRY004  as orjson's own error
    return str(kind), key.encode()


class Entry(NamedTuple):
    """One record on its way."""

    window: SourceWindow
    line: int
    """Which of its source's records, from 1; 0 for what is published beside the source's own records."""
    position: int
    key: bytes
    value: bytes
    size_bytes: int
    """What it takes in a batch, at most."""


def make_entry(window: SourceWindow, line: int, position: int, key: bytes, value: bytes) -> Entry:
    """An entry with its size."""
    return Entry(window, line, position, key, value, len(key) + len(value) + RECORD_OVERHEAD_BYTES)


class SourceWindow:
    """The records of one source between reading and acknowledgement."""

    __slots__ = (
        "_outstanding",
        "partitions",
        "positions",
        "reached_position",
        "reached_records",
        "source_id",
    )

    def __init__(self, source_id: str, partitions: int, position: int = 0, records: int = 0) -> None:
        """`position`, `records`: as acknowledged so far."""
        self.source_id = source_id
        self.partitions = partitions
        self.reached_position = position
        self.reached_records = records
        self.positions: dict[str, int] = {}
        """`<topic>/<partition>` -> offset after the last record acknowledged there."""
        self._outstanding: dict[int, int] = {}

    def __repr__(self) -> str:
        """Source, what is acknowledged, what is under way."""
        records, position = self.acknowledged
        return f"SourceWindow({self.source_id!r}, {records} acknowledged to {position:#x}, {len(self)} under way)"

    def __len__(self) -> int:
        """Records read and not acknowledged."""
        return len(self._outstanding)

    def admit(self, line: int, position: int, key: bytes, value: bytes) -> Entry:
        """Take the next record of the source; `line` counts from 1. `reach` is to follow, once for several."""
        self._outstanding[line] = position
        return Entry(self, line, position, key, value, len(key) + len(value) + RECORD_OVERHEAD_BYTES)

    def reach(self, position: int, records: int) -> None:
        """Nothing between the last admitted record and this place is to be sent."""
        self.reached_position, self.reached_records = position, records

    def settle(self, entry: Entry) -> None:
        """The record is acknowledged, or kept as refused."""
        self._outstanding.pop(entry.line, None)

    @property
    def first_line(self) -> int | None:
        """The first one that is not acknowledged."""
        return next(iter(self._outstanding), None)

    @property
    def acknowledged(self) -> tuple[int, int]:
        """(records, position) of the unbroken acknowledged beginning."""
        for line, position in self._outstanding.items():
            return line - 1, position
        return self.reached_records, self.reached_position


class Lane:
    """The records of one partition, over all sources, in order; one batch under way at most."""

    __slots__ = (
        "_alone",
        "_batch_bytes_max",
        "_limits",
        "_queue",
        "_suspect",
        "held_until_s",
        "in_flight",
        "partition",
    )

    def __init__(self, partition: int, limits: ForwarderLimits) -> None:
        self.partition = partition
        self.in_flight: Sequence[Entry] = ()
        self.held_until_s = 0.0
        """Nothing is sent before this time of the event loop."""
        self._queue: deque[Entry] = deque()
        self._limits = limits
        self._batch_bytes_max = limits.batch_bytes_max
        self._alone = 0
        self._suspect = False

    def __repr__(self) -> str:
        """Partition, waiting and under way."""
        return f"Lane({self.partition}, {len(self._queue)} waiting, {len(self.in_flight)} under way)"

    def __len__(self) -> int:
        """Records waiting and under way."""
        return len(self._queue) + len(self.in_flight)

    def __iter__(self) -> Iterator[Entry]:
        """All of them, in order."""
        yield from self.in_flight
        yield from self._queue

    def put(self, entry: Entry) -> None:
        """Append a record."""
        self._queue.append(entry)

    def next_batch(self) -> Sequence[Entry]:
        """The batch to send now, which is then under way; empty when one is under way or nothing waits."""
        queue = self._queue
        if self.in_flight or not queue:
            return ()
        if self._alone:
            self.in_flight = (queue.popleft(),)
            return self.in_flight
        batch: list[Entry] = []
        room = self._batch_bytes_max - BATCH_OVERHEAD_BYTES
        while queue:
            room -= queue[0].size_bytes
            if room < 0 and batch:
                break
            batch.append(queue.popleft())
        self.in_flight = batch
        return batch

    def acknowledged(self) -> Sequence[Entry]:
        """The batch under way is stored; returns it."""
        batch, self.in_flight = self.in_flight, ()
        if self._alone:
            self._alone -= 1
            if not self._alone and self._suspect:  # each was taken alone: together they were too much
                self._batch_bytes_max = max(self._batch_bytes_max // 2, self._limits.batch_bytes_min)
        return batch

    def failed(self) -> None:
        """The batch under way may or may not be stored: it is sent again, before everything that waits."""
        self._queue.extendleft(reversed(self.in_flight))
        self.in_flight = ()

    def refused(self) -> Entry | None:
        """The broker will never take the batch under way. A single record is the cause itself and leaves the lane;
        of several, each is sent alone next, and None is returned.
        """
        batch = self.in_flight
        if len(batch) == 1:
            self.in_flight = ()
            self._alone = max(self._alone - 1, 0)
            self._suspect = False
            return batch[0]
        self.failed()
        self._alone, self._suspect = len(batch), True
        return None

    def put_first(self, entry: Entry) -> None:
        """Send this record next, alone: it takes a refused one's place."""
        self._queue.appendleft(entry)
        self._alone += 1


class Backoff:
    """Growing, bounded, jittered waits between attempts."""

    __slots__ = ("_attempt", "_limits", "_random")

    def __init__(self, limits: ForwarderLimits, random: Random) -> None:
        self._limits = limits
        self._random = random
        self._attempt = 0

    def next_ms(self) -> float:
        """How long to wait now: between half and all of a bound that doubles up to `backoff_ms_max`."""
        bound = min(self._limits.backoff_ms_min << self._attempt, self._limits.backoff_ms_max)
        self._attempt = min(self._attempt + 1, 30)
        return bound * (0.5 + self._random.random() / 2)

    def reset(self) -> None:
        """It works again."""
        self._attempt = 0
