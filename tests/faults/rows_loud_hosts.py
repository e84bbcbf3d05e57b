"""What every host waits for, was refused and has lost, in the consumer's figures: by host, and in known numbers."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import orjson
from tests.conformance.compositions import settings_at
from tests.faults.loud_agent import tell, told_file
from tests.faults.oracle import must
from tests.faults.rows import Case, row
from tests.faults.rows_loud import Figures, figures_of, hearing, line_of, said, shows
from tests.faults.rows_refused import _refused
from tests.faults.stage import Agents, check, consume_all, forward_all, shared_broker
from tests.faults.stage_kafka import PATIENCE_S, Topics, forwarding
from tests.support.waiting import until

from skillaudit.contract.outbox.directory import list_sources
from skillaudit.contract.settings import Settings
from skillaudit.producer.forwarder_backlog import BacklogWatch
from skillaudit.producer.kafka import KafkaPublisher
from skillaudit.storage.hosting import HostedConsumer, host_consumer

TROUBLED, QUIET = "north", "south"
TOPIC_BYTES_MAX = 20_000
TOO_LARGE_BYTES = 24_000
WAYS = 3
"""What a case injects: records held back, records too large for the topic, events dropped; how many of each is told apart."""
BEATS_AFTER = 2
"""Heartbeats until a forwarder has saved what was acknowledged last, which it does every half second."""
AGE_S_MAX = 2.0
"""By how much an age may differ from what the row computes: a scrape takes its time."""
OPTIONS = {
    "outbox_on_full": "count",
    "outbox_bytes_max": 1 << 20,
    "outbox_reserve_bytes": 64 * 1024,
    "outbox_block_ms_max": 0,
    "segment_bytes": 64 * 1024,
    "heartbeat_interval_ms": 1_000,
    "abandon_after_ms": 600_000,
    "forwarder": "host",
}
GAUGES = ("backlog_records", "backlog_bytes", "oldest_unforwarded_seconds", "refused_records", "lost_events")


class Valve(KafkaPublisher):
    """Holds everything back while it is shut; lets it go up to one heartbeat, whose numbers then stand at the consumer."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._may_pass = asyncio.Event()
        self._may_pass.set()
        self._until_us: int | None = None
        self._under_way = 0
        self.last_beat = 0
        """Number of the newest heartbeat that has passed."""
        self.first_at_us = 0
        """When the oldest record of those happened that have passed since it was shut."""

    async def shut(self) -> None:
        """Nothing is under way when this returns."""
        self._may_pass.clear()
        await until(lambda: not self._under_way, PATIENCE_S)
        self.first_at_us = 0

    def let_go(self, until_us: int | None = None) -> None:
        """Everything; or up to the first heartbeat of after this moment."""
        self._until_us = until_us
        self._may_pass.set()

    async def send(self, partition: int, records: Sequence[tuple[bytes, bytes]]) -> int:
        """As the publisher's, when it may."""
        await self._may_pass.wait()
        for _, value in records:
            self._note(orjson.loads(value))
        self._under_way += 1
        try:
            return await super().send(partition, records)
        finally:
            self._under_way -= 1

    def _note(self, members: dict[str, int | str]) -> None:
        at_us = int(members["at_us"])
        self.first_at_us = min(self.first_at_us or at_us, at_us)
        if members["type"] != "source.heartbeat":
            return
        self.last_beat = max(self.last_beat, int(members["beat"]))
        if self._until_us is not None and at_us > self._until_us:
            self._until_us = None
            self._may_pass.clear()


def _of(figures: Figures, host: str, name: str) -> float:
    found = [
        v for (n, labels), v in figures.items() if n == f"skillaudit_host_{name}" and f'"{host}"' in labels
    ]
    return found[0] if found else -1.0


async def _do(account: Path, **words: int) -> None:
    """Tell the agent, and wait until it has done it."""
    tell(account, **words)
    await until(lambda: not told_file(account).exists(), PATIENCE_S)


async def _settings(case: Case, bootstrap: str) -> Settings:
    mark = secrets.token_hex(4)
    settings = settings_at(
        case.directory / TROUBLED,
        kafka_bootstrap_servers=bootstrap,
        kafka_topic=f"{mark}.events",
        kafka_control_topic=f"{mark}.control",
        **OPTIONS,
    )
    async with Topics(bootstrap) as topics:
        config = {"max_message_bytes": str(TOPIC_BYTES_MAX), "message_timestamp_type": "LogAppendTime"}
        await topics.create(settings.kafka_topic, 3, 1, **config)
    return settings


@row(
    "losses-by-host",
    about="Two hosts, one of them in trouble: what it records is held back before the broker; records are too large for the topic; its outbox is full and "
    "drops (best effort)",
    judge="the consumer's /metrics tell of that host, and of no other, exactly how many records and bytes wait, how old the oldest is, how many were refused and "
    "how many lost; backlog and age go back when it is mended; the logs of consumer, forwarder and agent and the progress line say the same numbers",
    full=20 * WAYS,
    share=WAYS,
    test=0,
    not_in_tests="half a minute: figures are read anew every five seconds",
    off={"agents-share": "heartbeats say nothing of what waits and was refused"},
    off_cases_max=1,
    off_in_tests=False,
    off_in_share=False,
    resource=shared_broker,
    broker=True,
    root="host names of its own",
)
async def losses_by_host(case: Case) -> None:
    """Known numbers; the other host's figures stay at 0."""
    troubled = await _settings(case, case.resource)
    quiet = replace(troubled, data=case.directory / QUIET)
    valve = Valve(troubled)
    module, words = "tests.faults.loud_agent", ("mute" if case.switched_off else "",)
    async with contextlib.AsyncExitStack() as stack:
        lines = stack.enter_context(hearing())
        served = replace(troubled, data=case.directory / "consumer", http_listen="127.0.0.1:0")
        hosted = await stack.enter_async_context(host_consumer(served, serve=True))
        stack.callback(valve.let_go)
        await stack.enter_async_context(forwarding(troubled, valve))
        await stack.enter_async_context(forwarding(quiet))
        hosts = {}
        for name, own in ((TROUBLED, troubled), (QUIET, quiet)):
            under = ("tests.support.namespaces", name)
            agents = Agents(case, own, [{}], module=module, words=words, under=under)
            hosts[name] = await stack.enter_async_context(agents)
        north, south = (agents.account_files[0] for agents in hosts.values())
        await _do(south, events=30)
        await _backlog_shows(case, hosted, valve, troubled, north)
        await _losses_show(case, hosted.url, valve, troubled, north)
        for account in (north, south):
            await _do(account, end=1)
        for agents in hosts.values():
            await agents.join(PATIENCE_S)
        await shows(hosted.url, "the end", lambda now: _of(now, TROUBLED, "sources") == 0)
        figures = await figures_of(hosted.url)
        must([_of(figures, QUIET, name) for name in GAUGES] == [0] * len(GAUGES), figures)
        told = line_of(hosted)
        must(f"{case.facts['refused']:,} refused, {case.facts['dropped']:,} lost" in told, told)
        must("the oldest not forwarded" not in told, told)
    _judge_logs(case, lines, hosts[TROUBLED])
    await forward_all(troubled)
    await forward_all(quiet)
    await consume_all(served)
    accounts = {**hosts[TROUBLED].noted(), **hosts[QUIET].noted()}
    kept = _refused(troubled, accounts).total()
    must(kept == case.facts["refused"], f"{kept} records are in refused/, of {case.facts['refused']} refused")
    check(case, served, accounts)


def _judge_logs(case: Case, lines: Sequence[str], agents: Agents) -> None:
    """Of the consumer, and of the forwarders, all in this process; and what the agent's process said of itself."""
    refused, dropped = case.facts["refused"], case.facts["dropped"]
    told = [line for line in lines if "as heartbeats tell" in line]
    must(all(f"(host {TROUBLED})" in line for line in told), told)
    must(said(told, "refused for good") == refused, f"{refused} refused, and the consumer's log tells {told}")
    must(said(told, "dropped by agents") == dropped, f"{dropped} lost, and the consumer's log tells {told}")
    kept = [line for line in lines if "kept in refused/" in line]
    must(
        said(kept, "kept in refused/") == refused, f"{refused} refused, and the forwarder's log tells {kept}"
    )
    words = "outbox_on_full is `count`: "
    own = agents.processes[0].said().splitlines()
    lost = said([line.partition(words)[2] for line in own if words in line], "declared as lost")
    must(lost == dropped, f"{dropped} lost, and the agent's log tells {lost}")


async def _backlog_shows(
    case: Case, hosted: HostedConsumer, valve: Valve, settings: Settings, account: Path
) -> None:
    """Hold back so many events, and let go exactly one heartbeat that tells of them."""
    url = hosted.url
    events = case.random.randint(100, 400)
    await shows(url, "both hosts at rest", lambda now: _of(now, TROUBLED, "oldest_unforwarded_seconds") == 0)
    await valve.shut()
    before, shut_s = valve.last_beat, time.time()
    await _do(account, events=events)
    recorded_s = time.time()
    await _beats(settings)
    settled_us = time.time_ns() // 1_000
    await _beats(settings)
    watch = BacklogWatch(settings.outbox_dir)
    watch.look()
    now_s = time.time()
    must(
        now_s - recorded_s < watch.age_s + 1 < now_s - shut_s + AGE_S_MAX + 1,
        f"held back {now_s - shut_s} s ago, recorded {now_s - recorded_s} s ago, and the forwarder says {watch.age_s} s",
    )
    valve.let_go(settled_us)
    await until(lambda: not valve._may_pass.is_set(), PATIENCE_S)
    # Before that heartbeat: the events, and the heartbeats since the valve was shut.
    wanted = events + valve.last_beat - 1 - before
    await shows(url, f"{wanted} records wait", lambda now: _of(now, TROUBLED, "backlog_records") == wanted)
    figures, age_s = await figures_of(url), time.time() - valve.first_at_us / 1e6
    told_s = _of(figures, TROUBLED, "oldest_unforwarded_seconds")
    must(abs(told_s - age_s) < AGE_S_MAX, f"the oldest waits {told_s} s, as told, and {age_s} s in truth")
    told = re.search(r"the oldest not forwarded waits for ([\d,]+) s", line_of(hosted))
    must(told, line_of(hosted))
    must(
        abs(int(told[1]) - age_s) < AGE_S_MAX + 1,
        f"the oldest waits {told[0]}, as the line tells, and {age_s} s in truth",
    )
    size_bytes = _of(figures, TROUBLED, "backlog_bytes")
    assert events * 200 < size_bytes < events * 2_000, f"{events} events have {size_bytes} bytes"
    case.note(held_back=wanted)
    valve.let_go()
    await shows(
        url,
        "the backlog's end",
        lambda now: [_of(now, TROUBLED, name) for name in GAUGES[:3]] == [0, 0, 0],
    )


async def _beats(settings: Settings) -> None:
    """Until so many more of the agent's heartbeats wait."""
    waiting = _waiting(settings)
    await until(lambda: _waiting(settings) >= waiting + BEATS_AFTER, PATIENCE_S)


def _waiting(settings: Settings) -> int:
    return sum(source.backlog_records for source in list_sources(settings.outbox_dir))


async def _losses_show(case: Case, url: str, valve: Valve, settings: Settings, account: Path) -> None:
    refused, dropped = case.random.randint(1, 5), case.random.randint(10, 60)
    await _do(account, events=refused, size_bytes=TOO_LARGE_BYTES)
    await shows(url, f"{refused} refused", lambda now: _of(now, TROUBLED, "refused_records") == refused)
    await valve.shut()
    await _do(account, drop=dropped, size_bytes=3_000)
    valve.let_go()
    await shows(url, f"{dropped} lost", lambda now: _of(now, TROUBLED, "lost_events") == dropped)
    await until(lambda: _waiting(settings) < 50, PATIENCE_S)
    case.injections = WAYS
    case.note(refused=refused, dropped=dropped)
