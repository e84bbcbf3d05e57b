"""What the outbox's tests share: sources built by hand, and reading one to its end."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from skillaudit.contract.clock import ManualClock
from skillaudit.contract.eventlog import RecordKind
from skillaudit.contract.outbox.findings import Damage, DamageKind
from skillaudit.contract.outbox.layout import encode_line, header_record, pack_position, segment_name
from skillaudit.contract.outbox.locks import FileLock
from skillaudit.contract.outbox.reader import OutboxLine, SourceReader
from skillaudit.contract.settings import Settings
from skillaudit.producer.outbox import OutboxLog

LOG = RecordKind.LOG
RESERVED = RecordKind.RESERVED
SOURCE_ID = "0123456789abcdef0123456789abcdef"
FOREIGN_ID = "f" * 32


def settings(data: Path, **values) -> Settings:
    return Settings(data=data, **{"outbox_free_bytes_min": 0, **values})


def append(log: OutboxLog, record: bytes, kind: RecordKind = LOG, wait_ms: int = 0) -> int:
    return log.append("key", record, kind, wait_ms=wait_ms)


def segment_bytes(
    records: Sequence[bytes], *, number: int = 1, first_line: int = 1, source_id: str = SOURCE_ID
) -> bytes:
    header = encode_line(header_record(source_id, number, first_line))
    return header + b"".join(encode_line(record) for record in records)


@dataclass
class HandMade:
    """A source directory written by hand; its writer is dead but inside `live`."""

    directory: Path
    clock: ManualClock = field(default_factory=ManualClock)

    @classmethod
    def make(cls, outbox_dir: Path, source_id: str = SOURCE_ID) -> HandMade:
        directory = outbox_dir / source_id
        directory.mkdir(parents=True)
        return cls(directory)

    def put(self, number: int, content: bytes) -> None:
        (self.directory / segment_name(number)).write_bytes(content)

    @contextmanager
    def live(self) -> Generator[None]:
        """Inside, the source has a living writer."""
        lock = FileLock(self.directory / "writer")
        assert lock.try_acquire()
        try:
            yield
        finally:
            lock.release()

    def reader(self, position: int = 0, **arguments) -> SourceReader:
        return SourceReader(self.directory, position, clock=self.clock, **arguments)


@dataclass
class Everything:
    lines: list[OutboxLine]
    findings: list[Damage]
    finished: bool
    position: int

    @property
    def records(self) -> list[bytes]:
        return [line.record for line in self.lines]

    @property
    def kinds(self) -> list[DamageKind]:
        return [damage.kind for damage in self.findings]


def read_all(reader: SourceReader, records_max: int = 1000, bytes_max: int = 1 << 20) -> Everything:
    """Read until there is nothing more, and close; lines and findings never overlap and go forward."""
    lines: list[OutboxLine] = []
    with reader:
        while batch := reader.read(records_max, bytes_max):
            assert len(batch) <= records_max
            assert sum(len(line.record) + 10 for line in batch) <= bytes_max or len(batch) == 1
            lines += batch
        assert reader.at_end
        found = Everything(lines, reader.take_findings(), reader.finished, reader.position)
    ends = [line.next_position for line in lines]
    assert [line.position for line in lines] == sorted(line.position for line in lines)
    assert all(end <= line.position for end, line in zip(ends, lines[1:], strict=False)), "lines overlap"
    return found


def read_source_dir(source_dir: Path, **arguments) -> Everything:
    return read_all(SourceReader(source_dir), **arguments)


def random_records(count: int, size: int = 20) -> list[bytes]:
    return [b'{"v":1,"n":%d,"x":"%b"}' % (n, secrets.token_hex(size // 2).encode()) for n in range(count)]


def at(number: int, byte: int) -> int:
    return pack_position(number, byte)
