"""On which disk a volume that is copied here, or a shard that is sent here, is to lie.

Whoever calls serialises what changes the set of volumes. Source: weed/storage/store.go (FindFreeLocation),
store_ec.go (FindEcShardTargetLocation), weed/server/volume_grpc_copy.go.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from native_handlers.format.volume_name import format_volume_name
from native_handlers.storage.disk_location import DATA_SHARDS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from native_handlers.storage.disk_location import DiskLocation
    from native_handlers.storage.files import Files

_UNLIMITED = 1 << 30
"""Shard slots of a disk without a limit; less what is there, so that the emptier one of two such disks is chosen."""
MAX_SHARDS = 32
"""Upstream knows shard files ``.ec00`` to ``.ec31``."""


class _Tier(IntEnum):
    """What speaks for a disk as the place of a shard, the least first."""

    ANY = 1
    HDD = 2
    HAS_INDEX = 3
    MOUNTED = 4


def roomiest(
    locations: Sequence[DiskLocation], disk_type: str, is_fit: Callable[[DiskLocation], bool]
) -> DiskLocation | None:
    """The disk of a type (in its wire form) with the most free volume slots among those that are fit; None if none has
    a slot, or none is fit.
    """
    best, most = None, 0
    for location in locations:
        if location.disk_type != disk_type or location.is_space_low or location.is_unavailable:
            continue
        slots = free_shard_slots(location) // DATA_SHARDS
        if slots > most and is_fit(location):
            best, most = location, slots
    return best


def choose_for_shard(
    files: Files,
    locations: Sequence[DiskLocation],
    collection: str,
    volume_id: int,
    mounted_disk_ids: Collection[int],
) -> DiskLocation | None:
    """The disk for a shard that names none: where shards of the volume are mounted, else where its .ecx lies, so that
    shards and index stay together, else an HDD, else any; among equals the one with most room. None without room.

    Raises OSError when a disk cannot say whether it has the .ecx.
    """
    best, best_rank = None, (0, 0)
    for location in locations:
        slots = free_shard_slots(location)
        if slots <= 0 or location.is_space_low or location.is_unavailable:
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
        # An empty one is what a failed distribution left; it must not draw shards to this disk.
        if facts is not None and facts.size_bytes and not facts.is_directory:
            return _Tier.HAS_INDEX
    return _Tier.HDD if not location.disk_type else _Tier.ANY


def free_shard_slots(location: DiskLocation) -> int:
    """Room in shards, of which `DATA_SHARDS` take that of a volume. Volumes that are being copied here count too."""
    used = (len(location.volumes) + len(location.arriving)) * DATA_SHARDS + location.ec_shard_count
    if location.max_volumes <= 0:
        return max(_UNLIMITED - used, 1)
    return location.max_volumes * DATA_SHARDS - used


def holds_shards(files: Files, location: DiskLocation, collection: str, volume_id: int) -> bool:
    """Whether a shard file of the volume lies on the disk, mounted or not. Raises OSError when that cannot be told."""
    base = format_volume_name(collection, volume_id)
    found = (files.facts(location.path / f"{base}.ec{shard:02d}") for shard in range(MAX_SHARDS))
    return any(facts is not None and not facts.is_directory and facts.size_bytes for facts in found)
