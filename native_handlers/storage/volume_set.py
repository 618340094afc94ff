"""What changes the set of volumes of a store, one change at a time, and announces it when the lock is given back.

Source: weed/storage/store.go.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from native_handlers.storage.admin_lock import AdminLock
from native_handlers.storage.configure import configure_volume
from native_handlers.storage.disk_type import normal_disk_type
from native_handlers.storage.errors import (
    DeleteFailed,
    NoSpaceForCopy,
    VolumeArriving,
    VolumeExists,
    VolumeNotEmpty,
    VolumeNotFound,
)
from native_handlers.storage.incoming_volume import IncomingVolume
from native_handlers.storage.locations import (
    choose_location,
    copies_of,
    copies_where,
    destroy,
    load_all,
    mount,
    unload,
)
from native_handlers.storage.placement import roomiest
from native_handlers.storage.report import VolumeEventKind
from native_handlers.storage.store_events import describe_event
from native_handlers.storage.volume_paths import VolumePaths

if TYPE_CHECKING:
    from native_handlers.format.super_block import SuperBlock
    from native_handlers.storage.disk_location import DiskLocation
    from native_handlers.storage.files import Files
    from native_handlers.storage.report import VolumeEvent
    from native_handlers.storage.store_events import Listeners
    from native_handlers.storage.volume import Volume

_log = logging.getLogger(__name__)


class VolumeSet:
    """Each method is one of `Store`'s, which says what callers get; they raise StoreClosed once this is closed."""

    def __init__(
        self, locations: tuple[DiskLocation, ...], offset_width_bytes: int, files: Files, listeners: Listeners
    ) -> None:
        self._locations = locations
        self._width = offset_width_bytes
        self._files = files
        self._listeners = listeners
        # Held by everything that adds or removes volumes.
        self._changing = AdminLock()

    def close(self) -> bool:
        """Waits for a change under way and allows no more. Returns whether it was open."""
        return self._changing.close()

    # ---- coming

    def allocate(self, vid: int, collection: str, block: SuperBlock, preallocate_bytes: int, disk_type: str) -> Volume:
        """See `Store.allocate_volume`."""
        with self._changing:
            if copies_of(self._locations, vid) or self._is_arriving(vid):
                raise VolumeExists(vid)
            location = choose_location(self._locations, normal_disk_type(disk_type))
            volume = location.create(vid, collection, block, preallocate_bytes)
        _log.info("volume %d (collection %r) added in %s", vid, collection, location.path)
        self._listeners.emit([describe_event(VolumeEventKind.ADDED, volume)])
        return volume

    def mount(self, vid: int) -> None:
        """See `Store.mount_volume`."""
        with self._changing:
            event = mount(self._locations, vid)
        self._listeners.emit([event])

    def load_new(self) -> None:
        """See `Store.load_new_volumes`."""
        with self._changing:
            added, failures = load_all(self._locations, self._width)
        for failure in failures:
            _log.error("new volumes were not looked for, or not all were opened: %s", failure)
        self._listeners.emit([describe_event(VolumeEventKind.ADDED, volume) for volume in added])

    def configure(self, vid: int, replication: str) -> None:
        """See `Store.configure_volume`. `replication` was found to be one."""
        events: list[VolumeEvent] = []
        try:
            with self._changing:
                configure_volume(self._locations, self._files, vid, replication, events)
        finally:
            self._listeners.emit(events)

    # ---- going

    def unmount(self, vid: int) -> None:
        """See `Store.unmount_volume`."""
        with self._changing:
            events, failures = unload(copies_of(self._locations, vid))
        self._listeners.emit(events)
        if failures:
            raise DeleteFailed(f"UnmountVolume {vid}", failures)

    def delete(self, vid: int, *, only_empty: bool) -> None:
        """See `Store.delete_volume`."""
        with self._changing:
            copies = copies_of(self._locations, vid)
            if not copies:
                raise VolumeNotFound(vid, " on disk", prefix="delete volume")
            if only_empty and not all(_is_empty(volume) for _, volume in copies):
                raise VolumeNotEmpty(vid)
            removal = destroy(copies, _is_empty if only_empty else None)
        self._listeners.emit(removal.events)
        if not removal.is_complete:
            raise VolumeNotEmpty(vid)
        if removal.failures:
            raise DeleteFailed(f"DeleteVolume {vid}", removal.failures)

    def delete_collection(self, name: str) -> None:
        """See `Store.delete_collection`."""
        with self._changing:
            removal = destroy(copies_where(self._locations, lambda volume: volume.collection == name))
        self._listeners.emit(removal.events)
        if removal.failures:
            raise DeleteFailed(f"DeleteCollection {name}", removal.failures)

    def remove_expired(self, size_limit_bytes: int) -> list[int]:
        """See `Store.remove_expired_volumes`."""

        def is_due(volume: Volume) -> bool:
            return volume.is_in_service and volume.is_expired(size_limit_bytes) and volume.is_expired_long_enough

        # A heartbeat's facts wait for this: it must not wait for a change that waits for a disk.
        if not copies_where(self._locations, is_due):
            return []
        with self._changing.if_free() as is_held:
            if not is_held:
                return []
            removal = destroy(copies_where(self._locations, is_due), is_due)
        for failure in removal.failures:
            _log.warning("deleting an expired volume: %s", failure)
        self._listeners.emit(removal.events)
        return [event.volume_id for event in removal.events]

    # ---- copies

    def begin_copy(self, vid: int, collection: str, disk_type: str, needed_bytes: int) -> IncomingVolume:
        """See `Store.begin_copy`."""
        wanted = normal_disk_type(disk_type)
        with self._changing:
            if self._is_arriving(vid):
                raise VolumeArriving(vid)
            removal = destroy(copies_of(self._locations, vid))
            location = roomiest(self._locations, wanted, lambda location: location.available_bytes > needed_bytes)
            if location is not None and not removal.failures:
                location.arriving.add(vid)
        self._listeners.emit(removal.events)
        if removal.failures:
            raise DeleteFailed(f"failed to delete existing volume {vid}: DeleteVolume {vid}", removal.failures)
        if location is None:
            raise NoSpaceForCopy(wanted)
        paths = VolumePaths(location.path, location.idx_path, collection, vid)
        return IncomingVolume(self._files, paths, location, self._width)

    def mount_copy(self, incoming: IncomingVolume) -> None:
        """See `Store.mount_copy`."""
        vid, location = incoming.paths.volume_id, incoming.location
        with self._changing:
            incoming.finish()
            volume = location.load_arrived(vid, incoming.paths.collection)
            if volume is None:
                raise VolumeNotFound(vid, " on disk")
            location.arriving.discard(vid)
        self._listeners.emit([describe_event(VolumeEventKind.ADDED, volume)])

    def abandon_copy(self, incoming: IncomingVolume) -> None:
        """See `Store.abandon_copy`. Alone of all it takes no lock, for it is to work when the store is closed."""
        incoming.remove()
        incoming.location.arriving.discard(incoming.paths.volume_id)

    def _is_arriving(self, vid: int) -> bool:
        return any(vid in location.arriving for location in self._locations)


def _is_empty(volume: Volume) -> bool:
    return volume.is_empty
