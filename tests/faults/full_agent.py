"""An agent process in best-effort mode, with a small outbox: it goes on when there is no room, and notes what was dropped.

`python -m tests.faults.full_agent PLAN OFF`, settings from the environment. After a call has returned the log either holds one
record more, or the event was dropped, which the report of `flush` counts. The account says so by lines beside the
oracle's: {"run": ID, "lost": 1, "seq_lost": n}; at the end {"lost_in_all": n} as the last report has it.
"""

from __future__ import annotations

import dataclasses
import json
import random
import sys
import time
from pathlib import Path

from tests.faults.agent import Plan
from tests.faults.notes import Notebook, NotedRun, payload

from skillaudit.contract.errors import OutboxFullError
from skillaudit.contract.eventlog import RecordKind
from skillaudit.contract.settings import Settings
from skillaudit.producer import Sink
from skillaudit.producer.outbox import OutboxLog


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fullness:
    """How it is made full, and told to go on."""

    laps: int
    """How often it is full and gets room again: it makes a file `lap-N` beside its account and waits until that is gone."""
    dropped_a_lap: int = 40
    seed: int = 0
    off: str = ""


class Silent(OutboxLog):
    """An outbox that drops what it has no room for, and tells nobody."""

    def append(self, key: str, record: bytes, kind: RecordKind, *, wait_ms: int) -> int:
        """Dropped, as if it had been taken."""
        try:
            return super().append(key, record, kind, wait_ms=wait_ms)
        except OutboxFullError:
            return self.position


def begin(sink: Sink, notes: Notebook, chance: random.Random, number: int) -> NotedRun:
    """A start is never dropped."""
    return NotedRun(sink.start_run, notes, chance, number, skill_id="best effort")


def log(sink: Sink, run: NotedRun, chance: random.Random, size_bytes: int) -> bool:
    """One event; whether it was kept."""
    outbox = sink.log
    assert isinstance(outbox, OutboxLog)
    before = outbox.records
    return run.log(payload(chance, size_bytes, run.logs + 1), kept=lambda: outbox.records > before)


def main(plan: Plan, fullness: Fullness) -> int:
    """Lap after lap."""
    notes, chance = Notebook(plan.account), random.Random(f"{plan.seed} {fullness.seed}")
    settings = Settings.load()
    kind = Silent if fullness.off == "declared-losses" else OutboxLog
    with Sink(kind(settings), settings=settings) as sink:
        running = [begin(sink, notes, chance, n) for n in range(plan.open_at_once)]
        for lap in range(fullness.laps):
            dropped = 0
            while dropped < fullness.dropped_a_lap:
                run = chance.choice(running)
                dropped += not log(sink, run, chance, plan.payload_bytes)
            for _ in range(3):  # starts and finishes find room all the same
                run = running.pop(chance.randrange(len(running)))
                run.finish()  # tells how many events there were, those that were dropped included
                running.append(begin(sink, notes, chance, lap))
            _wait_for_room(Path(plan.account).with_suffix(f".lap-{lap}"))
        for run in running:
            for _ in range(chance.randrange(3)):
                log(sink, run, chance, 100)
            run.finish()
        report = sink.flush(0)
        notes.note(lost_in_all=report.lost)
    return 0


def _wait_for_room(lap: Path) -> None:
    lap.touch()
    while lap.exists():
        time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main(Plan(**json.loads(sys.argv[1])), Fullness(**json.loads(sys.argv[2]))))
