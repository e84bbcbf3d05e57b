"""`skillaudit consume`."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TypeVar

import click

from skillaudit.cli.options import with_settings
from skillaudit.cli.output import stderr
from skillaudit.cli.running import ProgressLine, stop_on_signals
from skillaudit.contract.settings import Settings
from skillaudit.contract.words import counted

T = TypeVar("T")


@click.command()
@click.option(
    "--listen", "http_listen", metavar="HOST:PORT", help="Where readers ask; port 0 takes a free one."
)
@click.option("--no-http", is_flag=True, help="Consume only: no other process can read meanwhile.")
@click.option(
    "--accept-history-loss",
    "accepted",
    multiple=True,
    metavar="TOPIC/P",
    help="Go on where this partition's history (TOPIC/*: of any of the topic) turns out lost; recorded as an incident.",
)
@with_settings
def consume(settings: Settings, http_listen: str | None, no_http: bool, accepted: tuple[str, ...]) -> None:
    """Materialize events into the database and serve readers, until SIGTERM.

    From Kafka where a broker is configured, else from the outbox directory. One process per database; a second one is
    refused with the holder named.
    """
    if http_listen is not None:
        settings = Settings.load({**vars(settings), "http_listen": http_listen}, environ={})
    asyncio.run(_run(settings, serve=not no_http, accepted=accepted))


async def _run(settings: Settings, *, serve: bool, accepted: tuple[str, ...]) -> None:
    from skillaudit.storage.hosting import HostedConsumer, host_consumer

    line = ProgressLine()

    def text(hosted: HostedConsumer) -> str:
        status = hosted.service.status
        return (
            f"{status.state.value}: {counted(status.records, 'record')}, {status.rate:.0f}/s, "
            f"{sum(status.lag.values())} behind{', ' + status.last_error if status.last_error else ''}"
        )

    async with stop_on_signals() as stop:
        async with contextlib.AsyncExitStack() as stack:
            starting = asyncio.ensure_future(
                stack.enter_async_context(
                    host_consumer(settings, serve=serve, accept_history_loss=accepted, seal=True)
                )
            )
            if not await _done_before(starting, stop):
                return  # told to end while the broker did not answer yet
            hosted = starting.result()
            origin = settings.kafka_bootstrap_servers or settings.outbox_dir
            stderr().print(
                f"consuming {origin} into {settings.database}{', ' + hosted.url if hosted.url else ''}"
            )
            stopping = asyncio.ensure_future(stop.wait())
            while not stopping.done() and not hosted.running.done():
                await asyncio.wait(
                    (stopping, hosted.running), timeout=line.interval_s, return_when=asyncio.FIRST_COMPLETED
                )
                line.show(lambda: text(hosted))
            stopping.cancel()
            if hosted.running.done():
                hosted.running.result()
        line.done(text(hosted))


async def _done_before(work: asyncio.Future[T], stop: asyncio.Event) -> bool:
    """Wait for `work`; cancel it, and wait for that, where `stop` is set before it is done."""
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((work, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if work.done():
        return True
    work.cancel()
    await asyncio.wait((work,))
    return False
