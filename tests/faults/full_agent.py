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

from tests.faults.agent import Notebook, Plan, digest, payload

from skillaudit.contract.errors import OutboxFullError
from skillaudit.contract.eventlog import RecordKind
from skillaudit.contract.settings import Settings
from skillaudit.producer import Sink, SkillRun
from skillaudit.producer.outbox import OutboxLog
from skillaudit.producer.writer import Writer


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


def begin(sink: Sink, notes: Notebook, number: int) -> Writer:
    """A start is never dropped."""
    run = sink.start_run(SkillRun(skill_id="best effort", caller_id=str(number)))
    notes.note(run=run.run_id, begin=number)
    return run


def log(sink: Sink, run: Writer, notes: Notebook, chance: random.Random, size_bytes: int) -> bool:
    """One event; whether it was kept."""
    assert isinstance(sink.log, OutboxLog)
    before, content = sink.log.records, payload(chance, size_bytes, run.sequence + 1)
    run.log("step", content)
    if sink.log.records > before:
        notes.note(run=run.run_id, seq=run.sequence, sha256=digest(content))
        return True
    notes.note(run=run.run_id, lost=1, seq_lost=run.sequence)
    return False


def end(run: Writer, notes: Notebook) -> None:
    """A finish is never dropped either; it tells how many events there were, those that were dropped included."""
    logs = run.sequence
    run.finish(output="done")
    notes.note(run=run.run_id, end=logs)


def main(plan: Plan, fullness: Fullness) -> int:
    """Lap after lap."""
    notes, chance = Notebook(plan.account), random.Random(f"{plan.seed} {fullness.seed}")
    settings = Settings.load()
    kind = Silent if fullness.off == "declared-losses" else OutboxLog
    with Sink(kind(settings), settings=settings) as sink:
        running = [begin(sink, notes, n) for n in range(plan.open_at_once)]
        for lap in range(fullness.laps):
            dropped = 0
            while dropped < fullness.dropped_a_lap:
                run = chance.choice(running)
                dropped += not log(sink, run, notes, chance, plan.payload_bytes)
            for _ in range(3):  # starts and finishes find room all the same
                run = running.pop(chance.randrange(len(running)))
                end(run, notes)
                running.append(begin(sink, notes, lap))
            _wait_for_room(Path(plan.account).with_suffix(f".lap-{lap}"))
        for run in running:
            for _ in range(chance.randrange(3)):
                log(sink, run, notes, chance, 100)
            end(run, notes)
        report = sink.flush(0)
        notes.note(lost_in_all=report.lost)
    return 0


def _wait_for_room(lap: Path) -> None:
    lap.touch()
    while lap.exists():
        time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main(Plan(**json.loads(sys.argv[1])), Fullness(**json.loads(sys.argv[2]))))
