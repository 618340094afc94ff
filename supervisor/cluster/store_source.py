"""Fills the node model from a native Store, and passes the master's options to the Store.

The whole Store is looked at every few seconds. When the Store reports a change, only the volumes that the change names
are looked at, and at once: a server may have thousands of volumes. All of this runs in a thread. So a disk that hangs
delays news of volumes, but never a heartbeat.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from native_handlers.pb import master_pb2, volume_server_pb2
from native_handlers.storage.model.errors import StorageError
from supervisor.cluster.node_source import NodeProperties

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from native_handlers.storage.erasure_coding.ec_set import EcReport
    from native_handlers.storage.model.report import DiskStatus, VolumeReport
    from native_handlers.storage.store import Store
    from supervisor.cluster.master_view import MasterSettings, MasterView
    from supervisor.cluster.messages import VolumeKey
    from supervisor.cluster.node_source import NodeSource

_log = logging.getLogger(__name__)
REFRESH_S = 2.5  # half a pulse, so what a heartbeat says is no older than this


class StoreSource:
    """Wakes a running source for a new look. A look covers all requests that were made before the look began."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._woken = trio.Event()
        # Appended to by any thread. None stands for all volumes.
        self._due: deque[int | None] = deque()

    def refresh_soon(self) -> None:
        """Makes the source look at the whole Store now. Any thread may call it; many calls in a row cause one look."""
        self._due.append(None)
        self._wake()

    def look_soon(self, *volume_ids: int) -> None:
        """Makes the source look at those volumes and at the EC shards now. Any thread may call it, as above."""
        self._due.extend(volume_ids)
        self._wake()

    def _wake(self) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(lambda: self._woken.set())  # noqa: PLW0108  replaced on each round

    async def wait(self, at_most_s: float) -> set[int] | None:
        """Returns when a look is due, after `at_most_s` seconds at the latest.

        The result names the volumes to look at. None stands for all of them, as it does when the time is over.
        """
        with trio.move_on_after(at_most_s) as limit:
            await self._woken.wait()
        self._woken = trio.Event()
        due = [self._due.popleft() for _ in range(len(self._due))]
        named = {volume_id for volume_id in due if volume_id is not None}
        return None if limit.cancelled_caught or None in due else named


async def serve_store_source(
    store: Store,
    source: NodeSource,
    view: MasterView,
    *,
    is_owned: Callable[[int], bool] = lambda volume_id: True,
    removes_expired: bool = True,
    refresh_s: float = REFRESH_S,
    task_status: trio.TaskStatus[StoreSource] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keeps `source` equal to `store` until cancelled. `started` is called after the first full list.

    Args:
        is_owned: whether the native engine reports a volume of the Store. Other volumes are left out.
        removes_expired: whether volumes whose TTL has long passed are deleted, as upstream does before a heartbeat.

    Cancellation: safe. A running look ends by itself later, because its disk may hang.
    """
    changes = StoreSource()

    def heed(settings: MasterSettings) -> None:
        if settings.volume_size_limit_bytes:
            store.set_volume_size_limit(settings.volume_size_limit_bytes)
        store.set_preallocate(settings.preallocate)
        changes.refresh_soon()

    look = StoreLook(store, source, is_owned, removes_expired=removes_expired)

    limiter = trio.CapacityLimiter(1)  # its own thread: news of volumes must not wait while other threads are busy
    remove_listener = store.add_listener(changes.look_soon)
    remove_ec_listener = store.ec.add_listener(changes.look_soon)
    remove_settings_listener = view.add_settings_listener(heed)
    try:
        changes.refresh_soon()
        refresh_at, has_started = math.inf, False
        while True:
            volume_ids = await changes.wait(max(refresh_at - trio.current_time(), 0))
            if not has_started:
                volume_ids = None  # each other look needs a full one before it
            due = look if volume_ids is None else partial(look.at, volume_ids)
            has_looked = await trio.to_thread.run_sync(run_look, due, abandon_on_cancel=True, limiter=limiter)
            if volume_ids is None:
                refresh_at = trio.current_time() + refresh_s
            if has_looked and not has_started:
                has_started = True
                task_status.started(changes)
    finally:
        remove_listener()
        remove_ec_listener()
        remove_settings_listener()


def run_look(look: Callable[[], None]) -> bool:
    """Makes one look. Returns False where a disk failed: the source may lack news until the next look of the store."""
    try:
        look()
    except (OSError, StorageError) as error:
        _log.error("a look at the volumes failed, and is repeated: %s", error)
        return False
    return True


class StoreLook:
    """Looks at one store again and again. One thread at a time uses it."""

    def __init__(
        self, store: Store, source: NodeSource, is_owned: Callable[[int], bool], *, removes_expired: bool
    ) -> None:
        self._store = store
        self._source = source
        self._is_owned = is_owned
        self._removes_expired = removes_expired
        self._messages: dict[VolumeKey, tuple[VolumeReport, master_pb2.VolumeInformationMessage]] = {}
        """The messages of the last look. A store gives the same report object while a volume has not changed."""
        self._shards: list[EcReport] = []

    def __call__(self) -> None:
        """Looks at everything."""
        store, source = self._store, self._source
        if self._removes_expired:
            expired = store.remove_expired_volumes()
            if expired:
                _log.info("deleted volumes whose TTL has passed: %s", ", ".join(map(str, expired)))
        store.adjust_max_volumes()
        reports = [report for report in store.volume_reports() if self._is_owned(report.id)]
        source.set_facts(_facts(store, reports))
        state = volume_server_pb2.VolumeServerState(maintenance=store.state.maintenance, version=store.state.version)
        if source.state != state:
            source.set_state(state)
        if self._take(reports) or not source.has_all_volumes:
            source.replace_volumes([message for _, message in self._messages.values()])
        self._look_at_shards()

    def at(self, volume_ids: Collection[int]) -> None:
        """Looks at those volumes, and at the EC shards. The caller must have looked at the whole Store once before."""
        source = self._source
        owned = [volume_id for volume_id in volume_ids if self._is_owned(volume_id)]
        reports = self._store.reports_of(owned)
        facts, max_file_key = source.facts, max((report.max_needle_id for report in reports), default=0)
        if facts is not None and max_file_key > facts.max_file_key:
            source.set_facts(replace(facts, max_file_key=max_file_key))
        found = {(report.disk_id, report.id): report for report in reports if report.is_announced}
        keys = [(disk_id, volume_id) for disk_id in range(len(self._store.locations)) for volume_id in volume_ids]
        gone = [key for key in keys if key not in found and self._messages.pop(key, None) is not None]
        changed = []
        for key, report in found.items():
            held = self._messages.get(key)
            if held is None or held[0] is not report:
                self._messages[key] = report, message_of(report)
                changed.append(self._messages[key][1])
        if changed or gone:
            source.change_volumes(changed, gone)
        self._look_at_shards()

    def _look_at_shards(self) -> None:
        shards = self._store.ec.reports()
        if shards != self._shards or not self._source.has_all_ec_shards:
            self._shards = shards
            self._source.replace_ec_shards([ec_message_of(report) for report in shards])

    def _take(self, reports: Iterable[VolumeReport]) -> bool:
        """Puts the announced volumes into `_messages`. Returns whether anything is new."""
        known, taken, has_news = self._messages, {}, False
        for report in reports:
            if not report.is_announced:
                continue
            key = (report.disk_id, report.id)
            held = known.get(key)
            if held is None or held[0] is not report:
                has_news = True
                held = (report, message_of(report))
            taken[key] = held
        self._messages = taken
        return has_news or len(taken) != len(known)


def message_of(report: VolumeReport) -> master_pb2.VolumeInformationMessage:
    """A heartbeat's message of one volume. Source: weed/storage/volume.go (ToVolumeInformationMessage)."""
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


def ec_message_of(report: EcReport) -> master_pb2.VolumeEcShardInformationMessage:
    """A heartbeat's message of the shards of one volume on one disk.

    Source: weed/storage/erasure_coding/ec_volume.go (ToVolumeEcShardInformationMessage).
    """
    return master_pb2.VolumeEcShardInformationMessage(
        id=report.id,
        collection=report.collection,
        ec_index_bits=sum(1 << shard for shard, _ in report.shard_sizes),
        shard_sizes=[size for _, size in report.shard_sizes],
        disk_type=report.disk_type,
        expire_at_sec=report.expire_at_s,
        disk_id=report.disk_id,
        file_count=report.file_count,
        delete_count=report.delete_count,
        encode_ts_ns=report.encode_ts_ns,
    )


def _facts(store: Store, reports: Iterable[VolumeReport]) -> NodeProperties:
    counts = store.max_volume_counts()
    statuses = [status for status in store.disk_statuses() if not status.error]
    return NodeProperties(
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
    """Sizes of directories summed by disk type. As in upstream, two on one file system count twice."""
    sums: dict[str, int] = {}
    for status in statuses:
        sums[status.disk_type] = sums.get(status.disk_type, 0) + size_of(status)
    return sums
