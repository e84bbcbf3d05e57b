"""What applications of preforking servers share: one Sink made before the fork, an account a process."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path
from typing import Final

from tests.faults.notes import Notebook, NotedRun, payload

from skillaudit.contract.settings import Settings
from skillaudit.producer import Sink

DIRECTORY: Final = "FAULTS_DIRECTORY"
OFF: Final = "FAULTS_OFF"


class Application:
    """Made in the master, used in its workers."""

    def __init__(self) -> None:
        self._directory = Path(os.environ[DIRECTORY])
        self._notes: dict[int, Notebook] = {}
        self.sink = self._make_sink(os.environ.get(OFF, ""))
        self.inherited = self.begin(random.Random(), 0, skill_id="master", caller_id="before the fork")

    def _make_sink(self, off: str) -> Sink:
        if off == "fork-noticed":
            from tests.faults.switched_off import DeafToForks

            settings = Settings.load()
            return Sink(DeafToForks(settings), settings=settings)
        return Sink.from_settings()

    def notes(self) -> Notebook:
        """The account of this process."""
        pid = os.getpid()
        if pid not in self._notes:
            self._notes[pid] = Notebook(str(self._directory / f"account-{pid}.jsonl"))
        return self._notes[pid].by(threading.current_thread().name)

    def begin(self, chance: random.Random, number: int, **members: str) -> NotedRun:
        """A run of this process."""
        return NotedRun(self.sink.start_run, self.notes(), chance, number, **members)

    def work(self, number: int) -> None:
        """What one request or task does: a run."""
        chance = random.Random(f"{os.getpid()} {number}")
        run = self.begin(chance, number, skill_id="request", caller_id=str(number))
        with run.writer:
            for step in range(chance.randrange(1, 8)):
                run.log(payload(chance, 300, step))
            run.finish()
        self.notes().note(done=number, pid=os.getpid())
