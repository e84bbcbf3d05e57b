"""The consumer as a running service: poll, apply, acknowledge; one writer, many readers, one way to stop.

Concurrency. Everything asynchronous runs in one event loop. Batches are applied in one worker thread (`_writing`), hot
tables move in another (`_sealing`), the ledger is sealed in a third and brought to the anchors in a fourth (`notary`): DuckDB
must never block the loop. While a batch is applied the next one is polled. Readers
take cursors of their own from `cursor` and wait for positions by `wait_for`.

    problem                                        solution
    a poll that waits would delay acknowledging    `commit` may run beside a waiting `poll`
    many small transactions when little arrives    the pause after a small batch is as long as the batch took, at most
                                                   `batch_interval_ms`: half the time at most goes into transactions
    a broker away                                  poll again, for ever, with a bounded pause; said once
    a batch that can't be taken now (a seal runs)  apply the same batch again, as above: nothing of it was committed
    a full disk                                    the same; an engine that gave up over it is closed and opened again.
                                                   What can't be acknowledged for want of space is so with a later batch
    a record that must not be passed over          StopError: an incident is stored, `run` raises it
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from functools import partial
from typing import Any, Final, TypeVar

import duckdb

from skillaudit.consumer.acts import (
    accept_history_loss,
    close_sources,
    end_empty_partitions,
    is_accepted,
    record_findings,
    record_stop,
    record_unmet,
)
from skillaudit.consumer.claims import Claim
from skillaudit.consumer.control import ControlLog, make_control
from skillaudit.consumer.database import Database, open_database
from skillaudit.consumer.following import ControlFollower
from skillaudit.consumer.losses import LossLog
from skillaudit.consumer.materializer import ApplyReport, Materializer, MaterializerPolicy
from skillaudit.consumer.notary import (
    STEP_INTERVAL_S,
    Notary,
    NotaryState,
    NotaryStatus,
    WriterAccess,
    decided_cuts,
    rest_s,
)
from skillaudit.consumer.planning import Planner, plan_purge
from skillaudit.consumer.poison import PoisonPolicy
from skillaudit.consumer.positions import topic_of
from skillaudit.consumer.recording import record_life
from skillaudit.consumer.sealing import SealState
from skillaudit.contract.admin import ActOrder, ActReport
from skillaudit.contract.clock import Clock, SystemClock, to_us
from skillaudit.contract.errors import (
    DatabaseError,
    DiskFullError,
    FencedError,
    HistoryLostError,
    NotYetMaterializedError,
    RetryableError,
    SkillauditError,
    StopError,
    UnreachableError,
)
from skillaudit.contract.outbox.files import FULL_ERRNOS
from skillaudit.contract.owner import Owner, owner_file, remove_owner, write_owner
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import OUTBOX_TOPIC, Finding, RecordBatch, RecordSource
from skillaudit.contract.storage import Positions
from skillaudit.contract.words import counted

T = TypeVar("T")

POLL_TIMEOUT_MS: Final = 500
"""How long a poll waits for records: the stop event is looked at no less often."""
CATCH_UP_POLL_MS: Final = 20
"""The same until everything that was there has been consumed: whoever reads at once waits for that."""
SMALL_BATCH_RECORDS: Final = 4_000
"""From here on a batch is worth its transaction, and no pause follows it."""
TICK_INTERVAL_S: Final = 1.0
RETENTION_INTERVAL_S: Final = 3_600.0
SEALS_LATE: Final = 5
"""Seal intervals that rows may wait before a supervisor is told."""
LACKING_LATE_S: Final = 5.0
"""How long rows that were sealed may be missing, with all there is read, before a supervisor is told."""
CLOSE_WAIT_S: Final = 5.0
"""How long a retention under way may still take when the service ends."""
FULL_S_MAX: Final = 2.0
"""A batch that came (nearly) full counts for so long as a sign of more to come; for twice what applying it took, where that is
more."""
CLOSING_STEPS_MAX: Final = 16
"""Seals at the end, each of as many rows as one takes."""
RETRY_PAUSE_S: Final = 0.2
RETRY_PAUSE_S_MAX: Final = 5.0
LOG_INTERVAL_S: Final = 30.0
RATE_WINDOW_S: Final = 5.0

DAY_US: Final = 86_400_000_000
STORAGE_ORDER: Final = ActOrder(actor="storage")
"""Of a purge through `StorageAdmin`, which says nothing of who wants it."""
RETENTION_ORDER: Final = ActOrder(actor="retention")

_log = logging.getLogger("skillaudit.consumer")


class ServiceState(Enum):
    """NEW -> STARTING -> RUNNING <-> RETRYING -> STOPPED, or FAILED from anywhere."""

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    RETRYING = "retrying"
    """The other side does not answer; what is stored can be read."""
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(slots=True)
class ServiceStatus:
    """What the service is at, for people, `/readyz` and metrics."""

    state: ServiceState = ServiceState.NEW
    records: int = 0
    batches: int = 0
    rate: float = 0.0
    """Records per second over the last seconds."""
    lag: dict[str, int] = field(default_factory=dict[str, int])
    """Partition -> offsets behind the end last seen; for an outbox 1 means that more waits."""
    outcomes: dict[str, int] = field(default_factory=dict[str, int])
    """What became of records, by outcome, since the start."""
    last_error: str = ""
    apply_ms: float = 0.0
    """How long the last batch took."""
    notary: NotaryStatus = field(default_factory=NotaryStatus)
    """How sealing and anchoring stand."""


class _EndedError(Exception):
    """Told to stop while a batch could not be taken: nothing of it was committed, and it is read again."""


SourceFactory = Callable[[Database], RecordSource]


def make_source(settings: Settings) -> SourceFactory:
    """The source that the settings name: Kafka where a broker is configured, else the outbox directory."""

    def make(database: Database) -> RecordSource:
        if settings.uses_kafka:
            from skillaudit.consumer.kafka_source import KafkaSource

            return KafkaSource(settings, group=f"skillaudit-{database.database_id[:8]}")
        from skillaudit.consumer.outbox_source import OutboxSource

        return OutboxSource(
            settings.outbox_dir,
            settings.archive_dir,
            database_id=database.database_id,
            keep_days=settings.outbox_keep_days,
        )

    return make


class ConsumerService:
    """Owns the database file from `start` to `close`, and keeps it up with its source while `run` runs."""

    def __init__(
        self,
        settings: Settings,
        *,
        source: SourceFactory | None = None,
        control: ControlLog | None = None,
        clock: Clock | None = None,
        accept_history_loss: Sequence[str] = (),
        seal: bool = False,
    ) -> None:
        """`accept_history_loss`: partitions (`TOPIC/*`: all of a topic) whose history may turn out lost at the start: then
        their positions are given up, recorded; where nothing is lost nothing is given up. `control`: another log of acts
        than the settings name. `seal`: whether the ledger is sealed, and what was sealed before is met first.
        """
        self.settings = settings
        self.status = ServiceStatus()
        self._make_source = source or make_source(settings)
        self._control = ControlFollower(control or make_control(settings), self._on_writer)
        self._retaining: asyncio.Task[None] | None = None
        self._clock = clock or SystemClock()
        self._losses = LossLog(self._clock)
        self._accepted = tuple(accept_history_loss)
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="skillaudit-writer")
        self._sealing = ThreadPoolExecutor(1, thread_name_prefix="skillaudit-sealer")
        self._notarizing = ThreadPoolExecutor(1, thread_name_prefix="skillaudit-notary")
        self._publishing = ThreadPoolExecutor(1, thread_name_prefix="skillaudit-anchors")
        self._with_notary = seal
        self._notary: Notary | None = None
        self._database: Database | None = None
        self._materializer: Materializer | None = None
        self._source: RecordSource | None = None
        self._owner: Owner | None = None
        self._begun = False
        self.tried = asyncio.Event()
        """Set once the source was opened, or did not answer for the first time."""
        self.caught_up = asyncio.Event()
        """Set once everything that was there has been consumed; never taken back."""
        self._full_s = -math.inf
        self._moved = asyncio.Condition()
        self._positions: dict[str, int] = {}
        self._ends: dict[str, int] = {}
        self._emptied: dict[str, int] = {}
        self._closed = False
        self._stopping = asyncio.Event()
        self._seal: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._commit_due = False
        """An acknowledgement found no room."""
        self._suspect = False
        """A disk was full since the database was last known to work."""
        self._lacking_s: float | None = None
        """Since when rows that were sealed have been missing, with all there is read; monotonic."""
        self.told_unmet = False
        """Whether log and incidents say so."""
        self._window: list[tuple[float, int]] = []
        self._ticked_s = 0.0
        self._retained_s = float("-inf")
        self._said_s = float("-inf")

    def __repr__(self) -> str:
        """File and state."""
        return f"ConsumerService({str(self.settings.database)!r}, {self.status.state.value})"

    @property
    def database(self) -> Database:
        """The open database."""
        if self._database is None:
            raise self._not_open()
        return self._database

    @property
    def materializer(self) -> Materializer:
        """The writer; call it through `write`."""
        if self._materializer is None:
            raise self._not_open()
        return self._materializer

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A reader's own cursor; any thread."""
        return self.database.cursor()

    async def write(self, act: Callable[[Materializer], T]) -> T:
        """Run `act` in the writer's thread, between two batches."""
        return await asyncio.get_running_loop().run_in_executor(self._writing, act, self.materializer)

    async def purge_older_than(self, t: datetime) -> int:
        """As `StorageAdmin.purge_older_than`."""
        minimum = self.settings.min_retention_days
        return (await self.order(plan_purge(STORAGE_ORDER, to_us(t), min_days=minimum))).runs

    async def order(self, plan: Planner) -> ActReport:
        """Make acts of a plan: they are in the control log, and applied here, when this returns. See `ControlFollower`."""
        return await self._control.order(plan)

    def positions(self) -> dict[str, int]:
        """How far the database has consumed."""
        return dict(self._positions)

    def late_seal(self) -> str:
        """Why the ledger is not sealed as it should be, for supervisors; empty where it is, or is not to be. A database
        that is made again from the events has first to meet what was sealed before, and is late only if they all were read.
        """
        notary, now_us = self.status.notary, self._clock.wall_us()
        limit_s = SEALS_LATE * self.settings.seal_interval_ms / 1000
        if notary.lacking:
            since_s = self._lacking_s
            if since_s is None or time.monotonic() - since_s < LACKING_LATE_S:
                return ""
            return (
                f"all there is was read, and rows of the ledger that were sealed are not there ({', '.join(notary.lacking)}): nothing"
                " is sealed until they come, from the topics, the archive or a backup; see `skillaudit verify`"
            )
        age_s = notary.seal_age_s(now_us)
        if age_s <= limit_s:
            return ""
        why = notary.last_error or "it is behind"
        return (
            f"the ledger's newest rows ({notary.behind_rows:,}) have waited {age_s:.0f} s for a seal: {why}"
        )

    async def wait_for(self, positions: Positions, timeout_s: float) -> None:
        """As `AuditReader.wait_for`, woken by commits."""
        try:
            async with asyncio.timeout(timeout_s), self._moved:
                await self._moved.wait_for(lambda: self._closed or self._reached(positions))
        except TimeoutError as exc:
            behind = [p for p, offset in positions.items() if self._position_of(p) < offset]
            raise NotYetMaterializedError(
                f"not consumed so far within {timeout_s:g} s: {', '.join(sorted(behind))}; see the consumer's lag"
            ) from exc
        if not self._reached(positions):  # nothing moves any more
            raise self._not_open()

    # its life

    async def start(self) -> None:
        """Open the database and the source. Raises `LockedError`, `SchemaVersionError`, `HistoryLostError`,
        `UnreachableError`; nothing is held then.
        """
        await self.open()
        try:
            await self._begin()
        except BaseException as exc:
            await self._fail(exc)
            await self.close()
            raise

    async def open(self) -> None:
        """Open the database alone: what is stored can be read, and `run` opens the source as soon as that answers.
        Raises `LockedError`, `SchemaVersionError`; nothing is held then.
        """
        self.status.state = ServiceState.STARTING
        try:
            await self._in_writer(self._open_database)
            self._positions = {name: at.next_offset for name, at in self.materializer.positions().items()}
            self._announce("")
        except BaseException as exc:
            await self._fail(exc)
            await self.close()
            raise

    async def _begin(self) -> None:
        if self._with_notary:
            await self._run_to_end(self._notarizing, self._open_notary)
        await self._accepting(self._open_source)
        await self._accepting(self._open_control)
        self._begun = True
        self._work_again()
        self.tried.set()

    async def _begin_patiently(self, stop: asyncio.Event) -> None:
        """Begin as soon as the other side answers; `_EndedError` where the service is told to stop before."""
        stopping = asyncio.ensure_future(stop.wait())
        pause_s = RETRY_PAUSE_S
        try:
            while not self._begun:
                if stop.is_set():
                    raise _EndedError
                beginning = asyncio.ensure_future(self._begin())
                await asyncio.wait((beginning, stopping), return_when=asyncio.FIRST_COMPLETED)
                if not beginning.done():
                    beginning.cancel()
                    await asyncio.wait((beginning,))
                    raise _EndedError
                try:
                    beginning.result()
                except (UnreachableError, DiskFullError) as exc:
                    self._say(exc)
                    self.tried.set()
                    await asyncio.wait((stopping,), timeout=pause_s)
                    pause_s = min(pause_s * 2, RETRY_PAUSE_S_MAX)
        finally:
            stopping.cancel()

    async def _accepting(self, step: Callable[[], Awaitable[None]]) -> None:
        """Do `step`. Where it finds history lost that was accepted beforehand, give that position up, and do it again:
        at most once for each position there is.
        """
        while True:
            try:
                return await step()
            except HistoryLostError as exc:
                if not is_accepted(exc.partition, self._accepted):
                    raise
                give_up = partial(accept_history_loss, partition=exc.partition)
                if not await self.write(give_up):
                    raise
                _log.warning(
                    "the history of %s is given up, as accepted; recorded as an incident", exc.partition
                )

    def announce(self, url: str) -> None:
        """Write beside the database where this process answers."""
        self._announce(url)

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop` is set; a batch that is being applied is finished. Raises what must not be passed over,
        after storing it as an incident. Starts by itself where `start` was not called, and closes at the end.
        """
        try:
            if self._materializer is None:
                await self.start()
            self._stopping = stop
            with contextlib.suppress(_EndedError):
                await self._begin_patiently(stop)
                await self._consume(stop)
            self.status.state = ServiceState.STOPPED
        except Exception as exc:
            await self._fail(exc)
            raise
        finally:
            await self.close()

    async def close(self) -> None:
        """Release source, file and threads; safe to call again. A seal under way is finished."""
        if self._closed:
            return
        if self._seal is not None:
            # `run` has raised it, or it is found again at the next start.
            with contextlib.suppress(SkillauditError):
                await self._seal
            self._seal = None
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait((self._looking,))
            if not self._looking.cancelled():
                self._looking.exception()  # as of a poll: found again at the next start
            self._looking = None
        if self._retaining is not None:
            await asyncio.wait((self._retaining,), timeout=CLOSE_WAIT_S)
            self._retaining.cancel()
            await asyncio.wait((self._retaining,))
            self._retaining = None
        self._closed = True
        self._losses.tell(last=True)
        source, self._source = self._source, None
        try:
            await self._control.close()
            if source is not None:
                await source.close()
            await self._close_notary()
        finally:
            await self._in_writer(self._close)
            for threads in (self._writing, self._sealing, self._notarizing, self._publishing):
                threads.shutdown(wait=False)
        async with self._moved:
            self._moved.notify_all()

    # the loop

    async def _consume(self, stop: asyncio.Event) -> None:
        stopping = asyncio.ensure_future(stop.wait())
        beside = [asyncio.ensure_future(work) for work in (self._control.follow(), *self._notary_work())]
        polling: asyncio.Task[RecordBatch] | None = None
        try:
            while not stop.is_set():
                polling = polling or asyncio.ensure_future(self._poll())
                await asyncio.wait((polling, stopping, *beside), return_when=asyncio.FIRST_COMPLETED)
                for work in beside:
                    if work.done():
                        work.result()
                if not polling.done():
                    break
                batch = polling.result()
                # A large batch says that more waits: the next is fetched while the engine works on this one. After a
                # small one that would only make records wait in memory.
                large = len(batch.records) >= SMALL_BATCH_RECORDS
                polling = asyncio.ensure_future(self._poll()) if large else None
                took_s = await self._take(batch)
                if batch.records and not large:
                    pause_s = min(took_s, self.settings.batch_interval_ms / 1000)
                    await asyncio.wait((stopping,), timeout=pause_s)
        finally:
            stopping.cancel()
            ending = [*beside, *([polling] if polling is not None else [])]
            for ended in ending:
                ended.cancel()
            await asyncio.wait(ending)
            for ended in ending:
                if not ended.cancelled():
                    ended.exception()  # raised above, or found again at the next start

    async def _poll(self) -> RecordBatch:
        """The next batch; waits out a side that does not answer."""
        assert self._source is not None  # noqa: S101  `start` has run
        pause_s = RETRY_PAUSE_S
        while True:
            try:
                timeout_ms = POLL_TIMEOUT_MS if self.caught_up.is_set() else CATCH_UP_POLL_MS
                batch = await self._source.poll(self.settings.batch_records_max, timeout_ms)
            except UnreachableError as exc:
                pause_s = await self._wait_out(exc, pause_s)
            else:
                self._work_again()
                return batch

    async def _take(self, batch: RecordBatch) -> float:
        """Apply and acknowledge; returns the seconds that applying took."""
        began_s = time.monotonic()
        self._ends, self._emptied = dict(batch.ends), dict(batch.emptied)
        if batch.records or batch.findings or batch.closed:
            await self._note(await self._apply_patiently(batch))
        took_s = time.monotonic() - began_s
        if batch.records or batch.closed or self._commit_due:
            await self._commit()
        self.status.apply_ms = took_s * 1000
        if len(batch.records) * 2 >= self.settings.batch_records_max:
            self._full_s = time.monotonic()
        self._measure(len(batch.records))
        self._losses.tell()
        if not any(self.status.lag.values()):
            self.caught_up.set()
        await self._tick_and_seal()
        return took_s

    async def _commit(self) -> None:
        """Acknowledge. Where there is no room for that, consuming goes on and a later call acknowledges all of it."""
        assert self._source is not None  # noqa: S101  `start` has run
        try:
            await self._source.commit(self._positions)
        except DiskFullError as exc:
            self._commit_due = True
            self._say(exc)
        else:
            self._commit_due = False

    async def _apply_patiently(self, batch: RecordBatch) -> ApplyReport:
        """Apply the batch, again and again where the materializer asks for it: all of it is committed, or nothing is."""
        # Findings first: once the position has moved past the damage, nobody would meet it again.
        for finding in batch.findings:  # each its own transaction: what is kept must not be kept twice
            await self._retry(partial(self._record_finding, finding))
        report = await self._retry(lambda: self.materializer.apply(batch.records, batch.ends))
        if batch.closed:
            await self._retry(lambda: close_sources(self.materializer, batch.closed))
        return report

    async def _retry(self, work: Callable[[], T]) -> T:
        """In the writer's thread, for as long as it takes; `_EndedError` where the service is told to stop meanwhile."""
        pause_s = RETRY_PAUSE_S
        while True:
            try:
                done = await self._in_writer(lambda: self._on_sound_database(work))
            except RetryableError as exc:
                if isinstance(exc, DiskFullError):
                    self._suspect = True
                    if self._seal is not None:  # it must not have the file when that is opened again
                        await asyncio.wait((self._seal,))
                pause_s = await self._wait_out(exc, pause_s)
                if self._stopping.is_set():
                    raise _EndedError from exc
            else:
                self._work_again()
                return done

    async def _note(self, report: ApplyReport) -> None:
        self.status.records += report.records - report.skipped
        self.status.batches += 1
        for outcome, count in report.outcomes.items():
            self.status.outcomes[str(outcome.value)] = self.status.outcomes.get(str(outcome.value), 0) + count
        self._losses.take(report.outcomes, report.told)
        async with self._moved:
            self._positions.update(report.positions)
            self._moved.notify_all()

    async def _tick_and_seal(self) -> None:
        now_s = time.monotonic()
        if now_s - self._ticked_s >= TICK_INTERVAL_S:
            self._ticked_s = now_s
            ends = dict(self._ends)
            await self._look()
            await self._retry(lambda: self.materializer.tick(ends))
            if self.status.notary.state is NotaryState.MEETING and self.caught_up.is_set():
                await self._end_empty()
        await self._end_seal()
        sealer = self.materializer.sealer
        if sealer.state is not SealState.MOVING and sealer.checkpoint_due:
            await self._retry(self._checkpoint)
        if self._seal is None and await self._swapped():
            self._seal = asyncio.ensure_future(self._move())
        if self._seal is None and self.settings.retention_days:
            self._retain(now_s)

    async def _look(self) -> None:
        """Where a source said something that is due only when all partitions are read so far: ask how far they reach.
        Beside the loop, for a partition without a leader answers late.
        """
        if self._looking is not None and not self._looking.done():
            return
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.result()
        asked = await self._in_writer(self.materializer.to_ask)
        if asked:
            self._looking = asyncio.ensure_future(self._ask_ends(asked))

    async def _ask_ends(self, asked: Mapping[str, Claim]) -> None:
        assert self._source is not None  # noqa: S101  `start` has run
        try:
            ends = await self._source.ends()
        except UnreachableError as exc:
            _log.info("what sources said is judged later: %s", exc)
        else:
            await self._in_writer(lambda: self.materializer.look(ends, asked))

    async def _end_empty(self) -> None:
        """Of what was sealed before this database was made again some partitions may have no record left: expired in the
        topic, or with the archive.
        """
        emptied, there = self._emptied, self._ends
        kept_us = self._clock.wall_us() - self.settings.outbox_keep_days * DAY_US

        def is_expired(partition: str, sealed_us: int) -> bool:
            return topic_of(partition) == OUTBOX_TOPIC and partition not in there and sealed_us < kept_us

        await self._retry(lambda: end_empty_partitions(self.materializer, emptied, is_expired))

    async def _end_seal(self) -> None:
        """Hear what became of a seal; one that found no room is begun again."""
        if self._seal is None or not self._seal.done():
            return
        seal, self._seal = self._seal, None
        try:
            seal.result()
        except DiskFullError as exc:
            self._suspect = True
            await self._wait_out(exc, RETRY_PAUSE_S)
            await self._retry(lambda: None)

    async def _swapped(self) -> bool:
        """Whether a hot table waits to be moved now: swapped just now, or left by a move that found no room."""
        sealer = self.materializer.sealer
        if sealer.state is SealState.MOVING:
            return True
        return sealer.due and await self._retry(self._swap)

    # Asked for anew: after the file was opened again the sealer is another one.

    def _swap(self) -> bool:
        return self.materializer.sealer.swap()

    def _checkpoint(self) -> None:
        self.materializer.sealer.checkpoint()

    def _record_finding(self, finding: Finding) -> None:
        record_findings(self.materializer, [finding])

    def _retain(self, now_s: float) -> None:
        """Let the settings' retention take its due, now and then."""
        if now_s - self._retained_s < RETENTION_INTERVAL_S:
            return
        if self._retaining is not None and not self._retaining.done():
            return
        self._retained_s = now_s
        self._retaining = asyncio.ensure_future(self._purge_old())

    async def _purge_old(self) -> None:
        """Beside the loop: the control log may be slow to take an act."""
        days = self.settings.retention_days
        before_us = self._clock.wall_us() - days * DAY_US
        minimum = self.settings.min_retention_days
        plan = plan_purge(RETENTION_ORDER, before_us, min_days=minimum, name="retention", received=True)
        try:
            report = await self.order(plan)
        except RetryableError as exc:
            _log.info("retention_days=%d: tried again later: %s", days, exc)
        else:
            if report.runs:
                _log.info("retention_days=%d: %s deleted", days, counted(report.runs, "run"))

    async def _move(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._sealing, self.materializer.sealer.move)

    # sealing the ledger

    def _open_notary(self) -> None:
        if self._notary is None:
            self._notary = Notary(self.settings, WriterAccess(lambda: self.materializer), self._clock)
        self.status.notary = self._notary.status
        self._notary.prepare()

    def _notary_work(self) -> list[Coroutine[Any, Any, None]]:
        """What runs beside the loop: sealing, and in a thread of its own, for an anchor may take its time, publishing."""
        notary = self._notary
        return [] if notary is None else [self._seal_ledger(notary), self._publish(notary)]

    async def _seal_ledger(self, notary: Notary) -> None:
        while True:
            began_s = time.monotonic()
            more = await self._run_to_end(self._notarizing, notary.step)
            took_s = time.monotonic() - began_s
            await self._tell_lacking(notary.status)
            await self._leave_room(took_s)
            await asyncio.sleep(0 if more else STEP_INTERVAL_S)

    async def _leave_room(self, took_s: float) -> None:
        """After a step of sealing that took so long: as long as records come faster than they are stored, for `rest_s`; not
        where the newest rows have waited half as long as is too long.
        """
        most_s = SEALS_LATE * self.settings.seal_interval_ms / 1000 / 2
        until_s = time.monotonic() + rest_s(took_s, most_s)
        while (left_s := until_s - time.monotonic()) > 0 and self._reads_full():
            if self.status.notary.seal_age_s(self._clock.wall_us()) > most_s:
                break
            await asyncio.sleep(min(left_s, STEP_INTERVAL_S))

    def _reads_full(self) -> bool:
        """Whether a batch came (nearly) full just now."""
        return time.monotonic() - self._full_s < max(FULL_S_MAX, 2 * self.status.apply_ms / 1000)

    async def _tell_lacking(self, notary: NotaryStatus) -> None:
        """Say once, by log and incident, that a database made again has not met what was sealed before, and can't."""
        if not notary.lacking or not self.caught_up.is_set():
            if self.told_unmet and not notary.lacking:
                _log.info("the ledger has met what was sealed before")
            self._lacking_s, self.told_unmet = None, False
            return
        if self._lacking_s is None:
            self._lacking_s = time.monotonic()
        late = self.late_seal()
        if late and not self.told_unmet:
            with contextlib.suppress(RetryableError):  # it is said with a later step
                await self._on_writer(lambda materializer: record_unmet(materializer, late))
                self.told_unmet = True
                _log.error("%s", late)

    async def _publish(self, notary: Notary) -> None:
        while True:
            await self._run_to_end(self._publishing, notary.publish)
            await asyncio.sleep(STEP_INTERVAL_S)

    async def _close_notary(self) -> None:
        """What was consumed is sealed and anchored before the end, where the end is none by trouble."""
        notary, self._notary = self._notary, None
        if notary is None:
            return
        try:
            if self.status.state is ServiceState.STOPPED:
                behind, step = math.inf, partial(notary.step, force=True)
                for _ in range(CLOSING_STEPS_MAX):
                    await self._run_to_end(self._notarizing, step)
                    if not 0 < notary.status.behind_rows < behind:
                        break
                    behind = notary.status.behind_rows
                await self._run_to_end(self._publishing, notary.publish)
                if notary.status.behind_rows:
                    _log.warning("%s are not sealed yet", counted(notary.status.behind_rows, "row"))
        except StopError as exc:
            _log.error("the last rows are not sealed: %s", exc)
            await self._keep_incident(exc)
        finally:
            notary.close()

    # small parts

    def _open_database(self) -> None:
        self._database = open_database(self.settings.database)
        policy = MaterializerPolicy(
            poison=PoisonPolicy(self.settings.poison_in_a_row_max, self.settings.poison_share_percent_max),
            seal_rows=self.settings.seal_rows,
            abandon_after_ms=self.settings.abandon_after_ms,
            journal_acts=self._with_notary or not self.settings.anchors,
        )
        cuts = decided_cuts(self.settings)
        self._materializer = Materializer(self._database, policy=policy, clock=self._clock, cuts=cuts)

    def _on_sound_database(self, work: Callable[[], T]) -> T:
        """In the writer's thread: do `work`; before that, after a full disk, open the file again where the engine has
        given up over it (a checkpoint that fails does that). What was committed is in its log.
        """
        if self._suspect and not self._is_sound():
            _log.warning(
                "opening %s again: the engine gave up when its disk was full", self.settings.database
            )
            self._close_database()
            self._open_database()
            self.materializer.identity = self._source.identity if self._source is not None else ""
        self._suspect = False
        return work()

    def _is_sound(self) -> bool:
        try:
            with contextlib.closing(self.materializer.database.cursor()) as cursor:
                cursor.execute("SELECT 1")
        except (duckdb.Error, DatabaseError):
            return False
        return True

    async def _open_source(self) -> None:
        materializer = self.materializer
        if self._source is not None:
            await self._source.close()
        self._source = source = self._make_source(self.database)
        await source.open(materializer.positions())
        # A database that was fed otherwise before (embedded, and now by Kafka) holds positions of that kind, too.
        kind = source.identity.partition(":")[0] + ":"
        foreign = {
            p: c for p, c in materializer.clusters().items() if c.startswith(kind) and c != source.identity
        }
        if foreign:
            partition, cluster = next(iter(sorted(foreign.items())))
            raise HistoryLostError(
                f"{partition} was consumed from {cluster}, and this is {source.identity}: another cluster under the same "
                f"address? `skillaudit consume --accept-history-loss {partition}` goes on, recorded",
                partition,
            )
        materializer.identity = source.identity
        self._positions = {name: position.next_offset for name, position in materializer.positions().items()}

    async def _open_control(self) -> None:
        if self._with_notary:
            await self._on_writer(record_life)
        await self._control.close()  # where an attempt before this one got half of the way
        await self._control.open()  # to its end, before any event

    def _close(self) -> None:
        if self._owner is not None:
            remove_owner(self.settings.database, self._owner)
            self._owner = None
        self._close_database()

    def _close_database(self) -> None:
        if self._materializer is not None:
            self._materializer.close()
            self._materializer = None
        if self._database is not None:
            self._database.close()
            self._database = None

    def _announce(self, url: str) -> None:
        self._owner = Owner(
            pid=os.getpid(),
            host=socket.gethostname(),
            url=url,
            started_us=self._clock.wall_us(),
            database_id=self.database.database_id,
        )
        try:
            write_owner(self.settings.database, self._owner)
        except OSError as exc:
            where = f"can't write {owner_file(self.settings.database)}: {exc.strerror}"
            if exc.errno in FULL_ERRNOS:
                raise DiskFullError(f"{where}; free some space") from exc
            raise DatabaseError(f"{where}; check the disk and the permissions") from exc

    async def _fail(self, exc: BaseException) -> None:
        """What `exc` means for the status and, where going on would lose or falsify something, the incidents."""
        self.status.state = ServiceState.FAILED
        self.status.last_error = str(exc) or type(exc).__name__
        if isinstance(exc, StopError):
            await self._keep_incident(exc)

    async def _keep_incident(self, exc: StopError) -> None:
        if self._materializer is None or isinstance(exc, DatabaseError | FencedError):
            return  # the database itself is what failed
        with contextlib.suppress(StopError):  # the first error is the one to tell
            await self.write(lambda materializer: record_stop(materializer, exc))

    def _not_open(self) -> DatabaseError:
        if self.status.state is ServiceState.FAILED:
            return DatabaseError(f"the consumer has stopped: {self.status.last_error}")
        return DatabaseError(f"the consumer is {self.status.state.value}, its database is not open")

    async def _on_writer(self, work: Callable[[Materializer], T]) -> T:
        """As `_in_writer`, for work that is given the writer as it is then."""
        return await self._in_writer(lambda: self._on_sound_database(lambda: work(self.materializer)))

    async def _in_writer(self, work: Callable[[], T]) -> T:
        """Run `work` in the writer's thread to its end."""
        return await self._run_to_end(self._writing, work)

    async def _run_to_end(self, thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        """Also when cancelled: a half-known transaction helps nobody, and the file must not be closed under it."""
        running = asyncio.get_running_loop().run_in_executor(thread, work)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait((running,))
            raise

    def _reached(self, positions: Positions) -> bool:
        return all(self._position_of(p) >= offset for p, offset in positions.items())

    def _position_of(self, partition: str) -> int:
        """As committed; the control log is followed beside the loop, and its position is the follower's."""
        followed = self._control.position if partition == self._control.log.partition else 0
        return max(self._positions.get(partition, 0), followed)

    def _measure(self, records: int) -> None:
        now_s = time.monotonic()
        self._window = [(at, n) for at, n in self._window if now_s - at < RATE_WINDOW_S]
        if records:
            self._window.append((now_s, records))
        span_s = max(now_s - self._window[0][0], 0.1) if self._window else 1.0
        self.status.rate = sum(n for _, n in self._window) / span_s
        self.status.lag = {p: max(end - self._positions.get(p, 0), 0) for p, end in self._ends.items()}

    async def _wait_out(self, exc: RetryableError, pause_s: float) -> float:
        """Say it, pause; returns the next pause."""
        self._say(exc)
        await asyncio.sleep(pause_s)
        return min(pause_s * 2, RETRY_PAUSE_S_MAX)

    def _say(self, exc: RetryableError) -> None:
        self.status.state = ServiceState.RETRYING
        self.status.last_error = str(exc)
        now_s = time.monotonic()
        if now_s - self._said_s >= LOG_INTERVAL_S:
            self._said_s = now_s
            _log.warning("%s; what is stored can be read, attempts go on", exc)

    def _work_again(self) -> None:
        self.status.state = ServiceState.RUNNING
        self.status.last_error = ""
