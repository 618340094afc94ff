"""Upstream's gauges of what a native store holds, under upstream's names. Source: weed/stats/metrics.go."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.metrics_core import Metric

    from native_handlers.storage.report import DiskStatus, VolumeReport
    from native_handlers.storage.store import Store

PREFIX = "SeaweedFS_volumeServer_"


class StoreCollector:
    """Reads the store at scrape time, so a collection's series end with its last volume."""

    def __init__(self, store: Store, started_at_s: float) -> None:
        self._store = store
        self._started_at_s = started_at_s

    def collect(self) -> Iterable[Metric]:
        reports = self._store.volume_reports()
        yield _gauge("start_time_seconds", "Start time of the server.", (), {(): self._started_at_s})
        yield _gauge("volumes", "Number of volumes or shards.", ("collection", "type"), _volume_counts(reports))
        yield _gauge("read_only_volumes", "Number of read only volumes.", ("collection", "type"), _read_only(reports))
        yield _gauge("total_disk_size", "Actual disk size used.", ("collection", "type"), _sizes(reports))
        limit = sum(self._store.max_volume_counts().values())
        yield _gauge("max_volumes", "Maximum number of volumes.", (), {(): limit})
        disks = self._store.disk_statuses()
        yield _gauge("resource", "Resource usage.", ("name", "type"), _resources(disks))
        failing: dict[tuple[str, ...], float] = {(disk.dir, "error"): 1.0 if disk.error else 0.0 for disk in disks}
        yield _gauge("disk_error_status", "1 while a disk is out of service.", ("name", "type"), failing)


def _resources(disks: Iterable[DiskStatus]) -> dict[tuple[str, ...], float]:
    values: dict[tuple[str, ...], float] = {}
    for disk in disks:
        sizes = (("all", disk.all), ("used", disk.used), ("free", disk.free), ("avail", disk.available))
        values |= {(disk.dir, kind): size for kind, size in sizes}
    return values


def _gauge(name: str, help_text: str, labels: tuple[str, ...], values: dict[tuple[str, ...], float]) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, help_text, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family


def _volume_counts(reports: Iterable[VolumeReport]) -> dict[tuple[str, ...], float]:
    return dict(Counter[tuple[str, ...]]((report.collection, "volume") for report in reports))


def _read_only(reports: Iterable[VolumeReport]) -> dict[tuple[str, ...], float]:
    return dict(Counter[tuple[str, ...]]((r.collection, "IsReadOnly") for r in reports if r.read_only))


def _sizes(reports: Iterable[VolumeReport]) -> dict[tuple[str, ...], float]:
    sizes: Counter[tuple[str, ...]] = Counter()
    for report in reports:
        sizes[report.collection, "normal"] += report.size_bytes
        sizes[report.collection, "deleted_bytes"] += report.deleted_byte_count
    return dict(sizes)
