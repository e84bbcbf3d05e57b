"""`skillaudit consume`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import click

from skillaudit.cli.options import with_settings
from skillaudit.cli.output import stderr
from skillaudit.cli.running import ProgressLine, stop_on_signals
from skillaudit.contract.settings import Settings
from skillaudit.contract.words import counted

if TYPE_CHECKING:
    from skillaudit.consumer.figures import StoredFigures
    from skillaudit.consumer.status import ServiceStatus

T = TypeVar("T")

PARTITIONS_SHOWN_MAX: Final = 3


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
    from skillaudit.consumer.figures import StoredReader
    from skillaudit.storage.hosting import host_consumer

    line = ProgressLine()
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
            status, stored = hosted.service.status, StoredReader(hosted.service)
            figures: StoredFigures | None = None
            stopping = asyncio.ensure_future(stop.wait())
            while not stopping.done() and not hosted.running.done():
                await asyncio.wait(
                    (stopping, hosted.running), timeout=line.interval_s, return_when=asyncio.FIRST_COMPLETED
                )
                figures = await asyncio.to_thread(stored.read) or figures
                line.show(partial(progress_text, status, figures, time.time_ns() // 1_000))
            stopping.cancel()
            if hosted.running.done():
                hosted.running.result()
        line.done(progress_text(status, figures, time.time_ns() // 1_000))


def progress_text(status: ServiceStatus, figures: StoredFigures | None, now_us: int) -> str:
    """How far it is, and what goes wrong: lag with the partitions that are furthest behind, troubles and losses as stored, and
    the age of the oldest event that no forwarder has sent, as the agents' heartbeats say. What is 0 is left out.
    """
    parts = [
        f"{status.state.value}: {counted(status.records, 'record')}",
        f"{status.rate:,.0f}/s",
        lag_text(status.lag),
    ]
    if figures is not None:
        numbers = {
            "conflict": figures.trouble("conflicts"),
            "dead letter": figures.trouble("dead_letters", "waiting"),
        }
        parts += [counted(number, noun) for noun, number in numbers.items() if number]
        totals = {
            "refused": sum(host.refused for host in figures.hosts),
            "lost": sum(host.lost for host in figures.hosts),
        }
        parts += [f"{number:,} {word}" for word, number in totals.items() if number]
        oldest_us = min((host.oldest_us for host in figures.hosts if host.oldest_us), default=0)
        if oldest_us:
            parts.append(f"the oldest not forwarded waits for {max(now_us - oldest_us, 0) / 1e6:,.0f} s")
    return ", ".join([*parts, *([status.last_error] if status.last_error else [])])


def lag_text(lag: Mapping[str, int]) -> str:
    """`52 behind (events/3 50, events/1 2)`: the sum, and the partitions that are furthest behind."""
    behind = sorted(((offsets, name) for name, offsets in lag.items() if offsets), reverse=True)
    if not behind:
        return "0 behind"
    shown = [f"{name} {offsets:,}" for offsets, name in behind[:PARTITIONS_SHOWN_MAX]]
    more = len(behind) - len(shown)
    names = ", ".join(shown) + (f" and {more:,} more" if more else "")
    return f"{sum(lag.values()):,} behind ({names})"


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
