"""The consumer's figures for Prometheus, read from its status when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from skillaudit.consumer.service import ConsumerService


class ServiceCollector(Collector):
    """Reads `ConsumerService.status`; nothing is counted twice."""

    def __init__(self, service: ConsumerService) -> None:
        """`service` may be at any stage of its life."""
        self._service = service

    def collect(self) -> Iterable[Metric]:
        """All figures, as of now."""
        status = self._service.status
        up = GaugeMetricFamily(
            "skillaudit_consumer_up", "1 while the consumer takes records, 0 while its source does not answer"
        )
        up.add_metric([], 1.0 if status.state.value == "running" else 0.0)
        yield up
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
        outcomes = CounterMetricFamily(
            "skillaudit_consumer_outcomes", "What became of records since the start", labels=["outcome"]
        )
        for outcome, count in status.outcomes.copy().items():
            outcomes.add_metric([outcome], count)
        yield outcomes


def make_registry(service: ConsumerService) -> CollectorRegistry:
    """A registry with the service's figures, to which an HTTP surface adds its own."""
    registry = CollectorRegistry()
    registry.register(ServiceCollector(service))
    return registry
