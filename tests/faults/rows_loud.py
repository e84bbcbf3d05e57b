"""Losses are loud: what goes wrong anywhere shows in the consumer's figures, its log and its progress line, with its name."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import time
import urllib.request
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

from aiokafka import AIOKafkaProducer
from tests.faults.oracle import BrokenError, must
from tests.faults.rows import Case, row
from tests.faults.stage import (
    Agents,
    check,
    consume_all,
    database,
    forward_all,
    shared_broker,
    stop_process,
    through_kafka,
    wake_process,
)
from tests.faults.stage_kafka import read_batches
from tests.pipeline.support import Command
from tests.support.waiting import until

from skillaudit.cli.consume import progress_text
from skillaudit.consumer.figures import StoredReader
from skillaudit.contract.settings import Settings
from skillaudit.storage.hosting import HostedConsumer, host_consumer

HOST = socket.gethostname()
_LINE = re.compile(r"^(skillaudit_\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
TIMES = {"abandon_after_ms": 5_000, "heartbeat_interval_ms": 200}
AGENT = {"runs": 2, "logs_min": 3, "logs_max": 3, "events_per_s": 0.02}
"""Starts a run at once and does nothing for fifty seconds: it waits for a person."""
EXPLAINED = ("dead_letters", "conflicts", "incidents")
Figures = dict[tuple[str, str], float]


async def figures_of(url: str) -> Figures:
    """(name, labels) -> value, as Prometheus would read them."""

    def read() -> str:
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
            return answer.read().decode()

    text = await asyncio.to_thread(read)
    return {(name, labels or ""): float(value) for name, labels, value in _LINE.findall(text)}


def _of_host(figures: Figures, name: str, **labels: str) -> float:
    wanted = {"host": HOST, **labels}
    for (found, text), value in figures.items():
        if found == f"skillaudit_host_{name}" and all(f'{k}="{v}"' in text for k, v in wanted.items()):
            return value
    return 0.0


async def shows(url: str, what: str, condition: Any) -> None:
    async def shown() -> bool:
        return bool(condition(await figures_of(url)))

    try:
        await until(shown, 30)
    except TimeoutError:
        hosts = {key: value for key, value in (await figures_of(url)).items() if "host" in key[0]}
        raise BrokenError(f"{what} does not show: {hosts}") from None


@contextlib.contextmanager
def hearing() -> Generator[list[str]]:
    """The warnings that this process's halves of the product say meanwhile."""
    lines: list[str] = []

    class Hearing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler, logger = Hearing(logging.WARNING), logging.getLogger("skillaudit")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def said(lines: Sequence[str], words: str) -> int:
    """How many of that the lines tell together."""
    found = [line for line in lines if words in line]
    return sum(int(line.partition(" ")[0].replace(",", "")) for line in found)


def line_of(hosted: HostedConsumer) -> str:
    """What `skillaudit consume` would say now."""
    figures = StoredReader(hosted.service).read()
    return progress_text(hosted.service.status, figures, time.time_ns() // 1_000)


async def _another_start(settings: Settings) -> tuple[int, bytes]:
    """Of a run that began another start, which another process would have made: its partition and its bytes."""
    held = await read_batches(settings, settings.kafka_topic)
    return next(
        (partition, re.sub(rb'"tag":"[0-9a-f]{16}"', b'"tag":"0123456789abcdef"', value))
        for partition, records in held.items()
        for _, value in records
        if b'"type":"run.started"' in value
    )


async def _inject(settings: Settings, values: Sequence[bytes], partition: int = 0) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers)
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait(settings.kafka_topic, value, partition=partition)
    finally:
        await producer.stop()


@row(
    "losses-are-loud",
    about="A host's forwarder that is stuck and wakes, records that are no events, a run's start that comes with other content: each shows in the consumer's "
    "figures, log and progress line, by host where it has one, and goes when it is mended",
    full=20,
    share=1,
    test=0,
    off={"heartbeats": "the source beats once an hour"},
    off_in_tests=False,
    off_in_share=False,
    resource=shared_broker,
    broker=True,
    not_in_tests="long",
)
async def losses_are_loud(case: Case) -> None:
    """The host's sources fall silent, then its backlog is told, then both are gone."""
    beats = {"heartbeat_interval_ms": 3_600_000} if case.switched_off else {}
    settings = await through_kafka(case, case.resource, forwarder="host", **(TIMES | beats))
    served = replace(settings, http_listen="127.0.0.1:0")
    async with contextlib.AsyncExitStack() as stack:
        lines = stack.enter_context(hearing())
        hosted = await stack.enter_async_context(host_consumer(served, serve=True))
        forward = await stack.enter_async_context(Command(settings, "forward", logs=case.directory))
        agents = await stack.enter_async_context(Agents(case, settings, [AGENT]))
        await shows(hosted.url, "the host", lambda now: _of_host(now, "sources", state="live") == 1)
        await asyncio.sleep(2 * TIMES["abandon_after_ms"] / 1_000)  # so long it must not fall silent
        figures = await figures_of(hosted.url)
        must(_of_host(figures, "sources", state="silent") == 0, "a working host reads silent")
        stop_process(forward.pid)
        await shows(
            hosted.url,
            "a stuck forwarder",
            lambda now: (
                _of_host(now, "sources", state="silent") == 1 and _of_host(now, "silence_seconds") > 1
            ),
        )
        wake_process(forward.pid)
        await shows(
            hosted.url, "the host's return", lambda now: _of_host(now, "sources", state="silent") == 0
        )
        await _inject(settings, [b"{", b"no event"])
        await shows(
            hosted.url,
            "a dead letter",
            lambda now: now.get(("skillaudit_dead_letters", 'state="waiting"')) == 2,
        )
        must(said(lines, "kept as dead letters") >= 1, f"the log is silent about dead letters: {lines}")
        partition, start = await _another_start(settings)
        await _inject(settings, [start], partition)
        await shows(hosted.url, "a conflict", lambda now: now.get(("skillaudit_conflicts", "")) == 1)
        must(said(lines, "kept aside as conflicts") == 1, f"the log is silent about conflicts: {lines}")
        told = line_of(hosted)
        must("1 conflict, 2 dead letters" in told, told)
        figures = await figures_of(hosted.url)
        lags = {labels for name, labels in figures if name == "skillaudit_consumer_lag_offsets"}
        filled = [n for n, held in (await read_batches(settings, settings.kafka_topic)).items() if held]
        must(
            len(lags) >= len(filled),
            f"the lag of {len(lags)} partitions is told, of {len(filled)} that hold any",
        )
        standing = {labels for name, labels in figures if name == "skillaudit_consumer_position_offsets"}
        must(standing == lags, f"positions are told of {standing}, and lag of {lags}")
        await agents.processes[0].kill()
        await forward.terminate()
    must(said(lines, "kept as dead letters") == 2, f"the log tells of other dead letters: {lines}")
    await forward_all(settings)
    await consume_all(settings)
    check(case, settings, agents.noted(), expected=EXPLAINED, killed_threads=1)
    with database(settings) as cursor:
        kinds = cursor.execute("SELECT kind FROM main.incidents").fetchall()
    must(kinds == [("conflict",)], kinds)
