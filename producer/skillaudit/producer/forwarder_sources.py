"""Which sources a forwarder has: finding them, taking their `reader` locks, letting them go."""

from __future__ import annotations

import logging
import os
import shutil
from enum import Enum
from pathlib import Path
from typing import Final

from skillaudit.contract.clock import Clock
from skillaudit.contract.errors import OutboxCorruptError
from skillaudit.contract.eventlog import RefusedRecord
from skillaudit.contract.outbox.directory import READER_LOCK_NAME, list_source_dirs
from skillaudit.contract.outbox.layout import list_segments
from skillaudit.contract.outbox.locks import FileLock, is_locked
from skillaudit.contract.outbox.reader import WRITER_LOCK_NAME
from skillaudit.producer.forwarder_core import Entry, ForwarderLimits
from skillaudit.producer.forwarder_source import TRASH_PREFIX, SourceFeed

logger = logging.getLogger(__name__)

_RECHECK_MS: Final = 30_000
"""How long a source that gave nothing more, or can't be read, is left alone."""


class Scope(Enum):
    """Which sources a forwarder takes."""

    OWN = "own"
    """Only the one it was given."""
    OWN_AND_DEAD = "own and dead"
    """That one, and those whose processes are gone."""
    ALL = "all"
    """Every source of the directory that nobody else forwards."""


class Sources:
    """The sources of one forwarder. Synchronous; one thread."""

    def __init__(
        self, outbox_dir: Path, scope: Scope, own: Path | None, limits: ForwarderLimits, clock: Clock
    ) -> None:
        """`own`: this process's source."""
        self.outbox_dir = outbox_dir
        self.partitions = 0
        """The topic's partition count now; sources that were begun earlier keep theirs."""
        self.finished = 0
        """Sources read to their end and done with."""
        self._scope = scope
        self._own = own
        self._limits = limits
        self._clock = clock
        self._feeds: dict[str, SourceFeed] = {}
        self._left_alone_us: dict[str, int] = {}
        self._looked_us: int | None = None
        self._turn = 0
        self._refused_before = 0
        self._incidents_before = 0

    def __len__(self) -> int:
        """Sources forwarded now."""
        return len(self._feeds)

    @property
    def refused(self) -> int:
        """Records refused for good, of all sources it had."""
        return self._refused_before + sum(len(f.refused) for f in self._feeds.values())

    @property
    def incidents(self) -> int:
        """Incidents noted, of all sources it had."""
        return self._incidents_before + sum(f.incidents for f in self._feeds.values())

    def all(self) -> tuple[SourceFeed, ...]:
        """All feeds, as of now."""
        return tuple(self._feeds.values())

    def due(self, *, every: bool) -> list[SourceFeed]:
        """The feeds to look at now (`every`: all), each call beginning with another one, so that none starves."""
        now = self._clock.steady_us()
        feeds = [feed for feed in self._feeds.values() if every or feed.due_us <= now or feed.gate_is_open]
        self._turn = (self._turn + 1) % max(len(feeds), 1)
        return feeds[self._turn :] + feeds[: self._turn]

    def looked_at(self, feed: SourceFeed) -> None:
        """Set when to look at it again."""
        longest_ms = max(self._limits.poll_interval_ms_max, len(self._feeds))
        feed.look_again(self._clock.steady_us(), longest_ms)

    def wait_ms(self) -> float:
        """How long until a feed is due, or the directory."""
        longest_ms = min(self._limits.poll_interval_ms_max, self._limits.discovery_interval_ms)
        if not self._feeds:
            return longest_ms
        soonest_us = min(feed.due_us for feed in self._feeds.values()) - self._clock.steady_us()
        return min(max(soonest_us / 1000, 1), longest_ms)

    def discover(self, *, now: bool = False) -> None:
        """Take the sources that may be taken; looks at the directory at most once in `discovery_interval_ms`."""
        moment = self._clock.steady_us()
        due = self._limits.discovery_interval_ms * 1000
        if not now and self._looked_us is not None and moment - self._looked_us < due:
            return
        if self._looked_us is None:
            self._sweep()
        self._looked_us = moment
        self._forget_before(moment - _RECHECK_MS * 1000)
        for source_dir in self._candidates():
            if len(self._feeds) >= self._limits.sources_max:
                break
            if source_dir.name not in self._feeds and self._is_ours(source_dir):
                self._take(source_dir, moment)

    def _forget_before(self, moment: int) -> None:
        """A host's forwarder meets many sources; those left alone before then are not left alone any more."""
        over = [name for name, at_us in self._left_alone_us.items() if at_us <= moment]
        for name in over:
            del self._left_alone_us[name]

    def _sweep(self) -> None:
        """What a death in the middle of a removal left."""
        for trash in self.outbox_dir.glob(f"{TRASH_PREFIX}*"):
            shutil.rmtree(trash, ignore_errors=True)  # whoever else sweeps it is welcome to

    def _candidates(self) -> list[Path]:
        own = [self._own] if self._own is not None and (self._own / "source.json").exists() else []
        if self._scope is Scope.OWN:
            return own
        return own + [path for path in list_source_dirs(self.outbox_dir) if path != self._own]

    def _is_ours(self, source_dir: Path) -> bool:
        if source_dir == self._own:
            return True
        if source_dir.name in self._left_alone_us:
            return False
        if self._scope is Scope.OWN_AND_DEAD and is_locked(source_dir / WRITER_LOCK_NAME):
            return False
        return bool(list_segments(source_dir))  # without any: being made, or kept for what was refused

    def _take(self, source_dir: Path, moment: int) -> None:
        lock = FileLock(source_dir / READER_LOCK_NAME)
        try:
            if not lock.try_acquire(b"%d\n" % os.getpid()):
                return
        except FileNotFoundError:
            return  # removed meanwhile by whoever finished it
        try:
            if list_segments(source_dir) or source_dir == self._own:
                self._feeds[source_dir.name] = SourceFeed(
                    source_dir, lock, self.partitions, self._limits, self._clock
                )
                return
        except (OutboxCorruptError, OSError) as exc:  # a full disk, say: the other sources go on
            self._incidents_before += 1
            self._left_alone_us[source_dir.name] = moment
            logger.error("outbox source %s is not forwarded: %s", source_dir, exc)  # noqa: TRY400  no trace wanted
        except BaseException:
            lock.release()
            raise
        lock.release()

    def refuse(self, entry: Entry, reason: str) -> Entry | None:
        """As `SourceFeed.refuse` of the entry's source."""
        return self._feeds[entry.window.source_id].refuse(entry, reason)

    def closed(self, entry: Entry) -> None:
        """The `source.closed` of the entry's source is where it has to be."""
        self._feeds[entry.window.source_id].closed()

    def refused_records(self, source_id: str) -> tuple[RefusedRecord, ...]:
        """What was refused of one source."""
        feed = self._feeds.get(source_id)
        return tuple(feed.refused) if feed else ()

    def finish(self, feed: SourceFeed) -> None:
        """Remove a finished source, where its writer did not come back."""
        if not feed.remove():
            return
        self._let_go(feed)
        self.finished += 1
        self._left_alone_us[feed.source_id] = self._clock.steady_us()

    def _let_go(self, feed: SourceFeed) -> None:
        feed.release()
        del self._feeds[feed.source_id]
        self._refused_before += len(feed.refused)
        self._incidents_before += feed.incidents

    def release_all(self) -> None:
        """Let all go; other forwarders may take them."""
        for feed in self.all():
            self._let_go(feed)
