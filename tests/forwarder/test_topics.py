"""The topics as they should be, how real ones differ, and the commands for people who create them themselves."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from skillaudit.contract.settings import Settings
from skillaudit.producer.topics import (
    TopicPlan,
    TopicState,
    check_topics,
    compare_topics,
    ensure_topics,
    plan_topics,
    print_commands,
)

SETTINGS = Settings(kafka_topic="team.a, team.b", kafka_control_topic="audit.control")


class ClusterWithTopics:
    """A `TopicAdmin` over a dictionary."""

    def __init__(self, *plans: TopicPlan) -> None:
        self.topics = {p.name: as_state(p) for p in plans}

    async def describe(self, names):
        return {name: self.topics[name] for name in names if name in self.topics}

    async def create(self, topic: TopicPlan) -> bool:
        if topic.name in self.topics:
            return False
        self.topics[topic.name] = as_state(topic)
        return True


def as_state(plan: TopicPlan) -> TopicState:
    return TopicState(
        name=plan.name, partitions=plan.partitions, replication=plan.replication, config=plan.config
    )


def test_events_of_each_topic_and_two_kept_for_ever():
    """Every configured topic is planned with the partitions asked for; control and checkpoints with one, for ever."""
    plans = {p.name: p for p in plan_topics(SETTINGS, partitions=12, retention_days=7)}
    assert list(plans) == ["team.a", "team.b", "audit.control", "audit.checkpoints"]
    assert plans["team.b"].partitions == 12
    assert plans["team.b"].config["retention.ms"] == str(7 * 86_400_000)
    for name in ("audit.control", "audit.checkpoints"):
        assert plans[name].partitions == 1
        assert plans[name].config["retention.ms"] == plans[name].config["retention.bytes"] == "-1"


@pytest.mark.parametrize(("replication", "in_sync"), [(1, "1"), (2, "1"), (3, "2"), (5, "4")])
def test_one_replica_may_be_missing_never_the_last(replication: int, in_sync: str):
    """min.insync.replicas is one below the replication, and never 0."""
    for plan in plan_topics(SETTINGS, replication=replication):
        assert plan.config["min.insync.replicas"] == in_sync


def test_what_every_topic_must_have():
    """Big records fit, the broker stamps the time, nothing is compacted away."""
    for plan in plan_topics(SETTINGS):
        assert plan.config["max.message.bytes"] == str(16 * 1024 * 1024)
        assert plan.config["message.timestamp.type"] == "LogAppendTime"
        assert plan.config["cleanup.policy"] == "delete"


def test_differences_are_named_one_by_one():
    """A check names the topic, the thing, what it is and what it should be."""
    first, second, *_ = plans = plan_topics(SETTINGS, partitions=3)
    found = {p.name: as_state(p) for p in plans}
    found[first.name] = replace(
        found[first.name],
        replication=1,
        config={**first.config, "message.timestamp.type": "CreateTime"},
    )
    del found[second.name]
    assert [str(d) for d in compare_topics(plans, found)] == [
        "team.a: replication is 1, should be 3",
        "team.a: message.timestamp.type is CreateTime, should be LogAppendTime",
        "team.b: missing",
    ]


def test_more_partitions_are_fine_except_where_order_needs_one():
    """A grown topic is no difference; a control topic with two partitions is."""
    plans = plan_topics(SETTINGS, partitions=3)
    found = {p.name: replace(as_state(p), partitions=p.partitions + 1) for p in plans}
    assert [(d.topic, d.what) for d in compare_topics(plans, found)] == [
        ("audit.control", "partitions"),
        ("audit.checkpoints", "partitions"),
    ]


async def test_creating_leaves_existing_topics_alone():
    """Only missing topics are created, and they are named; afterwards nothing differs."""
    plans = plan_topics(SETTINGS)
    cluster = ClusterWithTopics(plans[0])
    assert await ensure_topics(cluster, plans) == ("team.b", "audit.control", "audit.checkpoints")
    assert await check_topics(cluster, plans) == ()
    assert await ensure_topics(cluster, plans) == ()


def test_commands_for_kafkas_own_tool():
    """One command a topic that a shell takes apart into the same plan."""
    command = print_commands(plan_topics(SETTINGS), "b1:9092,b2:9092")[0]
    words = shlex.split(command)
    assert words[:4] == ["kafka-topics.sh", "--bootstrap-server", "b1:9092,b2:9092", "--create"]
    assert words[words.index("--topic") + 1] == "team.a"
    assert "retention.ms=2592000000" in words
