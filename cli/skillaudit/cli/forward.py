"""`skillaudit forward`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator
from functools import partial

import click

from skillaudit.cli.options import with_settings
from skillaudit.cli.output import stderr
from skillaudit.cli.running import ProgressLine, stop_on_signals
from skillaudit.contract.errors import SettingsError
from skillaudit.contract.settings import Settings
from skillaudit.contract.words import counted
from skillaudit.producer.forwarder import Forwarder, ForwardReport
from skillaudit.producer.forwarder_host import run_host_forwarder
from skillaudit.producer.forwarder_metrics import serve_metrics


@click.command()
@with_settings
def forward(settings: Settings) -> None:
    """Forward this host's outbox to Kafka: all sources, living and dead, until SIGTERM.

    One process per outbox directory. Agents set SKILLAUDIT_FORWARDER=host and share SKILLAUDIT_DATA with it.
    """
    if not settings.uses_kafka:
        raise SettingsError(
            "no broker is configured; give --kafka HOST:PORT or set SKILLAUDIT_KAFKA_BOOTSTRAP_SERVERS"
        )
    report = asyncio.run(_run(settings))
    if report.refused or report.incidents:
        raise click.exceptions.Exit(4)


async def _run(settings: Settings) -> ForwardReport:
    line = ProgressLine()
    stderr().print(
        f"forwarding {settings.outbox_dir} to {settings.kafka_bootstrap_servers}, topic {settings.kafka_topics[0]}"
    )
    async with stop_on_signals() as stop:
        report = await run_host_forwarder(
            settings,
            stop,
            lambda report: line.show(lambda: _text(report)),
            observe=partial(_observe, settings),
        )
    line.done(_text(report))
    return report


@contextlib.contextmanager
def _observe(settings: Settings, forwarder: Forwarder) -> Generator[None]:
    with serve_metrics(forwarder, settings) as url:
        if url:
            stderr().print(f"metrics at {url}")
        yield


def _text(report: ForwardReport) -> str:
    oldest = f", the oldest waits for {report.oldest_s:,.0f} s" if report.oldest_s else ""
    return (
        f"{counted(report.sources, 'source')}, {counted(report.acknowledged, 'record')} acknowledged, {report.pending:,} pending{oldest}, "
        f"{report.refused} refused, {counted(report.incidents, 'incident')}"
    )
