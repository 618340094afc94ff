"""What is done to all disk locations of a store at once: loading, finding copies, choosing a place, removing.

Whoever calls serialises what changes the set of volumes. Source: weed/storage/store.go.
"""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from native_handlers.storage.errors import (
    DiskUnavailable,
    NoFreeSpace,
    StorageError,
    VolumeNotFound,
    VolumeNotSeen,
)
from native_handlers.storage.report import VolumeEventKind
from native_handlers.storage.store_events import describe_event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from native_handlers.storage.disk_location import DiskLocation
    from native_handlers.storage.report import VolumeEvent
    from native_handlers.storage.volume import Volume
    from native_handlers.storage.volume_paths import VolumePaths

    Copies = list[tuple[DiskLocation, Volume]]

_log = logging.getLogger(__name__)
T = TypeVar("T")
_MIN_LOADERS = 10
"""Opening a volume waits for the disk more than it computes."""


def load_all(locations: Sequence[DiskLocation], offset_width_bytes: int) -> tuple[list[Volume], list[StorageError]]:
    """Loads all disks at once, and on each disk several volumes at once.

    Returns what was opened, and why a disk was not loaded, or not whole: one that fails hinders no other. The errors
    are those of `DiskLocation.load`.
    """
    known = [set(location.volumes) for location in locations]
    failures: list[StorageError] = []
    with (
        ThreadPoolExecutor(max(os.cpu_count() or 1, _MIN_LOADERS), "volume-loader") as volumes,
        ThreadPoolExecutor(max(len(locations), 1), "disk-loader") as disks,
    ):
        jobs = [disks.submit(location.load, offset_width_bytes, volumes) for location in locations]
        for job in jobs:
            try:
                job.result()
            except StorageError as failure:
                failures.append(failure)
    loaded = [
        volume
        for location, known_ids in zip(locations, known, strict=True)
        for volume_id, volume in sorted(location.volumes.items())
        if volume_id not in known_ids
    ]
    return loaded, failures


def release(location: DiskLocation) -> None:
    """Closes a location's volumes and frees its directory. A volume that cannot be synced is logged: all must go."""
    for volume in list(location.volumes.values()):
        try:
            location.unload(volume)
        except StorageError as error:
            _log.warning("volume %d: %s", volume.id, error)
    location.release()


def copies_of(locations: Sequence[DiskLocation], vid: int) -> Copies:
    """Every copy of a volume: a disk that came back may bring a second one."""
    return [(location, location.volumes[vid]) for location in locations if vid in location.volumes]


def copies_where(locations: Sequence[DiskLocation], is_wanted: Callable[[Volume], bool]) -> Copies:
    """Every mounted volume that `is_wanted`, with where it lies."""
    return [
        (location, volume) for location in locations for volume in list(location.volumes.values()) if is_wanted(volume)
    ]


def choose_location(locations: Sequence[DiskLocation], disk_type: str) -> DiskLocation:
    """Where the fewest volumes are, among the locations of a disk type that have room.

    Raises:
        NoFreeSpace: none has.
    """
    free = [location for location in locations if location.disk_type == disk_type and location.has_free_slot]
    if not free:
        raise NoFreeSpace(disk_type)
    return min(free, key=lambda candidate: candidate.local_volume_count)


def count_slots(locations: Sequence[DiskLocation]) -> dict[str, int]:
    """Volume slots for each disk type. A full disk counts what it uses, an unavailable one nothing."""
    counts: dict[str, int] = {}
    for location in locations:
        if not location.is_unavailable:
            counts[location.disk_type] = counts.get(location.disk_type, 0) + location.effective_max_volumes
    return counts


def mount(locations: Sequence[DiskLocation], vid: int) -> VolumeEvent:
    """Opens a volume whose files are on a disk, if it is not open, and returns what is to be announced.

    Raises:
        VolumeNotFound: no location has it, or none whose files can be served.
        VolumeNotSeen: nor has any of those that could be looked at.
        OffsetWidthMismatch: it was written with another offset width.
    """
    volume = _first(locations, vid, lambda location: location.load_one(vid))
    return describe_event(VolumeEventKind.ADDED, volume)


def locate(locations: Sequence[DiskLocation], vid: int) -> VolumePaths:
    """Where a volume's files are, by their names. Raises VolumeNotFound and VolumeNotSeen, as `mount`."""
    return _first(locations, vid, lambda location: location.locate(vid))


def _first(locations: Sequence[DiskLocation], vid: int, find: Callable[[DiskLocation], T | None]) -> T:
    """What the first of `locations` has that has anything. As upstream, one that cannot be looked at is passed over;
    but where nothing is found, it is not said that there is none.
    """
    unseen = []
    for location in locations:
        try:
            found = find(location)
        except DiskUnavailable as failure:
            _log.warning("volume %d is looked for elsewhere: %s", vid, failure)
            unseen.append(failure)
            continue
        if found is not None:
            return found
    raise VolumeNotSeen(vid, unseen) if unseen else VolumeNotFound(vid, " on disk")


def ids_on_disk(locations: Sequence[DiskLocation]) -> list[int]:
    """Every volume whose data is in one of the directories, open or not. A disk that cannot be looked at is logged."""
    found: set[int] = set()
    for location in locations:
        try:
            found.update(location.volume_ids_on_disk())
        except DiskUnavailable as failure:
            _log.error("volumes were not looked for: %s", failure)
    return sorted(found)


def unload(copies: Copies) -> tuple[list[VolumeEvent], list[str]]:
    """Closes all of `copies`. Returns what is to be announced, and what failed."""
    events, failures = [], []
    for location, volume in copies:
        try:
            location.unload(volume)
        except (OSError, StorageError) as error:
            failures.append(str(error))
        events.append(describe_event(VolumeEventKind.REMOVED, volume))
    return events, failures


class Removal(NamedTuple):
    """What is to be announced, what failed, and whether all went but for that."""

    events: list[VolumeEvent]
    failures: list[str]
    is_complete: bool = True


def destroy(copies: Copies, may_go: Callable[[Volume], bool] | None = None) -> Removal:
    """Deletes all of `copies`, or those before the first that may not go.

    Args:
        may_go: asked of each when nobody can write to it any more: what was found out before may be so no longer.
    """
    removal = Removal([], [])
    for location, volume in copies:
        try:
            if not location.destroy(volume, None if may_go is None else partial(may_go, volume)):
                return removal._replace(is_complete=False)
        except (OSError, StorageError) as error:
            removal.failures.append(str(error))
        if location.volumes.get(volume.id) is not volume:
            removal.events.append(describe_event(VolumeEventKind.REMOVED, volume))
            _log.info("volume %d (collection %r) deleted from %s", volume.id, volume.collection, location.path)
    return removal
