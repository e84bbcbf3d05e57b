"""An agent under power losses: records until it is killed, and now and then flushes and notes that.

`python -m tests.faults.power_agent PLAN`: as `agent.py`. After a flush that reported all as acknowledged, or as synced
where nobody consumes, it notes {"flushed": 1}: the lines before that are what must survive the machine.
"""

from __future__ import annotations

import json
import random
import sys

from tests.faults.agent import Plan
from tests.faults.notes import Notebook, NotedRun, payload

from skillaudit.producer import Sink

FLUSH_EVERY = 40
FLUSH_S = 20.0


def main(plan: Plan) -> None:
    """Record, until somebody ends it."""
    notes, chance = Notebook(plan.account), random.Random(plan.seed)
    sink = Sink.from_settings()
    for number in range(plan.runs):
        run = NotedRun(sink.start_run, notes, chance, number, skill_id="power")
        for seq in range(1, chance.randint(plan.logs_min, plan.logs_max) + 1):
            run.log(payload(chance, plan.payload_bytes, seq))
            if chance.randrange(FLUSH_EVERY) == 0:
                report = sink.flush(FLUSH_S)
                if report.complete or report.synced:
                    notes.note(flushed=1)
        run.finish()


if __name__ == "__main__":
    main(Plan(**json.loads(sys.argv[1])))
