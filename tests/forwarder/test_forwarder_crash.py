"""A forwarder killed at the worst moment: between a batch's storing and its acknowledgement."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.forwarder.support import HandwrittenSource, TopicInMemory, forward_all, partitions_on_disk

ROOT = Path(__file__).parents[2]
CHILD = "import sys; from tests.forwarder.support import forward_to_disk; forward_to_disk(*sys.argv[1:])"


def run_until_killed(tmp_path: Path, batches: int) -> int:
    """Forward to a topic on disk; the process kills itself after storing that many batches (0: never)."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "outbox"), str(tmp_path / "topic"), str(batches)],
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    return done.returncode


@pytest.mark.parametrize("deaths", [(1,), (3, 2, 1), (7, 5, 5)], ids=str)
def test_killed_between_a_record_and_its_acknowledgement(tmp_path: Path, deaths: tuple[int, ...]):
    """Whoever comes next sends what was not acknowledged again: nothing is missing, repeats are the same bytes, order
    within a run holds, and the source is closed by its adopter with every number known.
    """
    source = HandwrittenSource(tmp_path / "outbox")
    for n in range(6):
        run = source.run(f"run-{n}")
        for _ in range(20):
            run.log()
        if n % 2:
            run.finish()
        source.next_segment()
    for batches in deaths:
        assert run_until_killed(tmp_path, batches) == -signal.SIGKILL
    assert run_until_killed(tmp_path, 0) == 0
    stored = partitions_on_disk(tmp_path / "topic")
    for run in source.runs.values():
        (values,) = [v for log in stored.values() if (v := [v for k, v in log if k == run.run_id])]
        assert list(dict.fromkeys(values)) == run.records
    closed = {v for log in stored.values() for _, v in log if b'"source.closed"' in v}
    assert len(closed) == 1
    assert json.loads(closed.pop())["open"] == [
        r.is_open_entry() for r in source.runs.values() if r.source_seq % 2
    ]
    assert not source.dir.exists()


async def test_killed_while_a_source_is_being_removed(tmp_path: Path):
    """What is left of it has another name: nobody takes it for a source, and the next forwarder sweeps it away."""
    source = HandwrittenSource(tmp_path)
    source.run("r")
    source.dir.rename(tmp_path / f".removed-{source.source_id}")
    other = HandwrittenSource(tmp_path, 2)
    other.run("q")
    topic = TopicInMemory()
    await forward_all(tmp_path, topic)
    assert topic.of_key("r") == []
    assert not (tmp_path / f".removed-{source.source_id}").exists()
    assert len(topic.of_key("q")) == 1
