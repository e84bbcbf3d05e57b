"""`skillaudit dead-letters`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

import click

from skillaudit.cli.options import json_option, with_settings
from skillaudit.cli.output import json_time, print_json, print_table, stderr
from skillaudit.contract.admin import DeadLetter, DeadLetterState, Operations
from skillaudit.contract.records import LIST_LIMIT_MAX
from skillaudit.contract.settings import Settings
from skillaudit.contract.words import counted

T = TypeVar("T")

_IDS = click.argument("ids", nargs=-1, type=click.IntRange(min=0), metavar="[ID]...")
_ALL = click.option("--all", "everything", is_flag=True, help="All that wait.")
SHOWN_MAX = 20
"""Ids told one by one; `--json` names all."""


@click.group(name="dead-letters")
def dead_letters() -> None:
    """Look at records that are no events, replay them after a repair, or set them aside.

    They are kept with their bytes and their origin; nothing drops out of the list by itself.
    """


@dead_letters.command(name="list")
@click.option("--state", type=click.Choice(list(DeadLetterState)), help="Only these.")
@click.option("--limit", type=click.IntRange(1, LIST_LIMIT_MAX), default=50, show_default=True)
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="ID", help="Those behind this one.")
@with_settings
@json_option
def list_(settings: Settings, as_json: bool, state: str | None, limit: int, after: int) -> None:
    """List them, oldest first."""
    letters = _run(settings, lambda operations: operations.list_dead_letters(state, limit, after))
    if as_json:
        print_json([_members(letter) for letter in letters])
        return
    print_table(
        ("id", "state", "partition", "offset", "stored", "error"),
        [(it.id, it.state, it.partition, it.offset, it.stored_at, it.error) for it in letters],
    )
    more = f" at least; --after {letters[-1].id} lists those behind" if len(letters) == limit else ""
    stderr().print(counted(len(letters), "dead letter") + more)


@dead_letters.command()
@click.argument("dead_letter_id", metavar="ID", type=click.IntRange(min=0))
@click.option("--raw", is_flag=True, help="Write the record's bytes to stdout, nothing else.")
@with_settings
@json_option
def show(settings: Settings, as_json: bool, dead_letter_id: int, raw: bool) -> None:
    """Show one with its bytes."""
    letter = _run(settings, lambda operations: operations.get_dead_letter(dead_letter_id))
    if raw:
        sys.stdout.buffer.write(letter.record or b"")
        return
    if as_json:
        print_json({**_members(letter), "key": _text(letter.key), "record": _text(letter.record)})
        return
    lines = [*_members(letter).items(), ("key", _text(letter.key)), ("record", _text(letter.record))]
    print_table(("", ""), lines)


@dead_letters.command()
@_IDS
@_ALL
@with_settings
@json_option
def replay(settings: Settings, as_json: bool, ids: tuple[int, ...], everything: bool) -> None:
    """Parse them again and apply those that are events now. Exit code 4 where some still are not."""

    async def act(operations: Operations) -> tuple[int, list[int]]:
        replayed, still = 0, list[int]()
        async for chosen in _chosen(operations, ids, everything=everything):
            report = await operations.replay_dead_letters(chosen)
            replayed += report.replayed
            still += report.still_malformed
        return replayed, still

    replayed, still = _run(settings, act)
    if as_json:
        print_json({"replayed": replayed, "still_malformed": still})
    else:
        shown = ", ".join([*map(str, still[:SHOWN_MAX]), *(["..."] if len(still) > SHOWN_MAX else [])])
        click.echo(f"{replayed} replayed, {len(still)} still malformed{': ' if still else ''}{shown}")
    if still:
        raise click.exceptions.Exit(4)


@dead_letters.command()
@_IDS
@_ALL
@with_settings
@json_option
def discard(settings: Settings, as_json: bool, ids: tuple[int, ...], everything: bool) -> None:
    """Set them aside: they no longer wait, their bytes stay."""

    async def act(operations: Operations) -> int:
        pages = _chosen(operations, ids, everything=everything)
        return sum([await operations.discard_dead_letters(chosen) async for chosen in pages])

    discarded = _run(settings, act)
    if as_json:
        print_json({"discarded": discarded})
    else:
        click.echo(f"{discarded} discarded")


async def _chosen(
    operations: Operations, ids: tuple[int, ...], *, everything: bool
) -> AsyncGenerator[list[int]]:
    """Page by page: those that are malformed still keep none behind them from their turn."""
    if bool(ids) == everything:
        raise click.UsageError("name dead letters by their ids, or give --all")
    if not everything:
        for number in ids:
            await operations.get_dead_letter(number)  # one that is not there is named, and nothing is done
        yield list(ids)
        return
    last = 0
    while waiting := await operations.list_dead_letters(DeadLetterState.WAITING, LIST_LIMIT_MAX, last):
        last = waiting[-1].id
        yield [letter.id for letter in waiting]


def _run(settings: Settings, act: Callable[[Operations], Awaitable[T]]) -> T:
    async def run() -> T:
        from skillaudit.storage import open_operations

        async with open_operations(settings) as operations:
            return await act(operations)

    return asyncio.run(run())


def _members(letter: DeadLetter) -> dict[str, object]:
    return {
        "id": letter.id,
        "state": letter.state,
        "partition": letter.partition,
        "offset": letter.offset,
        "received_at": json_time(letter.received_at) if letter.received_at else None,
        "stored_at": json_time(letter.stored_at),
        "error": letter.error,
    }


def _text(data: bytes | None) -> str | None:
    """Bytes for people: text where they are, escapes where they are not."""
    return None if data is None else data.decode("utf-8", "backslashreplace")
