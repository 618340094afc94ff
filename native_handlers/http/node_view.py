"""`NodeView` of a node whose every volume is native: what the store says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from native_handlers.http.context import (
        DiskStatusRow,
        FindingRow,
        NodeDetails,
        ReplicaPlacementStatus,
        VolumeStatus,
    )
    from native_handlers.storage.report import DiskStatus, Finding, VolumeReport
    from native_handlers.storage.store import Store


_THREADS = 4
"""That look at the store for status pages at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """What belongs to whoever runs the server.

    Args:
        details: asked anew for each status page.
        is_heartbeating: false once the heartbeat loop has ended.
        is_stopping: true from the first stop signal on.
    """

    details: Callable[[], NodeDetails]
    is_heartbeating: Callable[[], bool]
    is_stopping: Callable[[], bool]


class StatefulNodeView:
    """The part of a `NodeView` that is the same whoever has the volumes."""

    def __init__(self, state: NodeState) -> None:
        self._state = state

    async def details(self) -> NodeDetails:
        return self._state.details()

    @property
    def is_stopping(self) -> bool:
        return self._state.is_stopping()

    @property
    def is_heartbeating(self) -> bool:
        return self._state.is_heartbeating()


class StoreNodeView(StatefulNodeView):
    """The view of one native store."""

    def __init__(self, store: Store, state: NodeState) -> None:
        super().__init__(state)
        self._store = store
        # Their own, and few: a page that waits for a disk takes no thread from a request.
        self._threads = trio.CapacityLimiter(_THREADS)

    async def volumes(self) -> Sequence[VolumeStatus]:
        reports = await trio.to_thread.run_sync(self._store.volume_reports, limiter=self._threads)
        return [volume_status(report) for report in reports]

    async def disk_statuses(self) -> Sequence[DiskStatusRow]:
        """Measured now; a disk that hangs costs half a second."""
        rows = await trio.to_thread.run_sync(self._store.disk_statuses, limiter=self._threads)
        return [disk_status_row(row) for row in rows]

    async def findings(self) -> Sequence[FindingRow]:
        return [finding_row(finding) for finding in self._store.findings]


def volume_status(report: VolumeReport) -> VolumeStatus:
    """The /status form of a report: its Size counts stored needles, not the length of the .dat file.

    Source: weed/storage/store.go VolumeInfos, weed/storage/volume_info.go.
    """
    placement = report.replica_placement
    counts = {"node": placement.same_rack, "rack": placement.diff_rack, "dc": placement.diff_data_center}
    replicas: ReplicaPlacementStatus = {}
    replicas.update({key: count for key, count in counts.items() if count})  # type: ignore[typeddict-item]
    ttl = report.ttl
    return {
        "Collection": report.collection,
        "DiskType": report.disk_type,
        "RemoteStorageName": report.remote_storage_name,
        "ReplicaPlacement": replicas,
        "Ttl": {"Count": ttl.count, "Unit": ttl.unit},
        "Size": report.content_size_bytes,
        "DeletedByteCount": report.deleted_byte_count,
        "ModifiedAtSecond": report.modified_at_s,
        "Id": report.id,
        "DiskId": report.disk_id,
        "CompactRevision": report.compact_revision,
        "FileCount": report.file_count,
        "DeleteCount": report.delete_count,
        "Version": report.version,
        "ReadOnly": report.read_only,
    }


def disk_status_row(status: DiskStatus) -> DiskStatusRow:
    """The /status form of one disk, without the keys whose value is zero."""
    row: DiskStatusRow = {
        "dir": status.dir,
        "all": status.all,
        "used": status.used,
        "free": status.free,
        "percent_free": status.percent_free,
        "percent_used": status.percent_used,
        "disk_type": status.disk_type,
        "error": status.error,
    }
    return {key: value for key, value in row.items() if value}  # type: ignore[return-value]


def finding_row(finding: Finding) -> FindingRow:
    """The /status form of a finding."""
    text = f"{finding.kind.value}: {finding.detail}"
    return {"Path": str(finding.base), "Kind": finding.kind.name, "Text": text}
