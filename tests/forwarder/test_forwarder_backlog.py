"""How long the oldest event has waited is known, and said in the log while it is too long."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from tests.forwarder.support import (
    AT_US,
    FAST,
    HandwrittenSource,
    TopicThatHoldsBack,
    TopicThatRefuses,
    until,
)

from skillaudit.cli.forward import _text
from skillaudit.contract.clock import ManualClock
from skillaudit.contract.outbox.acknowledgement import Acknowledgement, write_acknowledgement
from skillaudit.contract.outbox.layout import pack_position, segment_name
from skillaudit.contract.settings import Settings
from skillaudit.contract.telling import TELL_INTERVAL_S
from skillaudit.producer.forwarder import Forwarder, ForwardReport
from skillaudit.producer.forwarder_backlog import BACKLOG_AGE_S_MAX, BacklogWatch, watching
from skillaudit.producer.forwarder_host import run_host_forwarder
from skillaudit.producer.forwarder_trouble import Troubles

SECOND_US = 1_000_000


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    caplog.clear()
    return found


def test_an_old_backlog_is_said_and_not_again_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With its age, records, bytes and sources; a young one is no trouble, and one that is gone is none any more."""
    source = HandwrittenSource(tmp_path / "outbox")
    source.run("run-1").log()
    HandwrittenSource(tmp_path / "outbox", 2)
    clock = ManualClock(AT_US + int(BACKLOG_AGE_S_MAX * SECOND_US))
    watch = BacklogWatch(tmp_path / "outbox", clock=clock)
    watch.look()
    assert watch.age_s == BACKLOG_AGE_S_MAX
    assert said(caplog) == []
    for _ in range(50):
        clock.now_us += SECOND_US
        watch.look()
    (line,) = said(caplog)
    assert f"the oldest event has waited for {BACKLOG_AGE_S_MAX + 1:.0f} s; 2 records (" in line
    assert "in 1 source not acknowledged" in line
    clock.now_us += int(TELL_INTERVAL_S * SECOND_US)
    watch.look()
    assert len(said(caplog)) == 1
    size_bytes = (source.dir / segment_name(1)).stat().st_size
    write_acknowledgement(source.dir, Acknowledgement(position=pack_position(1, size_bytes), records=2))
    clock.now_us += int(TELL_INTERVAL_S * SECOND_US)
    watch.look()
    assert (watch.age_s, said(caplog)) == (0, [])


def test_the_first_line_that_is_not_acknowledged_counts(tmp_path: Path) -> None:
    """Of all sources the oldest; what can't be read hinders no look at the others."""
    source = HandwrittenSource(tmp_path / "outbox")
    source.run("run-1").log()
    damaged = HandwrittenSource(tmp_path / "outbox", 2)
    damaged.run("run-2")
    (damaged.dir / "ack").write_bytes(b"no acknowledgement")
    clock = ManualClock(AT_US + 7 * SECOND_US)
    watch = BacklogWatch(tmp_path / "outbox", clock=clock)
    watch.look()
    assert watch.age_s == 7
    own = BacklogWatch(tmp_path / "outbox", own=damaged.dir, clock=clock)
    own.look()
    assert own.age_s == 0
    nowhere = BacklogWatch(tmp_path / "missing", clock=clock)
    nowhere.look()
    assert nowhere.age_s == 0


async def test_it_is_looked_at_while_the_forwarder_is_stuck(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A broker that takes nothing and says nothing: the host's forwarder reports the age, and the log tells it."""
    settings = Settings(data=tmp_path)
    HandwrittenSource(settings.outbox_dir).run("run-1").log()
    topic, stop, told = TopicThatHoldsBack(1, held=[0]), asyncio.Event(), list[ForwardReport]()
    running = asyncio.ensure_future(run_host_forwarder(settings, stop, told.append, publisher=topic))
    await until(lambda: any(report.oldest_s for report in told))
    assert told[-1].oldest_s > BACKLOG_AGE_S_MAX
    assert any("is behind: the oldest event has waited for" in line for line in said(caplog))
    topic.held[0].set()
    await until(lambda: told[-1].acknowledged >= 2)
    stop.set()
    report = await running
    assert report.oldest_s == 0
    assert "pending," in _text(report), "nothing waits"


async def test_a_look_that_never_ends_hinders_no_end(tmp_path: Path) -> None:
    """Whoever watches stops looking when the block is left."""
    watch = BacklogWatch(tmp_path)
    for beside in (False, True):
        async with watching(watch, beside=beside, interval_s=3_600):
            await asyncio.sleep(0)


def test_the_progress_line_names_the_age() -> None:
    """Beside what is pending; nothing where nothing waits."""
    assert "3 pending, the oldest waits for 1,234 s, 0 refused" in _text(
        ForwardReport(pending=3, oldest_s=1_234.4)
    )
    assert "0 pending, 0 refused" in _text(ForwardReport())


async def test_a_refusal_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With the broker's reason; where the bytes are kept."""
    source = HandwrittenSource(tmp_path / "outbox")
    run = source.run("run-1")
    run.log(size=5_000)
    topic, stop = TopicThatRefuses(bytes_max=1_000), asyncio.Event()
    forwarder = Forwarder(tmp_path / "outbox", topic, limits=FAST)
    running = asyncio.ensure_future(forwarder.run(stop))
    await until(lambda: forwarder.report.refused)
    stop.set()
    await running
    lines = [line for line in said(caplog) if "refused for good" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"1 record from {tmp_path / 'outbox'} refused for good and kept in refused/")
    assert lines[0].endswith("MessageSizeTooLarge")


def test_many_refusals_are_few_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The first at once, then one per interval with the count, the rest at the end."""
    clock = ManualClock()
    troubles = Troubles(tmp_path, clock, 60_000)
    for _ in range(100):
        troubles.refuse("too large")
        troubles.tell()
    clock.now_us += 60 * SECOND_US
    troubles.tell()
    troubles.refuse("too large")
    troubles.tell(last=True)
    assert [line.partition(" from")[0] for line in said(caplog)] == ["1 record", "99 records", "1 record"]
