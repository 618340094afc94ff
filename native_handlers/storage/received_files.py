"""Where a file that another server sends is to lie, and where it may not. Source: weed/server/volume_grpc_copy.go
(ReceiveFile).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.storage.disk_type import normal_disk_type
from native_handlers.storage.errors import ReceiveRefused, VolumeArriving
from native_handlers.storage.incoming import IncomingFile
from native_handlers.storage.placement import choose_for_shard, holds_shards, roomiest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from native_handlers.storage.disk_location import DiskLocation
    from native_handlers.storage.files import Files
    from native_handlers.storage.volume import Volume
    from native_handlers.storage.wanted_file import WantedFile

STAGED = ".copying"
"""Ends the name of a file of a volume that is not here yet; VolumeEcShardsToVolume makes a volume of such files."""


def receive_file(
    files: Files, locations: Sequence[DiskLocation], volume: Volume | None, wanted: WantedFile
) -> IncomingFile:
    """The file, to be written and committed. `volume` is the mounted one of that id.

    Wilful difference: upstream lets .dat, .idx and what else a mounted volume works with be written over.

    Raises:
        ReceiveRefused: with upstream's text.
        VolumeArriving: the volume is being copied there.
        DiskUnavailable: the disk on which it is to lie is out of service.
        OSError: the file cannot be made.
    """
    if wanted.is_coded:
        location = _location_of_coded(files, locations, wanted)
        if wanted.volume_id in location.arriving:
            raise VolumeArriving(wanted.volume_id)
        location.check_in_service()
        target = location.path / wanted.name
    elif volume is None:
        target = _staged(files, locations, wanted)
    else:
        volume.check_in_service()
        target = volume.paths.file(wanted.extension)
    if volume is not None and target in volume.paths.owned(keep_vif=True):
        why = f"volume {wanted.volume_id} is mounted and works with its {wanted.extension}"
        raise ReceiveRefused(f"{why}; unmount before ReceiveFile")
    return IncomingFile(files, target)


def _location_of_coded(files: Files, locations: Sequence[DiskLocation], wanted: WantedFile) -> DiskLocation:
    if wanted.mounted_disk_ids:
        disk_ids = " ".join(map(str, wanted.mounted_disk_ids))
        mounted = f"ec volume {wanted.volume_id} is mounted on disk_ids:[{disk_ids}]"
        raise ReceiveRefused(f"{mounted}; unmount before ReceiveFile")
    if wanted.disk_id:
        if wanted.disk_id >= len(locations):
            raise ReceiveRefused(f"invalid disk_id {wanted.disk_id}: only have {len(locations)} disks")
        return locations[wanted.disk_id]
    location = choose_for_shard(files, locations, wanted.collection, wanted.volume_id, ())
    if location is None:
        raise ReceiveRefused("no storage location available")
    return location


def _staged(files: Files, locations: Sequence[DiskLocation], wanted: WantedFile) -> Path:
    if not wanted.disk_type:
        raise ReceiveRefused(f"volume {wanted.volume_id} not found")

    def is_fit(location: DiskLocation) -> bool:
        # A volume is not to lie beside the shards that it was decoded from.
        return not holds_shards(files, location, wanted.collection, wanted.volume_id)

    location = roomiest(locations, normal_disk_type(wanted.disk_type), is_fit)
    if location is None:
        where = f"no {wanted.disk_type} disk location with a free slot"
        raise ReceiveRefused(f"{where} for volume {wanted.volume_id}")
    return location.path / (wanted.name + STAGED)
