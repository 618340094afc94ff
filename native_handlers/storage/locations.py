"""Operations on all disk locations of a store: loading, finding copies, mounting, removing.

The caller serialises changes of the set of volumes. Source: weed/storage/store.go.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from native_handlers.format.types import UINT32_MASK
from native_handlers.storage.directory.arrival import recover_arrivals
from native_handlers.storage.disk.open_limit import VOLUME_DESCRIPTORS
from native_handlers.storage.erasure_coding.shard_arrival import recover_shard_arrivals
from native_handlers.storage.model.errors import (
    DiskUnavailable,
    DiskUnreadable,
    StorageError,
    VolumeNotFound,
    VolumeNotSeen,
)
from native_handlers.storage.model.report import Finding, FindingKind
from native_handlers.storage.system.crew import Crew, times_blocked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from native_handlers.format.vif import RemoteFile
    from native_handlers.storage.directory.location import DiskLocation
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.paths import VolumePaths
    from native_handlers.storage.volume.volume import Volume

    Copies = list[tuple[DiskLocation, Volume]]

_log = logging.getLogger(__name__)
T = TypeVar("T")


def load_all(locations: Sequence[DiskLocation], offset_width_bytes: int) -> tuple[list[Volume], list[StorageError]]:
    """Loads all disks at the same time, and on each disk as many volumes as it can load in parallel.

    Returns the opened volumes, and the failures of disks that were not loaded, or not completely. A failure does not
    stop the other disks. The errors are those of `DiskLocation.load`.
    """
    known = [set(location.volumes) for location in locations]
    failures: list[StorageError] = []
    with ThreadPoolExecutor(max(len(locations), 1), "disk-loader") as disks:
        jobs = [disks.submit(location.load, offset_width_bytes) for location in locations]
        for job in jobs:
            try:
                job.result()
            except StorageError as failure:
                failures.append(failure)
    _tell_of_second_copies(locations)
    loaded = [
        volume
        for location, known_ids in zip(locations, known, strict=True)
        for volume_id, volume in sorted(location.volumes.items())
        if volume_id not in known_ids
    ]
    return loaded, failures


def _tell_of_second_copies(locations: Sequence[DiskLocation]) -> None:
    """Adds findings for volumes that several disks have: the first disk's copy is served, and the others are not
    touched.
    """
    served: dict[int, Volume] = {}
    for location in locations:
        for volume in list(location.volumes.values()):
            first = served.setdefault(volume.id, volume)
            if first is not volume:
                why = f"{first.paths.base} is served"
                location.findings.add([Finding(FindingKind.ID_SERVED_ELSEWHERE, volume.paths.base, why)])


def finish_arrivals(
    files: Files,
    locations: Sequence[DiskLocation],
    volume_id: int | None = None,
    *,
    searched: Sequence[DiskLocation] | None = None,
) -> list[tuple[DiskLocation, list[Finding]]]:
    """Puts copies that have arrived completely in their places, of all volumes or of one; none of them is open. Shards
    are left out where one volume is asked for: their files are changed inside `EcVolumeSet.exclusive` alone, and
    `finish_shard_arrivals` is for them.

    A start does so before it looks for volumes. Where a parent process holds the directories, the parent does it. A
    disk that is out of service is skipped. Returns the findings to be kept once the volumes are opened.

    Args:
        locations: all disks of the server: a copy may replace one on another disk.
        searched: the disks on which copies are looked for; None for all.

    Raises DiskUnreadable.
    """
    directories = [(location.path, location.idx_path) for location in locations]
    findings = []
    for location in locations if searched is None else searched:
        if location.is_unavailable or not location.owns_directory:
            continue
        own = (location.path, location.idx_path)
        try:
            found = [
                finding
                for recover in (recover_arrivals, *([recover_shard_arrivals] if volume_id is None else []))
                for finding in recover(files, own, directories, lambda one: volume_id is None or one == volume_id)
            ]
        except OSError as error:
            raise DiskUnreadable(location.path, error) from error
        findings.append((location, found))
    return findings


def arrived_records(locations: Sequence[DiskLocation]) -> dict[int, list[Path]]:
    """By volume id, the records of copies that have arrived whole and lack their names. A disk that cannot be read is
    skipped.
    """
    found: dict[int, list[Path]] = {}
    for location in locations:
        try:
            records = location.arrived_records()
        except DiskUnavailable as failure:
            _log.warning("copies that have arrived were not looked for: %s", failure)
            continue
        for volume_id, path in records:
            found.setdefault(volume_id, []).append(path)
    return found


def release(location: DiskLocation) -> None:
    """Closes a location's volumes, several at a time where the disk allows, and unlocks its directory. A volume that
    cannot be synced is logged: all must be closed.
    """

    def close(volume: Volume) -> None:
        try:
            location.unload(volume)
        except StorageError as error:
            _log.warning("volume %d: %s", volume.id, error)

    try:
        Crew(list(location.volumes.values()), close, times_blocked).run()
    finally:
        location.release()


def copies_of(locations: Sequence[DiskLocation], vid: int) -> Copies:
    """Every copy of a volume: a disk that came back may bring a second one."""
    return [(location, location.volumes[vid]) for location in locations if vid in location.volumes]


def copies_where(locations: Sequence[DiskLocation], is_wanted: Callable[[Volume], bool]) -> Copies:
    """Every mounted volume for which `is_wanted` is true, with its location."""
    return [
        (location, volume) for location in locations for volume in list(location.volumes.values()) if is_wanted(volume)
    ]


def count_open(locations: Sequence[DiskLocation]) -> int:
    """The number of mounted volumes."""
    return sum(len(location.volumes) for location in locations)


def count_taken(locations: Sequence[DiskLocation]) -> int:
    """The number of volumes whose descriptors are in use. Erasure-coded volumes count for as many as have the same
    number of descriptors.
    """
    coded = sum(location.ec_descriptors for location in locations)
    return count_open(locations) + -(-coded // VOLUME_DESCRIPTORS)


def count_slots(locations: Sequence[DiskLocation]) -> dict[str, int]:
    """Volume slots for each disk type, as many as a heartbeat can say. A full disk counts the slots in use, an
    unavailable one none.
    """
    counts: dict[str, int] = {}
    for location in locations:
        if not location.is_unavailable:
            slots = counts.get(location.disk_type, 0) + location.effective_max_volumes
            counts[location.disk_type] = min(slots, UINT32_MASK)
    return counts


def mount(locations: Sequence[DiskLocation], vid: int, names: Mapping[DiskLocation, list[str]] | None = None) -> int:
    """Opens a volume whose files are on a disk, if it is not open. Returns its id, which is to be announced.

    Args:
        names: what `DiskLocation.names_of` has just found, of those disks that were asked.

    Raises:
        VolumeNotFound: no location has the volume, or none whose files can be served.
        VolumeNotSeen: no readable location has the volume, and not all are readable.
        OffsetWidthMismatch: the volume was written with another offset width.
        TooManyVolumes: the process has no descriptors for it.
    """
    open_volumes = locations[0].open_volumes
    if open_volumes.is_full and not copies_of(locations, vid):
        open_volumes.check(locate(locations, vid).base)
    known = names or {}
    volume = _first(locations, vid, lambda location: location.load_one(vid, known.get(location)))
    return volume.id


def locate(locations: Sequence[DiskLocation], vid: int) -> VolumePaths:
    """The paths of a volume's files, found by name. Raises VolumeNotFound and VolumeNotSeen, as `mount`."""
    return _first(locations, vid, lambda location: location.locate(vid))


def _first(locations: Sequence[DiskLocation], vid: int, find: Callable[[DiskLocation], T | None]) -> T:
    """The result of `find` for the first location that has one. As in upstream, an unreadable location is skipped; but
    where nothing is found, the error then says that the volume may exist.
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
    """Every volume whose data is in one of the directories, open or not. A disk that cannot be read is logged."""
    found: set[int] = set()
    for location in locations:
        try:
            found.update(location.volume_ids_on_disk())
        except DiskUnavailable as failure:
            _log.error("volumes were not looked for: %s", failure)
    return sorted(found)


def unload(copies: Copies) -> tuple[list[int], list[str]]:
    """Closes all of `copies`. Returns the ids to announce, and the failures."""
    changed, failures = [], []
    for location, volume in copies:
        try:
            location.unload(volume)
        except (OSError, StorageError) as error:
            failures.append(str(error))
        changed.append(volume.id)
    return changed, failures


class Removal(NamedTuple):
    """The ids to announce, the failures, the objects in tiers that no file names any more, and whether all other
    volumes were removed.

    The caller deletes the objects when it holds no lock: a tier may take long to answer.
    """

    changed: list[int]
    failures: list[str]
    objects: list[RemoteFile]
    is_complete: bool = True


def destroy(copies: Copies, may_go: Callable[[Volume], bool] | None = None, *, keep_remote: bool = False) -> Removal:
    """Deletes all of `copies`, or those before the first that `may_go` refuses.

    Args:
        may_go: asked for each volume under its lock, when no write is possible: an earlier check may be out of date.
        keep_remote: the objects of tiered volumes are to stay.
    """
    removal = Removal([], [], [])
    touched: dict[DiskLocation, list[RemoteFile]] = {}
    for location, volume in copies:
        remote = None
        try:
            destroyed = location.destroy(
                volume, None if may_go is None else partial(may_go, volume), keep_remote=keep_remote
            )
            if destroyed is None:
                removal = removal._replace(is_complete=False)
                break
            remote = destroyed.remote
        except (OSError, StorageError) as error:
            removal.failures.append(str(error))
        if location.volumes.get(volume.id) is not volume:
            touched.setdefault(location, []).extend([remote] if remote is not None else [])
            removal.changed.append(volume.id)
            _log.info("volume %d (collection %r) deleted from %s", volume.id, volume.collection, location.path)
    # A disk syncs once for all volumes of a collection, which may be thousands. Listeners hear of the removals later.
    for location, objects in touched.items():
        try:
            location.sync_names()
        except OSError as error:
            removal.failures.append(str(error))
            # A .vif that is there again after a power cut must not name an object that is gone.
            for file in objects:
                _log.warning("the object %s of a deleted volume stays in %s", file.key, file.backend_name)
        else:
            removal.objects.extend(objects)
    return removal
