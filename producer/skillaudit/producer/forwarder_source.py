"""One source on its way: its reader, its window, and its files. Synchronous; one thread; the `reader` lock is held.

The states, in order; a source only ever moves forward, and from any of them it can be let go for another forwarder:

    FOLLOWING   lines are read and sent; one that counts what was sent before it (a heartbeat, a source's last word)
                waits until all of that is acknowledged, while those behind it go on
    CLOSING     its writer is gone and everything is acknowledged; the adopter's `source.closed` is on its way
    FINISHED    nothing is left to do; the directory can go
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any, Final

import orjson

from skillaudit.contract import events
from skillaudit.contract.clock import Clock
from skillaudit.contract.errors import OutboxCorruptError
from skillaudit.contract.eventlog import RefusedRecord
from skillaudit.contract.outbox.acknowledgement import Acknowledgement, write_acknowledgement
from skillaudit.contract.outbox.files import sync_directory
from skillaudit.contract.outbox.findings import Damage, DamageKind
from skillaudit.contract.outbox.identity import SourceIdentity, read_source
from skillaudit.contract.outbox.layout import list_segments, pack_position, segment_name, unpack_position
from skillaudit.contract.outbox.locks import FileLock
from skillaudit.contract.outbox.reader import WRITER_LOCK_NAME, OutboxLine, SourceReader, iter_lines
from skillaudit.contract.outbox.refused import REFUSED_DIR_NAME, list_refused, write_refused
from skillaudit.producer.forwarder_core import (
    GATED_TYPES,
    Entry,
    ForwarderLimits,
    SourceWindow,
    classify,
    is_bare_start,
    make_entry,
)
from skillaudit.producer.forwarder_files import (
    INCIDENTS_NAME,
    closing_record,
    note_incident,
    pin_partitions,
    read_tally,
    write_tally,
)
from skillaudit.producer.forwarder_tally import Tally

logger = logging.getLogger(__name__)

ADOPTER: Final = "adopter"
GATED_MAX: Final = 64
"""Records of one source that wait for those before them; the source is read no further while so many do."""
TRASH_PREFIX: Final = ".removed-"
_SOURCE_SEQ: Final = re.compile(rb'"source_seq":(\d+),"clock"')


class FeedState(Enum):
    """See the module's docstring."""

    FOLLOWING = "following"
    CLOSING = "closing"
    FINISHED = "finished"


class SourceFeed:
    """A source whose `reader` lock this forwarder holds."""

    def __init__(
        self, source_dir: Path, lock: FileLock, partitions: int, limits: ForwarderLimits, clock: Clock
    ) -> None:
        """`lock`: held already, from before the first read. `partitions`: the topic's count now."""
        self.source_dir = source_dir
        self.source_id = source_dir.name
        self.state = FeedState.FOLLOWING
        self.refused: list[RefusedRecord] = []
        """What the broker refused for good, of this source, ever."""
        self.incidents = 0
        self.due_us = 0
        """When to look for more, on the steady clock."""
        self._interval_ms = limits.poll_interval_ms
        self._unwritten: list[Mapping[str, Any]] = []
        self._lock = lock
        self._limits = limits
        self._clock = clock
        resumption = SourceReader.resume(source_dir)
        self._reader, ack = resumption.reader, resumption.acknowledgement
        self.window = SourceWindow(
            self.source_id, pin_partitions(source_dir, partitions), ack.position, ack.records
        )
        self.window.positions.update(ack.positions)
        self._written = ack
        self._written_us = clock.steady_us()
        self._pending: list[OutboxLine] = []
        """Read, and not admitted yet."""
        self._gated: deque[Entry] = deque()
        """Admitted, and waiting for the acknowledgement of everything before them."""
        self._last_type = ""
        self._runs = OpenRuns()
        self._tally = self._read_tally()
        self._recall(ack.position)
        self.refused.extend(list_refused(source_dir))
        self._identity = self._read_identity()
        self._is_copy = self._identity.is_copy(source_dir)
        if self._is_copy:
            detail = f"{source_dir} is a copy of a directory on {self._identity.host or 'another machine'}"
            self.note({"kind": DamageKind.COPIED.value, "detail": detail})

    def __repr__(self) -> str:
        """State and progress."""
        return f"SourceFeed({self.state.value}, {self.window!r})"

    @property
    def at_end(self) -> bool:
        """Whether the last `read` found nothing more to send at that moment."""
        return self._reader.at_end and not self._pending

    @property
    def gate_is_open(self) -> bool:
        """Whether a line waited for acknowledgements and need not any more."""
        return bool(self._gated) and self.window.first_line == self._gated[0].line

    def read(self, records_max: int, bytes_max: int) -> list[Entry]:
        """The next records to send, at most so many and one that waited. Empty at the end."""
        entries = self._read(records_max, bytes_max)
        self._interval_ms = self._limits.poll_interval_ms if entries else 2 * self._interval_ms
        return entries

    def look_again(self, now_us: int, interval_ms_max: int) -> None:
        """The next look is due after an interval that doubles while nothing comes."""
        self._interval_ms = min(self._interval_ms, interval_ms_max)
        self.due_us = now_us + self._interval_ms * 1000

    def _read(self, records_max: int, bytes_max: int) -> list[Entry]:
        if self.state is not FeedState.FOLLOWING:
            return []
        waited = [self._gated.popleft()] if self.gate_is_open else []
        lines = self._pending
        if not lines:
            lines = self._reader.read(records_max, bytes_max)
            self._report_findings()
        entries, self._pending = self._admit(lines)
        if self._pending:
            first = self._pending[0]
            self.window.reach(first.position, first.line - 1)
        else:
            self.window.reach(self._reader.position, self._reader.records)
        return waited + entries

    def _admit(self, lines: list[OutboxLine]) -> tuple[list[Entry], list[OutboxLine]]:
        """The entries of the lines that may go, and the lines that are left for later."""
        entries: list[Entry] = []
        admit = self.window.admit
        for number, (position, _, record, line) in enumerate(lines):
            kind, key = self._classify(record)
            if kind != events.LOG:
                if kind in GATED_TYPES and len(self.window):
                    if len(self._gated) >= GATED_MAX:
                        return entries, lines[number:]
                    self._last_type = kind
                    self._gated.append(admit(line, position, key, record))
                    continue
                self._runs.see(kind, key, record, unpack_position(position)[0])
            self._last_type = kind
            entries.append(admit(line, position, key, record))
        return entries, []

    def _classify(self, record: bytes) -> tuple[str, bytes]:
        try:
            return classify(record)
        except ValueError:
            return "", self.source_id.encode()  # the consumer keeps it among its dead letters

    def _report_findings(self) -> None:
        for damage in self._reader.take_findings():
            self.note(_damage_incident(damage))

    def note(self, incident: Mapping[str, Any]) -> None:
        """Keep and log an incident; it never carries content."""
        self.incidents += 1
        stamped = {"at_us": self._clock.wall_us(), "source_id": self.source_id, **incident}
        logger.error("outbox source %s: %s", self.source_id, orjson.dumps(dict(incident)).decode())
        self._unwritten.append(stamped)
        with contextlib.suppress(OSError):  # `save` tries again, and acknowledges nothing until it succeeds
            self._write_incidents()

    def _write_incidents(self) -> bool:
        any_unwritten = bool(self._unwritten)
        while self._unwritten:
            note_incident(self.source_dir, self._unwritten[0])
            del self._unwritten[0]
        return any_unwritten

    def acknowledgement(self) -> Acknowledgement:
        """How far everything is acknowledged, now."""
        records, position = self.window.acknowledged
        return Acknowledgement(
            position=position,
            records=records,
            refused=len(self.refused),
            positions=dict(self.window.positions),
        )

    def save(self, *, force: bool = False) -> bool:
        """Write the acknowledgement where it is due, then delete what it covers. Returns whether anything was written."""
        wrote = self._write_incidents()
        records, position = self.window.acknowledged
        if position == self._written.position and len(self.refused) == self._written.refused:
            return wrote
        now = self._clock.steady_us()
        many = records - self._written.records >= self._limits.ack_records_max
        if not (force or many or now - self._written_us >= self._limits.ack_interval_ms * 1000):
            return wrote
        self._written_us = now
        ack = self.acknowledgement()
        write_acknowledgement(self.source_dir, ack)
        self._written = ack
        self._retire(unpack_position(ack.position)[0])
        return True

    def _retire(self, before: int) -> None:
        """Delete the segments before `before`, after carrying over what they say of runs that are still open."""
        numbers = [n for n in list_segments(self.source_dir) if n < before]
        for number in numbers:
            if number > self._tally.through_segment:
                self._carry(number)
        if numbers:
            write_tally(self.source_dir, self._tally)
        for number in numbers:
            (self.source_dir / segment_name(number)).unlink()

    def _carry(self, number: int) -> None:
        needed = self._runs.open_since(number)
        self._tally.keep(needed)
        if needed:
            self._tally.count(self._records_of(number, number), needed)
            self._runs.drop(number)
        else:
            counts = self._runs.drop(number)
            self._tally.runs_started = max(self._tally.runs_started, counts.runs_started)
            self._tally.runs_finished += counts.runs_finished
        self._tally.through_segment = number

    def _records_of(self, first: int, last: int) -> Iterator[bytes]:
        with contextlib.closing(SourceReader(self.source_dir, pack_position(first, 0))) as reader:
            for line in iter_lines(reader):
                if unpack_position(line.position)[0] > last:
                    return
                yield line.record

    def _read_identity(self) -> SourceIdentity:
        try:
            return read_source(self.source_dir) or SourceIdentity(source_id=self.source_id)
        except OutboxCorruptError:  # the reader reports it
            return SourceIdentity(source_id=self.source_id)

    def _read_tally(self) -> Tally:
        try:
            return read_tally(self.source_dir)
        except OutboxCorruptError as exc:
            self.note({"kind": "tally", "detail": str(exc)})
            return Tally()

    def _recall(self, position: int) -> None:
        """After a restart: what the segments before the acknowledged position say."""
        self._runs.begin(self._tally.runs)
        with contextlib.closing(SourceReader(self.source_dir, 0)) as reader:
            for line in iter_lines(reader):
                if line.position >= position:
                    return
                kind, key = self._classify(line.record)
                self._last_type = kind
                self._runs.see(kind, key, line.record, unpack_position(line.position)[0])

    def refuse(self, entry: Entry, reason: str) -> Entry | None:
        """Keep a refused record; returns what takes its place, None where nothing does (it is settled then)."""
        about = _identify(entry.value)
        run_id, seq = str(about.get("run_id", "")), int(about.get("seq", -1))
        takes_place = entry.line > 0 and _is_numbered(about) and about["type"] != events.REFUSED
        if str(entry.position) not in {Path(kept.path).name for kept in self.refused}:
            kept = write_refused(
                self.source_dir, entry.position, entry.value, run_id=run_id, seq=seq, reason=reason
            )
            self.refused.append(kept)
            self.note({"kind": "refused", "run_id": run_id, "seq": seq, "reason": reason, "path": kept.path})
        if not takes_place:
            self.window.settle(entry)
            return None
        value = events.encode_refused(
            about["run_id"], about["seq"], about["at_us"], about["tag"], reason, len(entry.value)
        )
        return make_entry(self.window, entry.line, entry.position, entry.key, value)

    def begin_closing(self) -> Entry | None:
        """Where the writer is gone, everything was read and acknowledged: the adopter's `source.closed` to send, or
        None; the state says whether the source is finished. Reads what is left of the source once more.
        """
        if (
            self.state is not FeedState.FOLLOWING
            or not self._reader.finished
            or self._pending
            or len(self.window)
        ):
            return None
        self.save(force=True)
        if self._ends_by_itself():
            self.state = FeedState.FINISHED
            return None
        value = closing_record(self.source_dir, self._closed_record())
        self.state = FeedState.CLOSING
        return make_entry(self.window, 0, self.window.reached_position, self.source_id.encode(), value)

    def has_said_its_last(self) -> bool:
        """Whether its process closed it, is gone from it, and everything is acknowledged: asked when a forwarder ends,
        so that a process whose own thread forwards leaves nothing behind. What this reads is not sent any more.
        """
        if self.state is not FeedState.FOLLOWING or self._pending or len(self.window):
            return False
        return (
            not self._reader.read(1, 1) and self._reader.finished and self._last_type == events.SOURCE_CLOSED
        )

    def _ends_by_itself(self) -> bool:
        """Whether nobody else has to close it: it did so itself, has nothing, may go on (an import), or is a copy of a
        source that may live on elsewhere.
        """
        return (
            self._last_type == events.SOURCE_CLOSED
            or not self._reader.records
            or self._identity.continued
            or self._is_copy
        )

    def _closed_record(self) -> bytes:
        tally = Tally.decode(self._tally.encode())
        tally.count(self._records_of(tally.through_segment + 1, 1 << 31))
        return events.encode_source_closed(self.source_id, self._clock.wall_us(), ADOPTER, tally.counts())

    def closed(self) -> None:
        """The adopter's `source.closed` is acknowledged, or was refused for good."""
        self.state = FeedState.FINISHED

    def remove(self) -> bool:
        """Remove a finished source's directory, but for what a person has to look at (`refused/`, incidents), and for
        an import's, which may go on. False where a writer came back meanwhile: then it is followed again.
        """
        writer = FileLock(self.source_dir / WRITER_LOCK_NAME)
        if not writer.try_acquire():
            self.state = FeedState.FOLLOWING
            return False
        try:
            self._reader.close()
            if self._identity.continued:
                return True
            if (self.source_dir / REFUSED_DIR_NAME).exists() or (self.source_dir / INCIDENTS_NAME).exists():
                for number in list_segments(self.source_dir):
                    (self.source_dir / segment_name(number)).unlink()
            else:
                self._remove_all()
        finally:
            writer.release()
        return True

    def _remove_all(self) -> None:
        """Under another name first: a crash in between leaves a directory that nobody takes for a source."""
        trash = self.source_dir.with_name(TRASH_PREFIX + self.source_id)
        self.source_dir.rename(trash)
        sync_directory(trash.parent)
        shutil.rmtree(trash)

    def release(self) -> None:
        """Let the source go; another forwarder may take it. Safe to call again."""
        self._reader.close()
        self._lock.release()


class SegmentCounts:
    """Starts and finishes within one segment."""

    __slots__ = ("runs_finished", "runs_started")

    def __init__(self) -> None:
        self.runs_started = 0
        """The highest `source_seq` seen."""
        self.runs_finished = 0


class OpenRuns:
    """Which runs are open where reading has got to, and since which segment."""

    __slots__ = ("_counts", "_since")

    def __init__(self) -> None:
        self._since: dict[bytes, int] = {}
        self._counts: dict[int, SegmentCounts] = {}

    def begin(self, carried: Mapping[bytes, object]) -> None:
        """Runs that began in segments that are gone."""
        self._since.update(dict.fromkeys(carried, 0))

    def see(self, kind: str, key: bytes, record: bytes, segment: int) -> None:
        """The next record of the source."""
        if kind == events.STARTED and not is_bare_start(record):
            self._since[key] = segment
            match = _SOURCE_SEQ.search(record)
            counts = self._of(segment)
            counts.runs_started = max(counts.runs_started, int(match[1]) if match else 0)
        elif kind == events.FINISHED and self._since.pop(key, None) is not None:
            self._of(segment).runs_finished += 1

    def open_since(self, segment: int) -> frozenset[bytes]:
        """The runs that are open now and began in that segment or before it."""
        return frozenset(key for key, since in self._since.items() if since <= segment)

    def drop(self, segment: int) -> SegmentCounts:
        """The counts of a segment that goes."""
        return self._counts.pop(segment, None) or SegmentCounts()

    def _of(self, segment: int) -> SegmentCounts:
        return self._counts.setdefault(segment, SegmentCounts())


def _damage_incident(damage: Damage) -> dict[str, Any]:
    return asdict(damage) | {"kind": damage.kind.value}


def _identify(record: bytes) -> dict[str, Any]:
    """What a record says of itself; nothing where it can't be parsed."""
    try:
        members: Any = orjson.loads(record)
        return dict(members)
    except (ValueError, TypeError):
        return {}


def _is_numbered(members: Mapping[str, Any]) -> bool:
    """Whether a `run.refused` can stand in its place: a Writer's record, not a bare storage's or a source's."""
    return all(name in members for name in ("run_id", "seq", "at_us", "tag", "type"))
