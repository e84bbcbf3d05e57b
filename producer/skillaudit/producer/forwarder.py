"""The forwarder: reads the sources of an outbox directory and publishes them, for as long as it is told to.

One task. Each turn reads what there is (bounded, the sources in turn), starts a batch on every partition that has none
under way, saves acknowledgements that are due, and waits for an acknowledgement, a nudge, or its interval. Whatever
goes wrong with the publisher ends in one place: nothing more is sent, what is under way is waited for (bounded) or
given up, the publisher is opened anew, and everything unacknowledged is sent again, in order. What that stores twice
is the same bytes twice, and the consumer drops it by its tag.

A broker that is away is no error: the records stay in the outbox, attempts go on for ever, and the log says so once
and then at intervals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Protocol

from skillaudit.contract.clock import Clock, SystemClock
from skillaudit.contract.errors import RetryableError
from skillaudit.contract.eventlog import RefusedRecord
from skillaudit.contract.outbox.acknowledgement import Acknowledgement
from skillaudit.contract.outbox.directory import claim_reader
from skillaudit.producer.forwarder_core import (
    Backoff,
    Entry,
    ForwarderLimits,
    ForwarderState,
    Lane,
    SourceWindow,
    next_state,
)
from skillaudit.producer.forwarder_source import FeedState, SourceFeed
from skillaudit.producer.forwarder_sources import Scope, Sources
from skillaudit.producer.forwarder_trouble import Trouble, Troubles
from skillaudit.producer.publisher import (
    OFFSET_UNKNOWN,
    PartitionUnavailableError,
    PublisherBrokenError,
    RecordPublisher,
    RefusedForGoodError,
    partition_for,
)


class ProgressListener(Protocol):
    """Who wants to know how far a source is acknowledged; called from the forwarder's thread."""

    def __call__(
        self, source_id: str, acknowledgement: Acknowledgement, refused: Sequence[RefusedRecord], /
    ) -> None:
        """It advanced. Must not block and must not raise."""
        ...


@dataclass(frozen=True, kw_only=True)
class ForwardReport:
    """What a forwarder did, in records."""

    acknowledged: int = 0
    refused: int = 0
    pending: int = 0
    """Read and not acknowledged; in the outbox for the next forwarder."""
    incidents: int = 0
    sources: int = 0
    """Sources it forwards now."""
    sources_finished: int = 0
    rebuilt: int = 0
    """How often the publisher had to be opened anew after it had worked."""
    oldest_s: float = 0.0
    """Age of the oldest event in the outbox that is not acknowledged, where somebody looks (`BacklogWatch`); 0: none waits."""


class Forwarder:
    """Forwards sources of one outbox directory through one publisher. `run` once, in one event loop."""

    def __init__(
        self,
        outbox_dir: Path,
        publisher: RecordPublisher,
        *,
        limits: ForwarderLimits | None = None,
        scope: Scope = Scope.ALL,
        own: Path | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
        on_progress: ProgressListener | None = None,
    ) -> None:
        """`own`: the source directory of this process, for the scopes that have one."""
        self.outbox_dir = outbox_dir
        self.state = ForwarderState.NEW
        self._publisher = publisher
        self._limits = limits or ForwarderLimits()
        self._clock = clock or SystemClock()
        self._on_progress = on_progress
        self._backoff = Backoff(self._limits, random or Random())  # noqa: S311  jitter, no secret
        self._troubles = Troubles(outbox_dir, self._clock, self._limits.log_interval_ms)
        self._sources = Sources(outbox_dir, scope, own, self._limits, self._clock)
        self._lanes: dict[int, Lane] = {}
        self._sends: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._wake = asyncio.Event()
        self._in_flight_bytes = 0
        self._in_flight_records = 0
        self._acknowledged = 0
        self._rebuilt = 0
        self._nudged = False
        self._told: dict[str, Acknowledgement] = {}

    def __repr__(self) -> str:
        """State, sources, what is under way, and what is wrong."""
        wrong = f", {self.outage}" if self.outage else ""
        return (
            f"Forwarder({self.state.value}, {len(self._sources)} sources, {self._in_flight_records} records "
            f"under way, {self._acknowledged} acknowledged{wrong})"
        )

    @property
    def outage(self) -> str:
        """What keeps it from forwarding, or from saving what was acknowledged; empty while nothing does."""
        return self._troubles.reason

    @property
    def report(self) -> ForwardReport:
        """What it did so far."""
        return ForwardReport(
            acknowledged=self._acknowledged,
            refused=self._sources.refused,
            pending=self._in_flight_records,
            incidents=self._sources.incidents,
            sources=len(self._sources),
            sources_finished=self._sources.finished,
            rebuilt=self._rebuilt,
        )

    def nudge(self) -> None:
        """Look at all sources now; from the forwarder's own thread."""
        self._nudged = True
        self._wake.set()

    def let_go(self) -> None:
        """Free the sources for another forwarder, once nothing of `run` is left; for a run that could not end itself."""
        self._sources.release_all()

    def release_inherited(self) -> None:
        """In a forked child: close the copies of descriptors and connections; the parent's are not touched."""
        self._sources.release_all()
        self._publisher.release_inherited()

    async def run(self, stop: asyncio.Event) -> ForwardReport:
        """Forward until `stop` is set, then save what is acknowledged and end within `drain_timeout_ms`.

        Raises a `StopError` where going on would be wrong: another reader's directory, a second forwarder of the host.
        """
        stopper = asyncio.ensure_future(self._wake_on(stop))
        try:
            while not stop.is_set():
                if await self._connect():
                    await self._forward(stop)
                if not stop.is_set():
                    await self._recover(stop)
        finally:
            stopper.cancel()
            await self._end()
        return self.report

    async def _wake_on(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wake.set()

    def _go(self, target: ForwarderState) -> None:
        self.state = next_state(self.state, target)

    async def _connect(self) -> bool:
        """Open the publisher and take possession; False where that has to be tried again."""
        self._go(ForwarderState.CONNECTING)
        self._failure = None
        try:
            cluster = await self._publisher.open()
            partitions = await self._publisher.partition_count()
        except RetryableError as exc:
            self._failure = exc
            return False
        claim_reader(self.outbox_dir, f"kafka:{cluster}:{self._publisher.topic}")
        self._sources.partitions = partitions
        self._go(ForwarderState.FORWARDING)
        return True

    async def _recover(self, stop: asyncio.Event) -> None:
        """After a failed connection or a spent publisher: let go of it, wait a while."""
        failure = self._failure or PublisherBrokenError("the publisher gave up without a word")
        worked = self.state is ForwarderState.FORWARDING
        if worked:
            self._go(ForwarderState.REBUILDING)
            self._rebuilt += 1
        refused = isinstance(failure, RefusedForGoodError)
        await self._give_up_sends(self._limits.drain_timeout_ms if refused else 0)
        await self._publisher.abandon()
        if refused:
            return
        self._troubles.begin(Trouble.PUBLISHING, str(failure))
        self._go(ForwarderState.WAITING)
        self._wake.clear()  # what woke it before is no reason not to wait, except a stop
        if not stop.is_set():
            await self._pause(self._backoff.next_ms())

    async def _give_up_sends(self, wait_ms: int) -> None:
        """Wait for the batches under way, at most so long; what is then unacknowledged will be sent again."""
        if self._sends and wait_ms:
            await asyncio.wait(self._sends, timeout=wait_ms / 1000)
        for task in self._sends:
            task.cancel()
        if self._sends:
            await asyncio.wait(self._sends)
        self._sends.clear()
        for lane in self._lanes.values():
            lane.failed()

    async def _forward(self, stop: asyncio.Event) -> None:
        """Turn after turn, until stopped or until the publisher is spent."""
        while not stop.is_set() and self._failure is None:
            self._wake.clear()
            self._sources.discover()
            more = self._read()
            for lane in self._lanes.values():
                self._dispatch(lane)
            self._settle()
            await (asyncio.sleep(0) if more else self._pause(self._sources.wait_ms()))
        if self._failure is not None and not isinstance(self._failure, RetryableError | RefusedForGoodError):
            raise self._failure

    def _read(self) -> bool:
        """Read what there is room for, each due source once. Returns whether there may be more, and room for it."""
        every, self._nudged = self._nudged, False
        more = False
        for feed in self._sources.due(every=every):
            records = self._limits.records_in_flight_max - self._in_flight_records
            size = self._limits.bytes_in_flight_max - self._in_flight_bytes
            if records <= 0 or size <= 0:
                return False
            entries = self._read_feed(feed, records, size)
            self._put(entries)
            if entries and not feed.at_end:
                more = True
            else:
                self._sources.looked_at(feed)
        return more

    def _read_feed(self, feed: SourceFeed, records: int, size: int) -> list[Entry]:
        try:
            entries = feed.read(
                min(records, self._limits.read_records_max), min(size, self._limits.read_bytes_max)
            )
        except OSError as exc:
            self._troubles.begin(Trouble.READING, f"{feed.source_dir} can't be read: {exc}", feed.source_id)
            return []
        self._troubles.end(Trouble.READING, feed.source_id)
        return entries

    def _put(self, entries: Sequence[Entry]) -> None:
        lanes, size = self._lanes, 0
        for entry in entries:
            partition = partition_for(entry.key, entry.window.partitions)
            lane = lanes.get(partition)
            if lane is None:
                lane = lanes[partition] = Lane(partition, self._limits)
            lane.put(entry)
            size += entry.size_bytes
        self._in_flight_records += len(entries)
        self._in_flight_bytes += size

    def _dispatch(self, lane: Lane) -> None:
        """Send the lane's next batch, where it has one and none is under way."""
        if lane.held_until_s and asyncio.get_running_loop().time() < lane.held_until_s:
            return
        if self._failure is None and (batch := lane.next_batch()):
            task = asyncio.ensure_future(self._send(lane, batch))
            self._sends.add(task)
            task.add_done_callback(self._sends.discard)

    async def _send(self, lane: Lane, batch: Sequence[Entry]) -> None:
        try:
            offset = await self._publisher.send(lane.partition, [(e.key, e.value) for e in batch])
        except PartitionUnavailableError as exc:
            self._hold(lane, exc)
        except RefusedForGoodError as exc:
            self._refused(lane, exc)
            self._fail(exc)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():  # by `_give_up_sends`
                raise
            self._fail(PublisherBrokenError("the client library has given up a batch without a word"))
        except BaseException as exc:  # noqa: BLE001  raised by `_forward`, unless it is one that is retried
            self._fail(exc)
        else:
            self._acknowledge(lane, offset)
            self._dispatch(lane)
            self._wake.set()

    def _hold(self, lane: Lane, exc: PartitionUnavailableError) -> None:
        """Its records wait where they are; the first batch is tried again after a while."""
        lane.failed()
        lane.held_until_s = asyncio.get_running_loop().time() + self._limits.leader_interval_ms / 1000
        self._troubles.begin(Trouble.LEADERLESS, str(exc), str(lane.partition))

    def _fail(self, exc: BaseException) -> None:
        """The first failure is the one that counts; those after it are its echo."""
        self._failure = self._failure or exc
        self._wake.set()

    def _acknowledge(self, lane: Lane, offset: int) -> None:
        batch = lane.acknowledged()
        last: dict[SourceWindow, int] = {}
        for number, entry in enumerate(batch, 1):
            entry.window.settle(entry)
            self._in_flight_bytes -= entry.size_bytes
            last[entry.window] = number
            if not entry.line:
                self._sources.closed(entry)
        self._in_flight_records -= len(batch)
        self._acknowledged += len(batch)
        if offset != OFFSET_UNKNOWN:
            name = f"{self._publisher.topic}/{lane.partition}"
            for window, number in last.items():
                window.positions[name] = max(offset + number, window.positions.get(name, 0))
        self._troubles.end(Trouble.PUBLISHING)
        if lane.held_until_s:
            lane.held_until_s = 0.0
            self._troubles.end(Trouble.LEADERLESS, str(lane.partition))
        self._backoff.reset()

    def _release(self, entry: Entry) -> None:
        self._in_flight_records -= 1
        self._in_flight_bytes -= entry.size_bytes

    def _refused(self, lane: Lane, exc: RefusedForGoodError) -> None:
        """Of several records each is sent alone next; a single one is kept aside, and the rest goes on."""
        entry = lane.refused()
        if entry is None:
            return
        try:
            instead = self._sources.refuse(entry, str(exc))
        except OSError as trouble:  # nothing goes on past a record that is kept nowhere
            lane.put_first(entry)
            self._fail(PublisherBrokenError(f"a refused record can't be kept beside its source: {trouble}"))
            return
        self._troubles.refuse(str(exc))
        self._release(entry)
        if not entry.line:
            self._sources.closed(entry)
        if instead is not None:
            self._in_flight_records += 1
            self._in_flight_bytes += instead.size_bytes
            lane.put_first(instead)

    def _settle(self) -> None:
        """Save what is due, tell who listens, close and remove what is finished."""
        self._troubles.tell()
        for feed in self._sources.all():
            try:
                self._settle_feed(feed)
            except OSError as exc:  # it stops nothing: a crash sends more twice
                self._troubles.begin(
                    Trouble.SAVING,
                    f"no acknowledgement can be saved in {feed.source_dir}: {exc}",
                    feed.source_id,
                )

    def _settle_feed(self, feed: SourceFeed) -> None:
        closing = feed.begin_closing()
        if closing is not None:
            self._put([closing])
            self._nudged = True
            self._wake.set()
        if feed.save():  # else nothing was due: that says nothing about the disk
            self._troubles.end(Trouble.SAVING, feed.source_id)
        self._tell(feed)
        if feed.state is FeedState.FINISHED:
            self._told.pop(feed.source_id, None)
            self._sources.finish(feed)
            for trouble in Trouble:
                self._troubles.end(trouble, feed.source_id)

    def _tell(self, feed: SourceFeed) -> None:
        if self._on_progress is None:
            return
        told = self._told.get(feed.source_id)
        if told is None or told.position != feed.window.acknowledged[1] or told.refused != len(feed.refused):
            ack = self._told[feed.source_id] = feed.acknowledgement()
            self._on_progress(feed.source_id, ack, tuple(feed.refused))

    async def _pause(self, wait_ms: float) -> None:
        """Until a nudge, an acknowledgement or a stop, at most so long."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(wait_ms / 1000, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    async def _end(self) -> None:
        """Wait, bounded, for what is under way; save; let everything go."""
        self._go(ForwarderState.DRAINING)
        self._troubles.tell(last=True)
        await self._give_up_sends(self._limits.drain_timeout_ms if self._failure is None else 0)
        try:
            for feed in self._sources.all():
                feed.save(force=True)
                self._tell(feed)
                if feed.has_said_its_last():
                    self._sources.finish(feed)
        except OSError as exc:
            self._troubles.begin(
                Trouble.SAVING, f"what is acknowledged can't be saved and may be sent again: {exc}"
            )
        finally:
            self._sources.release_all()
            await self._publisher.abandon()
            self._go(ForwarderState.STOPPED)
