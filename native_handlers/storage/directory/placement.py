"""Chooses the disk for a volume that is made or copied here, and for a shard that is sent here.

The caller serialises changes of the set of volumes. Source: weed/storage/store.go (FindFreeLocation, addVolume),
store_ec.go (FindEcShardTargetLocation), weed/server/volume_grpc_copy.go.
"""

from __future__ import annotations

from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING

from native_handlers.format.volume_name import format_volume_name
from native_handlers.storage.model.errors import DiskTooSmall, NoDiskForShard, NoFreeSpace, NoSpaceForCopy, NoSuchDisk
from native_handlers.storage.model.file_kinds import (
    DATA_SHARDS,
    SHARD_EXTENSIONS,
    STAGED,
    VOLUME_EXTENSIONS,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from native_handlers.storage.directory.location import DiskLocation
    from native_handlers.storage.system.files import Files

_UNLIMITED = 1 << 30
"""Shard slots of a disk without a limit, less those in use: so the emptier one of two such disks is chosen."""


class _Tier(IntEnum):
    """The preference of a disk for a shard, the weakest first."""

    ANY = 1
    HDD = 2
    HAS_INDEX = 3
    MOUNTED = 4


def choose_for_new(locations: Sequence[DiskLocation], disk_type: str) -> DiskLocation:
    """The disk for a new volume: of the disks of the type (in its wire form) with a free slot, the one with the fewest
    volumes.

    Raises:
        NoFreeSpace: no disk has a free slot.
    """
    free = [location for location in locations if location.disk_type == disk_type and location.has_free_slot]
    if not free:
        raise NoFreeSpace(disk_type)
    return min(free, key=lambda candidate: candidate.local_volume_count)


def choose_for_copy(
    locations: Sequence[DiskLocation], disk_type: str, volume_id: int, needed_bytes: int
) -> DiskLocation:
    """The disk of the type (in its wire form) for a volume of `needed_bytes` that is copied here: of the disks with
    more free space than that, the one with the most free slots. The slot of a volume with that id counts as free,
    because the copy replaces it.

    Raises:
        NoSpaceForCopy: no disk fits; the text has the reason for each disk.
    """
    location = _roomiest(locations, disk_type, lambda one: one.available_bytes > needed_bytes, volume_id)
    if location is None:
        raise NoSpaceForCopy(disk_type, _why_no_room(locations, disk_type, volume_id, needed_bytes))
    return location


def choose_for_decoded(  # noqa: PLR0913, PLR0917  what and where
    files: Files,
    locations: Sequence[DiskLocation],
    disk_type: str,
    collection: str,
    volume_id: int,
    needed_bytes: int = 0,
) -> DiskLocation | None:
    """The disk of the type (in its wire form) for a volume that comes file by file: of the disks without shards of the
    volume, the one with the most free slots. A volume must not lie beside the shards from which it was decoded. None
    without room, as in `choose_for_shard`.

    A disk that has files of an earlier attempt comes first: the files of one attempt are then on one disk, and replace
    those.

    Raises OSError when a disk cannot say whether it has shards.
    """
    name = format_volume_name(collection, volume_id)

    def is_fit(location: DiskLocation) -> bool:
        if needed_bytes and location.available_bytes <= needed_bytes:
            return False
        return not _holds_shards(files, location, collection, volume_id)

    def has_begun(location: DiskLocation) -> bool:
        begun = (files.facts(location.path / (name + extension + STAGED)) for extension in VOLUME_EXTENSIONS)
        return any(facts is not None for facts in begun)

    begun = _roomiest(locations, disk_type, lambda one: has_begun(one) and is_fit(one))
    return begun or _roomiest(locations, disk_type, is_fit)


def place_for_shards(  # noqa: PLR0913  what and where
    files: Files,
    locations: Sequence[DiskLocation],
    collection: str,
    volume_id: int,
    mounted_disk_ids: Collection[int],
    *,
    disk_id: int,
    needed_bytes: int,
) -> DiskLocation:
    """The disk for shards, or for their index, which another server sends or which are fetched there.

    The callers word the refusals, because upstream's texts differ.

    Args:
        disk_id: the disk that the request names; 0 for any, as in upstream. See `choose_for_shard`.
        needed_bytes: 0 where the need is not known.

    Raises:
        NoSuchDisk: no disk has that number.
        NoDiskForShard: no disk can take a shard, whatever its length.
        DiskTooSmall: the disk that is named, or the best one, has not more free space than is needed.
        OSError: a disk cannot say whether it has the .ecx.
    """
    if disk_id:
        if disk_id >= len(locations):
            raise NoSuchDisk(disk_id, len(locations))
        location = locations[disk_id]
    else:
        choose = partial(choose_for_shard, files, locations, collection, volume_id, mounted_disk_ids)
        # The best disk of those that are too small is named in the refusal.
        found = choose(needed_bytes) or choose()
        if found is None:
            raise NoDiskForShard
        location = found
    check_room(location, needed_bytes)
    return location


def check_room(location: DiskLocation, needed_bytes: int) -> None:
    """Raises DiskTooSmall where the disk has not more free space than that. 0 bytes always fit: the need is unknown."""
    if needed_bytes and location.available_bytes <= needed_bytes:
        raise DiskTooSmall(location.path, location.available_bytes)


def choose_for_shard(  # noqa: PLR0913, PLR0917  what and where
    files: Files,
    locations: Sequence[DiskLocation],
    collection: str,
    volume_id: int,
    mounted_disk_ids: Collection[int],
    needed_bytes: int = 0,
) -> DiskLocation | None:
    """The disk for a shard whose sender names none: a disk with mounted shards of the volume, else one with its .ecx,
    so that shards and index stay together, else an HDD, else any; among equals the one with the most room. None without
    room. A disk without more free space than `needed_bytes` has none; 0 where the need is not known.

    Raises OSError when a disk cannot say whether it has the .ecx.
    """
    best, best_rank = None, (0, 0)
    for location in locations:
        slots = _free_shard_slots(location)
        if slots <= 0 or location.is_space_low or location.is_unavailable:
            continue
        if needed_bytes and location.available_bytes <= needed_bytes:
            continue
        rank = (_tier_of(files, location, collection, volume_id, mounted_disk_ids), slots)
        if rank > best_rank:
            best, best_rank = location, rank
    return best


def _tier_of(
    files: Files, location: DiskLocation, collection: str, volume_id: int, mounted_disk_ids: Collection[int]
) -> _Tier:
    if location.disk_id in mounted_disk_ids:
        return _Tier.MOUNTED
    name = format_volume_name(collection, volume_id) + ".ecx"
    for directory in dict.fromkeys((location.path, location.idx_path)):
        facts = files.facts(directory / name)
        # An empty .ecx is left by a failed distribution; it must not attract shards to this disk.
        if facts is not None and facts.size_bytes and not facts.is_directory:
            return _Tier.HAS_INDEX
    return _Tier.HDD if not location.disk_type else _Tier.ANY


def _roomiest(
    locations: Sequence[DiskLocation],
    disk_type: str,
    is_fit: Callable[[DiskLocation], bool],
    replaced_id: int | None = None,
) -> DiskLocation | None:
    """The disk with the most free volume slots among those that fit; None if no fitting disk has a slot.

    Args:
        replaced_id: a volume that will be removed, so its slot counts as free.
    """
    best, most = None, 0
    for location in locations:
        if location.disk_type != disk_type or location.is_space_low or location.is_unavailable:
            continue
        slots = _free_shard_slots(location) // DATA_SHARDS + (replaced_id in location.volumes)
        if slots > most and is_fit(location):
            best, most = location, slots
    return best


def _why_no_room(locations: Sequence[DiskLocation], disk_type: str, volume_id: int, needed_bytes: int) -> str:
    """The reason why each disk of the type has no room, as text; "" where there is no such disk."""
    found = []
    for location in locations:
        if location.disk_type != disk_type:
            continue
        has_slot = _free_shard_slots(location) >= DATA_SHARDS or volume_id in location.volumes
        if location.is_unavailable:
            found.append(f"{location.path} is out of service")
        elif not has_slot:
            found.append(f"{location.path} has no free slot ({location.max_volumes} volumes at most)")
        else:
            found.append(f"{location.path} has {location.available_bytes} bytes free above its reserve")
    if not found:
        return ""
    return f"volume {volume_id} needs more than {needed_bytes} bytes beside what is there; {', '.join(found)}"


def _free_shard_slots(location: DiskLocation) -> int:
    """The free room in shards; `DATA_SHARDS` shards take the room of a volume. Arriving volumes count as present."""
    used = (len(location.volumes) + len(location.arriving)) * DATA_SHARDS + location.ec_shard_count
    if location.max_volumes <= 0:
        return max(_UNLIMITED - used, 1)
    return location.max_volumes * DATA_SHARDS - used


def _holds_shards(files: Files, location: DiskLocation, collection: str, volume_id: int) -> bool:
    """Whether the disk has a shard file of the volume, mounted or not. Raises OSError when that cannot be told."""
    base = format_volume_name(collection, volume_id)
    found = (files.facts(location.path / (base + extension)) for extension in SHARD_EXTENSIONS)
    return any(facts is not None and not facts.is_directory and facts.size_bytes for facts in found)
