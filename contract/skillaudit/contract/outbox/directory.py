"""An outbox directory as a whole: its id, who reads it, and what its sources are at."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import orjson

from skillaudit.contract.errors import OutboxCorruptError, OutboxMismatchError
from skillaudit.contract.outbox.acknowledgement import Acknowledgement, read_acknowledgement
from skillaudit.contract.outbox.files import create_exclusively, read_optional
from skillaudit.contract.outbox.identity import SOURCE_FILE_NAME, SourceIdentity, read_source
from skillaudit.contract.outbox.layout import list_segments, pack_position, unpack_position
from skillaudit.contract.outbox.locks import is_locked
from skillaudit.contract.outbox.reader import WRITER_LOCK_NAME
from skillaudit.contract.outbox.scan import used_end
from skillaudit.contract.outbox.segments import HeaderState, SegmentFiles, read_header

ID_NAME: Final = "id"
READER_NAME: Final = "reader"
READER_LOCK_NAME: Final = "reader"
CONSUMER_LOCK_NAME: Final = "consumer.lock"
_SOURCE_ID: Final = re.compile(r"[0-9a-f]{32}")
_AT_US: Final = re.compile(rb'"at_us":(\d{1,18})')


def outbox_id(outbox_dir: Path, *, fresh_id: str) -> str:
    """The directory's own id; where it has none yet, `fresh_id` (32 random hex digits) becomes it, for good."""
    path = outbox_dir / ID_NAME
    content = read_optional(path)
    if content is None:
        outbox_dir.mkdir(parents=True, exist_ok=True)
        content = create_exclusively(path, fresh_id.encode() + b"\n")
    text = content.decode("ascii", "replace").strip()
    if not _SOURCE_ID.fullmatch(text):
        raise OutboxCorruptError(f"{path} holds no id; restore it from a backup, or move the outbox aside")
    return text


def claim_reader(outbox_dir: Path, identity: str) -> None:
    """Make `identity` (`kafka:<cluster>:<topic>`, `duckdb:<id>`) the directory's one reader, for good.

    Raises `OutboxMismatchError` where it is another's: two readers would each get a part.
    """
    path = outbox_dir / READER_NAME
    content = read_optional(path)
    if content is None:
        outbox_dir.mkdir(parents=True, exist_ok=True)
        content = create_exclusively(path, orjson.dumps({"identity": identity}) + b"\n")
    owner = _reader_identity(path, content)
    if owner != identity:
        raise OutboxMismatchError(
            f"the outbox {outbox_dir} is read by {owner}, and this is {identity}: two readers would each get a part. "
            f"Use another data directory; or, once `skillaudit outbox status` shows no backlog, remove {path}"
        )


def reader_identity(outbox_dir: Path) -> str | None:
    """Who reads the directory, None where nobody ever did."""
    path = outbox_dir / READER_NAME
    content = read_optional(path)
    return None if content is None else _reader_identity(path, content)


def _reader_identity(path: Path, content: bytes) -> str:
    try:
        return str(orjson.loads(content)["identity"])
    except (ValueError, KeyError, TypeError) as exc:
        raise OutboxCorruptError(
            f"{path} is unreadable ({exc}); remove it if this outbox has one reader"
        ) from exc


class ReaderPresence:
    """Whether somebody consumes an outbox right now: what `flush` must know to wait or to report at once.

    Somebody does where a living process holds `<outbox>/consumer.lock` (the embedded consumer, for as long as it runs)
    or the `reader` lock of the source (a forwarder that adopted it).
    """

    def __init__(self, outbox_dir: Path) -> None:
        """Looks at `outbox_dir` anew each time it is asked."""
        self._outbox_dir = outbox_dir

    def is_consumed(self, source_id: str) -> bool:
        """Whether a living process reads that source, or the whole directory."""
        return is_locked(self._outbox_dir / CONSUMER_LOCK_NAME) or is_locked(
            self._outbox_dir / source_id / READER_LOCK_NAME
        )


class SourceState(StrEnum):
    """What a source is at."""

    LIVE = "live"
    """The appending process lives."""
    DEAD = "dead"
    """It is gone, and lines wait to be read."""
    FINISHED = "finished"
    """It is gone, and everything is acknowledged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStatus:
    """One source as `skillaudit outbox status` shows it."""

    source_id: str
    directory: Path
    state: SourceState
    identity: SourceIdentity | None
    acknowledgement: Acknowledgement
    trouble: str = ""
    """What is unreadable, in words; empty where nothing is."""
    backlog_records: int = 0
    backlog_bytes: int = 0
    oldest_us: int = 0
    """When the oldest line of the backlog happened (its `at_us`); 0 where there is none or it does not say."""
    is_read: bool = False
    """Whether a living process holds its `reader` lock."""


def list_source_dirs(outbox_dir: Path) -> list[Path]:
    """The directories of sources, oldest first. One without `source.json` is just being made, or has lost it: it
    counts once nobody writes it, where it has segments.

    One that may not be looked into is listed, first: whoever reads it meets the trouble and tells it.
    """
    found: list[tuple[int, Path]] = []
    for path in outbox_dir.glob("*"):
        if _SOURCE_ID.fullmatch(path.name):
            with contextlib.suppress(FileNotFoundError):  # its adopter may remove it at any moment
                found.append((_made_ns(path), path))
    return [path for _, path in sorted(found)]


def _made_ns(source_dir: Path) -> int:
    try:
        return (source_dir / SOURCE_FILE_NAME).stat().st_mtime_ns
    except PermissionError:
        return 0
    except FileNotFoundError:
        # Whoever is making it holds the lock from before the first segment until after `source.json`.
        if not list_segments(source_dir) or is_locked(source_dir / WRITER_LOCK_NAME):
            raise
        return source_dir.stat().st_mtime_ns


def list_sources(outbox_dir: Path) -> list[SourceStatus]:
    """All sources with state and backlog, oldest first. Reads one segment of each at most; changes nothing."""
    return [source_status(path) for path in list_source_dirs(outbox_dir)]


def source_status(source_dir: Path) -> SourceStatus:
    """State and backlog of one source, as of now."""
    lives = is_locked(source_dir / WRITER_LOCK_NAME)  # before the last look at the bytes
    troubles: list[str] = []
    identity: SourceIdentity | None = None
    acknowledgement: Acknowledgement | None = None
    try:
        identity = read_source(source_dir)
    except OutboxCorruptError as exc:
        troubles.append(str(exc))
    try:
        acknowledgement = read_acknowledgement(source_dir)
    except OutboxCorruptError as exc:
        troubles.append(str(exc))
    ack = acknowledgement or Acknowledgement()
    backlog = measure_backlog(source_dir, ack)
    dead = SourceState.DEAD if backlog.records else SourceState.FINISHED
    return SourceStatus(
        source_id=source_dir.name,
        directory=source_dir,
        state=SourceState.LIVE if lives else dead,
        identity=identity,
        acknowledgement=ack,
        trouble="; ".join(troubles),
        backlog_records=backlog.records,
        backlog_bytes=backlog.bytes,
        oldest_us=backlog.oldest_us,
        is_read=is_locked(source_dir / READER_LOCK_NAME),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What waits behind an acknowledgement."""

    records: int = 0
    bytes: int = 0
    oldest_us: int = 0
    refused: int = 0
    """Before that: how many were refused for good."""


def measure_backlog(source_dir: Path, ack: Acknowledgement) -> Backlog:
    """Count what waits, by the headers' counts and the last segment's lines: damaged ones count as long as they wait."""
    files = SegmentFiles(source_dir)
    first, byte = unpack_position(ack.position)
    numbers = [number for number in files.numbers() if number >= first]
    waiting = lines = 0
    for number in numbers:
        segment = files.open(number)
        if segment is None:
            continue
        try:
            header = read_header(segment, source_dir.name)
            begin = max(header.end, byte) if number == first else header.end
            if number != numbers[-1]:
                waiting += max(segment.size() - begin, 0)
                continue
            content = segment.read(0, segment.size())
        finally:
            segment.close()
        waiting += max(used_end(content, header.end) - begin, 0)
        before = header.first_line - 1 if header.state is HeaderState.GOOD else ack.records
        lines = before + content.count(b"\n", header.end)
    records = max(lines - ack.records, 0) if waiting else 0
    oldest = oldest_us(source_dir, ack.position or pack_position(numbers[0], 0)) if records else 0
    return Backlog(records=records, bytes=waiting, oldest_us=oldest, refused=ack.refused)


def oldest_us(source_dir: Path, position: int) -> int:
    """`at_us` of the line at `position` (or the first after it in the next segment), 0 where it does not say."""
    files = SegmentFiles(source_dir)
    number, byte = unpack_position(position)
    for candidate in (number, number + 1):
        segment = files.open(candidate)
        if segment is None:
            continue
        try:
            begin = byte if candidate == number and byte else read_header(segment, source_dir.name).end
            match = _AT_US.search(segment.read(begin, 4096))
        finally:
            segment.close()
        if match is not None:
            return int(match[1])
    return 0
