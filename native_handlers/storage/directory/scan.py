"""Finds the volumes and shards of a data directory by file names, and checks the directory itself.

Source: weed/storage/disk_location.go:concurrentLoadingVolumes, weed/command/volume.go.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, NamedTuple

from native_handlers.format.errors import BadVolumeName
from native_handlers.format.types import DEFAULT_OFFSET_WIDTH_BYTES, OFFSET_WIDTHS_BYTES
from native_handlers.format.volume_name import format_volume_name, parse_volume_name
from native_handlers.storage.model.errors import DirectoryUnusable, DiskUnreadable
from native_handlers.storage.model.file_kinds import ARRIVED, NOTE, SHARD_EXTENSIONS
from native_handlers.storage.volume.dat_head import is_stub_of_shards
from native_handlers.storage.volume.info_file import load_volume_info, may_name_object
from native_handlers.storage.volume.paths import VolumePaths

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.info_file import LoadedInfo

_log = logging.getLogger(__name__)
_SHOWING = (".idx", ".vif", NOTE)
"""The number of shards that upstream's formats and messages can name."""
_SHARD_FILE = re.compile(r"\.ec[0-9]{2}$", re.ASCII)


def check_directory(files: Files, directory: Path) -> None:
    """Raises DirectoryUnusable, with the reason, unless `directory` is a directory that its owner may write to."""
    try:
        facts = files.facts(directory)
    except OSError as error:
        raise DirectoryUnusable(directory, str(error)) from error
    if facts is None:
        raise DirectoryUnusable(directory, "it does not exist; create it first")
    if not facts.is_directory:
        raise DirectoryUnusable(directory, "it is not a directory")
    if not facts.is_writable_by_owner:
        raise DirectoryUnusable(directory, "its owner may not write to it")


def list_names(files: Files, directory: Path) -> list[str]:
    """The names in a data directory. Raises DiskUnreadable."""
    try:
        return files.list_directory(directory)
    except OSError as error:
        raise DiskUnreadable(directory, error) from error


def volume_candidates(names: Iterable[str], *, besides: AbstractSet[str] = frozenset()) -> dict[int, list[str]]:
    """Volume ids in file names, with their collections. The .idx or the .vif shows a volume. The .note shows an
    unfinished copy. A copy makes its .dat first, so the scan must find the .dat by the .note.

    Args:
        besides: names of volumes to leave out.
    """
    found: dict[int, list[str]] = {}
    for collection, volume_id in _volume_names(_stems(names, _SHOWING) - besides):
        found.setdefault(volume_id, []).append(collection)
    return found


def collections_of(names: Iterable[str], volume_id: int) -> list[str]:
    """The collections of one volume, as in `volume_candidates`."""
    ending = str(volume_id)
    stems = (stem for stem in _stems(names, _SHOWING) if stem.endswith(ending))
    return [collection for collection, found_id in _volume_names(stems) if found_id == volume_id]


def ids_with_data(names: Iterable[str]) -> list[int]:
    """The ids of the volumes among `names` that can be opened, each once: those with a .dat and a file that
    `volume_candidates` counts.
    """
    names = list(names)
    stems = _stems(names, _SHOWING) & _stems(names, (".dat",))
    return list(dict.fromkeys(volume_id for _, volume_id in _volume_names(stems)))


def arrived_records(names: Iterable[str]) -> list[tuple[int, str]]:
    """Of the records among `names` that a copy has arrived, the volume's id and the name."""
    found = _volume_names(_stems(names, (ARRIVED,)))
    return [(volume_id, format_volume_name(collection, volume_id) + ARRIVED) for collection, volume_id in found]


def count_shards(names: Iterable[str]) -> int:
    """The number of erasure coding shard files among `names`."""
    return sum("ec" in name and _SHARD_FILE.search(name) is not None for name in names)


def count_coded(names: Iterable[str]) -> int:
    """The number of volumes with a shard file among `names`."""
    return len({name.rpartition(".")[0] for name in names if "ec" in name and _SHARD_FILE.search(name) is not None})


def has_any_shard(volume_name: str, names: AbstractSet[str]) -> bool:
    """Whether `names` has a file of an erasure coding shard of the volume."""
    return any(volume_name + extension in names for extension in SHARD_EXTENSIONS)


def _stems(names: Iterable[str], extensions: tuple[str, ...]) -> set[str]:
    return {name.rpartition(".")[0] for name in names if name.endswith(extensions)}


def _volume_names(stems: Iterable[str]) -> list[tuple[str, int]]:
    """Collection and volume id of each of `stems` that is a volume's name, in order of the names."""
    found: list[tuple[str, int]] = []
    for stem in sorted(stems):
        try:
            found.append(parse_volume_name(stem))
        except BadVolumeName:
            continue
    return found


# ---- The index offset width with which a set of directories was written.


def find_offset_width(files: Files, directories: Iterable[Path]) -> int:
    """The width in bytes from the first .vif of a volume that names one; 4 when none does. A .vif without a volume or
    shards beside it is ignored: a left-over must not decide for the volumes that are here.

    Where another .vif contradicts it, opening that volume fails. So does opening the volume of a .vif that cannot be
    read, which is left out here. Raises OSError when a directory cannot be listed.
    """
    for directory in directories:
        for name, names_object in _vifs_of_volumes(files.list_directory(directory)):
            try:
                info = load_volume_info(files, directory / name).info
            except OSError as error:
                _log.warning("%s: %s; it says nothing of the width of offsets", directory / name, error.strerror)
                continue
            if info.bytes_offset in OFFSET_WIDTHS_BYTES and (info.files or not names_object):
                return info.bytes_offset
    return DEFAULT_OFFSET_WIDTH_BYTES


def _vifs_of_volumes(names: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """The .vif files among `names` that have a volume's .dat beside them; after them those with an .ecx alone; after
    them all others, with True: they are of volumes only where they name an object in a remote tier.

    One by one: usually the first file gives the answer, and a directory has thousands.
    """
    present = set(names)
    vifs = sorted(name for name in present if name.endswith(".vif"))
    yield from ((name, False) for name in vifs if name[:-4] + ".dat" in present)
    without_data = [name for name in vifs if name[:-4] + ".dat" not in present]
    yield from ((name, False) for name in without_data if name[:-4] + ".ecx" in present)
    yield from ((name, True) for name in without_data if name[:-4] + ".ecx" not in present)


# ---- Volumes whose data is not in a .dat of their directory: those in a remote tier, and erasure-coded ones.


class DataElsewhere(NamedTuple):
    """A volume without a .dat. `why` says where its data is; `is_coded`: the data is in erasure coding shards."""

    paths: VolumePaths
    why: str
    is_coded: bool


def find_data_elsewhere(files: Files, directory: Path, index_dir: Path) -> list[DataElsewhere]:
    """The volumes without a .dat in `directory`, in the order of their names. A .dat left beside shards counts as none.

    Raises OSError: the directory cannot be listed. A .vif that cannot be read is the reason given for its volume.
    """
    names = set(files.list_directory(directory))
    coded = {name.rpartition(".")[0] for name in names if name.endswith((".ecx", *SHARD_EXTENSIONS))}
    found = []
    for stem in sorted(coded | {name[:-4] for name in names if name.endswith(".vif")}):
        try:
            paths = VolumePaths(directory, index_dir, *parse_volume_name(stem))
        except BadVolumeName:
            continue
        try:
            if stem + ".dat" in names and not is_stub_of_shards(files, paths):
                continue
            why = "it is erasure-coded" if stem in coded else _tier_of(files, paths)
        except OSError as error:
            if stem + ".dat" in names:
                continue
            why = f"{error.filename or paths.file('.vif')}: {error.strerror}"
        if why:
            found.append(DataElsewhere(paths, why, stem in coded))
    return found


def _tier_of(files: Files, paths: VolumePaths) -> str:
    loaded = load_volume_info(files, paths.file(".vif"))
    if may_name_object(files, paths, loaded):
        return unknown_place_text(loaded)
    info = loaded.info
    return f"its data is in remote storage {info.files[0].backend_name} as {info.files[0].key}" if info.files else ""


def unknown_place_text(loaded: LoadedInfo) -> str:
    """Why a volume without a .dat is not opened whose .vif cannot be parsed."""
    return f"its .vif cannot be parsed ({loaded.error}), and may say where its data is"
