"""An agent process that records as it is told, in best-effort mode, while it beats: its one run is open all the time.

`python -m tests.faults.loud_agent PLAN OFF`, settings from the environment. What it is told stands in a file beside its account, see
`tell`; the file goes when it is done. Its account says besides, for each event that was dropped, {"run": ID, "lost": 1}.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

from tests.faults.agent import Plan
from tests.faults.notes import Notebook, NotedRun

from skillaudit.contract.outbox.directory import Backlog
from skillaudit.contract.settings import Settings
from skillaudit.producer import Sink
from skillaudit.producer.outbox import OutboxLog

TOLD_NOTHING_S_MAX = 300.0
"""Then whoever tells it what to do has gone."""


def told_file(account: str | Path) -> Path:
    """Where the agent of this account is told what to do."""
    return Path(account).with_suffix(".told")


def tell(account: str | Path, **words: int) -> Path:
    """`events` of `size_bytes` each; `drop`: record until so many were dropped; `end`: finish and end."""
    path = told_file(account)
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(words))
    beside.rename(path)
    return path


class Mute(OutboxLog):
    """Says nothing of what waits."""

    def backlog(self) -> Backlog:
        """Nothing."""
        return Backlog()


def log(sink: Sink, run: NotedRun, size_bytes: int) -> bool:
    """One event; whether it was kept."""
    source = sink._source_here()
    assert source is not None
    before, content = source.lost, {"n": run.logs + 1, "text": "x" * size_bytes}
    return run.log(content, plain=True, kept=lambda: source.lost == before)


def obey(sink: Sink, run: NotedRun, words: dict[str, int]) -> None:
    """Do it."""
    size_bytes, dropped = words.get("size_bytes", 200), 0
    for _ in range(words.get("events", 0)):
        assert log(sink, run, size_bytes), "no room"
    while dropped < words.get("drop", 0):
        dropped += not log(sink, run, size_bytes)


def main(plan: Plan, off: str) -> int:
    """Until told to end."""
    notes, settings, told = Notebook(plan.account), Settings.load(), told_file(plan.account)
    deadline_s = time.monotonic() + TOLD_NOTHING_S_MAX
    with Sink((Mute if off else OutboxLog)(settings), settings=settings) as sink:
        chance = random.Random(plan.seed)
        run = NotedRun(sink.start_run, notes, chance, skill_id="loud", caller_id=settings.outbox_dir.name)
        while time.monotonic() < deadline_s:
            if not told.exists():
                time.sleep(0.01)
                continue
            words = json.loads(told.read_text())
            obey(sink, run, words)
            if "end" in words:
                break
            told.unlink()
        run.finish()
        report = sink.flush(plan.flush_s)
        told.unlink()
    print(report, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(Plan(**json.loads(sys.argv[1])), sys.argv[2]))
