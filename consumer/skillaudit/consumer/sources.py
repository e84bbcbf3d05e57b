"""What sources say of themselves, and which of them are gone.

A source is gone when it closed, or when it was silent for longer than the limit: judged in broker time, and only as far
as its partition has been read, so that a consumer that lags an hour abandons nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import duckdb

from skillaudit.consumer.claims import Claim, Claims, read_claims
from skillaudit.consumer.statements import statements
from skillaudit.contract.wire import SourceClosed, SourceEvent, SourceHeartbeat, SourceOpened

_SQL: Final = statements("lookup.sql")

HEARD_STEP_US: Final = 1_000_000
"""Signs of life closer together than this are not worth a write."""


class SourceState(StrEnum):
    """Where a source stands. LIVE <-> SILENT by judging its silence; LIVE -> CLOSING when it says so, CLOSING -> CLOSED when
    that is due (`claims`): until then the ends of its runs may lie in partitions not read so far; SILENT -> CLOSED;
    CLOSING and CLOSED -> LIVE when it opens again (an import of the same file).
    """

    LIVE = "live"
    SILENT = "silent"
    CLOSING = "closing"
    CLOSED = "closed"


@dataclass(slots=True)
class SourceBook:
    """One source, as its row in `store.sources`."""

    source_id: str
    topic: str
    partition: str
    host: str = ""
    pid: int = 0
    boot_id: str = ""
    version: str = ""
    clock: str = ""
    opened_us: int | None = None
    heard_us: int = 0
    beat: int = 0
    beat_us: int | None = None
    runs_started: int = 0
    runs_finished: int = 0
    backlog_records: int = 0
    backlog_bytes: int = 0
    oldest_us: int = 0
    refused: int = 0
    lost: int = 0
    closed_by: str = ""
    closed_us: int | None = None
    state: str = SourceState.LIVE
    claimed: int = 0
    """The highest number of runs it said it started."""
    due: int = 0
    """Of these so many are consumed, or never arrived."""
    stored: bool = False

    @property
    def gone(self) -> bool:
        """Whether its open runs count as abandoned."""
        return self.state in {SourceState.SILENT, SourceState.CLOSED}

    @property
    def claim(self) -> Claim | None:
        """What it said and what is not due yet."""
        closing = self.state == SourceState.CLOSING
        return Claim(self.claimed, closing, self.topic) if closing or self.claimed > self.due else None

    def settle(self, claim: Claim) -> None:
        """What it said has become due."""
        self.due = max(self.due, claim.runs)
        if claim.closing and self.state == SourceState.CLOSING:
            self.state = SourceState.CLOSED

    def hear(self, received_us: int) -> bool:
        """A sign of life; whether it is worth writing down."""
        was_silent = self.state == SourceState.SILENT
        if was_silent:
            self.state = SourceState.LIVE
        if received_us < self.heard_us + HEARD_STEP_US:
            return was_silent
        self.heard_us = received_us
        return True

    def take(self, event: SourceEvent, partition: str, received_us: int) -> None:
        """Take what it says."""
        self.partition = partition
        self.heard_us = max(self.heard_us, received_us)
        match event:
            case SourceOpened():
                self._open(event)
            case SourceHeartbeat():
                self._beat(event)
            case SourceClosed():
                self._close(event)
        claim = self.claim
        if claim is not None and self.partition == f"{self.topic}/{self.source_id}":
            self.settle(claim)  # everything before it was read before it

    def _open(self, event: SourceOpened) -> None:
        self.host, self.pid, self.boot_id = event.host, event.pid, event.boot_id
        self.version, self.clock, self.opened_us = event.version, event.clock, event.at_us
        self.closed_by, self.closed_us, self.state = "", None, SourceState.LIVE

    def _close(self, event: SourceClosed) -> None:
        self.claimed = max(self.claimed, event.runs_started)
        self.runs_started, self.runs_finished = event.runs_started, event.runs_finished
        self.closed_by, self.closed_us = event.by, event.at_us
        if self.state == SourceState.LIVE:
            self.state = SourceState.CLOSING
        elif self.state == SourceState.SILENT:  # its open runs count as abandoned, and go on to
            self.state = SourceState.CLOSED

    def _beat(self, event: SourceHeartbeat) -> None:
        if self.state == SourceState.SILENT:
            self.state = SourceState.LIVE
        self.claimed = max(self.claimed, event.runs_started)
        if event.beat <= self.beat:  # delivered again; what a last word said since stands
            return
        self.beat, self.beat_us = event.beat, event.at_us
        self.runs_started, self.runs_finished = event.runs_started, event.runs_finished
        self.backlog_records, self.backlog_bytes = event.backlog_records, event.backlog_bytes
        self.oldest_us, self.refused, self.lost = event.oldest_us, event.refused, event.lost


def find_sources(cursor: duckdb.DuckDBPyConnection, source_ids: Iterable[str]) -> dict[str, SourceBook]:
    """Those of these sources that are stored."""
    rows = cursor.execute(_SQL["sources"], {"source_ids": list(source_ids)}).fetchall()
    books = [SourceBook(*row) for row in rows]
    for book in books:
        book.stored = True
    return {book.source_id: book for book in books}


def find_claims(cursor: duckdb.DuckDBPyConnection) -> Claims:
    """What stored sources said and what is not due."""
    return read_claims(cursor.execute(_SQL["claims"]).fetchall())
