"""The counters of this process, under `SeaweedFS_volumeSupervisor_`, and how requests are counted into them.

Upstream's own series are kept apart (`volume_metrics`): each of those has exactly one origin, the engine that did the
work, so a dashboard that sums by label never counts a request twice.
"""

from __future__ import annotations

from collections import Counter as Counting
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client.metrics_core import Metric

    from supervisor.routing.decision import Engine

NAMESPACE = "SeaweedFS"
SUBSYSTEM = "volumeSupervisor"
SECONDS_BUCKETS = tuple(0.0001 * 2**exponent for exponent in range(24))
"""Upstream's buckets, so that both engines' histograms line up. Source: weed/stats/metrics.go."""


class SupervisorMetrics:
    """Counts RPCs by route and engine. Thread-safe (prometheus_client locks each child)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "rpcs", "RPCs by route, engine and status code.", ("route", "engine", "code"),
            namespace=NAMESPACE, subsystem=SUBSYSTEM, registry=registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "rpc_seconds", "Time from a call's headers to its end.", ("route", "engine"),
            namespace=NAMESPACE, subsystem=SUBSYSTEM, registry=registry, buckets=SECONDS_BUCKETS,
        )  # fmt: skip

    def count_rpc(self, route: str, engine: str, code: str, duration_s: float) -> None:
        self._requests.labels(route, engine, code).inc()
        self._seconds.labels(route, engine).observe(duration_s)


class HttpCountCollector:
    """HTTP answers by route and engine, read from the gateways' own counts: the data path pays for no metric."""

    def __init__(self, counts: Iterable[Mapping[tuple[str, Engine], int]]) -> None:
        self._counts = tuple(counts)

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(
            f"{NAMESPACE}_{SUBSYSTEM}_http_requests", "HTTP requests by route and engine.", labels=("route", "engine")
        )
        total: Counting[tuple[str, str]] = Counting()
        for counts in self._counts:
            for (route, engine), count in dict(counts).items():
                total[route, str(engine.value)] += count
        for labels, count in total.items():
            family.add_metric(labels, count)
        yield family


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


ScrapeBackend = Callable[[], Awaitable[bytes]] | None
"""Returns the child's exposition, b"" when it has none to give now; None where there is no child."""


async def exposition(registry: CollectorRegistry, scrape_backend: ScrapeBackend) -> bytes:
    """All series of the node in the text format: the child's, then this process's own."""
    backend_text = await scrape_backend() if scrape_backend else b""
    if backend_text and not backend_text.endswith(b"\n"):
        backend_text += b"\n"
    return backend_text + generate_latest(registry)
