"""What a data directory holds, by the names of its files; and whether it can be a data directory at all.

Source: weed/storage/disk_location.go:concurrentLoadingVolumes, weed/command/volume.go.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from native_handlers.format.errors import BadVolumeName
from native_handlers.format.volume_name import parse_volume_name
from native_handlers.storage.errors import DirectoryUnusable, DiskUnreadable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from native_handlers.storage.files import Files

_SHARD_FILE = re.compile(r"\.ec[0-9]{2}$", re.ASCII)


def check_directory(files: Files, directory: Path) -> None:
    """Raises DirectoryUnusable, with the reason, for what is no directory that its owner may write to."""
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
    """The names of what is in a data directory. Raises DiskUnreadable."""
    try:
        return files.list_directory(directory)
    except OSError as error:
        raise DiskUnreadable(directory, error) from error


def volume_candidates(names: Iterable[str]) -> dict[int, list[str]]:
    """Volume ids that file names speak of, with their collections. A volume shows by its .idx or .vif, an unfinished
    copy by its .note: its .dat is there first, and must not stay for ever.
    """
    found: dict[int, list[str]] = {}
    for collection, volume_id in _volume_names(names, (".idx", ".vif", ".note")):
        found.setdefault(volume_id, []).append(collection)
    return found


def ids_with_data(names: Iterable[str]) -> list[int]:
    """The volumes among `names` that can be opened: those that show, and have a .dat."""
    names = list(names)
    with_data = set(_volume_names(names, (".dat",)))
    return [
        volume_id
        for volume_id, collections in volume_candidates(names).items()
        if any((collection, volume_id) in with_data for collection in collections)
    ]


def count_shards(names: Iterable[str]) -> int:
    """Files of erasure coding shards among `names`."""
    return sum(_SHARD_FILE.search(name) is not None for name in names)


def _volume_names(names: Iterable[str], extensions: tuple[str, ...]) -> list[tuple[str, int]]:
    """Collection and volume id of each file name with one of `extensions`, once each, in order of the names."""
    found: list[tuple[str, int]] = []
    for name in sorted({name.rpartition(".")[0] for name in names if name.endswith(extensions)}):
        try:
            found.append(parse_volume_name(name))
        except BadVolumeName:
            continue
    return found
