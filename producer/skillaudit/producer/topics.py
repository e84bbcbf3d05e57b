"""The topics this product needs, and how a cluster's real ones differ from them.

Pure but for `ensure_topics` and `check_topics`, which talk to a cluster through `TopicAdmin`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from skillaudit.contract.settings import Settings

MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024
"""A record is at most 15 MiB; the rest is the batch around it."""
RETENTION_DAYS_DEFAULT: Final = 30
PARTITIONS_DEFAULT: Final = 6
REPLICATION_DEFAULT: Final = 3
FOR_EVER: Final = "-1"
_DAY_MS: Final = 86_400_000


@dataclass(frozen=True, kw_only=True)
class TopicPlan:
    """One topic as it should be. `partitions` is exact for single-partition topics and a wish for others."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, kw_only=True)
class TopicState:
    """One topic as it is."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, kw_only=True)
class TopicDifference:
    """One thing about a topic that is not as it should be."""

    topic: str
    what: str
    """`missing`, `partitions`, `replication` or the name of a configuration."""
    wanted: str
    found: str

    def __str__(self) -> str:
        """One line for people."""
        if self.what == "missing":
            return f"{self.topic}: missing"
        return f"{self.topic}: {self.what} is {self.found}, should be {self.wanted}"


class TopicAdmin(Protocol):
    """What is asked of a cluster about its topics. Raises `UnreachableError` after bounded retries."""

    async def describe(self, names: Sequence[str]) -> dict[str, TopicState]:
        """The topics that exist among `names`."""
        ...

    async def create(self, topic: TopicPlan) -> bool:
        """Create it; False where it exists already. Raises `RejectedError` with the broker's words."""
        ...


def plan_topics(
    settings: Settings,
    *,
    partitions: int = PARTITIONS_DEFAULT,
    replication: int = REPLICATION_DEFAULT,
    retention_days: int = RETENTION_DAYS_DEFAULT,
) -> tuple[TopicPlan, ...]:
    """The topics as they should be. `replication` 1 (a single broker) gives min.insync.replicas 1, else one less.

    `LogAppendTime`: with the producer's time a broker refuses a record stamped ahead of its own clock for good. Acts
    and checkpoints are kept for ever, in one partition each, because their order is part of what they say.
    """
    common = {
        "cleanup.policy": "delete",
        "max.message.bytes": str(MESSAGE_BYTES_MAX),
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": str(max(1, replication - 1)),
    }
    retention = str(retention_days * _DAY_MS) if retention_days > 0 else FOR_EVER
    events = common | {"retention.ms": retention, "retention.bytes": FOR_EVER}
    forever = common | {"retention.ms": FOR_EVER, "retention.bytes": FOR_EVER}
    kept = (settings.kafka_control_topic, checkpoints_topic(settings))
    return (
        *(
            TopicPlan(name=name, partitions=partitions, replication=replication, config=events)
            for name in settings.kafka_topics
        ),
        *(TopicPlan(name=name, partitions=1, replication=replication, config=forever) for name in kept),
    )


def checkpoints_topic(settings: Settings) -> str:
    """Where signed checkpoints go: beside the control topic."""
    head, dot, _ = settings.kafka_control_topic.rpartition(".")
    return f"{head}{dot}checkpoints"


def compare_topics(
    plans: Sequence[TopicPlan], found: Mapping[str, TopicState]
) -> tuple[TopicDifference, ...]:
    """Everything that is not as planned, in the order of the plans.

    More partitions than planned are fine (sources keep the count they began with), except where one is the rule.
    More replicas than planned are fine too.
    """
    differences: list[TopicDifference] = []
    for plan in plans:
        state = found.get(plan.name)
        if state is None:
            differences.append(TopicDifference(topic=plan.name, what="missing", wanted="", found=""))
        else:
            differences.extend(_compare(plan, state))
    return tuple(differences)


def _compare(plan: TopicPlan, state: TopicState) -> list[TopicDifference]:
    def differs(what: str, wanted: object, found: object) -> TopicDifference:
        return TopicDifference(topic=plan.name, what=what, wanted=str(wanted), found=str(found))

    result: list[TopicDifference] = []
    if state.partitions < plan.partitions or (plan.partitions == 1 and state.partitions != 1):
        result.append(differs("partitions", plan.partitions, state.partitions))
    if state.replication < plan.replication:
        result.append(differs("replication", plan.replication, state.replication))
    for name, wanted in plan.config.items():
        real = state.config.get(name, "(unknown)")
        if real != wanted:
            result.append(differs(name, wanted, real))
    return result


def print_commands(plans: Sequence[TopicPlan], bootstrap_servers: str) -> tuple[str, ...]:
    """The commands of Kafka's own tool that create the topics, one a line, quoted for a shell."""
    return tuple(
        shlex.join(
            [
                "kafka-topics.sh",
                "--bootstrap-server",
                bootstrap_servers or "localhost:9092",
                "--create",
                "--if-not-exists",
                "--topic",
                plan.name,
                "--partitions",
                str(plan.partitions),
                "--replication-factor",
                str(plan.replication),
                *(part for item in plan.config.items() for part in ("--config", "=".join(item))),
            ]
        )
        for plan in plans
    )


async def ensure_topics(admin: TopicAdmin, plans: Sequence[TopicPlan]) -> tuple[str, ...]:
    """Create the missing ones; returns the names created. Existing ones are left as they are."""
    created = [plan.name for plan in plans if await admin.create(plan)]
    return tuple(created)


async def check_topics(admin: TopicAdmin, plans: Sequence[TopicPlan]) -> tuple[TopicDifference, ...]:
    """How the real ones differ from the plan."""
    return compare_topics(plans, await admin.describe([plan.name for plan in plans]))
