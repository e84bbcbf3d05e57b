"""The small files a forwarder keeps in a source's directory. Its holder has the source's `reader` lock.

partitions      the topic's partition count for this source's life
refused/<position>   a record the broker refused for good: one line of JSON about it, then its bytes
tally           what deleted segments said of runs that are still open (`forwarder_tally`)
closed          the adopter's `source.closed`, written before it is sent: sent again, it is the same record
incidents.jsonl what was found damaged or refused, one JSON object a line
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from skillaudit.contract.errors import OutboxCorruptError
from skillaudit.contract.outbox.files import (
    create_exclusively,
    read_optional,
    write_atomically,
)
from skillaudit.producer.forwarder_tally import Tally

PARTITIONS_NAME: Final = "partitions"
TALLY_NAME: Final = "tally"
CLOSED_NAME: Final = "closed"
INCIDENTS_NAME: Final = "incidents.jsonl"
INCIDENTS_BYTES_MAX: Final = 1024 * 1024
"""Past it further incidents are logged only."""


def pin_partitions(source_dir: Path, count: int) -> int:
    """The partition count of the source's life: `count` if this is its first forwarder."""
    content = create_exclusively(source_dir / PARTITIONS_NAME, b"%d\n" % count)
    text = content.strip()
    if not text.isdigit() or not int(text):
        raise OutboxCorruptError(
            f"{source_dir / PARTITIONS_NAME} holds no partition count; write the topic's count when this source began"
        )
    return int(text)


def read_tally(source_dir: Path) -> Tally:
    """What was carried over; empty where nothing was. Raises `OutboxCorruptError`."""
    content = read_optional(source_dir / TALLY_NAME)
    return Tally() if content is None else Tally.decode(content)


def write_tally(source_dir: Path, tally: Tally) -> None:
    """Replace it; on the disk when this returns."""
    write_atomically(source_dir / TALLY_NAME, tally.encode())


def closing_record(source_dir: Path, record: bytes) -> bytes:
    """The `source.closed` to send: `record`, unless an earlier adopter prepared one already."""
    return create_exclusively(source_dir / CLOSED_NAME, record)


def note_incident(source_dir: Path, incident: Mapping[str, Any]) -> None:
    """Append one incident; bounded."""
    path = source_dir / INCIDENTS_NAME
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(fd).st_size < INCIDENTS_BYTES_MAX:
            os.write(fd, orjson.dumps(dict(incident)) + b"\n")
    finally:
        os.close(fd)


def read_incidents(source_dir: Path) -> list[dict[str, Any]]:
    """All of them, in the order they were found; a line cut by a crash is left out."""
    content = read_optional(source_dir / INCIDENTS_NAME) or b""
    return [orjson.loads(line) for line in content.split(b"\n")[:-1]]
