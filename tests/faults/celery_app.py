"""A Celery application that records a run for each task, its queue in a directory; made before the pool is forked.

`python -m tests.faults.celery_app COUNT` sends tasks.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from celery import Celery
from tests.faults.prefork import DIRECTORY

QUEUE = Path(os.environ[DIRECTORY]) / "queue"
QUEUE.mkdir(exist_ok=True)

celery = Celery("faults", broker="filesystem://")
celery.conf.update(
    broker_transport_options={
        "data_folder_in": str(QUEUE),
        "data_folder_out": str(QUEUE),
        "control_folder": str(QUEUE.with_name("control")),
    },
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)

if __name__ != "__main__":
    from tests.faults.prefork import Application

    APPLICATION = Application()


@celery.task(name="work")
def work(number: int) -> None:
    """One run."""
    APPLICATION.work(number)


def main(count: int) -> None:
    """Send."""
    for number in range(count):
        celery.send_task("work", (number,))


if __name__ == "__main__":
    main(int(sys.argv[1]))
