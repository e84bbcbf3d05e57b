"""Pages of one run's events, so that a run of any size can be read in bounded pieces and still as one snapshot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from skillaudit.contract.records import SkillRunLog

EVENTS_LIMIT_DEFAULT: Final = 200
EVENTS_LIMIT_MAX: Final = 1_000
PAGE_BYTES_MAX: Final = 4 * 1024 * 1024
"""Payload bytes in a page; the event that exceeds it is the page's last, so that every page has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsPage:
    """Some events in sequence order.

    `preceding` counts the stored events before the page. Events are only ever added, so a reader that follows `next`
    and finds `preceding` equal to what it has collected holds exactly what was stored when the last page was read.
    """

    events: tuple[SkillRunLog, ...] = ()
    preceding: int = 0
    next: int | None = None
    """The number to go on from; None where nothing follows."""


@runtime_checkable
class EventsPager(Protocol):
    """A reader that can read a page without reading the run."""

    async def page_logs_by_run(
        self, run_id: str, first: int | None, limit: int, bytes_max: int
    ) -> EventsPage:
        """At most `limit` events from number `first` on (None: from the lowest)."""
        ...


class LogsReader(Protocol):
    """The one method of a reader that pages are cut from where there is no pager."""

    async def list_logs_by_run(self, run_id: str) -> list[SkillRunLog]:
        """All events of the run in sequence order."""
        ...


async def read_page(
    reader: LogsReader, run_id: str, first: int | None, limit: int, bytes_max: int = PAGE_BYTES_MAX
) -> EventsPage:
    """A page by the reader's own means, else cut from the whole list."""
    if isinstance(reader, EventsPager):
        return await reader.page_logs_by_run(run_id, first, limit, bytes_max)
    logs = await reader.list_logs_by_run(run_id)
    start = (
        0 if first is None else next((i for i, log in enumerate(logs) if log.sequence >= first), len(logs))
    )
    return cut_page(logs[start : start + limit + 1], start, limit, bytes_max)


def cut_page(logs: Iterable[SkillRunLog], preceding: int, limit: int, bytes_max: int) -> EventsPage:
    """A page of `logs`, which hold one more than `limit` where more follows."""
    events: list[SkillRunLog] = []
    held_bytes = 0
    for log in logs:
        if len(events) == limit or held_bytes > bytes_max:
            return EventsPage(events=tuple(events), preceding=preceding, next=log.sequence)
        events.append(log)
        held_bytes += len(log.payload_json)
    return EventsPage(events=tuple(events), preceding=preceding)
