"""`skillaudit topics`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict

import click

from skillaudit.cli.options import json_option, with_settings
from skillaudit.cli.output import print_json, stderr
from skillaudit.contract.errors import SettingsError
from skillaudit.contract.settings import Settings
from skillaudit.contract.words import counted
from skillaudit.producer.topics import (
    PARTITIONS_DEFAULT,
    REPLICATION_DEFAULT,
    RETENTION_DAYS_DEFAULT,
    TopicDifference,
    TopicPlan,
    check_topics,
    ensure_topics,
    plan_topics,
    print_commands,
)


@click.command()
@click.argument("action", type=click.Choice(["create"]), default="create")
@click.option("--check", is_flag=True, help="Compare the existing topics; exit code 1 where they differ.")
@click.option("--print", "as_commands", is_flag=True, help="Print the commands of Kafka's own tool instead.")
@click.option("--partitions", type=click.IntRange(min=1), default=PARTITIONS_DEFAULT, show_default=True)
@click.option("--replication", type=click.IntRange(min=1), default=REPLICATION_DEFAULT, show_default=True)
@click.option(
    "--retention-days",
    type=click.IntRange(min=0),
    default=RETENTION_DAYS_DEFAULT,
    show_default=True,
    help="Of the events; 0 keeps them for ever. Acts and checkpoints are kept for ever.",
)
@with_settings
@json_option
def topics(
    settings: Settings,
    as_json: bool,
    action: str,  # noqa: ARG001  `create` is all there is; the word reads well in scripts
    check: bool,
    as_commands: bool,
    *,
    partitions: int,
    replication: int,
    retention_days: int,
) -> None:
    """Create the Kafka topics, check them, or print how to create them.

    \b
    Examples:
      skillaudit topics create --kafka localhost:9092 --replication 1
      skillaudit topics --check
      skillaudit topics --print
    """
    plans = plan_topics(
        settings, partitions=partitions, replication=replication, retention_days=retention_days
    )
    if as_commands:
        for line in print_commands(plans, settings.kafka_bootstrap_servers):
            click.echo(line)
        return
    if not settings.uses_kafka:
        raise SettingsError(
            "no broker is configured; give --kafka HOST:PORT or set SKILLAUDIT_KAFKA_BOOTSTRAP_SERVERS"
        )
    created, differences = asyncio.run(_reconcile(settings, plans, create=not check))
    if as_json:
        print_json({"created": list(created), "differences": [asdict(d) for d in differences]})
    else:
        for name in created:
            click.echo(f"{name}: created")
        for difference in differences:
            click.echo(str(difference))
        stderr().print(
            f"{counted(len(plans), 'topic')}, {len(created)} created, {counted(len(differences), 'difference')}"
        )
    if differences:
        raise click.exceptions.Exit(1)


async def _reconcile(
    settings: Settings, plans: Sequence[TopicPlan], *, create: bool
) -> tuple[Sequence[str], Sequence[TopicDifference]]:
    from skillaudit.producer.kafka import KafkaTopicAdmin

    async with KafkaTopicAdmin(settings) as admin:
        created = await ensure_topics(admin, plans) if create else ()
        return created, await check_topics(admin, plans)
