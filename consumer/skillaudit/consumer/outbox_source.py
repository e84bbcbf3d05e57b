"""The embedded source: reads an outbox directory, each source in it a partition of its own, in byte order.

Holds `<outbox>/consumer.lock` for its life, which is how a flushing agent knows that somebody consumes, and the
`reader` lock of each source from before its first read through every acknowledgement. Files are read in a worker
thread. Archived segments are read again where the database has not consumed them: a new database rebuilds from them.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from skillaudit.contract.clock import Clock, SystemClock
from skillaudit.contract.errors import (
    DiskFullError,
    HistoryLostError,
    LockedError,
    OutboxCorruptError,
    SkillauditError,
    StopError,
    UnreachableError,
)
from skillaudit.contract.outbox.acknowledgement import (
    Acknowledgement,
    read_acknowledgement,
    write_acknowledgement,
)
from skillaudit.contract.outbox.directory import (
    CONSUMER_LOCK_NAME,
    READER_LOCK_NAME,
    claim_reader,
    list_source_dirs,
    outbox_id,
)
from skillaudit.contract.outbox.files import FULL_ERRNOS
from skillaudit.contract.outbox.locks import FileLock, lock_holder
from skillaudit.contract.outbox.reader import OutboxLine, SourceReader
from skillaudit.contract.outbox.retire import (
    list_archived_sources,
    prune_archive,
    remove_source,
    retire_segments,
)
from skillaudit.contract.sources import (
    OUTBOX_TOPIC,
    Finding,
    RecordBatch,
    SourceRecord,
    StoredPosition,
    record_digest,
)

_log = logging.getLogger("skillaudit.consumer")

READ_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of one source in one round."""
BATCH_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of all sources in one round, one source's share more at most: a backlog of many sources must not fill the memory."""
ROUND_RECORDS_MIN: Final = 256
"""A source's share of a batch at least, however many sources there are."""
IDLE_POLL_S: Final = 0.01
IDLE_POLL_MAX_S: Final = 0.05
DISCOVERY_INTERVAL_S: Final = 0.1
UNREADABLE_RETRY_US: Final = 5_000_000
"""How long a source that the disk does not give is left alone; the others go on."""
PRUNE_INTERVAL_S: Final = 3_600.0


def partition_name(source_id: str) -> str:
    """`outbox/<source_id>`."""
    return f"{OUTBOX_TOPIC}/{source_id}"


class _Partition:
    """One source being read; all its methods run in the worker thread."""

    __slots__ = (
        "_archive_dir",
        "_began",
        "_counts",
        "_last",
        "_lock",
        "acknowledged",
        "closed",
        "directory",
        "name",
        "reader",
    )

    def __init__(
        self, directory: Path, stored: StoredPosition, archive_dir: Path, lock: FileLock, clock: Clock
    ) -> None:
        self.directory = directory
        self.name = partition_name(directory.name)
        self.reader = SourceReader(directory, stored.next_offset, archive_dir=archive_dir, clock=clock)
        self.reader.report_copy()
        self.acknowledged = 0
        self.closed = False
        self._began = stored.next_offset > 0
        """The first line is behind, or was told of."""
        self._archive_dir = archive_dir
        self._lock = lock
        self._last = stored.next_offset
        """Where the last line returned ends."""
        self._counts: dict[int, int] = {}
        """Batch's end position -> lines of the source before it, until it is acknowledged."""

    def read(self, records_max: int) -> tuple[list[SourceRecord], list[Finding]]:
        lines = self.reader.read(records_max, READ_BYTES_MAX)
        if lines:
            self._last = lines[-1].next_position
            self._counts[self._last] = lines[-1].line
        findings = [
            Finding(
                partition=self.name,
                offset=damage.position,
                kind=f"outbox-{damage.kind}",
                detail=damage.detail,
            )
            for damage in self.reader.take_findings()
        ]
        return [self._record(line) for line in lines], findings + self._late_beginning()

    def _late_beginning(self) -> list[Finding]:
        """Once, where nothing was consumed before and the first line that is left is not the source's first: it was
        lost, or went with the archive before this database was there.
        """
        first = 0 if self._began else self.reader.first_line
        if not first:
            return []
        self._began = True
        if first == 1:
            return []
        detail = f"the source begins at its line {first}; what was before that is not here"
        return [Finding(partition=self.name, offset=0, kind="outbox-beginning-missing", detail=detail)]

    def _record(self, line: OutboxLine) -> SourceRecord:
        return SourceRecord(self.name, line.position, line.next_position, 0, None, line.record)

    @property
    def end(self) -> int:
        """Where the last line ends as far as is known; beyond what was read while more may wait."""
        return self._last if self.reader.at_end else self._last + 1

    def acknowledge(self, position: int) -> None:
        """The database holds everything before `position`: say so on the disk, then archive whole segments."""
        if position <= self.acknowledged:
            return
        if not self.directory.exists():  # read from the archive: nobody waits to hear it
            self.acknowledged = position
            return
        # A reader that began here and has met no line yet has counted those before it all the same.
        known = self.reader.records if self.reader.position == position else 0
        records = max((n for at, n in self._counts.items() if at <= position), default=known)
        self._write(Acknowledgement(position=position, records=records))
        self._counts = {at: n for at, n in self._counts.items() if at >= position}

    def retire(self) -> bool:
        """Archive a dead source that is consumed to its end; False where that is not so, or not safe."""
        if not self.closed or self.acknowledged < self._last:
            return False
        if not self.directory.exists():
            return True
        # Behind the last line there is only what was reported as damage: it needs no reading again.
        ack = Acknowledgement(position=self.reader.position, records=self.reader.records)
        if ack.position > self.acknowledged:
            self._write(ack)
        self.reader.close()
        return remove_source(self.directory, ack, self._archive_dir)

    def _write(self, ack: Acknowledgement) -> None:
        write_acknowledgement(self.directory, ack)
        self.acknowledged = ack.position
        retire_segments(self.directory, ack, self._archive_dir)

    def close(self) -> None:
        self.reader.close()
        self._lock.release()


class OutboxSource:
    """`RecordSource` over an outbox directory; the partitions are `outbox/<source_id>`."""

    def __init__(
        self,
        outbox_dir: Path,
        archive_dir: Path,
        *,
        database_id: str,
        keep_days: int,
        clock: Clock | None = None,
    ) -> None:
        """`database_id` names the directory's one reader: another database is refused (`OutboxMismatchError`).
        `keep_days`: how long consumed segments stay in the archive, where a new database can read them again.
        """
        self._outbox_dir = outbox_dir
        self._archive_dir = archive_dir
        self._database_id = database_id
        self._clock = clock or SystemClock()
        self._consumer_lock: FileLock | None = None
        self._positions: dict[str, StoredPosition] = {}
        self._partitions: dict[str, _Partition] = {}
        self._waited_for: set[str] = set()
        """Sources that another process still reads; said once."""
        self._unreadable: dict[str, int] = {}
        """Partitions that the disk does not give -> when to try again; each is a finding once, until it is read again."""
        self._findings: list[Finding] = []
        """What the next batch has to tell beside what its readers met."""
        self._turn = asyncio.Lock()
        """`commit` may come while a `poll` waits: one at a time looks at the partitions."""
        self._next = 0
        self._keep_days = keep_days
        self._pruned_s = float("-inf")
        self._discovered_s = float("-inf")
        self.identity = ""

    def __repr__(self) -> str:
        """Place and partitions."""
        return f"OutboxSource({str(self._outbox_dir)!r}, {len(self._partitions)} sources)"

    async def open(self, positions: Mapping[str, StoredPosition]) -> None:
        """As `RecordSource.open`. Raises `LockedError` where another consumer reads this directory."""
        async with self._turn:
            opening = asyncio.ensure_future(asyncio.to_thread(self._open, positions))
            try:
                await asyncio.shield(opening)
            except OSError as exc:
                raise self._translate("open the outbox", exc) from exc
            except asyncio.CancelledError:
                # Else the thread would take locks after `close` has let go of all, and this process would keep them.
                await asyncio.wait((opening,))
                if not opening.cancelled() and opening.exception() is None:
                    await asyncio.to_thread(self._close)
                raise

    async def poll(self, records_max: int, timeout_ms: int) -> RecordBatch:
        """As `RecordSource.poll`."""
        deadline_s = time.monotonic() + timeout_ms / 1000
        pause_s = IDLE_POLL_S
        while True:
            # Shielded: a cancelled poll must not leave a reader advanced past lines that nobody got.
            async with self._turn:
                reading = asyncio.ensure_future(asyncio.to_thread(self._gather, records_max))
                try:
                    batch = await asyncio.shield(reading)
                except asyncio.CancelledError:
                    self._give_back(await reading)
                    raise
            remaining_s = deadline_s - time.monotonic()
            if batch.records or batch.findings or batch.closed or remaining_s <= 0:
                return batch
            await asyncio.sleep(min(pause_s, remaining_s))
            pause_s = min(pause_s * 1.5, IDLE_POLL_MAX_S)

    async def ends(self) -> Mapping[str, int]:
        """As `RecordSource.ends`, as far as they were met: no source's records lie in another's partition."""
        async with self._turn:
            return {partition.name: partition.end for partition in self._partitions.values()}

    async def commit(self, positions: Mapping[str, int]) -> None:
        """As `RecordSource.commit`: writes the acknowledgements, archives what is consumed."""
        async with self._turn:
            committing = asyncio.ensure_future(asyncio.to_thread(self._commit, dict(positions)))
            try:
                await asyncio.shield(committing)
            except OSError as exc:
                raise self._translate("acknowledge or archive what is consumed of", exc) from exc
            except asyncio.CancelledError:
                # Locks are let go after this: nothing may be acknowledged or archived then.
                await asyncio.wait((committing,))
                raise

    async def close(self) -> None:
        """As `RecordSource.close`."""
        async with self._turn:
            await asyncio.to_thread(self._close)

    def _translate(self, doing: str, exc: OSError) -> SkillauditError:
        where = f"can't {doing} {self._outbox_dir}: {exc.strerror}"
        if exc.errno in FULL_ERRNOS:
            return DiskFullError(f"{where}; free some space")
        return StopError(f"{where}; check the disk and the permissions")

    # in the worker thread

    def _open(self, positions: Mapping[str, StoredPosition]) -> None:
        self._outbox_dir.mkdir(parents=True, exist_ok=True)
        identity = outbox_id(self._outbox_dir, fresh_id=secrets.token_hex(16))
        claim_reader(self._outbox_dir, f"duckdb:{self._database_id}")
        lock = FileLock(self._outbox_dir / CONSUMER_LOCK_NAME)
        if not lock.try_acquire():
            holder = lock_holder(lock.path)
            raise LockedError(
                f"process {holder} already consumes the outbox {self._outbox_dir}; ask it, or end it"
            )
        self._consumer_lock = lock
        self.identity = f"outbox:{identity}"
        self._positions = dict(positions)
        try:
            self._join_archived()
            self._discover()
        except BaseException:
            self._close()
            raise

    def _discover(self) -> None:
        self._discovered_s = time.monotonic()
        try:
            directories = list_source_dirs(self._outbox_dir)
        except OSError as exc:
            raise UnreachableError(
                f"can't list the outbox {self._outbox_dir}: {exc.strerror}; check the disk and the permissions"
            ) from exc
        for directory in directories:
            if partition_name(directory.name) not in self._partitions:
                self._join_if_readable(directory)

    def _join_if_readable(self, directory: Path) -> None:
        """One source that the disk does not give must not keep the others waiting."""
        name = partition_name(directory.name)
        if not self._may_try(name):
            return
        try:
            self._join(directory)
        except OSError as exc:
            self._set_aside(name, directory, self._positions.get(name, StoredPosition(0)).next_offset, exc)
        else:
            self._unreadable.pop(name, None)

    def _may_try(self, name: str) -> bool:
        return self._clock.steady_us() >= self._unreadable.get(name, 0)

    def _set_aside(self, name: str, directory: Path, position: int, exc: OSError) -> None:
        """An incident beside the others: it is tried again, and told once."""
        if name not in self._unreadable:
            detail = f"can't read the source {directory}: {exc.strerror or type(exc).__name__}; check the disk and the permissions"
            _log.warning("%s; the others go on, and it is tried again", detail)
            self._findings.append(
                Finding(partition=name, offset=position, kind="outbox-unreadable", detail=detail)
            )
        self._unreadable[name] = self._clock.steady_us() + UNREADABLE_RETRY_US

    def _join_archived(self) -> None:
        """The sources of which only the archive is left, where the database lacks something. Looked at once, since whoever
        archives is this object: an archive may hold very many.
        """
        live = {directory.name for directory in list_source_dirs(self._outbox_dir)}
        archived = list_archived_sources(self._archive_dir) if self._archive_dir.exists() else []
        for source in archived:
            if source.name not in live and self._lacks(source):
                self._join_if_readable(self._outbox_dir / source.name)

    def _lacks(self, archived: Path) -> bool:
        """Whether the database has not consumed all of an archived source."""
        stored = self._positions.get(partition_name(archived.name))
        try:
            ack = read_acknowledgement(archived)
        except OutboxCorruptError:
            ack = None
        return stored is None or ack is None or stored.next_offset < ack.position

    def _join(self, directory: Path) -> None:
        name = partition_name(directory.name)
        lock = FileLock(directory / READER_LOCK_NAME)
        if directory.exists() and not lock.try_acquire():
            if name not in self._waited_for:
                self._waited_for.add(name)
                holder = lock_holder(lock.path)
                _log.warning(
                    "process %s still reads the source %s; it joins when that one ends",
                    holder,
                    directory.name,
                )
            return
        self._waited_for.discard(name)
        stored = self._positions.get(name, StoredPosition(0))
        try:
            self._check_history(name, directory, stored)
            self._partitions[name] = _Partition(directory, stored, self._archive_dir, lock, self._clock)
        except BaseException:
            lock.release()
            raise

    def _check_history(self, name: str, directory: Path, stored: StoredPosition) -> None:
        """The last consumed line must still be what it was, where it still is anywhere."""
        if not stored.last_digest:
            return
        with SourceReader(directory, stored.last_offset, archive_dir=self._archive_dir) as reader:
            lines = reader.read(1, READ_BYTES_MAX)
        if (
            lines
            and lines[0].position == stored.last_offset
            and record_digest(lines[0].record) != stored.last_digest
        ):
            raise HistoryLostError(
                f"{name} no longer holds the record that was consumed at {stored.last_offset}: the source under "
                f"{directory} is another one; `skillaudit consume --accept-history-loss {name}` goes on, recorded",
                name,
            )

    def _gather(self, records_max: int) -> RecordBatch:
        if time.monotonic() - self._discovered_s >= DISCOVERY_INTERVAL_S:
            self._discover()
        order = list(self._partitions.values())
        order = order[self._next :] + order[: self._next]
        share = max(records_max // max(len(order), 1), ROUND_RECORDS_MIN)
        records: list[SourceRecord] = []
        findings: list[Finding] = []
        closed: list[str] = []
        size_bytes = 0
        for count, partition in enumerate(order):
            if len(records) >= records_max or size_bytes >= BATCH_BYTES_MAX:
                # Whoever got no turn is first in the next round.
                self._next = (self._next + count) % len(order)
                break
            found, damage = self._read(partition, min(share, records_max - len(records)))
            records += found
            findings += damage
            size_bytes += sum(len(r.value or b"") for r in found)
            if partition.reader.finished and not partition.closed:
                partition.closed = True
                closed.append(partition.name)
        told, self._findings = self._findings, []
        return RecordBatch(records, self._ends(order), told + findings, closed)

    def _ends(self, partitions: Sequence[_Partition]) -> dict[str, int]:
        """Of one that can't be read now more may wait."""
        absent = {
            name: self._positions.get(name, StoredPosition(0)).next_offset + 1
            for name in self._unreadable
            if name not in self._partitions
        }
        return absent | {partition.name: partition.end for partition in partitions}

    def _read(self, partition: _Partition, records_max: int) -> tuple[list[SourceRecord], list[Finding]]:
        if not self._may_try(partition.name):
            return [], []
        try:
            found = partition.read(records_max)
        except OSError as exc:
            self._set_aside(partition.name, partition.directory, partition.reader.position, exc)
            return [], []
        self._unreadable.pop(partition.name, None)
        return found

    def _give_back(self, batch: RecordBatch) -> None:
        """Start again before the records of a batch that nobody got."""
        first: dict[str, int] = {}
        for record in batch.records:
            first.setdefault(record.partition, record.offset)
        for name in batch.closed:
            self._partitions[name].closed = False
        for name, offset in first.items():
            partition = self._partitions[name]
            partition.reader.close()
            partition.reader = SourceReader(
                partition.directory, offset, archive_dir=self._archive_dir, clock=self._clock
            )

    def _commit(self, positions: Mapping[str, int]) -> None:
        for name, position in positions.items():
            partition = self._partitions.get(name)
            if partition is not None:
                partition.acknowledge(position)
        for partition in [p for p in self._partitions.values() if p.retire()]:
            partition.close()
            del self._partitions[partition.name]
        self._prune()

    def _prune(self) -> None:
        if self._archive_dir.exists() and time.monotonic() - self._pruned_s >= PRUNE_INTERVAL_S:
            self._pruned_s = time.monotonic()
            prune_archive(self._archive_dir, self._keep_days, self._clock.wall_us())

    def _close(self) -> None:
        for partition in self._partitions.values():
            partition.close()
        self._partitions.clear()
        if self._consumer_lock is not None:
            self._consumer_lock.release()
            self._consumer_lock = None
