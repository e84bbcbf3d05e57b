"""What rows stand on: settings, agent processes, brokers, and how everything recovers and drains after a fault."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import secrets
import signal
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import duckdb
from tests.conformance.compositions import kafka_settings, settings_at
from tests.faults.agent import Plan
from tests.faults.oracle import Account, Verdict, assert_kept, must, read_accounts
from tests.faults.rows import Case
from tests.pipeline.support import Process
from tests.support.waiting import until

from skillaudit.consumer.service import ConsumerService
from skillaudit.consumer.status import ServiceState
from skillaudit.contract.errors import SkillauditError
from skillaudit.contract.outbox.directory import list_sources
from skillaudit.contract.settings import Settings
from skillaudit.producer.forwarder_host import run_host_forwarder

DRAIN_S = 240.0
"""What anything may take here that takes a second on a machine without other work."""
Make = Callable[..., ConsumerService]
"""Takes settings, and the options of `ConsumerService`."""
QUIET_SMALL = {"batch_records_max": 500, "segment_bytes": 64 * 1024, "seal_rows": 2_000}
"""Small batches, segments and hot tables, so that a fault meets retirements and seals, too."""


@contextlib.asynccontextmanager
async def shared_broker() -> AsyncGenerator[str]:
    """host:port of a real broker that a row only uses: SKILLAUDIT_TEST_KAFKA, else a container for this row."""
    given = os.environ.get("SKILLAUDIT_TEST_KAFKA")
    if given:
        yield given
        return
    async with own_broker() as broker:
        yield broker.bootstrap


@contextlib.asynccontextmanager
async def own_broker(**options: Any) -> AsyncGenerator[Any]:
    """A `KafkaContainer` that the row may stop, kill and fill."""
    from tests.support.broker import KafkaContainer

    container = await asyncio.to_thread(KafkaContainer(**options).start)
    try:
        yield container
    finally:
        await asyncio.to_thread(container.stop)


def embedded(case: Case, **members: Any) -> Settings:
    """Settings of an embedded pipeline in the case's directory."""
    return settings_at(case.directory / "data", **members)


async def through_kafka(case: Case, bootstrap: str, **members: Any) -> Settings:
    """Settings through a broker, with topics of the case's own."""
    return await kafka_settings(case.directory / f"data-{secrets.token_hex(2)}", bootstrap, **members)


class Agents:
    """Agent processes (`agent.py`) with an account each; `async with` starts them, and kills what still lives at its end."""

    def __init__(
        self,
        case: Case,
        settings: Settings | Sequence[Settings],
        plans: Iterable[Plan | dict[str, Any]],
        *,
        module: str = "tests.faults.agent",
        words: Sequence[str] = (),
        under: Sequence[str] = (),
    ) -> None:
        """One process a plan; `settings`: of all, or one each. A plan without an account file gets its own.

        `module`: another agent that takes the plan as its first argument, and `words` after that. `under`: a
        module that runs it, and that module's own arguments.
        """
        made = [plan if isinstance(plan, Plan) else Plan(**{"account": "", **plan}) for plan in plans]
        mark = secrets.token_hex(3)
        self._switched_off = case.switched_off
        self.plans = [
            dataclasses.replace(
                plan,
                account=plan.account or str(case.directory / f"account-{mark}-{n}.jsonl"),
                seed=plan.seed or case.seed * 100 + n + 1,
            )
            for n, plan in enumerate(made)
        ]
        each = [settings] * len(self.plans) if isinstance(settings, Settings) else list(settings)
        self.processes = [
            Process(
                f"agent {n}",
                own,
                ["-m", *under, module, json.dumps(dataclasses.asdict(plan)), *words],
                case.directory / f"agent-{mark}-{n}.log",
            )
            for n, (plan, own) in enumerate(zip(self.plans, each, strict=True))
        ]

    async def __aenter__(self) -> Self:
        for process in self.processes:
            await process.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for process in self.processes:
            if process.running:
                await process.kill()

    @property
    def account_files(self) -> list[Path]:
        """Where they note."""
        return [Path(plan.account) for plan in self.plans]

    def noted(self) -> dict[str, Account]:
        """What they have noted so far."""
        return read_accounts(self.account_files)

    def noted_lines(self) -> int:
        """How much: grows with every event that is safe."""
        return sum(path.read_bytes().count(b"\n") for path in self.account_files if path.exists())

    async def until_noted(self, lines: int, timeout_s: float = 60.0) -> None:
        """Wait until so many lines are noted, or nobody is left to note any."""
        await until(
            lambda: self.noted_lines() >= lines or not any(p.running for p in self.processes), timeout_s
        )

    async def join(self, timeout_s: float = DRAIN_S) -> None:
        """All have ended by themselves with exit code 0; where a mechanism is switched off with whichever: what is missing
        then is the judge's to say, and not theirs who waited for it in vain.
        """
        if self._switched_off:
            await self.ended(timeout_s)
            return
        for process in self.processes:
            await process.succeeded(timeout_s)

    async def ended(self, timeout_s: float = DRAIN_S) -> list[int]:
        """The exit codes once all have ended."""
        return [await process.join(timeout_s) for process in self.processes]


async def forward_all(settings: Settings, timeout_s: float = DRAIN_S) -> None:
    """A host's forwarder adopts what is left in the outbox, until nothing is."""
    stop = asyncio.Event()
    running = asyncio.create_task(run_host_forwarder(settings, stop))
    try:
        await until(lambda: running.done() or is_drained(settings), timeout_s)
    finally:
        stop.set()
        await running


def is_drained(settings: Settings) -> bool:
    """Whether no source of the outbox has a record that nobody has acknowledged."""
    return not any(source.backlog_records for source in list_sources(settings.outbox_dir))


def acknowledged(settings: Settings) -> int:
    """Records that are acknowledged, of the sources that are in the outbox: of all agents as long as they live."""
    return sum(source.acknowledgement.records for source in list_sources(settings.outbox_dir))


@contextlib.asynccontextmanager
async def consuming(
    settings: Settings,
    make: Make = ConsumerService,
    *,
    begin_s: float = DRAIN_S,
    may_stop: bool = False,
    **options: Any,
) -> AsyncGenerator[tuple[ConsumerService, asyncio.Task[None]]]:
    """A consumer in this process, which runs until the block is left, and then ends in order.

    `make`: of the row's own kind. It has begun within `begin_s` (0: perhaps not yet); what keeps it from that is raised.
    If it has stopped by the block's end that is an AssertionError, unless it `may_stop`: then the block looks at it.
    """
    service, stop = make(settings, **options), asyncio.Event()
    await service.open()
    running = asyncio.create_task(service.run(stop))
    try:
        if begin_s:
            await until(lambda: running.done() or service.status.state is ServiceState.RUNNING, begin_s)
        if running.done():
            running.result()
        yield service, running
    finally:
        stop.set()
        await asyncio.wait((running,))
        error = None if running.cancelled() else running.exception()
    told = f"the consumer has stopped: {error!r}"
    must(may_stop or not isinstance(error, SkillauditError), told)
    assert may_stop or error is None, told


async def consume_with(
    settings: Settings, make: Make = ConsumerService, *, timeout_s: float = DRAIN_S, **options: Any
) -> None:
    """A consumer takes everything there is, then ends in order; raises what stops it."""
    async with consuming(settings, make, may_stop=True, **options) as (service, running):
        try:
            await until(lambda: running.done() or has_everything(service), timeout_s)
        except TimeoutError:
            raise AssertionError(f"not caught up within {timeout_s:g} s: {service.status}") from None
    running.result()


def has_everything(service: ConsumerService) -> bool:
    """Whether it has read all there was; embedded, whether it has acknowledged that, too."""
    return service.caught_up.is_set() and (service.settings.uses_kafka or is_drained(service.settings))


async def consume_all(settings: Settings, timeout_s: float = DRAIN_S) -> None:
    """As `consume_with`, with the product's own consumer."""
    await consume_with(settings, timeout_s=timeout_s)


async def drain(settings: Settings, timeout_s: float = DRAIN_S) -> None:
    """Everything that agents left in the outbox is in the database. No agent of it lives any more."""
    if settings.uses_kafka:
        await forward_all(settings, timeout_s)
    await consume_all(settings, timeout_s)


@contextlib.contextmanager
def database(settings: Settings):
    """The database read-only, once its owner has gone."""
    connection = duckdb.connect(str(settings.database), read_only=True)
    try:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection
    finally:
        connection.close()


def check(case: Case, settings: Settings, accounts: dict[str, Account], **options: Any) -> Verdict:
    """As `assert_kept`, on the file; adds the counts to the case."""
    with database(settings) as cursor:
        verdict = assert_kept(cursor, accounts, **options)
    case.events += verdict.events
    case.note(runs=verdict.runs)
    return verdict


def stop_process(pid: int) -> None:
    """SIGSTOP."""
    os.kill(pid, signal.SIGSTOP)


def wake_process(pid: int) -> None:
    """SIGCONT."""
    os.kill(pid, signal.SIGCONT)
