"""A consumer inside this process: the service, a reader on its database, and its HTTP surface where one is wanted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from skillaudit.consumer.service import ConsumerService, ServiceState
from skillaudit.contract.settings import Settings
from skillaudit.query.reading import DuckDBReader


@dataclass(frozen=True, slots=True)
class HostedConsumer:
    """A running consumer and what reads beside it."""

    service: ConsumerService
    reader: DuckDBReader
    running: asyncio.Task[None]
    """Ends when the service does; raises what it raised."""
    url: str = ""
    """Where the HTTP surface listens; empty where there is none."""


@contextlib.asynccontextmanager
async def host_consumer(
    settings: Settings, *, serve: bool, accept_history_loss: Sequence[str] = ()
) -> AsyncGenerator[HostedConsumer]:
    """Own the database and consume until the block is left; then everything ends in order, within seconds.

    Raises what `ConsumerService.start` raises. What stops the service later is raised by `running`.
    """
    service = ConsumerService(settings, accept_history_loss=accept_history_loss)
    await service.start()
    stop = asyncio.Event()
    running = asyncio.create_task(service.run(stop), name="skillaudit-consumer")
    reader = DuckDBReader(service.cursor, settings=settings, positions_wait=service.wait_for)
    try:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(reader.aclose)
            url = await stack.enter_async_context(_surface(settings, service, reader)) if serve else ""
            yield HostedConsumer(service, reader, running, url)
    finally:
        stop.set()
        # Its failure belongs to whoever awaits `running`; here it must only have ended.
        await asyncio.wait((running,))
        if not running.cancelled():
            running.exception()


@contextlib.asynccontextmanager
async def _surface(settings: Settings, service: ConsumerService, reader: DuckDBReader) -> AsyncGenerator[str]:
    from skillaudit.consumer.metrics import make_registry
    from skillaudit.query.access import allowed_hosts, read_token
    from skillaudit.query.server import HttpServer, ReadyReport, create_app
    from skillaudit.storage.operations import ServiceOperations

    def ready() -> ReadyReport:
        state = service.status.state
        if state is ServiceState.RUNNING:
            return ReadyReport()
        return ReadyReport(
            ready=False, reasons=(service.status.last_error or f"the consumer is {state.value}",)
        )

    app = create_app(
        reader,
        purge=service.purge_older_than,
        operations=ServiceOperations(service),
        scratch_dir=settings.database.absolute().parent,
        ready=ready,
        token=read_token(settings.token_file),
        allow_hosts=allowed_hosts(settings),
        database_id=service.database.database_id,
        settings=settings,
        registry=make_registry(service),
    )
    async with HttpServer(app, settings) as server:
        service.announce(server.url)
        yield server.url
