"""The shipped alert rules: promtool's own tests of them, and that they ask for what consumer and forwarder really serve."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client.core import Metric
from tests.consumer import support
from tests.consumer.test_metrics import heard_of
from tests.consumer.test_service import ListSource
from tests.forwarder.support import TopicInMemory
from tests.proof.support import sealing
from tests.support.waiting import until

from skillaudit.consumer.metrics import ServiceCollector
from skillaudit.consumer.service import ConsumerService
from skillaudit.contract.settings import Settings
from skillaudit.producer.forwarder import Forwarder
from skillaudit.producer.forwarder_metrics import ForwarderCollector

RULES = Path(__file__).parents[2] / "deploy" / "prometheus"
PROMTOOL_S_MAX = 240
WAIT_S = 30.0
FROM_PROMETHEUS = {"up", "job", "instance"}
"""What Prometheus itself adds."""
_EXPR = re.compile(r"(?m)^ +expr: (>-\n(?: {10,}.+\n)+|.+\n)")
_SERIES = re.compile(r"\b(skillaudit_[a-z_]+)(?:\{([^}]*)\})?")


def promtool(*words: str | Path) -> None:
    """Run it; what it says where it does not succeed. Without it the test is skipped and says so; in CI it fails."""
    program = shutil.which("promtool")
    if program is None:
        reason = "no `promtool` (Debian's package prometheus): the alert rules were not tried"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    done = subprocess.run(
        [program, *map(str, words)], capture_output=True, text=True, timeout=PROMTOOL_S_MAX, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_fires_when_it_should_and_not_else() -> None:
    """By promtool: a quiet day, the first of a kind, what came while nobody looked, and each trouble by itself."""
    promtool("test", "rules", RULES / "tests.yaml")


def test_no_rule_is_without_a_test() -> None:
    """Each is seen firing, and its series are there on the quiet day at which nothing fires."""
    rules, tests = (RULES / "alerts.yaml").read_text(), (RULES / "tests.yaml").read_text()
    quiet = tests.partition("- name: ")[2].partition("- name: ")[0]
    names = re.findall(r"- alert: (\w+)", rules)
    assert len(names) >= 20
    assert [name for name in names if f'alertname="{name}"' not in tests] == []
    asked = {name for expr in _EXPR.findall(rules) for name, _ in _SERIES.findall(expr)}
    assert [name for name in sorted(asked) if f"'{name}{{" not in quiet] == []


def test_the_way_of_scraping_is_one(tmp_path: Path) -> None:
    """`scrape.yaml` is a configuration, and gives both jobs the names that the rules ask for."""
    text = (RULES / "scrape.yaml").read_text()
    # Debian's promtool knows nothing of Kubernetes; how its targets are relabelled is checked all the same.
    plain = text.replace(
        "kubernetes_sd_configs: [{role: pod}]", 'static_configs: [{targets: ["127.0.0.1:1"]}]'
    )
    assert plain != text
    (tmp_path / "scrape.yaml").write_text(plain)
    shutil.copy(RULES / "alerts.yaml", tmp_path)
    promtool("check", "config", tmp_path / "scrape.yaml")
    jobs = set(re.findall(r'job="([\w-]+)"', (RULES / "alerts.yaml").read_text()))
    assert jobs == {"skillaudit-consumer", "skillaudit-forwarder"}
    assert jobs <= set(re.findall(r"job_name: ([\w-]+)", text))


def _served(families: Iterable[Metric]) -> dict[str, list[dict[str, str]]]:
    """Series -> the labels of each sample, or the names of its labels where it has no sample now."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in families:
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = [dict(sample.labels) for sample in family.samples]
        found[name] = labels or [dict.fromkeys(getattr(family, "_labelnames", ()), "")]
    return found


def _is_anchored(service: ConsumerService) -> bool:
    anchors = service.status.notary.anchors
    return bool(anchors) and anchors[0].published > 0


async def test_rules_ask_for_what_is_served(tmp_path: Path) -> None:
    """Every series that a rule names is one of the consumer's or the forwarder's, with the labels that it is asked by; a
    label's value that a rule wants is one that exists.
    """
    settings = Settings(data=tmp_path, **sealing(tmp_path))
    values = [*heard_of(1, "north"), support.start(), support.log(1), support.log(1, variant=1), b"no event"]
    source = ListSource(support.records(values))
    service, stop = ConsumerService(settings, source=lambda _: source, seal=True), asyncio.Event()
    running = asyncio.create_task(service.run(stop))
    try:
        await until(lambda: running.done() or (service.caught_up.is_set() and _is_anchored(service)), WAIT_S)
        served = _served(ServiceCollector(service).collect())
    finally:
        stop.set()
        await running
    assert served["skillaudit_anchor_newest_age_seconds"] == [{"anchor": settings.anchors}]
    served |= _served(ForwarderCollector(Forwarder(tmp_path / "outbox", TopicInMemory())).collect())
    asked = [
        found
        for expr in _EXPR.findall((RULES / "alerts.yaml").read_text())
        for found in _SERIES.findall(expr)
    ]
    assert len({name for name, _ in asked}) >= 20
    for name, matchers in asked:
        assert name in served, f"nobody serves {name}"
        for label, how, value in re.findall(r'(\w+)(=|!=)"([^"]*)"', matchers):
            assert label in FROM_PROMETHEUS or all(label in sample for sample in served[name]), (name, label)
            assert how == "!=" or any(sample.get(label) == value for sample in served[name]), (name, value)
