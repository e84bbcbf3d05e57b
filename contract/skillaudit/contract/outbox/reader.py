"""Reading a source: whole lines with a right checksum, in order, once; everything else is reported, never skipped.

The rules, in the order in which a place is judged:

1. A valid line is taken, whoever lives.
2. Bytes are *final* where a LF comes before any NUL. Final bytes that are no valid line are damage at once; reading
   goes on at the next valid line, or behind the LF.
3. A segment is *closed* once its successor exists or its writer is dead: nothing more will be written there, because
   a writer completes its lines in order and never returns to an earlier segment. Both are looked at before the last
   look at the bytes, so that nothing written in between is missed.
4. In a segment that is not closed, NULs and beginnings of lines are waited for. A writer completes its lines in order:
   so NULs that still have valid lines behind them after `HOLE_PATIENCE_US` were zeroed, and are damage.
5. In a closed segment NULs up to the end are unused space; a beginning at the very end of a dead writer's last segment
   is its unfinished line; everything else up to the next valid line is damage.
6. A segment is left at its used end for the next one present. Numbers left out, and header lines that count more lines
   before them than were met, are damage; a segment whose header names another source is skipped as a whole.
7. A reader that begins at 0 begins at the oldest segment there is; `first_line` says what was retired before it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from skillaudit.contract.clock import Clock, SystemClock
from skillaudit.contract.errors import OutboxCorruptError
from skillaudit.contract.outbox.acknowledgement import Acknowledgement, read_acknowledgement
from skillaudit.contract.outbox.findings import Damage, DamageKind
from skillaudit.contract.outbox.identity import read_source
from skillaudit.contract.outbox.layout import LINE_OVERHEAD_BYTES, pack_position, unpack_position
from skillaudit.contract.outbox.locks import is_locked
from skillaudit.contract.outbox.scan import Front, front, next_line, take_line, take_records, used_end
from skillaudit.contract.outbox.segments import (
    NO_SEGMENT,
    Header,
    HeaderState,
    Segment,
    SegmentFiles,
    read_header,
)

WRITER_LOCK_NAME: Final = "writer"
CHUNK_BYTES: Final = 256 * 1024
"""Read at once at most, unless one line is longer."""
_STEPS_MAX: Final = 1_000
"""Segments passed over in one call at most (missing, foreign); the next call goes on."""
HOLE_PATIENCE_US: Final = 5_000_000
"""How long NULs in front of a live writer may stay before it is looked whether valid lines stand behind them."""


class OutboxLine(NamedTuple):
    """One record. `line` is its number in the source, from 1, as the segments' headers count."""

    position: int
    next_position: int
    record: bytes
    line: int


@dataclass(frozen=True, slots=True)
class Resumption:
    """A reader at the acknowledged position, and the acknowledgement it began with."""

    reader: SourceReader
    acknowledgement: Acknowledgement


class SourceReader:
    """Reads one source from a position on. Not safe for threads; holds one descriptor; changes nothing on the disk.

    Whoever acknowledges what it reads holds the source's `reader` lock from before making this object.
    """

    def __init__(
        self,
        source_dir: Path,
        position: int = 0,
        *,
        records_before: int | None = None,
        archive_dir: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`position`: 0 for the oldest segment, else a position that a line or an acknowledgement gave.

        `records_before`: lines of the source before it (an acknowledgement's `records`); where it is not known they
        are counted in the position's segment. `archive_dir`: where archived segments are read again (a rebuild).
        """
        self._source_dir = source_dir
        self._source_id = source_dir.name
        self._files = SegmentFiles(source_dir, archive_dir)
        self._clock = clock or SystemClock()
        self._segment: Segment = NO_SEGMENT
        self._number, self._byte = unpack_position(position)
        self._records = records_before
        self._explained = False  # damage since the last header may explain lines that are not there
        self._hole: tuple[int, int] | None = None  # position and since when
        self._findings: list[Damage] = []
        self._at_end = False
        self._finished = False
        self.first_line = 0
        """Number of the first line still present when this reader began at 0; 0 before that is known."""

    @classmethod
    def resume(cls, source_dir: Path, *, archive_dir: Path | None = None) -> Resumption:
        """Begin after what is acknowledged; at the oldest segment, reported, where that is unreadable or gone."""
        try:
            ack = read_acknowledgement(source_dir)
            trouble = ""
        except OutboxCorruptError as exc:
            ack, trouble = None, str(exc)
        reader = cls(
            source_dir,
            0 if ack is None else ack.position,
            records_before=None if ack is None else ack.records,
            archive_dir=archive_dir,
        )
        reader.report_copy()
        oldest = min(SegmentFiles(source_dir, archive_dir).numbers(), default=1)
        if ack is None and oldest > 1:
            trouble = trouble or "segments were deleted as acknowledged, and there is no acknowledgement"
        if trouble:
            end = pack_position(oldest, 0)
            reader._report(Damage(position=0, end=end, kind=DamageKind.ACKNOWLEDGEMENT, detail=trouble))
        return Resumption(reader, ack or Acknowledgement())

    def __repr__(self) -> str:
        """Where it stands."""
        state = "finished" if self._finished else "at end" if self._at_end else "reading"
        return f"SourceReader({self._source_id}, segment {self._number}, byte {self._byte}, {state})"

    def __enter__(self) -> Self:
        """Nothing to do."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    @property
    def position(self) -> int:
        """Where the next `read` begins; what lies before it was returned or reported. May be acknowledged as it is."""
        return pack_position(self._number, self._byte)

    @property
    def records(self) -> int:
        """Lines of the source before `position`, as far as headers and lines tell."""
        return self._records or 0

    @property
    def at_end(self) -> bool:
        """Whether the last `read` found nothing more to take at that moment."""
        return self._at_end

    @property
    def finished(self) -> bool:
        """Whether the last `read` found the writer gone and nothing left. An import may still continue a source."""
        return self._finished

    def take_findings(self) -> list[Damage]:
        """The damage met since the last call, in order. Record it before acknowledging past it."""
        found, self._findings = self._findings, []
        return found

    def report_copy(self) -> None:
        """Add a finding where the directory is not where its writer made it, or does not say; `resume` does so by itself."""
        start = self.position
        try:
            identity = read_source(self._source_dir)
        except OutboxCorruptError as exc:
            self._report(Damage(position=start, end=start, kind=DamageKind.IDENTITY, detail=str(exc)))
            return
        if identity is not None and identity.is_copy(self._source_dir):
            detail = f"written on host {identity.host}, boot {identity.boot_id or 'unknown'}; this is a copy"
            self._report(Damage(position=start, end=start, kind=DamageKind.COPIED, detail=detail))

    def read(self, records_max: int, bytes_max: int) -> list[OutboxLine]:
        """The next lines, at most `records_max`, and of `bytes_max` bytes together unless the first alone is longer.

        Returns what is there and does not wait. Raises `OSError` where the disk does, `OutboxCorruptError` where an
        archived segment does not unpack; what was read before is then read again by the next call.
        """
        self._at_end = self._finished = False
        while True:
            if self._segment is NO_SEGMENT and not self._enter():
                self._at_end = True
                return []
            lines = self._take(records_max, bytes_max)
            if lines or not self._advance():
                return lines

    def close(self) -> None:
        """Let go of the segment; safe to call again."""
        self._segment.close()
        self._segment = NO_SEGMENT

    def _take(self, records_max: int, bytes_max: int) -> list[OutboxLine]:
        """The valid lines in front, by rule 1."""
        buffer = self._whole_line(self._segment.read(self._byte, min(CHUNK_BYTES, max(bytes_max, 4096))))
        if len(buffer) < bytes_max and buffer[-1:] not in {b"", b"\0"}:
            buffer += self._segment.read(self._byte + len(buffer), bytes_max - len(buffer))
        records = take_records(buffer, 0, records_max, bytes_max)
        if not records:
            return []
        at, before = self.position, self.records
        lines: list[OutboxLine] = []
        for number, record in enumerate(records, before + 1):
            end = at + len(record) + LINE_OVERHEAD_BYTES
            lines.append(OutboxLine(at, end, record, number))
            at = end
        self._byte += at - self.position
        self._records = before + len(records)
        self._hole = None
        return lines

    def _whole_line(self, buffer: bytes) -> bytes:
        """Read on until the line in front ends, a NUL comes, or the segment ends."""
        while b"\n" not in buffer and b"\0" not in buffer:
            more = self._segment.read(self._byte + len(buffer), max(CHUNK_BYTES, len(buffer)))
            if not more:
                break
            buffer += more
        return buffer

    def _advance(self) -> bool:
        """Get past a place where no valid line stands; False where there is nothing to do but wait, or the end."""
        closed, later = self._closed()
        if not closed:
            return self._wait_or_pass()
        rest = self._rest()
        if take_line(rest, 0) is not None:
            return True
        target = next_line(rest, 0)
        if target > 0:
            self._skip(rest, target, DamageKind.HOLE if b"\0" in rest[:target] else DamageKind.ALTERED)
            return True
        self._pass_last(rest, last=later is None)
        if later is not None:
            self._leave()
            return True
        self._at_end = self._finished = True
        return False

    def _wait_or_pass(self) -> bool:
        """Rules 2 and 4: a live writer's last segment."""
        buffer = self._whole_line(self._segment.read(self._byte, CHUNK_BYTES))
        if take_line(buffer, 0) is not None:
            return True
        if front(buffer, 0) is Front.ALTERED:
            target = next_line(buffer, 0)
            self._skip(buffer, target if target > 0 else buffer.find(b"\n") + 1, DamageKind.ALTERED)
            return True
        self._at_end = not self._pass_old_hole()
        return not self._at_end

    def _pass_old_hole(self) -> bool:
        """Whether a hole in front of a live writer is old and has valid lines behind it, and was passed."""
        now = self._clock.steady_us()
        if self._hole is None or self._hole[0] != self.position:
            self._hole = (self.position, now)
        if now - self._hole[1] < HOLE_PATIENCE_US:
            return False
        self._hole = None
        if (target := next_line(self._rest(), 0)) < 0:
            return False
        rest = (
            self._rest()
        )  # a second look: lines are completed in order, so this one was before those behind it
        if take_line(rest, 0) is None:
            self._skip(rest, target, DamageKind.HOLE)
        return True

    def _pass_last(self, rest: bytes, *, last: bool) -> None:
        """Rule 5, where nothing valid follows in this segment."""
        end = used_end(rest, 0)
        if end:
            self._skip(rest, end, self._kind_of_last(rest, end, last=last))

    def _kind_of_last(self, rest: bytes, end: int, *, last: bool) -> DamageKind:
        if front(rest, 0) is Front.ALTERED:
            return DamageKind.ALTERED
        if b"\0" not in rest and (not last or self._is_mapped()):
            return DamageKind.TRUNCATED
        return DamageKind.UNFINISHED if last and rest[end - 1 : end] != b"\n" else DamageKind.HOLE

    def _is_mapped(self) -> bool:
        with contextlib.suppress(OutboxCorruptError):
            identity = read_source(self._source_dir)
            return identity is None or identity.mapped
        return True

    def _skip(self, buffer: bytes, size: int, kind: DamageKind) -> None:
        nuls = buffer.count(b"\0", 0, size)
        detail = f"{size} bytes, {nuls} of them NUL"
        self._report(Damage(position=self.position, end=self.position + size, kind=kind, detail=detail))
        self._byte += size
        if kind is not DamageKind.UNFINISHED:
            self._records = self.records + 1  # at least; the next header says how many
        self._explained = True

    def _rest(self) -> bytes:
        """Everything from here to the segment's end: bounded by the segment's size."""
        return self._segment.read(self._byte, max(self._segment.size() - self._byte, 0))

    def _closed(self) -> tuple[bool, int | None]:
        """Rule 3: whether nothing more will be written in this segment, and the next one present."""
        if self._files.exists(self._number + 1):
            return True, self._number + 1
        dead = not is_locked(self._source_dir / WRITER_LOCK_NAME)
        if not dead and not self._hole_is_old():
            return False, None
        later = min((n for n in self._files.numbers() if n > self._number), default=None)
        return dead or later is not None, later

    def _hole_is_old(self) -> bool:
        hole = self._hole
        return hole is not None and self._clock.steady_us() - hole[1] >= HOLE_PATIENCE_US

    def _leave(self) -> None:
        self.close()
        self._number, self._byte, self._hole = self._number + 1, 0, None

    def _enter(self) -> bool:
        """Open the segment to go on in; False where there is none (yet)."""
        for _ in range(_STEPS_MAX):
            segment = self._files.open(self._number) if self._number else None
            if segment is None:
                if not self._find_next():
                    return False
                continue
            header = read_header(segment, self._source_id)
            if header.state is HeaderState.ABSENT and self._byte == 0:
                if not self._closed()[0]:
                    segment.close()
                    return False
                header = read_header(segment, self._source_id)
            if header.state is not HeaderState.FOREIGN:
                self._begin(segment, header)
                return True
            self._skip_foreign(segment)
        return False

    def _find_next(self) -> bool:
        """The segment to go on in is not there: turn to the next one present, and report what that means."""
        lives = is_locked(self._source_dir / WRITER_LOCK_NAME)
        number = min((n for n in self._files.numbers() if n >= self._number), default=None)
        if number is None:
            self._finished = not lives
            return False
        if self._number and number > self._number:
            self._report_missing(number)
        if number != self._number:
            self._number, self._byte = number, 0
        return True

    def _report_missing(self, number: int) -> None:
        before = self._lines_before(number)
        if self._records is not None and before is not None and before <= self._records:
            return  # retired: the header says that nothing is missing in between
        self._report(
            Damage(
                position=self.position,
                end=pack_position(number, 0),
                kind=DamageKind.SEGMENT_MISSING,
                detail=f"segment {self._number} is not there and segment {number} is",
                lines=0 if self._records is None or before is None else before - self._records,
            )
        )
        self._explained = True

    def _lines_before(self, number: int) -> int | None:
        """What segment `number`'s header counts before it."""
        segment = self._files.open(number)
        if segment is None:
            return None
        with contextlib.closing(segment):
            header = read_header(segment, self._source_id)
        return header.first_line - 1 if header.state is HeaderState.GOOD else None

    def _begin(self, segment: Segment, header: Header) -> None:
        """Go on in `segment`; at its first byte its header is judged (rule 6)."""
        self._segment = segment
        if self._byte > segment.size():
            self._report_cut(segment)
        elif self._byte:
            if self._records is None:
                self._records = self._count_before(header)
        elif header.state is HeaderState.GOOD:
            self._byte = header.end
            self._compare(header.first_line - 1)
            self.first_line = self.first_line or header.first_line
            self._explained = False
        else:
            self._explained = True
            if header.state is HeaderState.DAMAGED:
                self._pass_header()
            elif used_end(self._rest(), 0) == 0:
                self._report_empty()

    def _compare(self, lines_before: int) -> None:
        missing = 0 if self._records is None else lines_before - self._records
        if missing > 0 and not self._explained:
            start = pack_position(self._number, 0)
            detail = f"the header of segment {self._number} counts {lines_before} lines before it, {self._records} were met"
            self._report(
                Damage(position=start, end=start, kind=DamageKind.LINES_MISSING, detail=detail, lines=missing)
            )
        self._records = lines_before

    def _pass_header(self) -> None:
        rest = self._rest()
        target = 0 if take_line(rest, 0) is not None else next_line(rest, 0)
        end = target if target >= 0 else used_end(rest, 0)
        damage = Damage(
            position=self.position,
            end=self.position + end,
            kind=DamageKind.HEADER,
            detail=f"the first line of segment {self._number} is no header",
        )
        self._report(damage)
        self._byte = end

    def _report_empty(self) -> None:
        """A segment gets its name after its header: an empty one lost it, and whatever else it held."""
        start = self.position
        detail = f"segment {self._number} is empty"
        self._report(Damage(position=start, end=start, kind=DamageKind.HEADER, detail=detail))

    def _report_cut(self, segment: Segment) -> None:
        """The file ends before the position to begin at."""
        detail = f"segment {self._number} has {segment.size()} bytes, reading begins at {self._byte}"
        damage = Damage(position=self.position, end=self.position, kind=DamageKind.TRUNCATED, detail=detail)
        self._report(damage)
        self._explained = True

    def _skip_foreign(self, segment: Segment) -> None:
        with contextlib.closing(segment):
            end = pack_position(self._number, segment.size())
        detail = f"the first line of segment {self._number} names another source or number"
        self._report(Damage(position=self.position, end=end, kind=DamageKind.FOREIGN_SEGMENT, detail=detail))
        self._number, self._byte, self._explained = self._number + 1, 0, True

    def _count_before(self, header: Header) -> int:
        """Lines before a position inside a segment, counted by their LFs."""
        count, at = 0, header.end
        while at < self._byte:
            buffer = self._segment.read(at, min(CHUNK_BYTES, self._byte - at))
            if not buffer:
                break
            count += buffer.count(b"\n")
            at += len(buffer)
        return max(header.first_line - 1, 0) + count

    def _report(self, damage: Damage) -> None:
        self._findings.append(damage)


def iter_lines(reader: SourceReader, bytes_max: int = 4 * CHUNK_BYTES) -> Iterator[OutboxLine]:
    """All lines that are there now, batch by batch."""
    while lines := reader.read(10_000, bytes_max):
        yield from lines
