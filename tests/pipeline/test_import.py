"""Recorded trajectories through both compositions: every event in order, the same bytes, and no more by a second import."""

import asyncio
import json
import random
from collections import defaultdict
from datetime import UTC, datetime

import pytest
from tests.conformance.compositions import kafka_settings, settings_at
from tests.faults.oracle import troubles
from tests.pipeline.support import Process, drained
from tests.support.waiting import until

from skillaudit.contract.outbox.directory import list_source_dirs
from skillaudit.producer.history import import_file
from skillaudit.storage.hosting import host_consumer

RUNS = 200
RUNS_TO_KILL = 1_000
WAIT_S = 60
WORDS = ("flight", "é", "\u2028", "\U0001f600", '"', "\\", "\x00", "1e400", "null", "</script>")
EVENTS = "SELECT r.id, r.skill_id, r.status, r.completeness, r.inputs, r.attributes, epoch_us(r.started_at), r.events_expected, "
EVENTS += "e.sequence, e.event_type, e.payload FROM main.runs r JOIN main.events e USING (run_key) ORDER BY r.id, e.sequence"

CLOSED = "SELECT source_id FROM main.sources WHERE closed_by = 'adopter'"


def text(chance):
    return " ".join(chance.choice(WORDS) for _ in range(chance.randint(1, 30)))


def trajectory(chance, number):
    """One of the common form: a dialogue with tools, its task and its reward; every other one with times."""
    messages = [{"role": "system", "content": text(chance)}, {"role": "user", "content": text(chance)}]
    for turn in range(chance.randint(1, 5)):
        call_id = f"call-{number}-{turn}"
        arguments = chance.choice([json.dumps({"n": turn, "price": 1.50, "é": [None, True]}), "not JSON", ""])
        call = {"id": call_id, "type": "function", "function": {"name": "look_up", "arguments": arguments}}
        messages += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call_id, "name": "look_up", "content": text(chance)},
            {
                "role": "assistant",
                "content": text(chance),
                "usage": {"prompt_tokens": 3, "completion_tokens": 2},
            },
            {"role": "user", "content": text(chance)},
        ]
    made = {"task_id": number, "reward": chance.choice([0.0, 1.0]), "info": {"n": 2**60}, "traj": messages}
    return made | ({"started_at": f"2024-05-{1 + number % 28:02}T10:00:00Z"} if number % 2 else {})


def events_of(made):
    """How many events the mapping makes of it: a step of each completion, its calls, and their results."""
    roles = [message["role"] for message in made["traj"]]
    return (
        roles.count("assistant")
        + roles.count("tool")
        + sum(len(m.get("tool_calls", ())) for m in made["traj"])
    )


def write_history(path, runs):
    chance = random.Random(7)
    made = [trajectory(chance, number) for number in range(runs)]
    path.write_text(json.dumps(made))
    return made


async def imported(settings, path, made):
    """What is stored of the file, after a second import, and after one that remembers nothing of the first."""
    async with host_consumer(settings, serve=False) as hosted:

        async def import_once():
            report = await asyncio.to_thread(import_file, path, settings, at=datetime(2024, 1, 1, tzinfo=UTC))
            assert (report.runs, report.refused_count) == (len(made), 0)
            await hosted.reader.wait_for(report.flush.positions, WAIT_S)
            await until(lambda: len(stored()) >= report.events, WAIT_S)
            await drained(settings)
            return report

        def stored():
            return hosted.service.cursor().execute(EVENTS).fetchall()

        first = await import_once()
        assert first.appended > first.events
        found = stored()
        second = await import_once()
        assert (second.appended, second.events) == (0, first.events)
        [remembered] = (settings.data / "imports").glob("*.json")
        remembered.unlink()
        await import_once()
        assert stored() == found
        assert troubles(hosted.service.cursor()) == {}
        return found


@pytest.mark.broker
async def test_both_ways_the_same(tmp_path, kafka_bootstrap):
    """Embedded and through the broker: the same runs, times and payload bytes, all complete."""
    path = tmp_path / "history.json"
    made = write_history(path, RUNS)
    embedded = await imported(settings_at(tmp_path / "embedded"), path, made)
    assert {row[3] for row in embedded} == {"complete"}
    events = defaultdict(list)
    for row in embedded:
        events[row[0], row[7]].append(row[8])
    assert all(numbers == list(range(1, expected - 1)) for (_, expected), numbers in events.items())
    assert sorted(map(len, events.values())) == sorted(map(events_of, made))
    through_kafka = await kafka_settings(tmp_path / "kafka", kafka_bootstrap)
    assert await imported(through_kafka, path, made) == embedded


@pytest.mark.parametrize("way", ["embedded", pytest.param("kafka", marks=pytest.mark.broker)])
async def test_an_import_that_is_killed_goes_on(tmp_path, way, request):
    """Also when a consumer has meanwhile taken what was there for all there will be."""
    path, small = tmp_path / "history.json", {"segment_bytes": 64 * 1024}
    made = write_history(path, RUNS_TO_KILL)
    settings = settings_at(tmp_path / "data", **small)
    if way == "kafka":
        bootstrap = request.getfixturevalue("kafka_bootstrap")
        settings = await kafka_settings(tmp_path / "data", bootstrap, **small)
    command = ["-m", "skillaudit.cli", "import", str(path)]
    async with host_consumer(settings, serve=False) as hosted:

        def stored():
            return hosted.service.cursor().execute(EVENTS).fetchall()

        async with Process("import", settings, command, tmp_path / "killed.log") as importing:
            await until(lambda: segments(settings) > 2 or not importing.running, WAIT_S)
            assert importing.running, importing.said()
            await importing.kill()
        if way == "embedded":  # through the broker, nobody adopts the source before the next import
            await until(lambda: hosted.service.cursor().execute(CLOSED).fetchall(), WAIT_S)
            assert 0 < len({row[0] for row in stored()}) < RUNS_TO_KILL
        async with Process("import", settings, command, tmp_path / "again.log") as again:
            await again.succeeded()
        await until(lambda: len(stored()) == sum(map(events_of, made)), WAIT_S)
        await drained(settings)
        assert {row[3] for row in stored()} == {"complete"}
        assert troubles(hosted.service.cursor()) == {}


def segments(settings):
    return sum(len(list(source.glob("*.seg*"))) for source in list_source_dirs(settings.outbox_dir))
