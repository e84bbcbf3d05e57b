"""How far a source is acknowledged: one small file, replaced as a whole before anything is deleted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from skillaudit.contract.errors import OutboxCorruptError
from skillaudit.contract.outbox.files import read_optional, write_atomically
from skillaudit.contract.outbox.layout import encode_line
from skillaudit.contract.outbox.scan import take_line

ACKNOWLEDGEMENT_NAME: Final = "ack"


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """Everything of a source before `position` is where it has to be: at the broker, or in the database."""

    position: int = 0
    """Position after the last acknowledged line; 0 before the first."""
    records: int = 0
    """Lines of the source before `position`, as the segments' headers count them; refused ones included."""
    refused: int = 0
    """Of those, how many the broker refused for good."""
    positions: Mapping[str, int] = field(default_factory=dict[str, int])
    """Where they went: `<topic>/<partition>` -> next offset. The token for reading one's own writes."""


def read_acknowledgement(source_dir: Path) -> Acknowledgement | None:
    """The acknowledgement of a source, None where nothing was acknowledged yet.

    Raises `OutboxCorruptError` where it is unreadable or another source's; then reading begins at the oldest segment (`SourceReader.resume`
    does so and reports it).
    """
    path = source_dir / ACKNOWLEDGEMENT_NAME
    content = read_optional(path)
    if content is None:
        return None
    try:
        return _decode(content, source_dir.name)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise OutboxCorruptError(
            f"the acknowledgement {path} is unreadable ({exc}); delete it to send everything that is left again"
        ) from exc


def write_acknowledgement(source_dir: Path, acknowledgement: Acknowledgement) -> None:
    """Replace the acknowledgement; on the disk when this returns (temporary file, fsync, rename, directory fsync).

    Only the holder of the source's `reader` lock calls it, and deletes segments only after it returned.
    """
    record = orjson.dumps(
        {
            "position": acknowledgement.position,
            "records": acknowledgement.records,
            "refused": acknowledgement.refused,
            "positions": dict(acknowledgement.positions),
            "source_id": source_dir.name,
        }
    )
    write_atomically(source_dir / ACKNOWLEDGEMENT_NAME, encode_line(record))


def _decode(content: bytes, source_id: str) -> Acknowledgement:
    line = take_line(content, 0)
    if line is None or line.end != len(content):
        raise ValueError("its checksum is wrong")
    value: Mapping[str, Any] = orjson.loads(line.record)
    if value.get("source_id", source_id) != source_id:  # a release before this one did not say
        raise ValueError(f"it is that of the source {value['source_id']}")
    positions: Mapping[str, Any] = value["positions"]
    return Acknowledgement(
        position=_count(value["position"]),
        records=_count(value["records"]),
        refused=_count(value["refused"]),
        positions={name: _count(offset) for name, offset in positions.items()},
    )


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value
