"""Codes an open volume: its shards, index, checksums and .vif come to its disk.

Source: weed/server/volume_grpc_erasure_coding.go (VolumeEcShardsGenerate).
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from native_handlers.format.vif import EcShardConfig, VolumeInfo, encode_volume_info
from native_handlers.storage.erasure_coding.bitrot import encode_checksums
from native_handlers.storage.erasure_coding.encode import encode
from native_handlers.storage.erasure_coding.errors import (
    EcRefused,
)
from native_handlers.storage.erasure_coding.files_on_disk import (
    remove_all,
)
from native_handlers.storage.erasure_coding.index_files import (
    sorted_rows,
)
from native_handlers.storage.erasure_coding.layout import DEFAULT_RATIO, Ratio
from native_handlers.storage.erasure_coding.names import ratio_of, shard_extension
from native_handlers.storage.erasure_coding.parallel import beside, check_wanted
from native_handlers.storage.erasure_coding.staged import StagedFiles
from native_handlers.storage.model.file_kinds import SHARD_EXTENSIONS
from native_handlers.storage.system.files import replace_file
from native_handlers.storage.volume.info_file import load_volume_info

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from native_handlers.storage.erasure_coding.ec_set import EcVolumeSet
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.append_log import AppendLog
    from native_handlers.storage.volume.volume import Volume

_log = logging.getLogger(__name__)


def generate(ec: EcVolumeSet, volume: Volume, collection: str) -> None:
    """Makes the shards of a volume beside it, with their index.

    The shards are written under other names first. When all of them are complete, the files of an earlier coding are
    removed. The .ecx gets its name last; without an .ecx a start removes shards beside a whole .dat.

    The index and the data are those of one moment. A vacuum may be committed meanwhile, also on a read-only volume. The
    shards then are those of files that are no longer the volume's, so they are not kept.

    Wilful difference: a volume in a remote tier is refused. Upstream codes one whose .dat was kept here, and the .vif
    of the shards replaces the one that names the object: after a restart nothing leads to the object any more.

    Raises:
        EcRefused: the volume is of another collection or in a remote tier, or a vacuum was committed meanwhile.
        DiskUnavailable: a disk is out of service that is known to have shards of the volume, or the index of open ones.
            No file has changed.
        StorageError, OSError: there are no shards of this coding; those of an earlier one may be removed.
    """
    if volume.collection != collection:
        raise EcRefused(f"existing collection:{volume.collection} unexpected input: {collection}")
    with ec.exclusive(volume.id):
        _check_on_disk(volume)
        ec.check_known_in_service(collection, volume.id)
        _generate(ec, volume)


def _check_on_disk(volume: Volume) -> None:
    """Raises EcRefused where the data is in a remote tier, or was moved there and kept here too."""
    if volume.info.files:
        file = volume.info.files[0]
        raise EcRefused(
            f"volume {volume.id} is in remote storage {file.backend_name} as {file.key}, and the .vif of shards names"
            " no object: bring the volume to disk first (volume.tier.download)"
        )


def _generate(ec: EcVolumeSet, volume: Volume) -> None:
    files, base = ec.files, volume.paths.base
    ratio = _ratio_for_coding(files, base.with_name(base.name + ".vif"))
    location = ec.locations[volume.disk_id]
    name = volume.paths.name
    shards = [location.path / (name + shard_extension(shard)) for shard in range(ratio.total)]
    ecx_path = volume.paths.file(".idx").with_name(name + ".ecx")
    with ExitStack() as stack:
        log = stack.enter_context(volume.open_log())
        # The index comes first: later writes may be in the shards, but are not in their index.
        ecx = sorted_rows(log.read_rows(), ec.width)
        facts = files.facts_of(log.dat.fd)
        sums_path = location.path / (name + ".ecsum")
        staged = stack.enter_context(StagedFiles(files, [sums_path, *shards, ecx_path]))
        _drop_cached(files, shards)
        # A start compares shards with the length of the .dat, so the .dat is on disk before the shards get their names.
        with beside(volume.sync_in_passing):
            checksums = encode(files, log.dat.fd, facts.size_bytes, ratio, [staged.descriptor(path) for path in shards])
        files.write(staged.descriptor(ecx_path), [ecx], 0)
        files.write(staged.descriptor(sums_path), [encode_checksums(checksums)], 0)
        for path in (sums_path, ecx_path):
            files.sync(staged.descriptor(path))
        check_wanted()
        _check_not_compacted(files, volume, log)
        # Once more: making the shards may have taken minutes.
        ec.check_known_in_service(volume.collection, volume.id)
        location.check_in_service()
        ec.unload(volume.id)
        for disk in ec.locations_in_service():
            remove_all(files, disk, volume.collection, volume.id, keeps_vif=disk is location)
            ec.note_files(disk.disk_id, volume.collection, volume.id, are_there=disk is location)
        info = VolumeInfo(
            version=volume.version,
            dat_file_size=facts.size_bytes,
            expire_at_s=int(time.time()) + volume.ttl.seconds if volume.ttl else 0,
            ec_shard_config=EcShardConfig(ratio.data, ratio.parity, time.time_ns()),
        )
        replace_file(files, location.path / (name + ".vif"), encode_volume_info(info).encode())
        # `sync_shards` comes before the .dat is deleted; until then a start removes shards that a power cut has
        # shortened.
        try:
            staged.publish(lazily=True)
        except OSError:
            remove_all(files, location, volume.collection, volume.id, keeps_vif=True)
            raise


def _check_not_compacted(files: Files, volume: Volume, log: AppendLog) -> None:
    """Raises EcRefused where the volume's .dat is no longer that of `log`, or is in a tier by now, VolumeClosed where
    the volume is closed.
    """
    with volume.open_log() as now:
        _check_on_disk(volume)
        if now.dat is log.dat:
            return
        if files.facts_of(now.dat.fd).identity != files.facts_of(log.dat.fd).identity:
            raise EcRefused(f"volume {volume.id} was compacted while its shards were made; make them again")


def _drop_cached(files: Files, paths: Sequence[Path]) -> None:
    """Gives back the page cache of shards that are going to be replaced: the new ones then take no more of it."""
    for path in paths:
        try:
            fd = files.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            files.drop_cached(fd)
        finally:
            files.close(fd)


def sync_shards(ec: EcVolumeSet, base: Path) -> None:
    """Syncs the shards beside a volume. Call it before the .dat from which they were made is deleted.

    Raises OSError: they may not be on disk.
    """
    for extension in SHARD_EXTENSIONS:
        try:
            fd = ec.files.open(base.with_name(base.name + extension), os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            ec.files.sync(fd)
        finally:
            ec.files.close(fd)


def _ratio_for_coding(files: Files, vif: Path) -> Ratio:
    """The ratio in the .vif, where the volume was coded before."""
    loaded = load_volume_info(files, vif)
    return DEFAULT_RATIO if loaded.error is not None else ratio_of(loaded.info)
