"""The counters of this process, under `SeaweedFS_volumeSupervisor_`, and how requests are counted into them.

Upstream's own series are kept apart (`volume_metrics`): each of those has exactly one origin, the engine that did the
work, so a dashboard that sums by label never counts a request twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client.metrics_core import Metric

NAMESPACE = "SeaweedFS"
SUBSYSTEM = "volumeSupervisor"
SECONDS_BUCKETS = tuple(0.0001 * 2**exponent for exponent in range(24))
"""Upstream's buckets, so that both engines' histograms line up. Source: weed/stats/metrics.go."""


class SupervisorMetrics:
    """Counts requests by route and engine. Thread-safe (prometheus_client locks each child)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "requests", "Requests by route, engine and answer code.", ("route", "engine", "code"),
            namespace=NAMESPACE, subsystem=SUBSYSTEM, registry=registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "request_seconds", "Time from the request head to the answer's last byte.", ("route", "engine"),
            namespace=NAMESPACE, subsystem=SUBSYSTEM, registry=registry, buckets=SECONDS_BUCKETS,
        )  # fmt: skip

    def count_request(self, route: str, engine: str, code: str, duration_s: float) -> None:
        self._requests.labels(route, engine, code).inc()
        self._seconds.labels(route, engine).observe(duration_s)


class StateCollector:
    """Gauges read at scrape time from callables: route states, child state, anything that is a fact and not a count."""

    def __init__(self, gauges: Mapping[str, Gauge]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        for name, gauge in self._gauges.items():
            family = GaugeMetricFamily(f"{NAMESPACE}_{SUBSYSTEM}_{name}", gauge.help_text, labels=gauge.labels)
            for labels, value in gauge.read().items():
                family.add_metric(labels, value)
            yield family


class Gauge:
    """A named fact: its help, its label names and how to read {label values: number} now."""

    def __init__(
        self, help_text: str, labels: tuple[str, ...], read: Callable[[], Mapping[tuple[str, ...], float]]
    ) -> None:
        self.help_text = help_text
        self.labels = labels
        self.read = read
