"""Upstream's metrics of the native engine, under upstream's names. Source: weed/stats/metrics.go.

With a backend both processes give the same families, and `NodeExposition` merges them. The counts are added, because
each request is counted by the engine that has answered it.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from native_handlers.records import dataclass
from supervisor.control.process_facts import process_families
from supervisor.control.text_format import Family

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from native_handlers.runtime.server_counts import Counts, Distribution, ServerCounts
    from native_handlers.storage.model.report import DiskStatus
    from native_handlers.storage.store import Store
    from native_handlers.storage.volume_totals import CollectionTotals

NAMESPACE = "SeaweedFS_"
PREFIX = f"{NAMESPACE}volumeServer_"
OWN_PREFIX = f"{NAMESPACE}volumeSupervisor_"

KNOWN_TO_BOTH = frozenset(
    {
        f"{NAMESPACE}build_info",
        *(
            f"{PREFIX}{name}"
            for name in (
                "start_time_seconds",
                "max_volumes",
                "resource",
                "disk_error_status",
                "concurrent_download_limit",
                "concurrent_upload_limit",
                "master_disconnections",
            )
        ),
        "process_start_time_seconds",
        "process_max_fds",
    }
)
"""Families about the node. The backend gives them too, about itself: its only master is the relay, and its start is its
last restart."""

_GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


@dataclass(frozen=True, slots=True)
class NodeNumbers:
    """The numbers of a node besides its volumes and counts. A thread calls the functions."""

    started_at_s: float
    version: str
    commit: str
    size_limit: str
    upload_limit_bytes: int
    download_limit_bytes: int
    upload_bytes_in_flight: Callable[[], int]
    download_bytes_in_flight: Callable[[], int]
    master_disconnections: Callable[[], Mapping[str, int]]


class VolumeMetrics:
    """Makes all families again for each scrape, so the series of a collection end with its last volume.

    Args:
        store: None where this process has no volumes. Then the backend gives the facts about volumes.
    """

    def __init__(self, store: Store | None, counts: ServerCounts, numbers: NodeNumbers) -> None:
        self._store = store
        self._counts = counts
        self._numbers = numbers

    def collect(self) -> list[Family]:
        """All families of this process, also those without series. Blocks: the disks are asked for their sizes."""
        families = [*_node_families(self._numbers), *_count_families(self._counts.snapshot())]
        if self._store is not None:
            families += _store_families(self._store)
        return sorted((*families, *process_families()), key=lambda family: family.name)


def _node_families(numbers: NodeNumbers) -> Iterator[Family]:
    labels = {
        "version": numbers.version,
        "commit": numbers.commit,
        "sizelimit": numbers.size_limit,
        "goos": platform.system().lower(),
        "goarch": _GO_ARCHITECTURES.get(platform.machine(), platform.machine()),
    }
    about = "A constant 1. The labels tell the upstream version that this server is compatible with."
    yield _family(f"{NAMESPACE}build_info", "gauge", about, [(labels, 1)])
    yield _number(
        "start_time_seconds", "gauge", "Start time of the server, in seconds since 1970.", numbers.started_at_s
    )
    up, down = numbers.upload_limit_bytes, numbers.download_limit_bytes
    yield _number("concurrent_upload_limit", "gauge", "Bytes of uploads that may be in flight; 0 is no limit.", up)
    yield _number(
        "concurrent_download_limit", "gauge", "Bytes of downloads that may be in flight; 0 is no limit.", down
    )
    in_flight = numbers.upload_bytes_in_flight(), numbers.download_bytes_in_flight()
    yield _number("in_flight_upload_size", "gauge", "Bytes of the uploads in flight.", in_flight[0])
    yield _number("in_flight_download_size", "gauge", "Bytes of the downloads in flight.", in_flight[1])
    lost = [({"address": address}, count) for address, count in numbers.master_disconnections().items()]
    yield _family(f"{PREFIX}master_disconnections", "counter", "Heartbeat streams that failed or broke.", lost)


def _count_families(counts: Counts) -> Iterator[Family]:
    def labelled(name: str, help_text: str, labels: tuple[str, ...], values: Counter[tuple[str, str]]) -> Family:
        samples = [(dict(zip(labels, key, strict=True)), values[key]) for key in sorted(values)]
        return _family(PREFIX + name, "counter", help_text, samples)

    yield labelled("request_total", "Requests by method and status code.", ("type", "code"), counts.request_total)
    handlers = [({"type": kind}, count) for kind, count in sorted(counts.handler_total.items())]
    yield _family(f"{PREFIX}handler_total", "counter", "What handlers met on the way.", handlers)
    in_flight = [({"type": kind}, count) for kind, count in sorted(counts.in_flight_requests.items())]
    yield _family(f"{PREFIX}in_flight_requests", "gauge", "Requests that are being answered.", in_flight)
    yield _number("file_read_failures", "counter", "Reads that failed.", counts.file_read_failures)
    yield _number(
        "file_read_invalid_needles", "counter", "Reads of needles that are not here.", counts.file_read_invalid_needles
    )
    yield _number("file_write_failures", "counter", "Writes and deletes that failed.", counts.file_write_failures)
    operations = counts.replication_operations_total
    yield labelled("replication_operations_total", "Replicated operations.", ("operation", "result"), operations)
    failures = counts.replication_failures_total
    yield labelled("replication_failures_total", "Why replication failed.", ("operation", "reason"), failures)
    yield _distributions("request_seconds", "Duration of requests, in seconds.", "type", counts.request_seconds)
    seconds = counts.replication_seconds
    yield _distributions("replication_seconds", "Duration of replicated operations.", "operation", seconds)
    targets = Family(f"{PREFIX}replication_targets", "histogram", "Other holders that an operation went to.")
    targets.add_distribution({}, counts.replication_targets)
    yield targets
    yield from _vacuum_families(counts)
    yield from _scrub_families(counts)
    rebuilds = [({"result": result}, count) for result, count in sorted(counts.ec_rebuild_total.items())]
    yield _family(f"{PREFIX}ec_rebuild_total", "counter", "Rebuilds of shards.", rebuilds)
    about = "Duration of rebuilds of shards, in seconds."
    yield _distributions("ec_rebuild_seconds", about, "result", counts.ec_rebuild_seconds)
    errors = [({"code": code}, count) for code, count in sorted(counts.upload_error_total.items())]
    about = "Uploads to other servers that failed, by status code; 0 where no answer came."
    yield _family(f"{NAMESPACE}upload_error_total", "counter", about, errors)


def _vacuum_families(counts: Counts) -> Iterator[Family]:
    steps = (("compact", counts.vacuuming_compact_count), ("commit", counts.vacuuming_commit_count))
    for step, outcomes in steps:
        samples = [({"success": str(is_success).lower()}, count) for is_success, count in sorted(outcomes.items())]
        yield _family(f"{PREFIX}vacuuming_{step}_count", "counter", f"Vacuums, their {step}.", samples)
    about = "Duration of the steps of vacuums, in seconds."
    yield _distributions("vacuuming_seconds", about, "type", counts.vacuuming_seconds)


def _scrub_families(counts: Counts) -> Iterator[Family]:
    broken = [({"mode": mode}, count) for mode, count in sorted(counts.scrub_volume_failures.items())]
    yield _family(f"{PREFIX}scrub_volume_failures", "counter", "Broken volumes that scrubs have found.", broken)
    shards = [({"mode": mode}, count) for mode, count in sorted(counts.scrub_shard_failures.items())]
    yield _family(f"{PREFIX}scrub_shard_failures", "counter", "Broken shards that scrubs have found.", shards)
    ends = [({"mode": mode}, ended_at_s) for mode, ended_at_s in sorted(counts.scrub_last_time_seconds.items())]
    yield _family(f"{PREFIX}scrub_last_time_seconds", "gauge", "End of the last scrub, in seconds since 1970.", ends)


def _store_families(store: Store) -> Iterator[Family]:
    totals = store.totals()
    volumes = {(collection, "volume"): sums.volumes for collection, sums in totals.items()}
    read_only: dict[tuple[str, str], float] = {}
    sizes: dict[tuple[str, str], float] = {}
    for collection, sums in totals.items():
        if sums.announced:
            sizes |= {(collection, "normal"): sums.size_bytes, (collection, "deleted_bytes"): sums.deleted_bytes}
            read_only |= {(collection, kind): count for kind, count in _read_only_types(sums)}
    for coded in store.ec.volumes():
        key = coded.collection, "ec_shards"
        volumes[key] = volumes.get(key, 0) + len(coded.shards)
        key = coded.collection, "ec"
        sizes[key] = sizes.get(key, 0) + sum(shard.size_bytes for shard in coded.shards.values())
    damaged = store.damaged_count
    yield _family(f"{OWN_PREFIX}damaged_volumes", "gauge", "Volumes in which a read met damage.", [({}, damaged)])
    short = [({"name": str(location.path)}, int(location.is_space_low)) for location in store.locations]
    yield _family(f"{OWN_PREFIX}disk_short", "gauge", "1 while a disk has no room for writers.", short)
    yield _by_collection("volumes", "Number of volumes or shards.", volumes)
    yield _by_collection("read_only_volumes", "Number of read only volumes.", read_only)
    yield _by_collection("total_disk_size", "Bytes of the volumes.", sizes)
    limit = sum(store.max_volume_counts().values())
    yield _number("max_volumes", "gauge", "Maximum number of volumes.", limit)
    disks = store.disk_statuses()
    yield _family(f"{PREFIX}resource", "gauge", "Bytes of the disks.", _resources(disks))
    failing = [({"name": disk.dir, "type": "error"}, 1 if disk.error else 0) for disk in disks]
    yield _family(f"{PREFIX}disk_error_status", "gauge", "1 while a disk is out of service.", failing)


def _read_only_types(sums: CollectionTotals) -> tuple[tuple[str, int], ...]:
    """All four types: upstream has a series of each for every collection, zeros included."""
    return (
        ("IsReadOnly", sums.read_only),
        ("isDiskSpaceLow", sums.disk_space_low),
        ("noWriteCanDelete", sums.no_write_can_delete),
        ("noWriteOrDelete", sums.no_write_or_delete),
    )


def _family(name: str, kind: str, help_text: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> Family:
    family = Family(name, kind, help_text)
    for labels, value in samples:
        family.add(labels, value)
    return family


def _number(name: str, kind: str, help_text: str, value: float) -> Family:
    return _family(PREFIX + name, kind, help_text, [({}, value)])


def _distributions(name: str, help_text: str, label: str, values: Mapping[str, Distribution]) -> Family:
    family = Family(PREFIX + name, "histogram", help_text)
    for key in sorted(values):
        family.add_distribution({label: key}, values[key])
    return family


def _by_collection(name: str, help_text: str, values: Mapping[tuple[str, str], float]) -> Family:
    samples = [({"collection": key[0], "type": key[1]}, values[key]) for key in sorted(values)]
    return _family(PREFIX + name, "gauge", help_text, samples)


def _resources(disks: Iterable[DiskStatus]) -> Iterator[tuple[Mapping[str, str], float]]:
    for disk in disks:
        sizes = (("all", disk.all), ("avail", disk.available), ("free", disk.free), ("used", disk.used))
        for kind, size in sizes:
            yield {"name": disk.dir, "type": kind}, size
