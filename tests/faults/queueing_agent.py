"""`agent.py` with an event log that keeps events in a bounded queue in memory, and drops what finds it full.

`python -m tests.faults.queueing_agent PLAN`.
"""

import json
import sys

from tests.faults.agent import Plan, main
from tests.faults.switched_off import DroppingQueue

from skillaudit.contract.settings import Settings
from skillaudit.producer import Sink
from skillaudit.producer.outbox import OutboxLog


def make_sink() -> Sink:
    """As settings say, behind the queue."""
    settings = Settings.load()
    return Sink(DroppingQueue(OutboxLog(settings)), settings=settings)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main(Plan(**json.loads(sys.argv[1])), make_sink))
