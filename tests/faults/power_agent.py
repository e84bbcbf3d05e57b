"""An agent under power losses: records until it is killed, and now and then flushes and notes that.

`python -m tests.faults.power_agent PLAN`: as `agent.py`. After a flush that reported all as acknowledged, or as synced
where nobody consumes, it notes {"flushed": 1}: the lines before that are what must survive the machine.
"""

from __future__ import annotations

import json
import random
import sys

from tests.faults.agent import Notebook, Plan, digest, payload

from skillaudit.producer import Sink, SkillRun

FLUSH_EVERY = 40
FLUSH_S = 20.0


def main(plan: Plan) -> None:
    """Record, until somebody ends it."""
    notes, chance = Notebook(plan.account), random.Random(plan.seed)
    sink = Sink.from_settings()
    for number in range(plan.runs):
        run = sink.start_run(SkillRun(skill_id="power"))
        notes.note(run=run.run_id, begin=number)
        for seq in range(1, chance.randint(plan.logs_min, plan.logs_max) + 1):
            content = payload(chance, plan.payload_bytes, seq)
            run.log("step", content)
            notes.note(run=run.run_id, seq=seq, sha256=digest(content))
            if chance.randrange(FLUSH_EVERY) == 0:
                report = sink.flush(FLUSH_S)
                if report.complete or report.synced:
                    notes.note(flushed=1)
        logs = run.sequence
        run.finish(output="done")
        notes.note(run=run.run_id, end=logs)


if __name__ == "__main__":
    main(Plan(**json.loads(sys.argv[1])))
