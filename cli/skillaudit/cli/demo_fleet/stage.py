"""The demonstration as a whole: topics, consumer, fleet, then the questions an analyst would ask."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Final

from skillaudit.cli.demo_fleet.account import Account
from skillaudit.cli.demo_fleet.report import print_report
from skillaudit.cli.demo_fleet.worker import KILLED_PROCESS, KILLED_SKILL, PROCESSES
from skillaudit.cli.output import stderr
from skillaudit.cli.running import ProgressLine
from skillaudit.contract.clock import uuid7
from skillaudit.contract.records import Liveness
from skillaudit.contract.settings import PREFIX, Settings
from skillaudit.contract.words import counted
from skillaudit.storage.hosting import HostedConsumer, host_consumer

KILL_AFTER_EVENTS: Final = 25
FLEET_TIMEOUT_S: Final = 120.0
SETTLE_TIMEOUT_S: Final = 60.0
WATCH_INTERVAL_S: Final = 0.05


async def run_demo(settings: Settings, *, keep: bool) -> bool:
    """Play it; whether everything that the fleet recorded is there."""
    async with _topics(settings, keep=keep) as staged, host_consumer(staged, serve=True, seal=True) as hosted:
        stderr().print(
            f"{PROCESSES} processes record into {_where(staged)}; a consumer materializes into {staged.database}"
        )
        began_s = time.monotonic()
        accounts = [staged.data / f"account-{number}.jsonl" for number in range(PROCESSES)]
        await _play(staged, hosted, accounts)
        account = Account.read(accounts)
        await _settle(staged, hosted, account)
        stderr().print(
            f"{counted(len(account.runs), 'run')} and {counted(account.events, 'event')} recorded, "
            f"{counted(hosted.service.status.records, 'record')} materialized in {time.monotonic() - began_s:.1f} s"
        )
        return await print_report(hosted.reader, account)


def _where(settings: Settings) -> str:
    return (
        f"Kafka at {settings.kafka_bootstrap_servers}"
        if settings.uses_kafka
        else f"the outbox {settings.outbox_dir}"
    )


@contextlib.asynccontextmanager
async def _topics(settings: Settings, *, keep: bool) -> AsyncGenerator[Settings]:
    """With a broker: topics of this demonstration alone, removed at its end."""
    if not settings.uses_kafka:
        yield settings
        return
    from skillaudit.producer.kafka import KafkaTopicAdmin
    from skillaudit.producer.topics import ensure_topics, plan_topics

    mark = uuid7()[-12:]
    staged = replace(
        settings,
        kafka_topic=f"skillaudit.demo.{mark}.events",
        kafka_control_topic=f"skillaudit.demo.{mark}.control",
    )
    plans = plan_topics(staged, replication=1, retention_days=1)
    async with KafkaTopicAdmin(staged) as admin:
        await ensure_topics(admin, plans)
        try:
            yield staged
        finally:
            if not keep:
                await admin.delete([plan.name for plan in plans])


async def _play(settings: Settings, hosted: HostedConsumer, accounts: list[Path]) -> None:
    """Run the fleet to its end, kill the one that is to be killed, and show how far everything is."""
    environ = _environment(settings)
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "skillaudit.cli.demo_fleet.worker", str(number), str(account), env=environ
        )
        for number, account in enumerate(accounts)
    ]
    line = ProgressLine(interval_s=0.25)
    ended = asyncio.gather(*(process.wait() for process in processes))
    killing = asyncio.ensure_future(_kill_in_mid_run(processes[KILLED_PROCESS], accounts[KILLED_PROCESS]))
    try:
        async with asyncio.timeout(FLEET_TIMEOUT_S):
            while not ended.done():
                await asyncio.wait((ended,), timeout=line.interval_s)
                line.show(lambda: _progress(hosted, accounts, processes))
        await killing
    finally:
        killing.cancel()
        for process in processes:
            if process.returncode is None:
                process.kill()
        await ended
    failed = [n for n, code in enumerate(ended.result()) if code and n != KILLED_PROCESS]
    if failed:
        raise RuntimeError(f"process {failed[0]} of the fleet ended with code {ended.result()[failed[0]]}")


async def _kill_in_mid_run(process: asyncio.subprocess.Process, account: Path) -> None:
    """SIGKILL, once the run that is to be cut off has some events."""
    while process.returncode is None:
        await asyncio.sleep(WATCH_INTERVAL_S)
        if _is_in_mid_run(account):
            process.kill()
            return


def _is_in_mid_run(account: Path) -> bool:
    runs = Account.read([account]).runs.values() if account.exists() else ()
    return any(run.skill_id == KILLED_SKILL and run.events >= KILL_AFTER_EVENTS for run in runs)


def _progress(
    hosted: HostedConsumer, accounts: list[Path], processes: list[asyncio.subprocess.Process]
) -> str:
    account = Account.read(path for path in accounts if path.exists())
    alive = sum(process.returncode is None for process in processes)
    status = hosted.service.status
    return (
        f"{counted(alive, 'process', 'processes')} at work, {counted(len(account.runs), 'run')}, {counted(account.events, 'event')} recorded, "
        f"{counted(status.records, 'record')} materialized"
    )


async def _settle(settings: Settings, hosted: HostedConsumer, account: Account) -> None:
    """Wait, bounded, until what the fleet recorded is readable, the killed process's outbox included."""
    if settings.uses_kafka:
        await _adopt(settings, hosted, account)
        return
    with contextlib.suppress(TimeoutError):  # the report then says what is missing
        async with asyncio.timeout(SETTLE_TIMEOUT_S):
            await _until_told(hosted, account)


async def _adopt(settings: Settings, hosted: HostedConsumer, account: Account) -> None:
    """What `skillaudit forward` does for a host: the dead process's outbox is forwarded to its end."""
    from skillaudit.producer.forwarder_host import run_host_forwarder

    stop = asyncio.Event()
    forwarding = asyncio.create_task(run_host_forwarder(settings, stop))
    try:
        with contextlib.suppress(TimeoutError):  # the report then says what is missing
            async with asyncio.timeout(SETTLE_TIMEOUT_S):
                await _until_told(hosted, account)
    finally:
        stop.set()
        await forwarding


async def _until_told(hosted: HostedConsumer, account: Account) -> None:
    """Until every run's end is known: finished, or abandoned because its process is gone."""
    ends = {r.run_id: Liveness.FINISHED if r.status else Liveness.ABANDONED for r in account.runs.values()}
    while not hosted.running.done():
        states = await hosted.reader.list_run_states(list(ends))
        if {run_id: state.liveness for run_id, state in states.items()} == ends:
            return
        await asyncio.sleep(WATCH_INTERVAL_S)
    hosted.running.result()


def _environment(settings: Settings) -> Mapping[str, str]:
    """This process's environment with the settings that agents need."""
    names = {f.name for f in fields(Settings)}
    secrets = {"kafka_sasl_password"}
    values = {
        name: value for name, value in settings.printable().items() if name in names - secrets and value
    }
    mine = {PREFIX + name.upper(): value for name, value in values.items()}
    if settings.kafka_sasl_password:
        mine[PREFIX + "KAFKA_SASL_PASSWORD"] = settings.kafka_sasl_password
    return {**os.environ, **mine}
