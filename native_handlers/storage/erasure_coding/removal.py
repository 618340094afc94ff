"""Closes shards of this server and removes their files: some of a volume, all of an older coding, or a whole volume.

Several disks may have one index directory. Its files stay as long as another of these disks has shards of the volume.

Source: weed/server/volume_grpc_erasure_coding.go (VolumeEcShardsDelete), weed/storage/disk_location_ec.go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.format.volume_name import format_volume_name
from native_handlers.storage.erasure_coding.files_on_disk import (
    EcFiles,
    checksum_paths,
    forget_findings,
    info_on,
    look,
    remove_all,
    remove_paths,
    shares_index,
)
from native_handlers.storage.erasure_coding.names import shard_extension
from native_handlers.storage.model.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from native_handlers.storage.directory.location import DiskLocation
    from native_handlers.storage.erasure_coding.ec_set import EcVolumeSet
    from native_handlers.storage.erasure_coding.ec_volume import EcVolume


def delete_shards(ec: EcVolumeSet, collection: str, volume_id: int, shard_ids: Sequence[int]) -> None:
    """Closes shards and deletes their files, on every disk. With the last shard on this server goes the index, and the
    .vif unless a regular volume owns it.

    Wilful difference: upstream's server goes on with an open shard that has no file, and reports the shard.

    Files on a disk out of service stay, if the disk is not known to have any of the volume.

    Raises:
        DiskUnavailable: a disk is out of service that is known to have shards of the volume, or the index of open ones.
        OSError, DiskUnavailable: some files may be deleted.
    """
    with ec.exclusive(volume_id):
        name = format_volume_name(collection, volume_id)
        ec.check_known_in_service(collection, volume_id)
        locations = ec.locations_in_service()
        for shard in shard_ids:
            if any(one.collection == collection and shard in one.shards for one in ec.copies(volume_id)):
                ec.unmount(volume_id, shard, collection=collection)
        for location in locations:
            had = [shard for shard in shard_ids if ec.files.facts(location.path / (name + shard_extension(shard)))]
            remove_paths(ec.files, [location.path / (name + shard_extension(shard)) for shard in had])
            found = look(ec.files, location, collection, volume_id)
            ec.note_files(location.disk_id, collection, volume_id, are_there=bool(found.shard_ids))
            if had and not found.shard_ids:
                remove_paths(ec.files, _own_checksums(ec, found, collection, volume_id))
                forget_findings(found)
        left = [look(ec.files, location, collection, volume_id) for location in locations]
        if any(one.shard_ids for one in left):
            return
        for one in left:
            paths = [*one.on_either_side(".ecx"), *one.on_either_side(".ecj")] if one.has_index else []
            if not one.has_volume:
                paths.append(one.path(".vif"))
            remove_paths(ec.files, paths)


def _own_checksums(ec: EcVolumeSet, found: EcFiles, collection: str, volume_id: int) -> list[Path]:
    """The .ecsum files that protect only this disk's shards."""
    paths = checksum_paths(ec.files, found)
    if shares_index(ec.files, found.location, collection, volume_id):
        return [path for path in paths if path.parent != found.location.idx_path]
    return paths


def tear_down(ec: EcVolumeSet, collection: str, volume_id: int, encode_ts_ns: int = 0) -> None:
    """Removes all files of an erasure-coded volume on this server. Files on a disk out of service stay, if the disk is
    not known to have any of the volume.

    Args:
        encode_ts_ns: only on disks whose .vif has an older encoding than this; 0 on all.

    Raises:
        DiskUnavailable: a disk is out of service that is known to have shards of the volume, or the index of open ones;
            nothing was closed or removed.
        OSError: some files may be removed.
    """
    with ec.exclusive(volume_id):
        ec.check_known_in_service(collection, volume_id)
        for location in ec.locations_in_service():
            if encode_ts_ns:
                info = info_on(ec.files, look(ec.files, location, collection, volume_id))
                config = info.ec_shard_config if info is not None else None
                if config is None or not 0 < config.encode_ts_ns < encode_ts_ns:
                    continue
            ec.unload(volume_id, disk_id=location.disk_id)
            _remove(ec, location, collection, volume_id)


def destroy(ec: EcVolumeSet, volumes: Sequence[EcVolume]) -> list[str]:
    """Closes erasure-coded volumes and deletes their files. Returns the failures."""
    failures = []
    for volume in volumes:
        try:
            with ec.exclusive(volume.id):
                failures += _destroy(ec, volume)
        except (OSError, StorageError) as error:
            failures.append(str(error))
    return failures


def destroy_expired(ec: EcVolumeSet) -> list[str]:
    """`destroy` for the volumes whose time has passed. Those that are busy are left for a later call."""
    failures = []
    for volume in ec.volumes():
        if volume.is_expired and ec.is_readable(volume):
            with ec.exclusive_at_once(volume.id) as is_free:
                if is_free:
                    failures += _destroy(ec, volume)
    return failures


def _destroy(ec: EcVolumeSet, volume: EcVolume) -> list[str]:
    if volume not in ec.copies(volume.id):
        # Closed meanwhile. Its files may be gone, or those of another coding by now.
        return []
    location: DiskLocation = ec.locations[volume.place.disk_id]
    ec.unload(volume.id, disk_id=volume.place.disk_id)
    try:
        _remove(ec, location, volume.collection, volume.id)
    except (OSError, StorageError) as error:
        return [str(error)]
    return []


def _remove(ec: EcVolumeSet, location: DiskLocation, collection: str, volume_id: int) -> None:
    """Removes a volume's files on one disk. Raises as `remove_all`."""
    keeps_index = shares_index(ec.files, location, collection, volume_id)
    remove_all(ec.files, location, collection, volume_id, keeps_shared_index=keeps_index)
    ec.note_files(location.disk_id, collection, volume_id, are_there=False)
