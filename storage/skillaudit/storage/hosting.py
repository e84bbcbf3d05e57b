"""A consumer inside this process: the service, a reader on its database, and its HTTP surface where one is wanted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skillaudit.consumer.service import ConsumerService
from skillaudit.consumer.status import ServiceState
from skillaudit.contract.errors import UnreachableError
from skillaudit.contract.settings import Settings
from skillaudit.query.reading import DuckDBReader

if TYPE_CHECKING:
    from skillaudit.query.server import HttpServer


@dataclass(frozen=True, slots=True)
class HostedConsumer:
    """A running consumer and what reads beside it."""

    service: ConsumerService
    reader: DuckDBReader
    running: asyncio.Task[None]
    """Ends when the service does, or what serves readers beside it; raises what that raised."""
    url: str = ""
    """Where the HTTP surface listens; empty where there is none."""


@contextlib.asynccontextmanager
async def host_consumer(
    settings: Settings, *, serve: bool, accept_history_loss: Sequence[str] = (), seal: bool = False
) -> AsyncGenerator[HostedConsumer]:
    """Own the database and consume until the block is left; then everything ends in order, within seconds.

    `seal`: also seal the ledger, as who owns the database for long does; who takes it for a moment, to read, does not.
    Raises what `ConsumerService.start` raises; but with `serve` a source that does not answer is no reason not to serve
    what is stored: it is asked again, for ever. What stops the service later is raised by `running`.
    """
    service = ConsumerService(settings, accept_history_loss=accept_history_loss, seal=seal)
    await (service.open() if serve else service.start())
    stop = asyncio.Event()
    consuming = asyncio.create_task(service.run(stop), name="skillaudit-consumer")
    running = consuming
    reader = DuckDBReader(service.cursor, settings=settings, positions_wait=service.wait_for)
    try:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(reader.aclose)
            url = ""
            if serve:
                server = await stack.enter_async_context(_surface(settings, service, reader))
                url = server.url
                leaving = asyncio.Event()
                stack.callback(leaving.set)  # before the server is told to end
                running = asyncio.create_task(
                    _run_both(consuming, server, stop, leaving), name="skillaudit-hosting"
                )
                await _first_attempt(service, running)
            yield HostedConsumer(service, reader, running, url)
    finally:
        stop.set()
        # Their failures belong to whoever awaits `running`; here they must only have ended.
        await asyncio.wait({consuming, running})
        for task in (consuming, running):
            if not task.cancelled():
                task.exception()


async def _first_attempt(service: ConsumerService, running: asyncio.Task[None]) -> None:
    """Until the service has its source, or was told once that it does not answer; raises what ended it before."""
    trying = asyncio.ensure_future(service.tried.wait())
    try:
        await asyncio.wait({trying, running}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    finally:
        trying.cancel()


async def _run_both(
    consuming: asyncio.Task[None], server: HttpServer, stop: asyncio.Event, leaving: asyncio.Event
) -> None:
    """Until the service ends. A server that ends before it ends both: a consumer that nobody can ask looks healthy from
    inside and dead from outside, and whoever supervises the process has to hear of it.
    """
    serving = asyncio.create_task(server.wait())
    try:
        await asyncio.wait({consuming, serving}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done() and not leaving.is_set() and not consuming.done():
            stop.set()
            await consuming
            cause = None if serving.cancelled() else serving.exception()
            raise UnreachableError(
                f"the HTTP surface at {server.url} has ended ({cause or 'without an error'}); start the consumer again"
            ) from cause
        await consuming
    finally:
        serving.cancel()
        await asyncio.wait({serving})


@contextlib.asynccontextmanager
async def _surface(
    settings: Settings, service: ConsumerService, reader: DuckDBReader
) -> AsyncGenerator[HttpServer]:
    from skillaudit.consumer.metrics import make_registry
    from skillaudit.query.access import allowed_hosts, read_token
    from skillaudit.query.server import HttpServer, ReadyReport, create_app
    from skillaudit.query.verifying import Checks
    from skillaudit.storage.operations import ServiceOperations
    from skillaudit.storage.records import OWNER, records_opener

    def ready() -> ReadyReport:
        state = service.status.state
        if state is ServiceState.RUNNING:
            late = service.late_seal()
            return ReadyReport(ready=False, reasons=(late,)) if late else ReadyReport()
        return ReadyReport(
            ready=False, reasons=(service.status.last_error or f"the consumer is {state.value}",)
        )

    app = create_app(
        reader,
        purge=service.purge_older_than,
        operations=ServiceOperations(service),
        checks=Checks(service.database.cursor, records=records_opener(settings, OWNER)),
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
        yield server
