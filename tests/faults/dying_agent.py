"""An agent process as `agent.py`, which may kill itself at an exact point, or has a mechanism switched off.

`python -m tests.faults.dying_agent PLAN TRIP`, settings from the environment; TRIP is a JSON object, see `Trip`.
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import random
import sys
from functools import partial
from typing import Any

from tests.faults.agent import Notebook, Plan, record
from tests.faults.tripwires import Bytecodes, Calls, die, say

from skillaudit.contract.settings import Settings
from skillaudit.producer import Sink, outbox_source
from skillaudit.producer.forwarder_host import make_publisher
from skillaudit.producer.forwarder_thread import ForwarderThread
from skillaudit.producer.outbox import OutboxLog
from skillaudit.producer.outbox_files import FileSystem

FLUSH_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """Where the process dies, and what it has to do without."""

    kind: str = ""
    """`bytecodes`, `calls`, `stores`; empty: it does not kill itself."""
    at: int = 0
    """At which of them, from 1."""
    what: str = ""
    """Part of the path of files; comma-separated names of functions; `before`, `torn`, `scattered` or `after`."""
    after: bool = False
    within: str = ""
    """Comma-separated names of functions: of `calls` those count that one of them makes; empty: all."""
    told: str = ""
    """File to which it says, as the last thing it does, at which of the `calls` it died."""
    seed: int = 0
    off: str = ""

    @property
    def place(self) -> str:
        """The point of death of `calls`, as it is counted."""
        return f"{self.within}_{'after' if self.after else 'before'}_{self.what}"


class DyingMapping:
    """A mapped segment, at whose n-th store the process dies."""

    def __init__(self, mapping: mmap.mmap, files: DyingFiles) -> None:
        self._mapping = mapping
        self._files = files

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mapping, name)

    def __setitem__(self, place: slice, line: bytes) -> None:
        """Store, or what of it is done at the moment of death."""
        if self._files.store_is_the_last():
            self._store_last(place.start, line)
            die()
        self._mapping[place] = line

    def _store_last(self, start: int, line: bytes) -> None:
        chance, what = random.Random(self._files.trip.seed), self._files.trip.what
        if what == "after":
            self._mapping[start : start + len(line)] = line
        elif what == "torn":
            size = chance.randrange(1, len(line))
            self._mapping[start : start + size] = line[:size]
        elif what == "scattered":  # a copy may go by words, in any order
            for at in chance.sample(range(0, len(line), 8), k=max(1, len(line) // 16)):
                self._mapping[start + at : start + min(at + 8, len(line))] = line[at : at + 8]


class DyingFiles(FileSystem):
    """The machine's file system; what it maps may be the process's death."""

    def __init__(self, trip: Trip) -> None:
        self.trip = trip
        self._stores = 0

    def map(self, fd: int, size: int) -> mmap.mmap:
        """As the real one's."""
        mapping = super().map(fd, size)
        return DyingMapping(mapping, self) if self.trip.kind == "stores" else mapping  # type: ignore[return-value]

    def store_is_the_last(self) -> bool:
        """Whether the store that comes now is the n-th."""
        self._stores += 1
        return self._stores == self.trip.at


def make_sink(settings: Settings, trip: Trip) -> Sink:
    """As `Sink.from_settings`, with what the trip wants."""
    log = OutboxLog(settings, files=DyingFiles(trip))

    def start_thread() -> ForwarderThread:
        from tests.faults.switched_off import HastyPublisher

        thread = ForwarderThread(settings, log, publisher=lambda own: HastyPublisher(make_publisher(own)))
        thread.start()
        return thread

    if trip.off == "named-when-whole":
        from tests.faults.switched_off import create_segment_in_place

        vars(outbox_source)["create_segment"] = create_segment_in_place
    if trip.off == "stored-before-return":
        from tests.faults.switched_off import QueueInMemory

        return Sink(QueueInMemory(log), settings=settings)
    if trip.off == "acknowledged-by-broker":
        return Sink(log, settings=settings, start_forwarder=start_thread)
    if trip.kind == "stores":
        return Sink(log, settings=settings)
    return Sink.from_settings(settings)


def arm(trip: Trip) -> None:
    """From now on the process may die."""
    if trip.kind == "bytecodes":
        Bytecodes(trip.what, trip.at).arm()
    elif trip.kind == "calls":
        within = [name for name in trip.within.split(",") if name]
        dies = partial(_say_where, trip)
        Calls(trip.what.split(","), trip.at, after=trip.after, dies=dies, within=within).arm()


def _say_where(trip: Trip) -> bool:
    if trip.told:
        say(trip.told, trip.place)
    return True


def main(plan: Plan, trip: Trip) -> int:
    """Record, flush, close; 3 where something is pending."""
    notes = Notebook(plan.account)
    arm(trip)
    with make_sink(Settings.load(), trip) as sink:
        record(sink, plan, notes, 0)
        report = sink.flush(FLUSH_S)
    return 0 if report.complete or report.synced else 3


if __name__ == "__main__":
    sys.exit(main(Plan(**json.loads(sys.argv[1])), Trip(**json.loads(sys.argv[2]))))
