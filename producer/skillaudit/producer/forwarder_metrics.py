"""A host forwarder's figures for Prometheus, served by `skillaudit forward`.

What waits in the outbox is measured from the files when it is asked for, not from what the forwarder believes: a forwarder
that is stuck shows.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Generator, Iterable
from threading import Lock
from typing import TYPE_CHECKING, Final

from skillaudit.contract.clock import Clock, SystemClock
from skillaudit.contract.outbox.directory import SourceState, SourceStatus, list_sources
from skillaudit.contract.settings import Settings

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from skillaudit.producer.forwarder import Forwarder

MEASURE_INTERVAL_S: Final = 5.0
"""How old the measured backlog may be: it reads a segment of every source."""

_log = logging.getLogger("skillaudit.forwarder")


class ForwarderCollector:
    """A `prometheus_client` collector. Called in the thread of whoever scrapes."""

    def __init__(self, forwarder: Forwarder, clock: Clock | None = None) -> None:
        """`forwarder` may be at any stage of its life."""
        self._forwarder = forwarder
        self._clock = clock or SystemClock()
        self._measuring = Lock()
        self._measured_s = float("-inf")
        self._sources: list[SourceStatus] = []

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not measure."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All figures, as of now."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        report = self._forwarder.report
        yield GaugeMetricFamily(
            "skillaudit_forwarder_up",
            "1 while nothing keeps it from its work; 0 while the broker does not answer, a partition has no leader, or the outbox's disk fails",
            value=0.0 if self._forwarder.outage else 1.0,
        )
        counters = {
            "acknowledged_records": ("Records the broker acknowledged", report.acknowledged),
            "refused_records": ("Records the broker refused for good, kept in refused/", report.refused),
            "incidents": ("Damage and strangers met in the outbox", report.incidents),
            "rebuilt": ("How often the publisher had to be opened anew", report.rebuilt),
        }
        for name, (text, number) in counters.items():
            yield CounterMetricFamily(
                f"skillaudit_forwarder_{name}", f"{text}, since the start", value=number
            )
        sources = GaugeMetricFamily("skillaudit_outbox_sources", "Sources in the outbox", labels=["state"])
        measured = self._measure()
        for state in SourceState:
            sources.add_metric([state.value], sum(it.state is state for it in measured))
        yield sources
        waiting = [it for it in measured if it.backlog_records]
        oldest_us = min((it.oldest_us for it in waiting if it.oldest_us), default=0)
        age_s = max(self._clock.wall_us() - oldest_us, 0) / 1e6 if oldest_us else 0.0
        gauges = {
            "backlog_records": ("Records not acknowledged", sum(it.backlog_records for it in waiting)),
            "backlog_bytes": ("Bytes not acknowledged", sum(it.backlog_bytes for it in waiting)),
            "oldest_unforwarded_seconds": ("Age of the oldest record not acknowledged", age_s),
            "troubled_sources": (
                "Sources of which something is unreadable",
                sum(bool(it.trouble) for it in measured),
            ),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"skillaudit_outbox_{name}", text, value=value)

    def _measure(self) -> list[SourceStatus]:
        with self._measuring:
            if time.monotonic() - self._measured_s > MEASURE_INTERVAL_S:
                self._sources = list_sources(self._forwarder.outbox_dir)
                self._measured_s = time.monotonic()
            return self._sources


@contextlib.contextmanager
def serve_metrics(forwarder: Forwarder, settings: Settings) -> Generator[str]:
    """Serve `/metrics` at `settings.metrics_listen` until the block is left; gives the address, empty where it does not.

    Forwarding is worth more than figures: a port that is taken, or a missing package, is said and gone without.
    """
    host, _, port = settings.metrics_listen.rpartition(":")
    if not port:
        yield ""
        return
    try:
        from prometheus_client import CollectorRegistry, start_http_server

        registry = CollectorRegistry()
        registry.register(ForwarderCollector(forwarder))
        server, thread = start_http_server(int(port), host.strip("[]"), registry)
    except (ImportError, OSError) as exc:
        remedy = "pip install 'skillaudit[metrics]'" if isinstance(exc, ImportError) else "set metrics_listen"
        _log.warning("no metrics at %s: %s; %s", settings.metrics_listen, exc, remedy)
        yield ""
        return
    try:
        yield f"http://{host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
