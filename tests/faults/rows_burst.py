"""Bursts: as many events as the calls take, from one process and from several."""

from __future__ import annotations

from tests.faults.rows import Case, row
from tests.faults.stage import Agents, check, consume_all, drain, embedded, shared_broker, through_kafka

EVENTS = 20_000
QUEUE = {
    "bounded-by-disk": "a queue of 1,000 events in memory, emptied every five seconds, drops what finds it full"
}
RUNS = 40


def _module(case: Case) -> str:
    return "tests.faults.queueing_agent" if case.switched_off else "tests.faults.agent"


def _plans(processes: int, **more: object) -> list[dict[str, object]]:
    logs = EVENTS // RUNS // processes
    return [
        {"runs": RUNS, "open_at_once": 8, "logs_min": logs, "logs_max": logs, "payload_bytes": 1_000} | more
        for _ in range(processes)
    ]


@row(
    "burst-one-process",
    about="20,000 events of 1 kB in a tight loop from one process, through a broker",
    full=20,
    share=1,
    off=QUEUE,
    off_cases_max=2,
    resource=shared_broker,
    broker=True,
    off_in_share=False,
    off_in_tests=False,
)
async def burst_one(case: Case) -> None:
    """Nothing is dropped by a queue: the outbox takes all of it."""
    settings = await through_kafka(case, case.resource)
    async with Agents(
        case, settings, _plans(1, flush_s=0.1 if case.switched_off else 60.0), module=_module(case)
    ) as agents:
        await agents.join()
    # A Sink around a queue has no thread that forwards: this does, and what was dropped stays lost.
    await drain(settings)
    check(case, settings, agents.noted())


@row(
    "burst-eight-processes",
    about="20,000 events of 1 kB in a tight loop from eight processes into one embedded outbox",
    full=20,
    share=1,
    off=QUEUE,
    off_cases_max=2,
)
async def burst_eight(case: Case) -> None:
    """Eight writers, one directory."""
    settings = embedded(case)
    async with Agents(case, settings, _plans(8), module=_module(case)) as agents:
        await agents.join()
    await consume_all(settings)
    check(case, settings, agents.noted())
