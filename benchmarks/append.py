"""`append_1kb_us` and `append_8_threads` of the outbox alone, and `step_1kb_us`, the whole call of an agent.

The whole call is `run.step`: encoding, number, digest, manifest and append; its baseline is `append_1kb_us`.

The rate of a plain `os.write` to a file under a lock, on the same disk, is the baseline of the first; the rate of one
thread that of the second. The medians of paired rounds are compared, because other work on the machine comes in waves.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from zlib import crc32

from benchmarks.harness import result
from skillaudit.contract.eventlog import RecordKind
from skillaudit.contract.settings import Settings
from skillaudit.producer import Sink, SkillRun
from skillaudit.producer.outbox import OutboxLog

RECORD = b'{"v":1,"type":"run.log","payload":"' + b"x" * (1024 - 37) + b'"}'
APPENDS = 40_000
ROUNDS = 9


def append_us(log: OutboxLog, threads: int) -> float:
    """Wall time of one append, all threads together doing `APPENDS`."""
    append, kind = log.append, RecordKind.LOG

    def work() -> None:
        for _ in range(APPENDS // threads):
            append("key", RECORD, kind, wait_ms=0)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    begun = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return (time.perf_counter() - begun) / APPENDS * 1e6


def step_us(settings: Settings) -> float:
    """One `run.step` with 1 kB of content."""
    with Sink.from_settings(settings) as sink, sink.start_run(SkillRun(skill_id="bench")) as run:
        content = "x" * 900
        begun = time.perf_counter()
        for _ in range(APPENDS):
            run.step(content, model="m")
        return (time.perf_counter() - begun) / APPENDS * 1e6


def write_us(directory: Path) -> float:
    """The plainest durable log: the same line by `os.write` under a lock."""
    lock = threading.Lock()
    fd = os.open(directory / "plain", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o600)
    begun = time.perf_counter()
    for _ in range(APPENDS):
        line = b"%b\t%08x\n" % (RECORD, crc32(RECORD))
        with lock:
            os.write(fd, line)
    elapsed = time.perf_counter() - begun
    os.close(fd)
    return elapsed / APPENDS * 1e6


def main() -> list[dict[str, Any]]:
    single, eight, plain, steps = [], [], [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as name:
            settings = Settings(data=Path(name), outbox_bytes_max=1 << 40, outbox_free_bytes_min=0)
            log = OutboxLog(settings)
            log.append("key", RECORD, RecordKind.LOG, wait_ms=0)
            single.append(append_us(log, 1))
            eight.append(append_us(log, 8))
            log.close(0)
            plain.append(write_us(Path(name)))
            steps.append(step_us(settings))
    one, many, write, step = (statistics.median(times) for times in (single, eight, plain, steps))
    return [
        result(
            "append_1kb_us",
            one,
            "us",
            baseline="os.write of the same line under a lock",
            baseline_value=write,
            ratio=statistics.median(a / b for a, b in zip(single, plain, strict=True)),
        ),
        result(
            "append_8_threads",
            1e6 / many,
            "appends/s",
            baseline="one thread",
            baseline_value=1e6 / one,
            ratio=statistics.median(a / b for a, b in zip(single, eight, strict=True)),
        ),
        result(
            "step_1kb_us",
            step,
            "us",
            baseline="append_1kb_us",
            baseline_value=one,
            ratio=statistics.median(a / b for a, b in zip(steps, single, strict=True)),
        ),
    ]


if __name__ == "__main__":
    for line in main():
        print(line)
