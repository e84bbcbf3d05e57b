"""One forwarder for a host: one per directory, beside the threads of agents, ended by its stop within seconds."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tests.forwarder.support import HandwrittenSource, TopicInMemory, until

from skillaudit.contract.errors import LockedError, SettingsError
from skillaudit.contract.outbox.locks import FileLock
from skillaudit.contract.settings import Settings
from skillaudit.producer.forwarder_host import run_host_forwarder

HOLDER = """
    import sys
    from pathlib import Path
    from skillaudit.contract.outbox.locks import FileLock

    assert FileLock(Path(sys.argv[1])).try_acquire()
    print("held", flush=True)
    sys.stdin.read()
"""


async def test_live_and_dead_sources_are_forwarded(tmp_path: Path):
    """Every source that nobody else reads, of living processes too; one that a thread reads is left to it."""
    settings = Settings(data=tmp_path)
    outbox = settings.outbox_dir
    living = HandwrittenSource(outbox, 1, alive=True)
    dead = HandwrittenSource(outbox, 2)
    threaded = HandwrittenSource(outbox, 3, alive=True)
    for source in (living, dead, threaded):
        source.run(f"run-{source.source_id[-1]}").log()
    reader = FileLock(threaded.dir / "reader")
    assert reader.try_acquire()
    topic, stop = TopicInMemory(), asyncio.Event()
    task = asyncio.ensure_future(run_host_forwarder(settings, stop, publisher=topic))
    await until(lambda: len(topic.of_key("run-1")) == 2 and not dead.dir.exists())
    stop.set()
    report = await asyncio.wait_for(task, 5)
    assert report.sources_finished == 1
    assert living.acknowledgement().records == 2
    assert topic.of_key("run-3") == []
    assert not topic.is_open
    reader.release()
    living.die()
    threaded.die()


def test_a_second_one_is_refused_with_the_first_named(tmp_path: Path):
    """The lock goes with its process, so a crashed one is in nobody's way."""
    settings = Settings(data=tmp_path)
    settings.outbox_dir.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(settings.outbox_dir / "forwarder.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LockedError, match=str(holder.pid)):
            asyncio.run(run_host_forwarder(settings, asyncio.Event(), publisher=TopicInMemory()))
        holder.kill()
    stop = asyncio.Event()
    stop.set()
    asyncio.run(run_host_forwarder(settings, stop, publisher=TopicInMemory()))


async def test_without_a_broker_in_the_settings_there_is_nothing_to_do(tmp_path: Path):
    """Said by the setting's name."""
    with pytest.raises(SettingsError, match="kafka_bootstrap_servers"):
        await run_host_forwarder(Settings(data=tmp_path), asyncio.Event())
