"""Damage to what says how far a source is, and to what is kept of it: acknowledgements, and the archive."""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import random
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from zlib import error as zlib_error

from tests.faults.damage import Touched, read_lines
from tests.faults.oracle import BrokenError, must, read_accounts
from tests.faults.rows import Case, row
from tests.faults.rows_damage import Deaf, judge_damage, make_service, record_source
from tests.faults.stage import (
    DRAIN_S,
    check,
    consume_all,
    consume_with,
    database,
    embedded,
    forward_all,
    shared_broker,
    through_kafka,
)
from tests.support.waiting import until

from skillaudit.consumer.outbox_source import OutboxSource
from skillaudit.contract.errors import OutboxCorruptError, UnreachableError
from skillaudit.contract.outbox.acknowledgement import Acknowledgement, write_acknowledgement
from skillaudit.contract.outbox.directory import list_source_dirs
from skillaudit.contract.outbox.layout import pack_position
from skillaudit.contract.settings import Settings
from skillaudit.producer.forwarder_files import read_incidents
from skillaudit.producer.forwarder_host import make_publisher, run_host_forwarder
from skillaudit.producer.publisher import RecordPublisher

SOURCES = 7
ACKNOWLEDGEMENT_KINDS = ("flipped", "truncated", "zeroed", "missing", "foreign", "older", "garbage")
ARCHIVE_KINDS = ("flipped", "truncated", "zeroed", "missing", "foreign", "garbage")
_NAMED_FILE = re.compile(r"the archived segment (\S+) does not unpack")


def damage_file(kind: str, path: Path, other: bytes, chance: random.Random) -> None:
    """One file; `other` is what stands in its place where it is foreign or older."""
    content = bytearray(path.read_bytes())
    at = chance.randrange(len(content))
    match kind:
        case "flipped":
            content[at] ^= 1 << chance.randrange(8)
        case "truncated":
            del content[at:]
        case "zeroed":
            content[at:] = bytes(len(content) - at)
        case "garbage":
            content[at : at + 40] = chance.randbytes(min(40, len(content) - at))
        case "missing":
            path.unlink()
            return
        case _:
            content = bytearray(other)
    path.write_bytes(content)


@row(
    "acknowledgement-damaged",
    about="Acknowledgements flipped, truncated, zeroed, missing, another source's, older ones and garbage, once a forwarder has "
    "sent a part of their sources through a broker",
    full=98,
    share=7,
    test=7,
    off_in_tests=False,
    off={"checksum": "a damaged acknowledgement that reads as a good one, further ahead"},
    resource=shared_broker,
    broker=True,
)
async def acknowledgement_damaged(case: Case) -> None:
    """What can't be read is named, and everything that is left is sent again; nothing is passed over, nothing is there twice."""
    settings = await through_kafka(
        case, case.resource, forwarder="none", segment_bytes=64 * 1024, kafka_batch_bytes=16 * 1024
    )
    chance, account = case.random, case.directory / "account.jsonl"
    sources = [record_source(settings, account, case.seed * 100 + n, runs=30) for n in range(SOURCES)]
    older = await _forward_partly(settings, chance)
    unreadable: list[Path] = []
    begun = {source: (source / "ack").read_bytes() for source in sources if (source / "ack").exists()}
    assert begun, "nothing was acknowledged"
    for kind, source in zip(ACKNOWLEDGEMENT_KINDS, chance.sample(list(begun), len(begun)), strict=False):
        ack = source / "ack"
        before = begun[source]
        if case.switched_off:
            write_acknowledgement(source, Acknowledgement(position=pack_position(99, 0), records=9_999))
            continue
        other = chance.choice([content for place, content in begun.items() if place != source] or [before])
        damage_file(kind, ack, other if kind == "foreign" else older.get(source.name, before), chance)
        if kind not in {"missing", "older"} and ack.read_bytes() != before:
            unreadable.append(source)
        case.note(**{kind: 1})
    await forward_all(settings)
    await consume_all(settings)
    check(case, settings, read_accounts([account]))
    for source in unreadable:
        kinds = {incident["kind"] for incident in read_incidents(source)}
        must("acknowledgement" in kinds, f"a damaged acknowledgement of {source.name} is named {kinds}")
    case.injections = len(begun)


class Reluctant:
    """A publisher that loses its broker after so many batches."""

    def __init__(self, publisher: RecordPublisher, batches: int) -> None:
        self._publisher = publisher
        self._left = batches
        self.lost = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._publisher, name)

    async def send(self, partition: int, records: Sequence[tuple[bytes, bytes]]) -> int:
        """As long as it goes."""
        if self._left <= 0:
            self.lost.set()
            raise UnreachableError("the broker is away, for this test")
        self._left -= 1
        return await self._publisher.send(partition, records)


async def _forward_partly(settings: Settings, chance: random.Random) -> Mapping[str, bytes]:
    """Some batches, twice; answers the acknowledgements of the first time."""
    older: dict[str, bytes] = {}
    for _ in range(2):
        stop, publisher = asyncio.Event(), Reluctant(make_publisher(settings), chance.randint(15, 35))
        running = asyncio.create_task(run_host_forwarder(settings, stop, publisher=publisher))
        try:
            await until(lambda: running.done() or publisher.lost.is_set(), DRAIN_S)  # noqa: B023
        finally:
            stop.set()
            await running
        if not older:
            older = {
                path.name: (path / "ack").read_bytes()
                for path in list_source_dirs(settings.outbox_dir)
                if (path / "ack").exists()
            }
    return older


@row(
    "archive-damaged",
    about="Archived segments flipped, truncated, zeroed, missing, another source's and garbage; a new database is made of them",
    judge="every event that was not touched is stored once; a touched one is stored as it was, or its number reads missing and an incident names its source",
    full=96,
    share=6,
    test=6,
    off={"findings": "a source that does not pass on what its readers found"},
)
async def archive_damaged(case: Case) -> None:
    """A rebuild stops at what does not unpack and names the file; once that is removed, it names what is gone with it."""
    settings, chance = embedded(case, segment_bytes=64 * 1024), case.random
    account = case.directory / "account.jsonl"
    sources = [record_source(settings, account, case.seed * 100 + n) for n in range(len(ARCHIVE_KINDS))]
    await consume_with(settings, make_service)
    (settings.outbox_dir / "reader").unlink()
    touched = [
        _damage_archive(kind, settings.archive_dir / source.name, settings, chance)
        for kind, source in zip(ARCHIVE_KINDS, sources, strict=True)
    ]
    rebuilt = dataclasses.replace(settings, db_file=case.directory / "rebuilt.duckdb")
    await _rebuild(case, rebuilt)
    judge_damage(case, rebuilt, read_accounts([account]), touched)
    case.injections = len(touched)


def _damage_archive(kind: str, archive_of_source: Path, settings: Settings, chance: random.Random) -> Touched:
    files = sorted(archive_of_source.glob("*.gz"))
    path = chance.choice(files)
    before = gzip.decompress(path.read_bytes())
    others = [other for other in settings.archive_dir.glob("*/*.gz") if other.parent != path.parent]
    damage_file(kind, path, chance.choice(others).read_bytes() if kind == "foreign" else b"", chance)
    touched = Touched(kind, archive_of_source, is_tail=path == files[-1])
    if _unpacked(path) != before:
        touched.numbers = {line.number for line in read_lines(before) if line.number is not None}
        touched.trace = kind == "foreign"
    return touched


def _unpacked(path: Path) -> bytes | None:
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib_error):
        return None


async def _rebuild(case: Case, settings: Settings) -> None:
    kind = Deaf if case.switched_off == "findings" else OutboxSource
    for _ in ARCHIVE_KINDS:
        try:
            return await consume_with(settings, partial(make_service, kind=kind))
        except OutboxCorruptError as exc:
            _remove_named(str(exc))
        case.note(stopped_and_named=1)
        _assert_told(settings)
    raise BrokenError("it stops again and again")


def _remove_named(text: str) -> None:
    named = _NAMED_FILE.search(text)
    if named is None:
        raise BrokenError(f"it does not name the file: {text}")
    Path(named[1]).unlink()


def _assert_told(settings: Settings) -> None:
    with database(settings) as cursor:
        told = cursor.execute("SELECT count(*) FROM main.incidents WHERE kind = 'OutboxCorrupt'").fetchall()
    must(told[0][0], "no incident keeps why the consumer stopped")
