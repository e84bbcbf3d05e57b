"""As `agent.py`, without random source ids: a source is named after its host and process."""

from __future__ import annotations

import json
import os
import sys
from hashlib import sha256

from tests.faults.agent import Notebook, Plan, record

from skillaudit.contract.settings import Settings
from skillaudit.producer import Sink
from skillaudit.producer.outbox import OutboxLog


def main(plan: Plan) -> None:
    """Record and close."""
    settings = Settings.load()
    source_id = sha256(f"{os.uname().nodename} {os.getpid()}".encode()).hexdigest()[:32]
    with Sink(OutboxLog(settings, source_id=source_id), settings=settings) as sink:
        record(sink, plan, Notebook(plan.account), 0)


if __name__ == "__main__":
    main(Plan(**json.loads(sys.argv[1])))
