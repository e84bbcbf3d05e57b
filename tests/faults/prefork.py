"""What applications of preforking servers share: one Sink made before the fork, an account a process."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Final

from tests.faults.agent import Notebook, digest, payload

from skillaudit.contract.settings import Settings
from skillaudit.producer import Sink, SkillRun

DIRECTORY: Final = "FAULTS_DIRECTORY"
OFF: Final = "FAULTS_OFF"


class Application:
    """Made in the master, used in its workers."""

    def __init__(self) -> None:
        self._directory = Path(os.environ[DIRECTORY])
        self._notes: dict[int, Notebook] = {}
        self.sink = self._make_sink(os.environ.get(OFF, ""))
        self.inherited = self.sink.start_run(SkillRun(skill_id="master", caller_id="before the fork"))
        self.note(run=self.inherited.run_id, begin=0)

    def _make_sink(self, off: str) -> Sink:
        if off == "fork-noticed":
            from tests.faults.switched_off import DeafToForks

            settings = Settings.load()
            return Sink(DeafToForks(settings), settings=settings)
        return Sink.from_settings()

    def note(self, **entry: object) -> None:
        """In the account of this process."""
        pid = os.getpid()
        if pid not in self._notes:
            self._notes[pid] = Notebook(str(self._directory / f"account-{pid}.jsonl"))
        self._notes[pid].note(**entry)

    def work(self, number: int) -> None:
        """What one request or task does: a run."""
        chance = random.Random(f"{os.getpid()} {number}")
        with self.sink.start_run(SkillRun(skill_id="request", caller_id=str(number))) as run:
            self.note(run=run.run_id, begin=number)
            for step in range(chance.randrange(1, 8)):
                content = payload(chance, 300, step)
                run.log("step", content)
                self.note(run=run.run_id, seq=run.sequence, sha256=digest(content))
            logs = run.sequence
            run.finish(output="done")
            self.note(run=run.run_id, end=logs)
        self.note(done=number, pid=os.getpid())
