"""Operations on the files of whole erasure-coded volumes: coding, rebuilding, decoding. `removal` deletes them.

Source: weed/server/volume_grpc_erasure_coding.go.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from native_handlers.format.errors import FormatError
from native_handlers.format.super_block import parse_super_block
from native_handlers.format.vif import EcShardConfig, VolumeInfo, encode_volume_info
from native_handlers.storage.erasure_coding.bitrot import Protection, encode_checksums, load_checksums
from native_handlers.storage.erasure_coding.codings import check_enough, newest_on_disks, newest_open
from native_handlers.storage.erasure_coding.decode import (
    append_deletions,
    layout_for_decode,
    write_dat,
)
from native_handlers.storage.erasure_coding.encode import encode
from native_handlers.storage.erasure_coding.errors import (
    DecodeFailed,
    EcRefused,
    NoLiveNeedles,
    RebuildFailed,
    VerifyFailed,
)
from native_handlers.storage.erasure_coding.files_on_disk import (
    EcFiles,
    checksum_paths,
    look,
    remove_all,
    remove_paths,
)
from native_handlers.storage.erasure_coding.fold import fold
from native_handlers.storage.erasure_coding.index_files import (
    ID_BYTES,
    deleted_ids,
    journal_ids,
    journal_rows,
    sorted_rows,
    with_deletions,
)
from native_handlers.storage.erasure_coding.layout import DEFAULT_RATIO, Ratio
from native_handlers.storage.erasure_coding.live_records import live_records, newly_deleted
from native_handlers.storage.erasure_coding.loading import load_shards, without_index
from native_handlers.storage.erasure_coding.names import ratio_of, shard_extension
from native_handlers.storage.erasure_coding.parallel import beside
from native_handlers.storage.erasure_coding.rebuild import ShardFiles, rebuild
from native_handlers.storage.erasure_coding.removal import delete_shards, destroy, destroy_expired, tear_down
from native_handlers.storage.erasure_coding.replaceable import check_replaceable
from native_handlers.storage.erasure_coding.scrub import EcScrubber
from native_handlers.storage.erasure_coding.staged import StagedFiles
from native_handlers.storage.erasure_coding.verify import verify
from native_handlers.storage.model.errors import DeleteFailed, StorageError
from native_handlers.storage.model.file_kinds import SHARD_EXTENSIONS
from native_handlers.storage.system.files import read_file, replace_file
from native_handlers.storage.volume.info_file import load_volume_info

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from native_handlers.format.super_block import SuperBlock
    from native_handlers.storage.directory.location import DiskLocation
    from native_handlers.storage.erasure_coding.ec_set import EcVolumeSet
    from native_handlers.storage.erasure_coding.ec_volume import EcVolume
    from native_handlers.storage.erasure_coding.reader import EcReader
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.append_log import AppendLog
    from native_handlers.storage.volume.volume import Volume

_log = logging.getLogger(__name__)
_SUPER_BLOCK_AT_MOST = 8 + (1 << 16)


# ---- coding


def generate(ec: EcVolumeSet, volume: Volume, collection: str) -> None:
    """Makes the shards of a volume beside it, with their index.

    The shards are written under other names first. When all of them are complete, the files of an earlier coding are
    removed. The .ecx gets its name last; without an .ecx a start removes shards beside a whole .dat.

    The index and the data are those of one moment. A vacuum may be committed meanwhile, also on a read-only volume. The
    shards then are those of files that are no longer the volume's, so they are not kept.

    Raises:
        EcRefused: the volume is of another collection, or a vacuum was committed meanwhile.
        StorageError, OSError: there are no shards of this coding; those of an earlier one may be removed.
    """
    if volume.collection != collection:
        raise EcRefused(f"existing collection:{volume.collection} unexpected input: {collection}")
    volume.check_in_service()
    with ec.exclusive(volume.id):
        _generate(ec, volume)


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
        dat_fd = log.dat.fd
        if volume.is_tiered:
            # A copy of the object may have been kept here. Such a volume takes no writes and no vacuums.
            dat_fd = files.open(volume.paths.file(".dat"), os.O_RDONLY)
            stack.callback(files.close, dat_fd)
        facts = files.facts_of(dat_fd)
        sums_path = location.path / (name + ".ecsum")
        staged = stack.enter_context(StagedFiles(files, [sums_path, *shards, ecx_path]))
        _drop_cached(files, shards)
        # A start compares shards with the length of the .dat, so the .dat is on disk before the shards get their names.
        with beside(volume.sync_in_passing):
            checksums = encode(files, dat_fd, facts.size_bytes, ratio, [staged.descriptor(path) for path in shards])
        files.write(staged.descriptor(ecx_path), [ecx], 0)
        files.write(staged.descriptor(sums_path), [encode_checksums(checksums)], 0)
        for path in (sums_path, ecx_path):
            files.sync(staged.descriptor(path))
        _check_not_compacted(files, volume, log)
        ec.unload(volume.id)
        for disk in ec.locations:
            remove_all(files, disk, volume.collection, volume.id, keeps_vif=disk is location)
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
    """Raises EcRefused where the volume's .dat is no longer that of `log`, VolumeClosed where the volume is closed."""
    with volume.open_log() as now:
        if volume.is_tiered or now.dat is log.dat:
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


# ---- rebuilding shards


def rebuild_missing(ec: EcVolumeSet, collection: str, volume_id: int, *, ignores_checksums: bool = False) -> list[int]:
    """Rebuilds the shards that this server lacks and can compute, on the disk with the index and the most shards.

    Returns their ids; none where no disk has the index. Where the disks have several codings, the newest one is rebuilt
    of its own shards.

    Raises:
        StorageError: no shard was changed.
        OSError: no shard was changed, or all were made and an index lacks deletions that the journals have.
    """
    with ec.exclusive(volume_id):
        present = [look(ec.files, location, collection, volume_id) for location in ec.locations]
        present = [one for one in present if one.shard_ids or one.has_ecx]
        found = newest_on_disks(ec.files, present)
        left_out = [one for one in present if one not in found]
        chosen = max((one for one in found if one.has_ecx), key=lambda one: len(one.shard_ids), default=None)
        if chosen is None:
            return []
        found = [chosen, *(one for one in found if one is not chosen)]
        base = chosen.path("")
        try:
            ratio = _ratio_for_rebuild(ec.files, chosen)
            check_enough(found, left_out, ratio.data)
            shards = _shard_files(ec.files, base, ratio, found)
            protection, checksums = load_checksums(ec.files, [one.path(".ecsum") for one in found], ratio)
            rebuilt = rebuild(ec.files, shards, ratio, protection, checksums, ignores_checksums=ignores_checksums)
        except OSError as error:
            raise RebuildFailed(f"RebuildEcFiles {base}: {error}") from error
        except RebuildFailed as error:
            raise RebuildFailed(f"RebuildEcFiles {base}: {error}") from error
        fold(ec, found, collection, volume_id)
        if protection is Protection.OFF:
            _add_checksums(ec, ratio, [look(ec.files, one.location, collection, volume_id) for one in found])
        return rebuilt


def _add_checksums(ec: EcVolumeSet, ratio: Ratio, found: Sequence[EcFiles]) -> None:
    """Writes an .ecsum on the first disk for shards without one, if all shards agree.

    A failure is logged with its reason; the shards then stay without an .ecsum. Deliberate difference: upstream
    computes the checksums from the shards unverified, so that checksums may confirm wrong data.
    """
    path = found[0].path(".ecsum")
    if any(checksum_paths(ec.files, one) for one in found):
        return
    shards = _shard_files(ec.files, found[0].path(""), ratio, found)
    try:
        verdict = verify(ec.files, shards, ratio)
        if verdict.checksums is None:
            _log.warning("%s is not written: shards do not fit each other (ec-verify tells which)", path)
            return
        replace_file(ec.files, path, encode_checksums(verdict.checksums))
    except (VerifyFailed, OSError) as error:
        _log.warning("%s is not written: %s", path, error)


def _ratio_for_rebuild(files: Files, found: EcFiles) -> Ratio:
    """The ratio in the .vif. Raises RebuildFailed for a .vif that cannot be parsed: a wrong ratio would make wrong
    shards.
    """
    for path in reversed(found.on_either_side(".vif")):
        loaded = load_volume_info(files, path)
        if loaded.error is not None:
            raise RebuildFailed(f"cannot load .vif: {loaded.error}")
        if loaded.is_present:
            return ratio_of(loaded.info)
    return DEFAULT_RATIO


def _shard_files(files: Files, base: Path, ratio: Ratio, found: Sequence[EcFiles]) -> ShardFiles:
    """The file of each shard on these disks: the first one with content. An empty file is no shard. It is replaced
    where no other disk has the shard.
    """
    present: dict[int, tuple[Path, int]] = {}
    places: dict[int, Path] = {}
    for shard in range(ratio.total):
        extension = shard_extension(shard)
        paths = [one.path(extension) for one in found if shard in one.shard_ids]
        sizes = [(path, facts.size_bytes) for path in paths if (facts := files.facts(path)) is not None]
        places[shard] = sizes[0][0] if sizes else found[0].path(extension)
        filled = next((one for one in sizes if one[1]), None)
        if filled is not None:
            present[shard], places[shard] = filled, filled[0]
    return ShardFiles(base, present, places)


# ---- decoding


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
        StorageError, OSError: no .dat was made.
    """
    with ec.exclusive(volume_id):
        volumes = check_decodable(ec, collection, volume_id)
        volume = volumes[-1]
        sources = [_data_shard(ec, volumes, shard) for shard in range(volume.ratio.data)]
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
            ec.files.sync(dat_fd)
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
    """The volume's newest coding on each disk, for `decode`. Raises EcRefused as `decode`, except for a .dat."""
    volumes = list(ec.copies(volume_id))
    if not volumes:
        raise EcRefused(f"ec volume {volume_id} not found")
    if all(one.collection != collection for one in volumes):
        raise EcRefused(f"existing collection:{volumes[-1].collection} unexpected input: {collection}")
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


def _data_shard(ec: EcVolumeSet, volumes: Sequence[EcVolume], shard_id: int) -> Path:
    """The file of a shard. A disk in service is preferred."""
    found = [one for one in volumes if shard_id in one.shards]
    return max(found, key=ec.is_in_service).place.shard(shard_id)


def _super_block_in(files: Files, fd: int, path: Path) -> SuperBlock:
    try:
        return parse_super_block(files.read(fd, _SUPER_BLOCK_AT_MOST, 0))
    except FormatError as error:
        raise DecodeFailed(f"read ec volume {path} superblock: {error}") from error


# ---- deletions of other servers


def merge_journal(
    ec: EcVolumeSet, collection: str, volume_id: int, path: Path, needle_ids: Sequence[int], encode_ts_ns: int = 0
) -> None:
    """Adds ids to the .ecj at `path`, and to the open volumes with that file or of that coding, on any disk.

    Args:
        encode_ts_ns: the time of the coding to which the deletions belong; 0 where that is not known.

    Raises:
        OSError, VolumeClosed: the ids may have been added to some of them.
    """
    copies = [one for one in ec.copies(volume_id) if one.collection == collection]
    opened = [
        one
        for one in copies
        if one.place.index(".ecj") == path or 0 in {encode_ts_ns, one.encode_ts_ns} or one.encode_ts_ns == encode_ts_ns
    ]
    groups = {id(one.deletions): one.deletions for one in opened}.values()
    for deletions in groups:
        deletions.record(needle_ids)
    if not needle_ids or any(path in deletions.paths for deletions in groups):
        return
    old = read_file(ec.files, path) or b""
    # A partial id at the end was never acknowledged.
    whole = old[: len(old) // ID_BYTES * ID_BYTES]
    known = set(journal_ids(whole))
    new = (one for one in dict.fromkeys(needle_ids) if one not in known)
    replace_file(ec.files, path, whole + journal_rows(new))


class EcWork:
    """Operations on the files of a store's erasure-coded volumes. Each method calls the function of its name."""

    def __init__(self, ec: EcVolumeSet) -> None:
        self._ec = ec

    def generate(self, volume: Volume, collection: str) -> None:
        generate(self._ec, volume, collection)

    def rebuild_missing(self, collection: str, volume_id: int, *, ignores_checksums: bool) -> list[int]:
        return rebuild_missing(self._ec, collection, volume_id, ignores_checksums=ignores_checksums)

    def decode(self, collection: str, volume_id: int, *, was_open: bool) -> None:
        decode(self._ec, collection, volume_id, was_open=was_open)

    def check_decodable(self, collection: str, volume_id: int) -> None:
        check_decodable(self._ec, collection, volume_id)

    def delete_shards(self, collection: str, volume_id: int, shard_ids: Sequence[int]) -> None:
        delete_shards(self._ec, collection, volume_id, shard_ids)

    def tear_down(self, collection: str, volume_id: int, encode_ts_ns: int) -> None:
        tear_down(self._ec, collection, volume_id, encode_ts_ns)

    def destroy(self, volumes: Sequence[EcVolume]) -> list[str]:
        return destroy(self._ec, volumes)

    def destroy_expired(self) -> list[str]:
        return destroy_expired(self._ec)

    def merge_journal(
        self, collection: str, volume_id: int, path: Path, needle_ids: Sequence[int], encode_ts_ns: int = 0
    ) -> None:
        merge_journal(self._ec, collection, volume_id, path, needle_ids, encode_ts_ns)

    def sync_before_delete(self, volume: Volume | None) -> None:
        """Calls `sync_shards` for a volume that is to be deleted. Raises DeleteFailed: then it must not be deleted."""
        if volume is None or not volume.is_in_service:
            # A disk out of service is not used; the deletion itself refuses, with the reason.
            return
        try:
            sync_shards(self._ec, volume.paths.base)
        except OSError as error:
            raise DeleteFailed(f"DeleteVolume {volume.id}", [f"its shards cannot be put on disk: {error}"]) from error

    def scrubber(self, reader: EcReader, volume: EcVolume, passed: Callable[[int], None]) -> EcScrubber:
        return EcScrubber(self._ec, reader, volume, passed)

    def load_shards(self, volume_id: int | None) -> None:
        load_shards(self._ec, volume_id)

    def without_index(self) -> list[tuple[DiskLocation, str, int]]:
        return without_index(self._ec)
