"""`NodeView` of a node whose volumes are all native, made from the store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import field
from operator import is_
from typing import TYPE_CHECKING, TypeVar

import trio

from native_handlers.http_model.go_json import EncodedList, encode_item
from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from native_handlers.http.context import (
        DiskStatusRow,
        FindingRow,
        NodeDetails,
        ReplicaPlacementStatus,
        VolumeStatus,
    )
    from native_handlers.storage.model.report import DiskStatus, Finding, VolumeReport
    from native_handlers.storage.store import Store

T = TypeVar("T")

_THREADS = 4
"""Threads that read the store for status pages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """The facts of the node that the server's runner knows.

    Args:
        details: called for each status page, in a thread: it may wait for a disk.
        is_heartbeating: false once the heartbeat loop has ended.
        is_stopping: true from the first stop signal on.
    """

    details: Callable[[], NodeDetails]
    is_heartbeating: Callable[[], bool]
    is_stopping: Callable[[], bool]


class StatefulNodeView(ABC):
    """The common part of all `NodeView`s."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        # Threads of their own, and few: a page that waits for a disk takes no thread from a request.
        self._threads = trio.CapacityLimiter(_THREADS)

    async def details(self) -> NodeDetails:
        return await self.aside(self._state.details)

    @abstractmethod
    async def volume_rows(self, *, is_pretty: bool) -> Sequence[tuple[int, str]]:
        """See `NodeView`."""

    async def volume_list(self, *, is_pretty: bool) -> EncodedList:
        rows = await self.volume_rows(is_pretty=is_pretty)
        return await self.aside(lambda: EncodedList.of([text for _, text in rows], is_pretty=is_pretty))

    async def aside(self, work: Callable[[], T]) -> T:
        """Runs `work` in a thread for status pages and returns its result."""
        return await trio.to_thread.run_sync(work, limiter=self._threads)

    @property
    def is_stopping(self) -> bool:
        return self._state.is_stopping()

    @property
    def is_heartbeating(self) -> bool:
        return self._state.is_heartbeating()


@dataclass(frozen=True, slots=True)
class _KeptList:
    """The rows and the joined text of some reports, in their order."""

    reports: Sequence[VolumeReport] = ()
    rows: Sequence[tuple[int, str]] = ()
    joined: EncodedList = field(default_factory=lambda: EncodedList(""))


class StoreNodeView(StatefulNodeView):
    """The view of one native store."""

    def __init__(self, store: Store, state: NodeState) -> None:
        super().__init__(state)
        self._store = store
        self._kept = {False: _KeptList(), True: _KeptList()}
        """The last lists, compact and pretty. A store returns the same report object while its volume has not
        changed."""

    @property
    def kept_rows(self) -> int:
        """The number of rows in memory, in both forms together."""
        return sum(len(kept.rows) for kept in self._kept.values())

    async def volumes(self) -> Sequence[VolumeStatus]:
        return await self.aside(lambda: [volume_status(report) for report in self._store.volume_reports()])

    async def volume_rows(self, *, is_pretty: bool) -> Sequence[tuple[int, str]]:
        return await self.aside(lambda: self._list(is_pretty=is_pretty).rows)

    async def volume_list(self, *, is_pretty: bool) -> EncodedList:
        return await self.aside(lambda: self._list(is_pretty=is_pretty).joined)

    def _list(self, *, is_pretty: bool) -> _KeptList:
        kept, reports = self._kept[is_pretty], self._store.volume_reports()
        if len(reports) == len(kept.reports) and all(map(is_, reports, kept.reports)):
            return kept
        known = {id(report): row for report, row in zip(kept.reports, kept.rows, strict=True)}
        rows = [known.get(id(report)) or _row(report, is_pretty=is_pretty) for report in reports]
        joined = EncodedList.of([text for _, text in rows], is_pretty=is_pretty)
        self._kept[is_pretty] = made = _KeptList(reports, rows, joined)
        return made

    async def disk_statuses(self) -> Sequence[DiskStatusRow]:
        """Measured now; a disk that hangs costs half a second."""
        return await self.aside(lambda: [disk_status_row(status) for status in self._store.disk_statuses()])

    async def findings(self) -> Sequence[FindingRow]:
        if not self._store.has_findings:
            return []
        return await self.aside(lambda: [finding_row(finding) for finding in self._store.findings])


def _row(report: VolumeReport, *, is_pretty: bool) -> tuple[int, str]:
    return report.id, encode_item(volume_status(report), is_pretty=is_pretty)


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
