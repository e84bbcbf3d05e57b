"""freshness_p50_ms, freshness_p99_ms: from the return of `run.step` to the row that a reader sees, at 5,000 events/s.

An agent's process records 5,000 events a second over 50 runs, through forwarder, broker and consumer. One of its runs is
the probe: 100 events a second whose payload says when the call was made. A reader in the consumer's process asks for the
probe's newest events every few milliseconds, as a live page would.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.harness import result
from skillaudit.contract.clock import uuid7
from skillaudit.contract.settings import PREFIX, Settings
from skillaudit.producer.kafka import KafkaTopicAdmin
from skillaudit.producer.topics import ensure_topics, plan_topics
from skillaudit.storage.hosting import HostedConsumer, host_consumer

RATE = 5_000
SECONDS = 20
WARM_UP_SECONDS = 4
RUNS = 50
PROBE_EVERY = RATE // 100
PAYLOAD_CHARACTERS = 400
LOOK_INTERVAL_S = 0.004
END_TIMEOUT_S = 60.0

_AGENT = """
import sys, time
from benchmarks.freshness import agent
agent(sys.argv[1])
"""


def agent(probe_id: str) -> None:
    """Record at the rate, catching up where a pause was too long."""
    from skillaudit.producer import Sink, SkillRun

    text = "x" * PAYLOAD_CHARACTERS
    total = RATE * SECONDS
    with Sink.from_settings() as sink:
        probe = sink.start_run(SkillRun(id=probe_id, skill_id="probe"))
        runs = [sink.start_run(SkillRun(skill_id="load")) for _ in range(RUNS)]
        began = time.perf_counter()
        done = 0
        while done < total:
            due = min(int((time.perf_counter() - began) * RATE), total)
            while done < due:
                if done % PROBE_EVERY == 0:
                    probe.log("step", {"at": time.time_ns(), "text": text})
                else:
                    runs[done % RUNS].log("step", {"n": done, "text": text})
                done += 1
            time.sleep(0.002)
        for run in (*runs, probe):
            run.finish()


async def look(hosted: HostedConsumer, probe_id: str) -> list[float]:
    """Milliseconds from call to sight, for each of the probe's events after the warm-up."""
    seen, latencies = 0, []
    deadline = time.monotonic() + SECONDS + END_TIMEOUT_S
    expected = RATE * SECONDS // PROBE_EVERY
    while seen < expected:
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {seen} of {expected} probe events came to sight")
        page = await hosted.reader.page_logs_by_run(probe_id, seen + 1, 500, 1 << 24)
        now_ns = time.time_ns()
        for log in page.events:
            seen = log.sequence
            if seen > expected * WARM_UP_SECONDS / SECONDS:
                latencies.append((now_ns - log.payload["at"]) / 1e6)
        await asyncio.sleep(LOOK_INTERVAL_S)
    return latencies


async def measure(bootstrap: str) -> list[float]:
    mark, probe_id = uuid7()[-12:], uuid7()
    with tempfile.TemporaryDirectory() as directory:
        settings = replace(
            Settings(kafka_bootstrap_servers=bootstrap),
            data=Path(directory),
            kafka_topic=f"bench.{mark}.events",
            kafka_control_topic=f"bench.{mark}.control",
        )
        plans = plan_topics(settings, replication=1)[:1]
        environ = {
            **os.environ,
            f"{PREFIX}DATA": str(settings.data),
            f"{PREFIX}KAFKA_BOOTSTRAP_SERVERS": bootstrap,
            f"{PREFIX}KAFKA_TOPIC": settings.kafka_topic,
        }
        async with KafkaTopicAdmin(settings) as admin:
            await ensure_topics(admin, plans)
            try:
                async with host_consumer(settings, serve=False) as hosted:
                    process = await asyncio.create_subprocess_exec(
                        sys.executable, "-c", _AGENT, probe_id, env=environ
                    )
                    try:
                        latencies = await look(hosted, probe_id)
                        await process.wait()
                    finally:
                        if process.returncode is None:
                            process.kill()
                            await process.wait()
                return latencies
            finally:
                await admin.delete([plan.name for plan in plans])


def main() -> list[dict[str, Any]]:
    latencies = asyncio.run(measure(os.environ["SKILLAUDIT_BENCH_KAFKA"]))
    p50, p99 = statistics.quantiles(latencies, n=100)[49], statistics.quantiles(latencies, n=100)[98]
    return [result("freshness_p50_ms", p50, "ms"), result("freshness_p99_ms", p99, "ms")]
