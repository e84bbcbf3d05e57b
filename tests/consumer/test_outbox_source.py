"""The embedded source: nothing read is lost on the way, and what it says on the disk is true."""

from __future__ import annotations

from pathlib import Path

import pytest

from skillaudit.consumer.outbox_source import OutboxSource
from skillaudit.contract.errors import UnreachableError
from skillaudit.contract.outbox.acknowledgement import read_acknowledgement
from skillaudit.contract.outbox.layout import segment_name
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


def open_source(settings: Settings) -> OutboxSource:
    return OutboxSource(settings.outbox_dir, settings.archive_dir, database_id="d", keep_days=30)


async def take_all(source: OutboxSource) -> list[SourceRecord]:
    taken: list[SourceRecord] = []
    while (batch := await source.poll(10_000, 0)).records:
        taken += batch.records
    return taken


async def test_a_source_that_cannot_be_read_costs_the_others_nothing(settings: Settings) -> None:
    """What the others gave in that round reaches the caller; the trouble is told when there is nothing else."""
    names = [make_source(settings), make_source(settings)]
    source = open_source(settings)
    await source.open({})
    segment = settings.outbox_dir / names[0].partition("/")[2] / segment_name(1)
    hidden = segment.with_name("hidden")
    segment.rename(hidden)
    segment.mkdir()  # opening it fails with an OSError
    first = list((await source.poll(10_000, 0)).records)
    assert {r.partition for r in first} == {names[1]}
    await source.poll(10_000, 0)  # the other one is closed
    with pytest.raises(UnreachableError):
        await source.poll(10_000, 0)
    segment.rmdir()
    hidden.rename(segment)
    rest = await take_all(source)
    assert {r.partition for r in rest} == {names[0]}
    assert len(first) == len(rest) == EVENTS
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
