"""Records that the broker refused for good: kept with their bytes beside the source, one file each."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import orjson

from skillaudit.contract.errors import OutboxCorruptError
from skillaudit.contract.eventlog import RefusedRecord
from skillaudit.contract.outbox.files import write_atomically

REFUSED_DIR_NAME: Final = "refused"


def write_refused(
    source_dir: Path, position: int, record: bytes, *, run_id: str, seq: int, reason: str
) -> RefusedRecord:
    """Keep a refused record: a line of JSON that names it, then its bytes. On the disk when this returns."""
    directory = source_dir / REFUSED_DIR_NAME
    directory.mkdir(exist_ok=True)
    head = orjson.dumps({"run_id": run_id, "seq": seq, "reason": reason, "bytes": len(record)})
    path = directory / str(position)
    write_atomically(path, head + b"\n" + record)
    return RefusedRecord(run_id=run_id, seq=seq, reason=reason, path=str(path))


def list_refused(source_dir: Path) -> tuple[RefusedRecord, ...]:
    """The refused records of a source, in order of position."""
    directory = source_dir / REFUSED_DIR_NAME
    names = [path.name for path in directory.glob("*") if path.name.isdecimal()]
    return tuple(_describe(directory / name) for name in sorted(names, key=int))


def read_refused(path: Path) -> tuple[RefusedRecord, bytes]:
    """One refused record and its bytes."""
    return _describe(path), path.read_bytes().partition(b"\n")[2]


def _describe(path: Path) -> RefusedRecord:
    with path.open("rb") as file:
        head = file.readline()
    try:
        value = orjson.loads(head)
        return RefusedRecord(
            run_id=str(value["run_id"]), seq=int(value["seq"]), reason=str(value["reason"]), path=str(path)
        )
    except (ValueError, KeyError, TypeError) as exc:
        raise OutboxCorruptError(f"the refused record {path} is unreadable ({exc})") from exc
