"""Makes a regular volume of the shards of an erasure-coded one.

Source: weed/server/volume_grpc_erasure_coding.go (VolumeEcShardsToVolume).
"""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from native_handlers.format.errors import FormatError
from native_handlers.format.super_block import parse_super_block
from native_handlers.storage.erasure_coding.codings import newest_open
from native_handlers.storage.erasure_coding.decode import (
    append_deletions,
    layout_for_decode,
    write_dat,
)
from native_handlers.storage.erasure_coding.errors import (
    DecodeFailed,
    EcRefused,
    NoLiveNeedles,
)
from native_handlers.storage.erasure_coding.files_on_disk import (
    checksum_paths,
    look,
    remove_paths,
)
from native_handlers.storage.erasure_coding.index_files import (
    deleted_ids,
    with_deletions,
)
from native_handlers.storage.erasure_coding.live_records import live_records, newly_deleted
from native_handlers.storage.erasure_coding.parallel import check_wanted
from native_handlers.storage.erasure_coding.replaceable import check_replaceable
from native_handlers.storage.erasure_coding.staged import StagedFiles
from native_handlers.storage.model.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from native_handlers.format.super_block import SuperBlock
    from native_handlers.storage.erasure_coding.ec_set import EcVolumeSet
    from native_handlers.storage.erasure_coding.ec_volume import EcVolume
    from native_handlers.storage.system.files import Files

_log = logging.getLogger(__name__)
_SUPER_BLOCK_AT_MOST = 8 + (1 << 16)


def decode(ec: EcVolumeSet, collection: str, volume_id: int, *, was_open: bool = False) -> None:
    """Makes a .dat and an .idx from the open data shards. The shards stay open.

    The .dat has the live records in their order, and behind them the deletions that came while it was written.

    A .dat that is there, because it was not deleted or an earlier decoding left it, is replaced only where the shards
    hold all that is in it. Upstream overwrites it.

    Args:
        was_open: a regular volume of that id was open here until now.

    Raises:
        NoLiveNeedles: there is no live needle.
        EcRefused: the volume is not here, is of another collection, its newest coding lacks a data shard here, or a
            .dat has what the shards do not hold.
        DiskUnavailable: a disk of the server is out of service; no disk was touched. It may have the volume's .dat, or
            an index with deletions that no other one has.
        StorageError, OSError: no .dat was made.
    """
    with ec.exclusive(volume_id):
        volumes = check_decodable(ec, collection, volume_id)
        volume = volumes[-1]
        sources = [_data_shard(volumes, shard) for shard in range(volume.ratio.data)]
        ecx = _index_now(ec, volumes)
        with ExitStack() as stack:
            fds = []
            for path in sources:
                fds.append(ec.files.open(path, os.O_RDONLY))
                stack.callback(ec.files.close, fds[-1])
            block = _super_block_in(ec.files, fds[0], sources[0])
            live = live_records(ecx, ec.width, block)
            if live is None:
                raise NoLiveNeedles(volume_id)
            shard_bytes = ec.files.facts_of(fds[0]).size_bytes
            base = volume.place.base
            layout = layout_for_decode(base.name, live.coded_bytes, volume.dat_bytes, shard_bytes, volume.ratio.data)
            check_replaceable(ec, volume, fds, layout, block, ecx, must_be_there=was_open)
            dat, idx = base.with_name(base.name + ".dat"), base.with_name(base.name + ".idx")
            # The .idx is made beside the .dat, where opening looks for it first; `consolidate_index` moves it. The .dat
            # comes last: an .idx without one is ignored.
            staged = stack.enter_context(StagedFiles(ec.files, [idx, dat]))
            dat_fd = staged.descriptor(dat)
            write_dat(ec.files, fds, dat_fd, live.runs(), layout)
            if live.is_compacted:
                # As after a vacuum: offsets in the old .dat lead nowhere in this one.
                new_block = replace(block, compaction_revision=block.compaction_revision + 1 & 0xFFFF)
                ec.files.write(dat_fd, [new_block.encode()], 0)
            # Most of the data is on disk before deletions have to wait.
            check_wanted()
            ec.files.sync(dat_fd)
            check_wanted()
            idx_fd, idx_bytes = staged.descriptor(idx), 0
            for rows in live.idx():
                ec.files.write(idx_fd, [rows], idx_bytes)
                idx_bytes += len(rows)
            with volume.deletions.exclusive():
                # Those that came meanwhile are recorded behind the live records.
                now = _index_now(ec, volumes)
                if now != ecx:
                    if live_records(now, ec.width, block) is None:
                        raise NoLiveNeedles(volume_id)
                    gone = newly_deleted(ecx, now, ec.width)
                    rows = append_deletions(ec.files, dat_fd, live, gone, block, ec.width)
                    ec.files.write(idx_fd, [rows], idx_bytes)
                # The shards hold all that is in an old .dat. The new .idx beside it would lead to other records.
                remove_paths(ec.files, [dat])
                staged.publish()
        for one in volumes:
            _remove_checksums(ec, one)


def _remove_checksums(ec: EcVolumeSet, volume: EcVolume) -> None:
    """Removes the .ecsum files of a decoded volume on one disk. A failure is logged: the volume is there, and the next
    coding removes them.
    """
    try:
        found = look(ec.files, ec.locations[volume.place.disk_id], volume.collection, volume.id)
        remove_paths(ec.files, checksum_paths(ec.files, found))
    except (OSError, StorageError) as error:
        _log.warning("the checksums of %s stay: %s", volume.place.base, error)


def check_decodable(ec: EcVolumeSet, collection: str, volume_id: int) -> list[EcVolume]:
    """The volume's newest coding on each disk, for `decode`. No disk is touched. Raises EcRefused and DiskUnavailable
    as `decode`, except for a .dat.
    """
    volumes = list(ec.copies(volume_id))
    if not volumes:
        raise EcRefused(f"ec volume {volume_id} not found")
    if all(one.collection != collection for one in volumes):
        raise EcRefused(f"existing collection:{volumes[-1].collection} unexpected input: {collection}")
    ec.check_all_in_service()
    return newest_open([one for one in volumes if one.collection == collection])


def _index_now(ec: EcVolumeSet, volumes: Sequence[EcVolume]) -> bytes:
    """The rows of the last one's .ecx with all deletions, also those that another disk's .ecx alone has. Nothing is
    folded: a decoding that fails has changed nothing.
    """
    *others, volume = volumes
    deleted = set(volume.deleted)
    for other in others:
        if other.place.index_dir != volume.place.index_dir:
            deleted.update(deleted_ids(other.read_index(), ec.width), other.deleted)
    return with_deletions(volume.read_index(), deleted, ec.width, volume.place.index(".ecx"))


def _data_shard(volumes: Sequence[EcVolume], shard_id: int) -> Path:
    """The file of a shard."""
    return next(one.place.shard(shard_id) for one in volumes if shard_id in one.shards)


def _super_block_in(files: Files, fd: int, path: Path) -> SuperBlock:
    try:
        return parse_super_block(files.read(fd, _SUPER_BLOCK_AT_MOST, 0))
    except FormatError as error:
        raise DecodeFailed(f"read ec volume {path} superblock: {error}") from error
