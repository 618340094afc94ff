"""Opens the shards on the disks, at the start and when files have appeared since.

Shards without their volume's .dat on this server belong to a volume that is spread over servers. They are kept and
opened, however few they are. Where the whole .dat is here too, shards that are shorter than its coding gives are left
over from a coding that did not end, and are removed. In every doubtful case the files are kept: shards may be the only
copy of their data. So the .dat is examined first: its length alone proves nothing.

Source: weed/storage/disk_location_ec.go, store_ec_reconcile.go, store_ec_mirror.go.
"""

from __future__ import annotations

import logging
import operator
import os
import time
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from native_handlers.format.super_block import SUPER_BLOCK_BYTES
from native_handlers.format.volume_name import format_volume_name
from native_handlers.records import dataclass
from native_handlers.storage.erasure_coding.errors import EcMountFailed
from native_handlers.storage.erasure_coding.files_on_disk import remove_all, shares_index
from native_handlers.storage.erasure_coding.layout import shard_bytes_of
from native_handlers.storage.erasure_coding.names import (
    load_info,
    parse_base_name,
    parse_shard_name,
    ratio_of,
    shard_extension,
)
from native_handlers.storage.erasure_coding.shard_arrival import recover_shard_arrivals
from native_handlers.storage.model.errors import StorageError
from native_handlers.storage.model.file_kinds import MAX_SHARDS, SHARDS_ARRIVED, receiving_path
from native_handlers.storage.model.report import Finding, FindingKind
from native_handlers.storage.system.file_copy import copy_range
from native_handlers.storage.volume.info_file import has_shard_index
from native_handlers.storage.volume.paths import VolumePaths
from native_handlers.storage.volume.soundness import BEHIND_RECORDS, why_not_whole

if TYPE_CHECKING:
    from collections.abc import Container, Iterable
    from pathlib import Path

    from native_handlers.storage.directory.location import DiskLocation
    from native_handlers.storage.erasure_coding.ec_set import EcKey, EcVolumeSet
    from native_handlers.storage.system.files import FileFacts, Files

_log = logging.getLogger(__name__)
STALE_EMPTY_S = 3600
"""An older empty shard file is left over from a failure; a younger one may belong to a transfer under way."""


@dataclass(slots=True)
class _Found:
    """The files of one volume on one disk: its shard files that are not empty with their sizes, and the .dat's size.

    `has_rows`: the .ecx is not empty. An empty one is of a volume without live needles, or of a copy that failed.
    """

    shards: dict[int, int] = field(default_factory=dict)
    has_index: bool = False
    has_rows: bool = False
    dat_bytes: int | None = None
    stale: list[Path] = field(default_factory=list)
    """Empty shard files that nothing fills any more."""


_Disks = list[tuple["DiskLocation", dict["EcKey", _Found]]]
Kept = list[tuple["DiskLocation", list[Finding]]]
"""The findings about shards that are kept, each with its disk."""


def remove_left_overs(
    files: Files,
    locations: Iterable[DiskLocation],
    offset_width_bytes: int,
    bases: Container[Path] | None = None,
) -> Kept:
    """Removes shards that are useless beside the whole .dat from which they were to be made. Returns the findings to be
    kept once the volumes are opened.

    Call it at the start, before volumes are opened: a volume beside shards is opened read-only, and later such shards
    may be those of a coding that is under way. `judge_again` follows.

    Args:
        bases: the paths, without extension, of the volumes whose shards are judged; None for all.
    """
    findings = []
    for location in locations:
        for key, found in sorted((_look(files, location) or {}).items()):
            paths = VolumePaths(location.path, location.idx_path, *key)
            if bases is not None and paths.base not in bases:
                continue
            try:
                fate = _judge(files, paths, found, offset_width_bytes)
                if fate is None:
                    continue
                if fate.why_kept:
                    findings.append((location, [Finding(FindingKind.SHARDS_KEPT, paths.base, fate.why_kept)]))
                    continue
                count = len(found.shards)
                _log.warning("%s: its .dat is here and its %d shards are not whole: removed", paths.base, count)
                is_shared = shares_index(files, location, *key)
                remove_all(files, location, *key, keeps_vif=True, keeps_shared_index=is_shared)
            except (OSError, StorageError) as error:
                _log.error("%s: its shards are kept: %s", paths.base, error)
    return findings


def judge_again(files: Files, kept: Kept, offset_width_bytes: int) -> Kept:
    """Judges shards again that `remove_left_overs` has kept, when the volumes are open and before they are served. The
    .dat of a volume whose shards have no index was repaired meanwhile. Returns the findings that remain.

    Only shards beside an unfinished end of a .dat are looked at: its other records are all there. What another repair
    drops, the shards alone may have.
    """
    tails = {one.base for _, found in kept for one in found if one.detail.startswith(BEHIND_RECORDS)}
    if not tails:
        return kept
    others = [(location, found) for location, found in kept if tails.isdisjoint(one.base for one in found)]
    return others + remove_left_overs(files, dict.fromkeys(location for location, _ in kept), offset_width_bytes, tails)


class FateOfShards(NamedTuple):
    """The fate of shards that the .dat beside them would replace at a start. `why_kept` "" means that they go."""

    why_kept: str


def judge_shards(files: Files, paths: VolumePaths, offset_width_bytes: int) -> FateOfShards | None:
    """The fate of the shards beside the .dat at `paths`; None where nothing speaks against them. Changes nothing.
    Raises OSError.
    """
    dat, shards = files.facts(paths.file(".dat")), {}
    for shard_id in range(MAX_SHARDS):
        facts = files.facts(paths.file(shard_extension(shard_id)))
        if facts is not None and facts.size_bytes and not facts.is_directory:
            shards[shard_id] = facts.size_bytes
    found = _Found(shards, has_shard_index(files, paths), dat_bytes=None if dat is None else dat.size_bytes)
    return _judge(files, paths, found, offset_width_bytes)


def _judge(files: Files, paths: VolumePaths, found: _Found, offset_width_bytes: int) -> FateOfShards | None:
    if not _is_left_over(files, paths, found):
        return None
    return FateOfShards(why_not_whole(files, paths, offset_width_bytes) or "")


def load_shards(ec: EcVolumeSet, volume_id: int | None = None, *, is_start: bool = False) -> None:
    """Opens every shard that lies on a disk and is not open. What hinders one volume is a finding and hinders no other.

    Args:
        volume_id: the one volume that is looked for; None for all.
        is_start: shards that are too few beside their .dat are removed. Later they may be the first ones that another
            server has sent, of a coding whose .dat is deleted next. Source: weed/storage/store.go (NewStore).
    """
    ec.count_descriptors()
    if not is_start:
        finish_shard_arrivals(ec, volume_id)
    looked = ((location, _look(ec.files, location)) for location in ec.locations)
    disks: _Disks = [
        (location, {key: found for key, found in by_key.items() if volume_id in {None, key[1]}})
        for location, by_key in looked
        if by_key is not None
    ]
    for location, by_key in disks:
        _remove_stale(ec, location, by_key)
        for key, found in sorted(by_key.items()):
            if found.has_index and found.shards:
                elsewhere = None if found.has_rows else ec.find_index_dir(*key, location)
                _try_to_open(ec, location, key, found, elsewhere)
    if is_start:
        _remove_partial(ec, disks)
    _load_across_disks(ec, disks)
    for location, by_key in disks:
        for key, found in by_key.items():
            if found.shards:
                ec.note_files(location.disk_id, *key)
    ec.tell()


def finish_shard_arrivals(ec: EcVolumeSet, volume_id: int | None = None) -> None:
    """Finishes decided replacements of shards, of all volumes or of one, on disks that were out of service at the start
    or have failed since. What fails is logged, and hinders no other volume.
    """
    directories = [(one.path, one.idx_path) for one in ec.locations]
    for location in ec.locations:
        if location.is_unavailable or not location.owns_directory:
            continue
        try:
            names = [one for one in ec.files.list_directory(location.path) if one.endswith(SHARDS_ARRIVED)]
        except OSError as error:
            _log.error("decided replacements of shards in %s are not looked for: %s", location.path, error)
            continue
        keys = (parse_base_name(one.removesuffix(SHARDS_ARRIVED)) for one in names)
        for found_id in sorted({key[1] for key in keys if key is not None and volume_id in {None, key[1]}}):
            try:
                with ec.exclusive(found_id):
                    own = (location.path, location.idx_path)
                    found = recover_shard_arrivals(ec.files, own, directories, partial(operator.eq, found_id))
            except (OSError, StorageError) as error:
                _log.error("ec volume %d: shards that were copied here wait: %s", found_id, error)
                continue
            location.findings.add(found)


def _try_to_open(
    ec: EcVolumeSet, location: DiskLocation, key: EcKey, found: _Found, index_dir: Path | None = None
) -> None:
    try:
        _open(ec, location, key, found, index_dir)
    except (OSError, StorageError) as error:
        _tell_of_closed(location, key, error)


def _tell_of_closed(location: DiskLocation, key: EcKey, error: Exception) -> None:
    name = location.path / format_volume_name(*key)
    location.findings.add([Finding(FindingKind.SHARDS_NOT_OPENED, name, str(error))])


def _look(files: Files, location: DiskLocation) -> dict[EcKey, _Found] | None:
    """The files by volume; None for a disk that cannot be read."""
    if location.is_unavailable:
        return None
    try:
        found: dict[EcKey, _Found] = {}
        listed = {path: files.list_directory(path) for path in dict.fromkeys((location.path, location.idx_path))}
        # Most volumes are not erasure-coded.
        suspects = [name for names in listed.values() for name in names if "ec" in name]
        coded = {key for name in suspects if (key := _coded_base(name)) is not None}
        if not coded:
            return {}
        for directory, names in listed.items():
            for name in names:
                if name.rpartition(".")[0] in coded:
                    _take(files, directory, name, found, is_data=directory == location.path)
    except OSError as error:
        _log.error("erasure-coded volumes in %s are not loaded: %s", location.path, error)
        return None
    return {key: one for key, one in found.items() if one.shards or one.stale}


def _remove_stale(ec: EcVolumeSet, location: DiskLocation, by_key: dict[EcKey, _Found]) -> None:
    """Removes empty shard files. Those of a volume that is worked on are left: they may just get their content."""
    for key, found in by_key.items():
        if not found.stale:
            continue
        try:
            with ec.exclusive_at_once(key[1]) as is_free:
                for path in found.stale if is_free else ():
                    facts = ec.files.facts(path)
                    if facts is not None and _is_stale(facts):
                        _log.warning("%s is an empty shard that something left which failed; removed", path)
                        ec.files.unlink(path)
        except OSError as error:
            _log.error("%s: an empty shard stays: %s", location.path / format_volume_name(*key), error)


def _is_stale(facts: FileFacts) -> bool:
    return not facts.size_bytes and time.time() - facts.modified_at_s > STALE_EMPTY_S


def _coded_base(name: str) -> str | None:
    """The name of the volume whose shard, or index of shards, has this name."""
    base, _, extension = name.rpartition(".")
    return base if extension == "ecx" or parse_shard_name(name) is not None else None


def _take(files: Files, directory: Path, name: str, found: dict[EcKey, _Found], *, is_data: bool) -> None:
    base, _, extension = name.rpartition(".")
    if extension in {"ecx", "dat"}:
        key = parse_base_name(base)
        facts = files.facts(directory / name) if key is not None else None
        if key is None or facts is None or facts.is_directory:
            return
        one = found.setdefault(key, _Found())
        if extension == "ecx":
            one.has_index = True
            one.has_rows = one.has_rows or facts.size_bytes > 0
        elif is_data:
            one.dat_bytes = facts.size_bytes
        return
    shard = parse_shard_name(name)
    facts = files.facts(directory / name) if shard is not None else None
    if shard is None or facts is None or facts.is_directory:
        return
    if not facts.size_bytes:
        if _is_stale(facts):
            found.setdefault(shard[0], _Found()).stale.append(directory / name)
    elif is_data:
        found.setdefault(shard[0], _Found()).shards[shard[1]] = facts.size_bytes


def _is_left_over(files: Files, paths: VolumePaths, found: _Found) -> bool:
    """Whether the shards are useless, if the .dat beside them is a whole volume. Raises OSError."""
    if not found.shards or found.dat_bytes is None or found.dat_bytes <= SUPER_BLOCK_BYTES:
        return False
    sizes = set(found.shards.values())
    info = load_info(files, paths.sidecars(".vif"))
    whole = shard_bytes_of(found.dat_bytes, ratio_of(info).data)
    if not found.has_index:
        # The index gets its name last. Longer shards were made from another .dat.
        return max(sizes) <= whole
    if info is not None and info.dat_file_size == found.dat_bytes and sizes != {whole}:
        # The .dat is the one from which they were made, and a power cut came before all of them were on disk.
        return min(sizes) < whole
    return len(sizes) == 1 and sizes.pop() < whole


def _open(ec: EcVolumeSet, location: DiskLocation, key: EcKey, found: _Found, index_dir: Path | None = None) -> None:
    collection, volume_id = key

    def is_open(shard_id: int) -> bool:
        opened = next((one for one in ec.copies(volume_id) if one.place.disk_id == location.disk_id), None)
        return opened is not None and opened.collection == collection and shard_id in opened.shards

    if all(map(is_open, found.shards)):
        # What keeps the volume busy may take minutes.
        return
    with ec.exclusive(volume_id):
        for shard_id in sorted(found.shards):
            if not is_open(shard_id):
                ec.open_shard(location, collection, volume_id, shard_id, index_dir)


def _remove_partial(ec: EcVolumeSet, disks: _Disks) -> None:
    """Removes shards on a disk that are too few to decode, while another disk has the .dat from which they were
    made.
    """
    for location, by_key in disks:
        for key, found in by_key.items():
            volume = next((one for one in ec.copies(key[1]) if one.place.disk_id == location.disk_id), None)
            if volume is None or volume.collection != key[0] or len(volume.shards) >= volume.ratio.data:
                continue
            dat = _sibling_dat(ec.files, disks, location, key)
            if dat is None or volume.dat_bytes <= 0 or dat.size_bytes != volume.dat_bytes:
                continue
            everywhere = {shard for one in ec.copies(key[1]) for shard in one.shards}
            if len(everywhere) >= volume.ratio.data:
                continue
            name = location.path / format_volume_name(*key)
            why = _why_not_whole(ec, dat.paths)
            if why is not None:
                location.findings.add([Finding(FindingKind.SHARDS_KEPT, name, f"{dat.paths.file('.dat')}: {why}")])
                continue
            _log.warning(
                "%s: its .dat is on another disk, and only %d shards are here: removed", name, len(volume.shards)
            )
            ec.unload(key[1], disk_id=location.disk_id)
            try:
                is_shared = shares_index(ec.files, location, *key)
                remove_all(ec.files, location, *key, keeps_vif=True, keeps_shared_index=is_shared)
                found.shards.clear()
            except (OSError, StorageError) as error:
                _log.error("%s: %s", name, error)


class _Dat(NamedTuple):
    """A .dat on another disk: the paths of its volume, and its length."""

    paths: VolumePaths
    size_bytes: int


def _sibling_dat(files: Files, disks: _Disks, location: DiskLocation, key: EcKey) -> _Dat | None:
    for other, _ in disks:
        if other is not location:
            paths = VolumePaths(other.path, other.idx_path, *key)
            facts = files.facts(paths.file(".dat"))
            if facts is not None:
                return _Dat(paths, facts.size_bytes)
    return None


def _why_not_whole(ec: EcVolumeSet, paths: VolumePaths) -> str | None:
    try:
        return why_not_whole(ec.files, paths, ec.width)
    except OSError as error:
        return str(error)


def _load_across_disks(ec: EcVolumeSet, disks: _Disks) -> None:
    """Opens shards whose index is on another disk of this server, with a copy of the index, or with that one."""
    for location, by_key in disks:
        for key, found in sorted(by_key.items()):
            if not found.shards or found.has_index:
                continue
            name = location.path / format_volume_name(*key)
            index_dir = ec.find_index_dir(*key, location)
            if index_dir is None:
                _log.warning("%s: shards %s have no .ecx on this server", name, sorted(found.shards))
                continue
            try:
                # A copy of shards may be giving names just now.
                with ec.exclusive(key[1]):
                    ec.check_coding(location, index_dir, name.name)
                    _mirror(ec.files, location, index_dir, key)
            except EcMountFailed as error:
                _tell_of_closed(location, key, error)
                continue
            except OSError as error:
                _log.warning("%s: its index stays on another disk alone: %s", name, error)
            _try_to_open(ec, location, key, found, index_dir)


def _mirror(files: Files, location: DiskLocation, index_dir: Path, key: EcKey) -> None:
    """Copies .ecx, .ecj and .vif to a disk that has none of them. Raises OSError; what was copied is whole."""
    name = format_volume_name(*key)
    for extension in (".ecj", ".vif", ".ecx"):
        target = (location.path if extension == ".vif" else location.idx_path) / (name + extension)
        if files.facts(target) is None:
            copy_file(files, index_dir / (name + extension), target)


def copy_file(files: Files, source: Path, target: Path) -> bool:
    """Copies `source` to `target`, durably. Returns whether there is a source. Raises OSError; `target` is then
    unchanged.
    """
    try:
        fd = files.open(source, os.O_RDONLY)
    except FileNotFoundError:
        return False
    staged = receiving_path(target)
    try:
        copy_range(files, fd, 0, files.facts_of(fd).size_bytes, staged)
    finally:
        files.close(fd)
    files.rename(staged, target)
    files.sync_directory(target.parent)
    return True


def without_index(ec: EcVolumeSet) -> list[tuple[DiskLocation, str, int]]:
    """Volumes with shards here whose index no disk of this server has, each with its first disk with shards."""
    found = {}
    for location in ec.locations:
        for key, one in sorted((_look(ec.files, location) or {}).items()):
            if one.shards and key not in found and ec.find_index_dir(*key) is None:
                found[key] = location, *key
    return list(found.values())
