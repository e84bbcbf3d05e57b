"""Losses are loud: what goes wrong anywhere shows in the consumer's figures, with its name."""

from __future__ import annotations

import asyncio
import re
import socket
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from aiokafka import AIOKafkaProducer
from tests.faults.rows import Case, row
from tests.faults.stage import (
    Agents,
    check,
    consume_all,
    forward_all,
    shared_broker,
    stop_process,
    through_kafka,
    wake_process,
)
from tests.faults.stage_kafka import read_batches
from tests.pipeline.support import Command
from tests.support.waiting import until

from skillaudit.contract.settings import Settings
from skillaudit.storage.hosting import host_consumer

HOST = socket.gethostname()
_LINE = re.compile(r"^(skillaudit_\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
TIMES = {"abandon_after_ms": 1_500, "heartbeat_interval_ms": 200}
AGENT = {"runs": 2, "logs_min": 3, "logs_max": 3, "events_per_s": 0.02}
"""Starts a run at once and does nothing for fifty seconds: it waits for a person."""
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
        raise AssertionError(f"{what} does not show: {hosts}") from None


async def _inject(settings: Settings, values: Sequence[bytes]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers)
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait(settings.kafka_topic, value, partition=0)
    finally:
        await producer.stop()


@row(
    "losses-are-loud",
    about="A host's forwarder that is stuck and wakes, records that are no events: each shows in the consumer's figures, by host, and goes when it is mended",
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
    async with (
        host_consumer(served, serve=True) as hosted,
        Command(settings, "forward", logs=case.directory) as forward,
        Agents(case, settings, [AGENT]) as agents,
    ):
        await shows(hosted.url, "the host", lambda now: _of_host(now, "sources", state="live") == 1)
        await asyncio.sleep(2 * TIMES["abandon_after_ms"] / 1_000)  # so long it must not fall silent
        figures = await figures_of(hosted.url)
        assert _of_host(figures, "sources", state="silent") == 0, "a working host reads silent"
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
        figures = await figures_of(hosted.url)
        lags = {labels for name, labels in figures if name == "skillaudit_consumer_lag_offsets"}
        filled = [n for n, held in (await read_batches(settings, settings.kafka_topic)).items() if held]
        assert len(lags) >= len(filled), (
            f"the lag of {len(lags)} partitions is told, of {len(filled)} that hold any"
        )
        await agents.processes[0].kill()
        await forward.terminate()
    await forward_all(settings)
    await consume_all(settings)
    check(case, settings, agents.noted(), expected=("dead_letters",), deaths_allowed=True)
