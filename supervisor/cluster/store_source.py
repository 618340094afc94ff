"""Feeds a native Store into the node model, and the master's options into the Store.

The Store is looked at as a whole: every few seconds, and at once when it tells of a change. All of it happens in a
thread, so a disk that hangs delays what is new, never a heartbeat.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from native_handlers.pb import master_pb2, volume_server_pb2
from supervisor.cluster.source_feed import NodeFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from native_handlers.storage.report import DiskStatus, VolumeEvent, VolumeReport
    from native_handlers.storage.store import Store
    from supervisor.cluster.master_view import MasterSettings, MasterView
    from supervisor.cluster.source_feed import SourceFeed

_log = logging.getLogger(__name__)
REFRESH_S = 2.5  # half a pulse: what a heartbeat says is no older


class StoreSource:
    """The wake-up handle of a running source."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._is_stale = trio.Event()

    def refresh_soon(self) -> None:
        """Has the Store looked at again now. From any thread; many calls in a row are one look."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(lambda: self._is_stale.set())  # noqa: PLW0108  replaced on each round

    async def wait(self, at_most_s: float) -> None:
        """Returns when a look is due."""
        with trio.move_on_after(at_most_s):
            await self._is_stale.wait()
        self._is_stale = trio.Event()


async def serve_store_source(
    store: Store,
    feed: SourceFeed,
    view: MasterView,
    *,
    is_owned: Callable[[int], bool] = lambda volume_id: True,
    removes_expired: bool = True,
    refresh_s: float = REFRESH_S,
    task_status: trio.TaskStatus[StoreSource] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keeps `feed` like `store` until cancelled; started once the first full list is in.

    Args:
        is_owned: whether a volume of the Store is the native engine's to report; others are left out.
        removes_expired: whether volumes whose TTL has long passed are deleted, as upstream does before a heartbeat.

    Cancellation: safe. A look that is under way is left to end by itself, for its disk may hang.
    """
    source = StoreSource()

    def heed(settings: MasterSettings) -> None:
        if settings.volume_size_limit_bytes:
            store.set_volume_size_limit(settings.volume_size_limit_bytes)
        store.set_preallocate(settings.preallocate)
        source.refresh_soon()

    def look() -> None:
        _look(store, feed, is_owned, removes_expired=removes_expired)

    def heed_event(_event: VolumeEvent) -> None:
        source.refresh_soon()

    limiter = trio.CapacityLimiter(1)  # its own: the master hears of volumes however busy other threads are
    remove_listener = store.add_listener(heed_event)
    remove_settings_listener = view.add_settings_listener(heed)
    try:
        await trio.to_thread.run_sync(look, abandon_on_cancel=True, limiter=limiter)
        task_status.started(source)
        while True:
            await source.wait(refresh_s)
            await trio.to_thread.run_sync(look, abandon_on_cancel=True, limiter=limiter)
    finally:
        remove_listener()
        remove_settings_listener()


def _look(store: Store, feed: SourceFeed, is_owned: Callable[[int], bool], *, removes_expired: bool) -> None:
    if removes_expired:
        expired = store.remove_expired_volumes()
        if expired:
            _log.info("deleted volumes whose TTL has passed: %s", ", ".join(map(str, expired)))
    store.adjust_max_volumes()
    reports = [report for report in store.volume_reports() if is_owned(report.id)]
    feed.set_facts(_facts(store, reports))
    state = volume_server_pb2.VolumeServerState(maintenance=store.state.maintenance, version=store.state.version)
    if feed.state != state:
        feed.set_state(state)
    messages = {(report.disk_id, report.id): message_of(report) for report in reports if report.is_announced}
    held = {key: volume.message for key, volume in feed.volumes.items()}
    if messages != held or not feed.has_all_volumes:
        feed.replace_volumes(messages.values())
    if not feed.has_all_ec_shards:
        feed.replace_ec_shards([])  # the native engine has no erasure coding shards to report


def message_of(report: VolumeReport) -> master_pb2.VolumeInformationMessage:
    """What a heartbeat says of one volume. Source: weed/storage/volume.go, ToVolumeInformationMessage."""
    return master_pb2.VolumeInformationMessage(
        id=report.id,
        size=report.size_bytes,
        collection=report.collection,
        file_count=report.file_count,
        delete_count=report.delete_count,
        deleted_byte_count=report.deleted_byte_count,
        read_only=report.read_only,
        replica_placement=report.replica_placement.to_byte(),
        version=report.version,
        ttl=report.ttl.to_uint32(),
        compact_revision=report.compact_revision,
        modified_at_second=report.modified_at_s,
        remote_storage_name=report.remote_storage_name,
        remote_storage_key=report.remote_storage_key,
        disk_type=report.disk_type,
        disk_id=report.disk_id,
    )


def _facts(store: Store, reports: Iterable[VolumeReport]) -> NodeFacts:
    counts = store.max_volume_counts()
    statuses = [status for status in store.disk_statuses() if not status.error]
    return NodeFacts(
        max_volume_counts=counts,
        disk_tags=tuple(
            master_pb2.DiskTag(disk_id=disk_id, type=disk_type, tags=tags, max_volume_count=slots)
            for disk_id, disk_type, tags, slots in store.disk_tags()
        ),
        location_uuids=tuple(store.location_uuids()),
        disk_total_bytes=_sum_by_type(statuses, lambda status: status.all),
        disk_free_bytes=_sum_by_type(statuses, lambda status: status.free),
        max_file_key=max((report.max_needle_id for report in reports), default=0),
    )


def _sum_by_type(statuses: Iterable[DiskStatus], size_of: Callable[[DiskStatus], int]) -> dict[str, int]:
    """Sizes of locations summed by disk type, as upstream does, also where two share a file system."""
    sums: dict[str, int] = {}
    for status in statuses:
        sums[status.disk_type] = sums.get(status.disk_type, 0) + size_of(status)
    return sums
