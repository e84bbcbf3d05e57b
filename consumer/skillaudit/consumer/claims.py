"""What sources said and what is not due yet: pure bookkeeping of looks at the ends of all partitions.

A source that says that it started N runs, or that it closed, sent that when everything before it was acknowledged. But
its runs lie in many partitions, and these are read independently. So what it said is due only once every partition has
been consumed up to the end that was seen *after* it was read: then each of its N starts was consumed, or never came.

    said -> WAITING --look(ends)--> LOOKED --positions reach the ends--> due

One look is under way at a time; what is said meanwhile waits for the next. After a failed transaction or a restart
everything that is not due waits again: a later look is never wrong, only later. A source whose partition is its own
(embedded) needs no look: its records lie in the order in which it wrote them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Claim(NamedTuple):
    """What a source said last."""

    runs: int
    """Runs it started."""
    closing: bool
    """It said that nothing follows."""
    topic: str
    """In whose partitions its runs lie."""


@dataclass(slots=True)
class Claims:
    """Changed in place; thrown away and read again like everything that is remembered."""

    waiting: dict[str, Claim] = field(default_factory=dict[str, Claim])
    """Source -> what it said since the last look."""
    looked: dict[str, Claim] = field(default_factory=dict[str, Claim])
    """What becomes due when the ends are reached."""
    ends: dict[str, int] = field(default_factory=dict[str, int])

    def to_ask(self) -> Mapping[str, Claim]:
        """What a look is wanted for, now that all of it has been read; empty while one is under way."""
        return {} if self.looked else dict(self.waiting)

    def look(self, ends: Mapping[str, int], asked: Mapping[str, Claim]) -> None:
        """`ends`: of every partition there is, asked for after `asked` was read. What was said meanwhile goes on waiting,
        and so does what belongs to a topic that is not read any more.
        """
        if self.looked:
            return
        topics = {name.rpartition("/")[0] for name in ends}
        self.looked = {
            source: claim
            for source, claim in asked.items()
            if self.waiting.get(source) == claim and claim.topic in topics
        }
        for source in self.looked:
            del self.waiting[source]
        self.ends = dict(ends)

    def take_due(self, positions: Mapping[str, int]) -> Mapping[str, Claim]:
        """What has become due; nothing while a partition has not reached the end that was seen of it."""
        if not self.looked or any(positions.get(name, 0) < end for name, end in self.ends.items()):
            return {}
        due, self.looked, self.ends = self.looked, {}, {}
        return due


def read_claims(rows: Iterable[tuple[str, int, bool, str]]) -> Claims:
    """From what is stored: (source, runs, closing, topic) of all that is not due."""
    return Claims({source_id: Claim(runs, closing, topic) for source_id, runs, closing, topic in rows})
