"""Who wrote a source, on which machine, and whether its directory still is where it was written."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import orjson

from skillaudit.contract.errors import OutboxCorruptError
from skillaudit.contract.outbox.files import read_optional, write_atomically

SOURCE_FILE_NAME: Final = "source.json"
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_MACHINE_ID: Final = Path("/etc/machine-id")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceIdentity:
    """What `source.json` says. Written once, after the `writer` lock is held: a directory without it is no source."""

    source_id: str
    host: str = ""
    pid: int = 0
    boot_id: str = ""
    version: str = ""
    created_us: int = 0
    machine_id: str = ""
    """Digest of the machine's id; empty where it has none."""
    inode: int = 0
    """Of the source's directory: a copy has another."""
    mapped: bool = True
    """Whether segments are preallocated and mapped; else they grow by plain appends."""
    continued: bool = False
    """An import: its directory stays after everything is acknowledged, because the same file may go on."""

    def is_copy(self, source_dir: Path) -> bool:
        """Whether `source_dir` is a copy: another machine's, or other files than those that were written."""
        here = machine_id()
        moved = bool(self.machine_id and here and self.machine_id != here)
        return moved or bool(self.inode and source_dir.stat().st_ino != self.inode)


def boot_id() -> str:
    """Random id of this boot of the machine; empty where the platform has none."""
    return (read_optional(_BOOT_ID) or b"").decode("ascii", "replace").strip()


def machine_id() -> str:
    """Digest of the machine's id, which itself should not leave it; empty where there is none."""
    raw = (read_optional(_MACHINE_ID) or b"").strip()
    return sha256(b"skillaudit machine 1\n" + raw).hexdigest()[:32] if raw else ""


def describe_source(
    source_id: str, source_dir: Path, *, version: str, created_us: int, mapped: bool, continued: bool
) -> SourceIdentity:
    """The identity of a source that this process opens in `source_dir`."""
    return SourceIdentity(
        source_id=source_id,
        host=os.uname().nodename,
        pid=os.getpid(),
        boot_id=boot_id(),
        version=version,
        created_us=created_us,
        machine_id=machine_id(),
        inode=source_dir.stat().st_ino,
        mapped=mapped,
        continued=continued,
    )


def write_source(source_dir: Path, identity: SourceIdentity, *, sync: bool) -> None:
    """Write `source.json`."""
    write_atomically(source_dir / SOURCE_FILE_NAME, orjson.dumps(asdict(identity)) + b"\n", sync=sync)


def read_source(source_dir: Path) -> SourceIdentity | None:
    """What `source.json` says; None where there is none (a directory just being made, or left by a crash in that).

    Raises `OutboxCorruptError` where it is unreadable. Members it does not know are left out.
    """
    path = source_dir / SOURCE_FILE_NAME
    content = read_optional(path)
    if content is None:
        return None
    try:
        value = orjson.loads(content)
        known = {name: value[name] for name in SourceIdentity.__dataclass_fields__ if name in value}
        return SourceIdentity(**known)
    except (ValueError, TypeError) as exc:
        raise OutboxCorruptError(
            f"{path} is unreadable ({exc}); the segments beside it are read without it, and the directory stays until it is "
            "removed by hand"
        ) from exc
