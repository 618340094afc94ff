"""Sums over the volumes of each collection, for metrics. Source: weed/storage/store.go:CollectHeartbeat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable

    from native_handlers.storage.model.report import VolumeReport


@dataclass(slots=True)
class CollectionTotals:
    """`volumes` counts all volumes; the other sums are of the announced ones. `size_bytes` sums the lengths of .dat
    files.
    """

    volumes: int = 0
    announced: int = 0
    size_bytes: int = 0
    deleted_bytes: int = 0
    read_only: int = 0
    no_write_or_delete: int = 0
    no_write_can_delete: int = 0
    disk_space_low: int = 0


def totals_of(reports: Iterable[VolumeReport]) -> dict[str, CollectionTotals]:
    """The sums of `reports` by collection."""
    totals: dict[str, CollectionTotals] = {}
    for report in reports:
        sums = totals.get(report.collection)
        if sums is None:
            sums = totals[report.collection] = CollectionTotals()
        sums.volumes += 1
        if not report.is_announced:
            continue
        sums.announced += 1
        sums.size_bytes += report.size_bytes
        sums.deleted_bytes += report.deleted_byte_count
        if report.read_only:
            sums.read_only += 1
            sums.no_write_or_delete += report.no_write_or_delete
            sums.no_write_can_delete += report.no_write_can_delete
            sums.disk_space_low += report.disk_space_low
    return totals
