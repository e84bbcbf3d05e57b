"""What a reader of the outbox reports instead of skipping it silently."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class DamageKind(StrEnum):
    """Why bytes of a source could not be taken."""

    UNFINISHED = "unfinished"
    """The last line of a dead writer, not written to its end: its append never returned. Nothing that was promised is
    lost, unless the machine went down with it (`fsync="never"`)."""
    ALTERED = "altered"
    """Written to its end, and the checksum is wrong: bytes changed on the way to the disk or on it."""
    HOLE = "hole"
    """NULs with valid lines behind them, or in a segment that has a successor: bytes that were zeroed or got lost."""
    TRUNCATED = "truncated"
    """The file ends inside a line, or before the position to begin at."""
    LINES_MISSING = "lines-missing"
    """A segment's header counts more lines before it than are there: a file was cut between two lines."""
    SEGMENT_MISSING = "segment-missing"
    """A segment is not there, and later ones are."""
    HEADER = "header"
    """A segment's first line is damaged; its other lines are taken, as its name says where they belong."""
    FOREIGN_SEGMENT = "foreign-segment"
    """A segment's first line names another source or number. Its lines are not taken: they belong elsewhere."""
    COPIED = "copied"
    """The directory is a copy (an image started on another machine, a restored backup): its source may go on
    elsewhere. Its lines are taken; records that arrive twice are dropped as duplicates."""
    IDENTITY = "identity"
    """`source.json` is unreadable: nothing says whether the directory is a copy. Its lines are taken, its directory stays."""
    ACKNOWLEDGEMENT = "acknowledgement"
    """The acknowledgement is unreadable or gone: reading begins at the oldest segment, what was sent is sent again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Bytes from `position` up to `end` (positions of the source) that were not taken, and why.

    The same damage is found again, equal, by every reader that comes past it. `lines` is how many lines are known to be
    gone with it, 0 where nothing says so.
    """

    position: int
    end: int
    kind: DamageKind
    detail: str = ""
    lines: int = 0
