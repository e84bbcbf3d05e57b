"""Orders one act on the file of a data directory, and is killed at a chosen place on the way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path

import duckdb

from skillaudit.consumer import planning
from skillaudit.consumer.control_file import FileControlLog
from skillaudit.consumer.database import open_database
from skillaudit.consumer.following import ControlFollower
from skillaudit.consumer.materializer import Materializer
from skillaudit.contract.admin import ActOrder

ORDER = ActOrder(actor="ada")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DyingLog(FileControlLog):
    """Dies as soon as an act is written."""

    async def append(self, act_id: str, line: bytes) -> int:
        await super().append(act_id, line)
        die()
        raise AssertionError


class DyingWriter(Materializer):
    """Dies when everything of an act is done and not committed."""

    @contextlib.contextmanager
    def transaction(self, doing: str) -> Generator[duckdb.DuckDBPyConnection]:
        with super().transaction(doing) as cursor:
            yield cursor
            if doing.startswith("apply the act"):
                die()


async def main(data: Path, place: str, kind: str, run_id: str) -> None:
    log_type = DyingLog if place == "written" else FileControlLog
    writer_type = DyingWriter if place == "applied" else Materializer
    with open_database(data / "audit.duckdb") as database:
        writer = writer_type(database)

        async def in_writer(work, /):
            return work(writer)

        follower = ControlFollower(log_type(data / "control.jsonl"), in_writer)
        await follower.open()
        plans = {
            "purge": lambda: planning.plan_purge_of(ORDER, [run_id]),
            "redact": lambda: planning.plan_redact(ORDER, run_id, 1, None),
            "erase": lambda: planning.plan_erase(ORDER, [run_id]),
        }
        await follower.order(plans[kind]())


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:5]))
