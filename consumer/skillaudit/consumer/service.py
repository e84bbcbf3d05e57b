"""The consumer as a running service: poll, apply, acknowledge; one writer, many readers, one way to stop.

Concurrency. Everything asynchronous runs in one event loop. Batches are applied in one worker thread (`writing`), hot tables
move in another (`upkeep`), the ledger is sealed in a third and brought to the anchors in a fourth (`notarizing`): DuckDB must
never block the loop. While a batch is applied the next one is polled. Readers take cursors of their own from `cursor` and wait
for positions by `wait_for`.

    problem                                        solution
    a poll that waits would delay acknowledging    `commit` may run beside a waiting `poll`
    many small transactions when little arrives    the pause after a small batch is as long as the batch took, at most
                                                   `batch_interval_ms`: half the time at most goes into transactions
    a broker away                                  poll again, for ever, with a bounded pause; said once (`patience`)
    a batch that can't be taken now (a seal runs)  apply the same batch again, as above: nothing of it was committed
    a full disk                                    the same; an engine that gave up over it is closed and opened again.
                                                   What can't be acknowledged for want of space is so with a later batch
    a record that must not be passed over          StopError: an incident is stored, `run` raises it
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Final, TypeVar

import duckdb

from skillaudit.consumer.acts import (
    accept_history_loss,
    close_sources,
    is_accepted,
    record_findings,
    record_stop,
)
from skillaudit.consumer.control import ControlLog, make_control
from skillaudit.consumer.database import Database
from skillaudit.consumer.following import ControlFollower
from skillaudit.consumer.losses import LossLog
from skillaudit.consumer.materializer import ApplyReport, Materializer, MaterializerPolicy
from skillaudit.consumer.notarizing import NotaryWork
from skillaudit.consumer.notary import Notary, WriterAccess, decided_cuts
from skillaudit.consumer.patience import RETRY_PAUSE_S, EndedError, Patience, longer
from skillaudit.consumer.planning import Planner, plan_purge
from skillaudit.consumer.poison import PoisonPolicy
from skillaudit.consumer.progress import Progress
from skillaudit.consumer.recording import record_life
from skillaudit.consumer.status import ServiceState, ServiceStatus
from skillaudit.consumer.upkeep import Retention, Upkeep
from skillaudit.consumer.writing import WriterThread
from skillaudit.contract.admin import ActOrder, ActReport
from skillaudit.contract.clock import Clock, SystemClock, to_us
from skillaudit.contract.errors import (
    DatabaseError,
    DiskFullError,
    FencedError,
    HistoryLostError,
    StopError,
    UnreachableError,
)
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import RecordBatch, RecordSource
from skillaudit.contract.storage import Positions

T = TypeVar("T")

POLL_TIMEOUT_MS: Final = 500
"""How long a poll waits for records: the stop event is looked at no less often."""
CATCH_UP_POLL_MS: Final = 20
"""The same until everything that was there has been consumed: whoever reads at once waits for that."""
SMALL_BATCH_RECORDS: Final = 4_000
"""From here on a batch is worth its transaction, and no pause follows it."""
STORAGE_ORDER: Final = ActOrder(actor="storage")
"""Of a purge through `StorageAdmin`, which says nothing of who wants it."""

_log = logging.getLogger("skillaudit.consumer")


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
        self._clock = clock or SystemClock()
        self._accepted = tuple(accept_history_loss)
        self._seals = seal
        self._patience = Patience(self.status)
        self._writer = WriterThread(
            settings, self._clock, self.status, self._patience, self.make_materializer
        )
        self._control = ControlFollower(control or make_control(settings), self._writer.run)
        self._progress = Progress(self.status, self._followed)
        self._notary = NotaryWork(
            settings, self._clock, self.status, self._writer, self._progress, self.make_notary
        )
        self._upkeep = Upkeep(settings, self._clock, self._writer, self._patience, self._progress)
        self._retention = Retention(settings, self._clock, self.order)
        self._losses = LossLog(self._clock)
        self._source: RecordSource | None = None
        self._begun = False
        self._closed = False
        self._commit_due = False
        """An acknowledgement found no room."""
        self.tried = asyncio.Event()
        """Set once the source was opened, or did not answer for the first time."""
        self.caught_up = self._progress.caught_up

    def __repr__(self) -> str:
        """File and state."""
        return f"ConsumerService({str(self.settings.database)!r}, {self.status.state.value})"

    @property
    def database(self) -> Database:
        """The open database."""
        return self._writer.database

    @property
    def materializer(self) -> Materializer:
        """The writer; call it through `write`."""
        return self._writer.materializer

    @property
    def told_unmet(self) -> bool:
        """Whether log and incidents say that a database made again lacks rows that were sealed."""
        return self._notary.told_unmet

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A reader's own cursor; any thread."""
        return self.database.cursor()

    def make_materializer(self, database: Database) -> Materializer:
        """The writer over a file that was opened, in the writer's thread."""
        settings = self.settings
        policy = MaterializerPolicy(
            poison=PoisonPolicy(settings.poison_in_a_row_max, settings.poison_share_percent_max),
            seal_rows=settings.seal_rows,
            abandon_after_ms=settings.abandon_after_ms,
            journal_acts=self._seals or not settings.anchors,
        )
        return Materializer(database, policy=policy, clock=self._clock, cuts=decided_cuts(settings))

    def make_notary(self) -> Notary:
        """Who seals and publishes, where something is sealed; in the notary's thread."""
        return Notary(self.settings, WriterAccess(lambda: self.materializer), self._clock)

    async def write(self, act: Callable[[Materializer], T]) -> T:
        """Run `act` in the writer's thread, between two batches."""
        return await self._writer.write(act)

    async def purge_older_than(self, t: datetime) -> int:
        """As `StorageAdmin.purge_older_than`."""
        minimum = self.settings.min_retention_days
        return (await self.order(plan_purge(STORAGE_ORDER, to_us(t), min_days=minimum))).runs

    async def order(self, plan: Planner) -> ActReport:
        """Make acts of a plan: they are in the control log, and applied here, when this returns. See `ControlFollower`."""
        return await self._control.order(plan)

    def positions(self) -> dict[str, int]:
        """How far the database has consumed."""
        return dict(self._progress.positions)

    def late_seal(self) -> str:
        """As `NotaryWork.late`."""
        return self._notary.late()

    async def wait_for(self, positions: Positions, timeout_s: float) -> None:
        """As `AuditReader.wait_for`, woken by commits."""
        await self._progress.wait_for(positions, timeout_s)

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
            await self._writer.open()
            self._take_positions()
            self.announce("")
        except BaseException as exc:
            await self._fail(exc)
            await self.close()
            raise

    def announce(self, url: str) -> None:
        """Write beside the database where this process answers."""
        self._writer.announce(url)

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop` is set; a batch that is being applied is finished. Raises what must not be passed over,
        after storing it as an incident. Starts by itself where `start` was not called, and closes at the end.
        """
        try:
            if not self._writer.is_open:
                await self.start()
            self._patience.stopping = stop
            with contextlib.suppress(EndedError):
                await self._begin_patiently(stop)
                await self._consume(stop)
            self.status.state = ServiceState.STOPPED
        except Exception as exc:
            await self._fail(exc)
            raise
        finally:
            await self.close()

    async def close(self) -> None:
        """Release source, file and threads; safe to call again. What is under way is finished."""
        if self._closed:
            return
        await self._upkeep.close()
        await self._retention.close()
        self._closed = True
        self._losses.tell(last=True)
        source, self._source = self._source, None
        try:
            await self._control.close()
            if source is not None:
                await source.close()
            await self._close_notary()
        finally:
            await self._writer.close()
        await self._progress.close()

    async def _close_notary(self) -> None:
        try:
            await self._notary.close(whole=self.status.state is ServiceState.STOPPED)
        except StopError as exc:
            _log.error("the last rows are not sealed: %s", exc)
            await self._keep_incident(exc)

    async def _fail(self, exc: BaseException) -> None:
        """What `exc` means for the status and, where going on would lose or falsify something, the incidents."""
        self.status.state = ServiceState.FAILED
        self.status.last_error = str(exc) or type(exc).__name__
        if isinstance(exc, StopError):
            await self._keep_incident(exc)

    async def _keep_incident(self, exc: StopError) -> None:
        if not self._writer.is_open or isinstance(exc, DatabaseError | FencedError):
            return  # the database itself is what failed
        with contextlib.suppress(StopError):  # the first error is the one to tell
            await self.write(lambda materializer: record_stop(materializer, exc))

    # its beginning

    async def _begin(self) -> None:
        if self._seals:
            await self._notary.open()
        await self._accepting(self._open_source)
        await self._accepting(self._open_control)
        self._begun = True
        self._patience.works()
        self.tried.set()

    async def _begin_patiently(self, stop: asyncio.Event) -> None:
        """Begin as soon as the other side answers; `EndedError` where the service is told to stop before."""
        stopping = asyncio.ensure_future(stop.wait())
        pause_s = RETRY_PAUSE_S
        try:
            while not self._begun:
                if stop.is_set():
                    raise EndedError
                beginning = asyncio.ensure_future(self._begin())
                await asyncio.wait((beginning, stopping), return_when=asyncio.FIRST_COMPLETED)
                if not beginning.done():
                    beginning.cancel()
                    await asyncio.wait((beginning,))
                    raise EndedError
                try:
                    beginning.result()
                except (UnreachableError, DiskFullError) as exc:
                    self._patience.say(exc)
                    self.tried.set()
                    await asyncio.wait((stopping,), timeout=pause_s)
                    pause_s = longer(pause_s)
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
        self._writer.set_identity(source.identity)
        self._take_positions()

    async def _open_control(self) -> None:
        if self._seals:
            await self._writer.run(record_life)
        await self._control.close()  # where an attempt before this one got half of the way
        await self._control.open()  # to its end, before any event

    def _take_positions(self) -> None:
        stored = self.materializer.positions()
        self._progress.positions = {name: at.next_offset for name, at in stored.items()}

    def _followed(self, partition: str) -> int:
        """The control log is followed beside the loop, and its position is the follower's."""
        return self._control.position if partition == self._control.log.partition else 0

    # the loop

    @property
    def _opened(self) -> RecordSource:
        assert self._source is not None  # noqa: S101  `_begin` has run
        return self._source

    async def _consume(self, stop: asyncio.Event) -> None:
        stopping = asyncio.ensure_future(stop.wait())
        beside = [asyncio.ensure_future(work) for work in (self._control.follow(), *self._notary.work())]
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
        pause_s = RETRY_PAUSE_S
        while True:
            try:
                timeout_ms = POLL_TIMEOUT_MS if self.caught_up.is_set() else CATCH_UP_POLL_MS
                batch = await self._opened.poll(self.settings.batch_records_max, timeout_ms)
            except UnreachableError as exc:
                pause_s = await self._patience.wait_out(exc, pause_s)
            else:
                self._patience.works()
                return batch

    async def _take(self, batch: RecordBatch) -> float:
        """Apply and acknowledge, then do what is due; returns the seconds that applying took."""
        began_s = time.monotonic()
        self._progress.see(batch)
        if batch.records or batch.findings or batch.closed:
            report = await self._apply(batch)
            self._losses.take(report.outcomes, report.told)
            await self._progress.note(report)
        took_s = time.monotonic() - began_s
        if batch.records or batch.closed or self._commit_due:
            await self._commit()
        self._progress.measure(len(batch.records), self.settings.batch_records_max, took_s)
        self._losses.tell()
        await self._upkeep.step(self._opened, meeting=self._notary.is_meeting)
        if not self._upkeep.is_moving:
            self._retention.step()
        return took_s

    async def _apply(self, batch: RecordBatch) -> ApplyReport:
        """Apply the batch, again and again where the materializer asks for it: all of it is committed, or nothing is."""
        # Findings first: once the position has moved past the damage, nobody would meet it again.
        for finding in batch.findings:  # each its own transaction: what is kept must not be kept twice
            await self._writer.retry(partial(record_findings, findings=[finding]))
        report = await self._writer.retry(lambda materializer: materializer.apply(batch.records, batch.ends))
        if batch.closed:
            await self._writer.retry(partial(close_sources, partitions=batch.closed))
        return report

    async def _commit(self) -> None:
        """Acknowledge. Where there is no room for that, consuming goes on and a later call acknowledges all of it."""
        try:
            await self._opened.commit(self._progress.positions)
        except DiskFullError as exc:
            self._commit_due = True
            self._patience.say(exc)
        else:
            self._commit_due = False
