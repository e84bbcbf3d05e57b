"""Best effort chosen: what is dropped for want of room is counted, and the gap is visible where it is."""

from __future__ import annotations

import json
from pathlib import Path

from tests.faults.full_agent import Fullness
from tests.faults.kills import PATIENT_CASE_S, PATIENT_S, Workers, forward_to_the_end, read_to_the_end
from tests.faults.oracle import judge, must
from tests.faults.rows import Case, row
from tests.faults.stage import (
    consume_all,
    database,
    embedded,
    forward_all,
    shared_broker,
    through_kafka,
)
from tests.support.waiting import until

from skillaudit.contract.settings import Settings

SMALL = {
    "outbox_on_full": "count",
    "outbox_bytes_max": 1 << 20,
    "outbox_reserve_bytes": 64 * 1024,
    "outbox_block_ms_max": 0,
    "segment_bytes": 64 * 1024,
    "flush_timeout_ms": 0,
}
LAPS = 3
SILENT = {
    "declared-losses": "an outbox that drops what it has no room for and returns as if it had been taken"
}


@row(
    "best-effort-outbox-full",
    about="outbox_on_full=count and an outbox of 1 MiB that nobody reads: three times full, with a reader in between; starts and finishes go on",
    judge="besides: every run declares exactly the numbers that its agent was told are lost",
    full=50,
    share=3,
    off=SILENT,
    test=3,
    case_s_max=PATIENT_CASE_S,
    off_in_tests=False,
)
async def outbox_full(case: Case) -> None:
    """Every run reads declared-loss with exactly the numbers that its agent was told, or complete."""
    await _fill(case, embedded(case, **SMALL))


@row(
    "best-effort-broker-away",
    about="the same through a broker: the forwarder is away while the outbox fills",
    judge="besides: every run declares exactly the numbers that its agent was told are lost",
    full=20,
    share=3,
    test=1,
    off=SILENT,
    off_in_tests=False,
    resource=shared_broker,
    broker=True,
    case_s_max=PATIENT_CASE_S,
)
async def broker_away(case: Case) -> None:
    """What the broker gets says what it does not get."""
    await _fill(case, await through_kafka(case, case.resource, forwarder="host", **SMALL))


async def _fill(case: Case, settings: Settings) -> None:
    plan = {"open_at_once": 6, "payload_bytes": 3_000}
    fullness = Fullness(laps=LAPS, seed=case.seed, off=case.switched_off)
    agents = Workers(case, settings, [plan], module="tests.faults.full_agent", arguments=[fullness])
    (account,) = agents.account_files
    async with agents:
        for lap in range(LAPS):
            full = account.with_suffix(f".lap-{lap}")
            await until(lambda own=full: own.exists() or not agents.processes[0].running, PATIENT_S)
            assert full.exists(), agents.processes[0].said()[-900:]
            await (
                forward_all(settings, PATIENT_S) if settings.uses_kafka else consume_all(settings, PATIENT_S)
            )
            full.unlink()
        await agents.join(PATIENT_S)
    if settings.uses_kafka:
        await forward_to_the_end(settings)
    await read_to_the_end(settings)
    case.injections = LAPS
    _check(case, settings, agents, account)


def _check(case: Case, settings: Settings, agents: Workers, account: Path) -> None:
    entries = [json.loads(line) for line in account.read_bytes().splitlines()]
    told: dict[str, list[int]] = {}
    for entry in entries:
        if "seq_lost" in entry:
            told.setdefault(entry["run"], []).append(entry["seq_lost"])
    (reported,) = [entry["lost_in_all"] for entry in entries if "lost_in_all" in entry]
    with database(settings) as cursor:
        verdict = judge(cursor, agents.noted())
        stored = cursor.execute("SELECT id, lost, completeness FROM main.runs").fetchall()
    must(verdict, str(verdict))
    assert told, "the outbox was never full"
    must(
        reported == sum(map(len, told.values())),
        f"{reported} reported, {sum(map(len, told.values()))} dropped",
    )
    for run_id, ranges, completeness in stored:
        must(
            _numbers(ranges) == told.get(run_id, []), f"{run_id} declares {ranges!r}, told {told.get(run_id)}"
        )
        must(completeness == ("declared-loss" if run_id in told else "complete"), (run_id, completeness))
    case.events += verdict.events
    case.note(runs=verdict.runs, dropped=reported)


def _numbers(ranges: str) -> list[int]:
    """`1-3,7` as numbers."""
    numbers: list[int] = []
    for part in filter(None, ranges.split(",")):
        low, _, high = part.partition("-")
        numbers += range(int(low), int(high or low) + 1)
    return numbers
