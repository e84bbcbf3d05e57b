"""The embedded source: nothing read is lost on the way, and what it says on the disk is true."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.waiting import until

from skillaudit.consumer.outbox_source import UNREADABLE_RETRY_US, OutboxSource
from skillaudit.contract.clock import Clock, ManualClock
from skillaudit.contract.eventlog import RecordKind
from skillaudit.contract.outbox.acknowledgement import read_acknowledgement
from skillaudit.contract.outbox.directory import READER_LOCK_NAME
from skillaudit.contract.outbox.layout import segment_name
from skillaudit.contract.outbox.locks import lock_holder
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import SourceRecord, StoredPosition
from skillaudit.producer import Sink, SkillRun
from skillaudit.producer.outbox import OutboxLog

EVENTS = 7
"""Of a source with one run of three steps: opened, 0..4, closed."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path, outbox_free_bytes_min=0)


def make_source(settings: Settings) -> str:
    """A dead source; returns its partition."""
    log = OutboxLog(settings)
    sink = Sink(log)
    with sink.start_run(SkillRun(skill_id="s")) as run:
        for number in range(3):
            run.step(str(number))
    sink.close(0)
    return f"outbox/{log.source_id}"


def open_source(settings: Settings, clock: Clock | None = None) -> OutboxSource:
    return OutboxSource(settings.outbox_dir, settings.archive_dir, database_id="d", keep_days=30, clock=clock)


async def take_all(source: OutboxSource) -> list[SourceRecord]:
    taken: list[SourceRecord] = []
    while (batch := await source.poll(10_000, 0)).records:
        taken += batch.records
    return taken


class HeldClock(ManualClock):
    """Whoever asks for the time waits until it may pass."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.passing = threading.Event(), threading.Event()

    def steady_us(self) -> int:
        """As the manual clock's."""
        self.asked.set()
        assert self.passing.wait(30)
        return super().steady_us()


async def test_whoever_is_cancelled_while_it_opens_keeps_no_lock(settings: Settings) -> None:
    """A reader that leaves at once: its thread took the sources' locks after everything had been let go of, and nobody
    else in the machine could read them until the process ended.
    """
    names, clock = [make_source(settings), make_source(settings)], HeldClock()
    source = open_source(settings, clock)
    opening = asyncio.create_task(source.open({}))
    await until(clock.asked.is_set)
    opening.cancel()
    closing = asyncio.create_task(source.close())
    await asyncio.wait((closing,), timeout=0.5)  # it may not end before the thread has
    clock.passing.set()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await closing
    await asyncio.get_running_loop().shutdown_default_executor()  # every thread of it has ended
    for name in names:
        assert lock_holder(settings.outbox_dir / name.partition("/")[2] / READER_LOCK_NAME) is None


async def test_a_source_that_cannot_be_read_costs_the_others_nothing(settings: Settings) -> None:
    """It is a finding, told once and tried again; what the others gave in that round reaches the caller."""
    names, clock = [make_source(settings), make_source(settings)], ManualClock()
    source = open_source(settings, clock)
    await source.open({})
    segment = settings.outbox_dir / names[0].partition("/")[2] / segment_name(1)
    hidden = segment.with_name("hidden")
    segment.rename(hidden)
    segment.mkdir()  # opening it fails with an OSError
    batch = await source.poll(10_000, 0)
    first = list(batch.records)
    assert {r.partition for r in first} == {names[1]}
    assert [(f.partition, f.kind) for f in batch.findings] == [(names[0], "outbox-unreadable")]
    again = await source.poll(10_000, 0)
    assert (again.records, again.findings) == ([], [])
    assert again.ends[names[0]] > 0, "more may wait: nobody takes it for read to its end"
    segment.rmdir()
    hidden.rename(segment)
    clock.advance(UNREADABLE_RETRY_US)
    rest = await take_all(source)
    assert {r.partition for r in rest} == {names[0]}
    assert len(first) == len(rest) == EVENTS
    await source.close()


async def test_a_source_that_cannot_be_joined_costs_the_others_nothing(settings: Settings) -> None:
    """The same where its lock can't be opened: the consumer starts, tells it, and joins it later."""
    names, clock = [make_source(settings), make_source(settings)], ManualClock()
    lock = settings.outbox_dir / names[0].partition("/")[2] / READER_LOCK_NAME
    lock.unlink(missing_ok=True)
    lock.mkdir()
    source = open_source(settings, clock)
    await source.open({})
    batch = await source.poll(10_000, 0)
    assert {r.partition for r in batch.records} == {names[1]}
    assert [(f.partition, f.kind) for f in batch.findings] == [(names[0], "outbox-unreadable")]
    assert batch.ends[names[0]] > 0
    await source.poll(10_000, 0)  # that the other one is closed
    lock.rmdir()
    clock.advance(UNREADABLE_RETRY_US)

    async def joined() -> list[SourceRecord]:
        return await take_all(source)

    assert {r.partition for r in await until(joined)} == {names[0]}
    await source.close()


async def test_an_acknowledgement_after_a_restart_still_counts_its_records(settings: Settings) -> None:
    """`flush` and `outbox status` tell from it how many are not acknowledged."""
    log = OutboxLog(settings)
    sink = Sink(log)
    run = sink.start_run(SkillRun(skill_id="s"))
    run.step("1")
    directory = settings.outbox_dir / log.source_id
    source = open_source(settings)
    await source.open({})
    taken = await take_all(source)
    position = {taken[-1].partition: taken[-1].next_offset}
    await source.commit(position)
    before = read_acknowledgement(directory)
    await source.close()

    again = open_source(settings)
    await again.open({name: StoredPosition(offset) for name, offset in position.items()})
    await again.poll(10_000, 0)
    await again.commit(position)
    assert read_acknowledgement(directory) == before
    assert before is not None
    assert before.records == len(taken)
    await again.close()
    sink.close(0)


async def test_a_source_whose_beginning_is_gone_is_named(settings: Settings) -> None:
    """Nothing was consumed of it, and its first segment is not there: said once, and the rest is taken."""
    source_id = "5" * 32
    log = OutboxLog(replace(settings, segment_bytes=64 * 1024), source_id=source_id)
    records = [("k", b'{"n":%d,"pad":"%s"}' % (n, b"x" * 40_000), RecordKind.LOG) for n in range(3)]
    for key, record, kind in records:
        log.append(key, record, kind, wait_ms=0)
    log.close(0)
    (log.source_dir / segment_name(1)).unlink()
    source = open_source(settings)
    await source.open({})
    batch = await source.poll(10_000, 0)
    told = [(f.kind, f.detail) for f in batch.findings]
    assert [kind for kind, _ in told] == ["outbox-beginning-missing"]
    assert "begins at its line 2" in told[0][1]
    again = await source.poll(10_000, 0)
    assert (len(batch.records) + len(again.records), again.findings) == (2, [])
    await source.close()


async def test_a_source_that_lost_its_identity_is_taken_and_stays(settings: Settings) -> None:
    """It is consumed to its end like any other; its directory is left, since nobody knows whose it is."""
    name = make_source(settings)
    directory = settings.outbox_dir / name.partition("/")[2]
    (directory / "source.json").write_bytes(b"?")
    source = open_source(settings)
    await source.open({})
    batch = await source.poll(10_000, 0)
    assert [f.kind for f in batch.findings] == ["outbox-identity"]
    assert (await source.poll(10_000, 0)).closed == [name]
    await source.commit({name: batch.records[-1].next_offset})
    assert sorted(path.suffix for path in directory.iterdir() if path.suffix) == [".json"]
    await source.close()


async def test_an_archived_source_is_read_once_and_let_go(settings: Settings) -> None:
    """A new database reads the archive again; what it has consumed is not looked at any more."""
    name = make_source(settings)
    source = open_source(settings)
    await source.open({})
    taken = await take_all(source)
    end = {name: taken[-1].next_offset}
    await source.commit(end)
    await source.close()
    assert not (settings.outbox_dir / name.partition("/")[2]).exists()

    rebuilding = open_source(settings)
    await rebuilding.open({})
    assert [r[:3] for r in await take_all(rebuilding)] == [r[:3] for r in taken]
    await rebuilding.commit(end)
    assert (await rebuilding.poll(10_000, 0)).ends == {}
    await rebuilding.close()
