"""An agent process that records one run under an id that another process uses, too.

`python -m tests.faults.twin_agent PLAN RUN_ID GO`: waits until the file GO is there, so that both begin at the same time.
The run's caller is the id of its source, so that the run tells whose start it is.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

from tests.faults.agent import Plan
from tests.faults.notes import Notebook, NotedRun, payload

from skillaudit.producer import Sink
from skillaudit.producer.outbox import OutboxLog


def main(plan: Plan, run_id: str, go: Path) -> None:
    """Record it, and close."""
    chance = random.Random(plan.seed)
    with Sink.from_settings() as sink:
        assert isinstance(sink.log, OutboxLog)
        notes = Notebook(plan.account)  # the file says that this one is ready
        while not go.exists():
            time.sleep(0.001)
        run = NotedRun(
            sink.start_run, notes, chance, skill_id="twin", caller_id=sink.log.source_id, id=run_id
        )
        notes.note(source=sink.log.source_id)
        for _ in range(chance.randint(plan.logs_min, plan.logs_max)):
            run.log(payload(chance, plan.payload_bytes, run.logs))
        run.finish()


if __name__ == "__main__":
    main(Plan(**json.loads(sys.argv[1])), sys.argv[2], Path(sys.argv[3]))
