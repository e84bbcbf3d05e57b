"""The consumer's figures for Prometheus, read from its status and its database when they are asked for.

Names end in their unit; counters count since the process started, except where the text says "stored": those are what the
database holds, and stay where they are when the consumer is started anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from skillaudit.consumer.figures import StoredFigures, StoredReader, seconds_between
from skillaudit.consumer.notary import NotaryState, NotaryStatus
from skillaudit.contract.clock import Clock, SystemClock

if TYPE_CHECKING:
    from skillaudit.consumer.service import ConsumerService


class ServiceCollector(Collector):
    """Reads `ConsumerService.status` and the database behind it. From any thread; reading takes milliseconds."""

    def __init__(self, service: ConsumerService, clock: Clock | None = None) -> None:
        """`service` may be at any stage of its life."""
        self._service = service
        self._clock = clock or SystemClock()
        self._stored = StoredReader(service)

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not read."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All figures, as of now."""
        yield from _status_figures(self._service)
        yield from _notary_figures(self._service.status.notary, self._clock.wall_us())
        figures = self._stored.read()
        if figures is not None:
            yield from _trouble_figures(figures)
            yield from _host_figures(figures, self._clock.wall_us())


def _status_figures(service: ConsumerService) -> Iterable[Metric]:
    status = service.status
    yield GaugeMetricFamily(
        "skillaudit_consumer_up",
        "1 while the consumer takes records, 0 while its source does not answer or it has stopped",
        value=1.0 if status.state.value == "running" else 0.0,
    )
    yield CounterMetricFamily(
        "skillaudit_consumer_records", "Records consumed since the start", value=status.records
    )
    yield CounterMetricFamily(
        "skillaudit_consumer_batches", "Transactions since the start", value=status.batches
    )
    yield GaugeMetricFamily(
        "skillaudit_consumer_apply_seconds", "How long the last batch took", value=status.apply_ms / 1000
    )
    lag = GaugeMetricFamily(
        "skillaudit_consumer_lag_offsets", "Offsets behind the end last seen", labels=["partition"]
    )
    for partition, offsets in status.lag.copy().items():
        lag.add_metric([partition], offsets)
    yield lag
    at = GaugeMetricFamily(
        "skillaudit_consumer_position_offsets",
        "Offset up to which everything is consumed and committed; stands still where a partition is stuck",
        labels=["partition"],
    )
    positions = service.positions()
    for partition in status.lag.copy():
        at.add_metric([partition], positions.get(partition, 0))
    yield at
    outcomes = CounterMetricFamily(
        "skillaudit_consumer_outcomes", "What became of records since the start", labels=["outcome"]
    )
    for outcome, count in status.outcomes.copy().items():
        outcomes.add_metric([outcome], count)
    yield outcomes


def _notary_figures(notary: NotaryStatus, now_us: int) -> Iterable[Metric]:
    if notary.state is NotaryState.OFF:
        return
    gauges = {
        "seal_up": (
            "1 while the ledger is sealed, 0 while that fails or waits for a rebuilt ledger",
            _up(notary),
        ),
        "seal_age_seconds": ("How long rows of the ledger have waited for a seal", notary.seal_age_s(now_us)),
        "seal_behind_rows": ("Rows of the ledger that wait for a seal", notary.behind_rows),
        "anchor_lag_seconds": (
            "How long something signed has waited for an anchor, the slowest counted",
            notary.anchor_lag_s(now_us),
        ),
    }
    for name, (text, value) in gauges.items():
        yield GaugeMetricFamily(f"skillaudit_{name}", text, value=value)
    yield CounterMetricFamily(
        "skillaudit_sealed_rows", "Rows of the ledger sealed since the start", value=notary.rows_sealed
    )
    yield CounterMetricFamily(
        "skillaudit_seal_incidents",
        "Runs that did not agree with what was recorded of them when their finish was sealed",
        value=notary.incidents,
    )
    yield CounterMetricFamily(
        "skillaudit_seal_unchecked_runs",
        "Runs sealed without being computed again since the start, since their seal had too many; `skillaudit verify` does it",
        value=notary.unchecked_runs,
    )
    behind = GaugeMetricFamily(
        "skillaudit_anchor_behind_leaves",
        "Signed leaves of the journal that an anchor lacks",
        labels=["anchor"],
    )
    age = GaugeMetricFamily(
        "skillaudit_anchor_newest_age_seconds",
        "How long ago an anchor took the newest checkpoint that it has, by its own clock; none before it was asked. While the "
        "sealer lives there is a new one at least every hour",
        labels=["anchor"],
    )
    for anchor in notary.anchors:
        behind.add_metric([anchor.uri], anchor.behind)
        if anchor.published_us:
            age.add_metric([anchor.uri], seconds_between(anchor.published_us, now_us))
    yield behind
    yield age


def _up(notary: NotaryStatus) -> float:
    return 1.0 if notary.state is NotaryState.SEALING else 0.0


def _trouble_figures(figures: StoredFigures) -> Iterable[Metric]:
    texts: Mapping[str, tuple[str, list[str]]] = {
        "conflicts": ("Stored records that claim a place which another record of their run holds", []),
        "orphans": ("Stored runs of which no start has arrived", []),
        "dead_letters": ("Stored records that are no events, by state", ["state"]),
        "incidents": ("Stored incidents, by kind", ["kind"]),
    }
    families = {
        name: GaugeMetricFamily(f"skillaudit_{name}", text, labels=labels)
        for name, (text, labels) in texts.items()
    }
    for name, label, number in figures.troubles:
        families[name].add_metric([label] if texts[name][1] else [], number)
    yield from families.values()


def _host_figures(figures: StoredFigures, now_us: int) -> Iterable[Metric]:
    sources = GaugeMetricFamily(
        "skillaudit_host_sources",
        "Sources that are not closed, by what is heard of them",
        labels=["host", "state"],
    )
    texts = {
        "backlog_records": "Records in outboxes that no forwarder had acknowledged at the last heartbeat",
        "backlog_bytes": "The same in bytes",
        "oldest_unforwarded_seconds": "Age of the oldest of them; by this machine's clock",
        "silence_seconds": "How long nothing was heard of the host, in what is consumed of the broker's time; "
        "a stuck forwarder shows here",
        "refused_records": "Records that were refused for good, as heartbeats counted them",
        "lost_events": "Events that agents dropped, counted and declared (best effort)",
    }
    families = {
        name: GaugeMetricFamily(f"skillaudit_host_{name}", text, labels=["host"])
        for name, text in texts.items()
    }
    for host in figures.hosts:
        sources.add_metric([host.host, "live"], host.live)
        sources.add_metric([host.host, "silent"], host.silent)
        values = {
            "backlog_records": host.backlog_records,
            "backlog_bytes": host.backlog_bytes,
            "oldest_unforwarded_seconds": seconds_between(host.oldest_us, now_us),
            "silence_seconds": seconds_between(host.heard_us, figures.read_to_us),
            "refused_records": host.refused,
            "lost_events": host.lost,
        }
        for name, value in values.items():
            families[name].add_metric([host.host], value)
    yield sources
    yield from families.values()


def make_registry(service: ConsumerService) -> CollectorRegistry:
    """A registry with the service's figures, to which an HTTP surface adds its own."""
    registry = CollectorRegistry()
    registry.register(ServiceCollector(service))
    return registry
