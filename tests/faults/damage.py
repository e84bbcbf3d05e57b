"""Damage to a source's files, made at random places, and which records' bytes it touched."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import orjson

Number = tuple[str, int]
"""Run id, and the event's number: 0 is the start, 1..n the logs, -1 the finish."""
FINISH = -1
SEGMENTS = "*.seg"


@dataclass(frozen=True, slots=True)
class Line:
    """One line as it was written."""

    start: int
    end: int
    number: Number | None
    """None: the source's own (opened, heartbeat, closed), or a segment's header."""
    header: bool = False


@dataclass(slots=True)
class Touched:
    """What an injection did to one source."""

    kind: str
    source_dir: Path
    numbers: set[Number] = field(default_factory=set[Number])
    """Events whose bytes are not what was written."""
    is_tail: bool = True
    """No line stands behind the first touched one that is as it was written: nothing in the files has to show it."""
    trace: bool = False
    """Something of the damage can be seen, whatever was touched."""


def read_lines(content: bytes) -> Iterator[Line]:
    """The lines of an undamaged segment."""
    start = 0
    while (lf := content.find(b"\n", start)) >= 0:
        record = content[start : lf - 9]
        assert content[lf - 9 : lf] == b"\t%08x" % crc32(record), (
            f"damaged before anything was done at {start}"
        )
        header = record.startswith(b"skillaudit-segment")
        yield Line(start, lf + 1, None if header else number_of(record), header)
        start = lf + 1


def number_of(record: bytes) -> Number | None:
    """Which event of which run a record holds."""
    members = orjson.loads(record)
    kind = members["type"]
    if not kind.startswith("run."):
        return None
    return members["run_id"], {"run.started": 0, "run.finished": FINISH}.get(kind, members.get("seq", 0))


def segments(source_dir: Path) -> dict[str, bytes]:
    """The used bytes of its segments, by name."""
    return {path.name: path.read_bytes().rstrip(b"\0") for path in sorted(source_dir.glob(SEGMENTS))}


def compare(kind: str, source_dir: Path, before: Mapping[str, bytes]) -> Touched:
    """What of the lines that were there is not there any more as it was."""
    touched = Touched(kind, source_dir)
    behind = False
    for name, content in before.items():
        path = source_dir / name
        after = path.read_bytes() if path.exists() else b""
        foreign = not _has_own_header(after, content)
        for line in read_lines(content):
            intact = after[line.start : line.end] == content[line.start : line.end]
            if intact and not (
                foreign and path.exists() and after[: line.end].count(b"\n") and _is_header(after)
            ):
                touched.is_tail = touched.is_tail and not (behind and not line.header)
                continue
            behind = True
            touched.trace = touched.trace or line.header
            if line.number is not None:
                touched.numbers.add(line.number)
    return touched


def _is_header(content: bytes) -> bool:
    """A valid header stands first, whoever's."""
    first = content.partition(b"\n")[0]
    return first.startswith(b"skillaudit-segment") and first[-9:] == b"\t%08x" % crc32(first[:-9])


def _has_own_header(after: bytes, before: bytes) -> bool:
    return after.partition(b"\n")[0] == before.partition(b"\n")[0]


# Each damages the files of `source_dir`; `foreign_dir` is another source's.
Injection = Callable[[random.Random, Path, Path], None]


def _segment(chance: random.Random, source_dir: Path) -> Path:
    return chance.choice(sorted(source_dir.glob(SEGMENTS)))


def _used(path: Path) -> int:
    return len(path.read_bytes().rstrip(b"\0"))


def _overwrite(path: Path, byte: int, content: bytes) -> None:
    """In place: a writer has it mapped."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, content, byte)
    finally:
        os.close(fd)


def flip(chance: random.Random, source_dir: Path, foreign_dir: Path) -> None:
    """One byte is another."""
    del foreign_dir
    path = _segment(chance, source_dir)
    byte = chance.randrange(_used(path))
    old = path.read_bytes()[byte]
    _overwrite(path, byte, bytes([chance.choice([b for b in range(256) if b != old])]))


def flip_bits(chance: random.Random, source_dir: Path, foreign_dir: Path) -> None:
    """Up to 40 single bits in one segment."""
    del foreign_dir
    path = _segment(chance, source_dir)
    content = path.read_bytes()
    for byte in chance.sample(range(_used(path)), chance.randint(1, 40)):
        _overwrite(path, byte, bytes([content[byte] ^ (1 << chance.randrange(8))]))


def flip_frame(chance: random.Random, source_dir: Path, foreign_dir: Path) -> None:
    """A byte of a line's frame: its TAB, checksum or LF."""
    del foreign_dir
    path = _segment(chance, source_dir)
    content = path.read_bytes()
    line = chance.choice(list(read_lines(content.rstrip(b"\0"))))
    byte = line.end - chance.randint(1, 10)
    _overwrite(path, byte, bytes([chance.choice([0, 9, 10, 32, content[byte] ^ 1])]))


def hole(chance: random.Random, source_dir: Path, foreign_dir: Path) -> None:
    """A stretch is NUL: a block that never reached the disk."""
    del foreign_dir
    path = _segment(chance, source_dir)
    used = _used(path)
    start = chance.randrange(used)
    size = min(chance.choice((1, 64, 512, 4_096, 20_000)), used - start)
    _overwrite(path, start, bytes(size))


def zeroed(chance: random.Random, source_dir: Path, foreign_dir: Path) -> None:
    """A whole segment, or its rest, is NUL."""
    del foreign_dir
    path = _segment(chance, source_dir)
    start = 0 if chance.random() < 0.5 else chance.randrange(_used(path))
    _overwrite(path, start, bytes(_used(path) - start))


def garbage(chance: random.Random, source_dir: Path, foreign_dir: Path) -> None:
    """A stretch holds other bytes."""
    del foreign_dir
    path = _segment(chance, source_dir)
    start = chance.randrange(_used(path))
    _overwrite(path, start, chance.randbytes(min(chance.randint(2, 6_000), _used(path) - start)))


def truncated(chance: random.Random, source_dir: Path, foreign_dir: Path) -> None:
    """The file ends anywhere."""
    del foreign_dir
    path = _segment(chance, source_dir)
    os.truncate(path, chance.randrange(_used(path)))


def cut_between_lines(chance: random.Random, source_dir: Path, foreign_dir: Path) -> None:
    """The file ends at a line's end."""
    del foreign_dir
    path = _segment(chance, source_dir)
    line = chance.choice(list(read_lines(path.read_bytes().rstrip(b"\0"))))
    os.truncate(path, line.end)


def torn_tail(chance: random.Random, source_dir: Path, foreign_dir: Path) -> None:
    """The beginning of a line that nobody was told of stands behind the last one."""
    del foreign_dir
    path = max(source_dir.glob(SEGMENTS))
    with path.open("r+b") as file:
        file.seek(_used(path))
        file.write(b'{"v":1,"type":"run.log","run_id":"torn","seq":1'[: chance.randint(1, 40)])


def missing(chance: random.Random, source_dir: Path, foreign_dir: Path) -> None:
    """A segment is not there."""
    del foreign_dir
    _segment(chance, source_dir).unlink()


def foreign_segment(chance: random.Random, source_dir: Path, foreign_dir: Path) -> None:
    """A segment is another source's, or another one of the same."""
    own = sorted(source_dir.glob(SEGMENTS))
    path = chance.choice(own)
    others = [other for other in (*own, *sorted(foreign_dir.glob(SEGMENTS))) if other != path]
    content = chance.choice(others).read_bytes()
    path.unlink()
    path.write_bytes(content)


def copied(chance: random.Random, source_dir: Path, foreign_dir: Path) -> None:
    """The directory is a copy of what it was, as in a machine's image that was started again."""
    del chance, foreign_dir
    away = source_dir.with_name(f".{source_dir.name}")
    source_dir.rename(away)
    shutil.copytree(away, source_dir)
    shutil.rmtree(away)


def identity(chance: random.Random, source_dir: Path, foreign_dir: Path) -> None:
    """`source.json` is damaged, or not there."""
    del foreign_dir
    path = source_dir / "source.json"
    content = path.read_bytes()
    if chance.random() < 0.3:
        path.unlink()
    elif chance.random() < 0.5:
        os.truncate(path, chance.randrange(len(content)))
    else:
        _overwrite(path, chance.randrange(len(content)), bytes([chance.randrange(256)]))


AT_REST: Mapping[str, Injection] = {
    "flipped byte": flip,
    "flipped bits": flip_bits,
    "flipped frame": flip_frame,
    "hole": hole,
    "zeroed": zeroed,
    "garbage": garbage,
    "truncated": truncated,
    "cut between lines": cut_between_lines,
    "torn tail": torn_tail,
    "missing": missing,
    "foreign": foreign_segment,
    "copied": copied,
    "identity": identity,
}
WHILE_RUNNING: Mapping[str, Injection] = {
    name: AT_REST[name]
    for name in ("flipped byte", "flipped bits", "flipped frame", "hole", "garbage", "zeroed")
}
"""Without what cuts or removes a file: who cuts a file that is mapped kills the process that has it, on any system."""


def _older(chance: random.Random, source_dir: Path) -> Path:
    """A segment that its writer has left. Raises IndexError where there is none."""
    return chance.choice(sorted(source_dir.glob(SEGMENTS))[:-1])


def older_missing(chance: random.Random, source_dir: Path, foreign_dir: Path) -> None:
    """It is not there any more."""
    del foreign_dir
    _older(chance, source_dir).unlink()


def older_foreign(chance: random.Random, source_dir: Path, foreign_dir: Path) -> None:
    """In its place stands a new file, another source's segment."""
    content = chance.choice(sorted(foreign_dir.glob(SEGMENTS))).read_bytes()
    path = _older(chance, source_dir)
    path.unlink()
    path.write_bytes(content)


def older_truncated(chance: random.Random, source_dir: Path, foreign_dir: Path) -> None:
    """It ends anywhere."""
    del foreign_dir
    path = _older(chance, source_dir)
    os.truncate(path, chance.randrange(max(_used(path), 1)))


def older_cut(chance: random.Random, source_dir: Path, foreign_dir: Path) -> None:
    """It ends at a line's end."""
    del foreign_dir
    path = _older(chance, source_dir)
    line = chance.choice(list(read_lines(path.read_bytes().rstrip(b"\0"))))
    os.truncate(path, line.end)


def acknowledgement(chance: random.Random, source_dir: Path, foreign_dir: Path) -> None:
    """It is not there, cut, or holds other bytes."""
    del foreign_dir
    path = source_dir / "ack"
    content = path.read_bytes() if path.exists() else b""
    way = chance.randrange(3)
    if way == 0:
        path.unlink(missing_ok=True)
    elif way == 1 and content:
        os.truncate(path, chance.randrange(len(content)))
    else:
        path.write_bytes(chance.randbytes(max(len(content), 40)))


FILES_WHILE_RUNNING: Mapping[str, Injection] = {
    "missing": older_missing,
    "foreign": older_foreign,
    "truncated": older_truncated,
    "cut between lines": older_cut,
    "acknowledgement": acknowledgement,
}
"""What cuts, removes and replaces files of a source whose process lives: those that it does not have mapped any more."""


def inject_by(
    how: Mapping[str, Injection], kind: str, chance: random.Random, source_dir: Path, foreign_dir: Path
) -> Touched:
    """Do one of these to a source."""
    before = segments(source_dir)
    how[kind](chance, source_dir, foreign_dir)
    return compare(kind, source_dir, before)


def inject(kind: str, chance: random.Random, source_dir: Path, foreign_dir: Path) -> Touched:
    """Do it to a source nobody writes meanwhile."""
    touched = inject_by(AT_REST, kind, chance, source_dir, foreign_dir)
    if kind in {"copied", "foreign"}:
        touched.trace = True
    return touched


def seal_with_checksums(source_dir: Path) -> None:
    """As if lines had no checksum: whatever stands before a LF gets the one that makes it valid."""
    for path in source_dir.glob(SEGMENTS):
        content, start = bytearray(path.read_bytes()), 0
        while (lf := content.find(b"\n", start)) >= 0:
            if lf - 9 > start and content[start] != 0:
                content[lf - 9 : lf] = b"\t%08x" % crc32(content[start : lf - 9])
            start = lf + 1
        _overwrite(path, 0, bytes(content))
