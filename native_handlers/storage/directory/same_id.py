"""Finds the data of a volume id on all disks of a server, open or not, and refuses what would make a second volume of
the id.

A start serves one volume of an id. Two collections with data of one id are two volumes, so one of them would not be
served, although its needles were acknowledged. Upstream looks at open volumes alone.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from native_handlers.storage.directory.data_names import volume_of
from native_handlers.storage.model.errors import DiskUnavailable, DiskUnreadable, IdTaken
from native_handlers.storage.model.file_kinds import (
    ARRIVED,
    SHARD_EXTENSIONS,
    SHARDS_ARRIVED,
    other_collection_file_text,
)
from native_handlers.storage.volume.info_file import names_object
from native_handlers.storage.volume.paths import VolumePaths

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from native_handlers.storage.directory.location import DiskLocation
    from native_handlers.storage.system.files import Files

_log = logging.getLogger(__name__)
_OF_SHARDS = frozenset((*SHARD_EXTENSIONS, SHARDS_ARRIVED))
_NAMED_FILES = 3
"""An error text names so many files."""


class FoundFile(NamedTuple):
    """A file with data of a volume, or that says that the volume's data is in a remote tier or has arrived, or may say
    so.
    """

    location: DiskLocation
    volume: VolumePaths
    path: Path

    @property
    def is_dat(self) -> bool:
        return self.path.suffix == ".dat"

    @property
    def is_shard(self) -> bool:
        """Whether the file is a shard of erasure coding, or a record that shards have arrived."""
        return self.path.suffix in _OF_SHARDS

    @property
    def has_arrived(self) -> bool:
        """Whether the file is the record that a copy has arrived whose files lack their names yet."""
        return self.path.suffix == ARRIVED


def find_data(
    files: Files, locations: Sequence[DiskLocation], volume_id: int, *, skips_failing: bool = False
) -> list[FoundFile]:
    """The data of that id, of every collection, on the disks in service, in the order of the disks.

    Raises DiskUnavailable where a disk in service fails. With `skips_failing` the log says so, and the disk counts as
    one that is out of service.
    """
    found = []
    for location in locations:
        if location.is_unavailable or not location.usage.is_answering:
            continue
        try:
            found += _find_on(files, location, volume_id)
        except DiskUnavailable as failure:
            if not skips_failing:
                raise
            _log.warning("whether volume %d is there is not known: %s", volume_id, failure)
    return found


def _find_on(files: Files, location: DiskLocation, volume_id: int) -> list[FoundFile]:
    found: list[FoundFile] = []
    # The .vif of a volume comes after its .dat.
    for name in location.data_names.of(volume_id):
        path, collection = location.path / name, volume_of(name, volume_id)
        if collection is None:
            continue
        volume = VolumePaths(location.path, location.idx_path, collection, volume_id)
        is_known = any(one.volume == volume for one in found)
        if path.suffix == ".vif" and (is_known or not _is_tiered(files, volume)):
            continue
        found.append(FoundFile(location, volume, path))
    return found


def _is_tiered(files: Files, volume: VolumePaths) -> bool:
    try:
        return names_object(files, volume)
    except OSError as error:
        raise DiskUnreadable(volume.data_dir, error) from error


def check_no_other_collection(found: Iterable[FoundFile], collection: str, volume_id: int) -> None:
    """Raises IdTaken where `found` has data of that id in another collection: the next start would have two volumes of
    one id.
    """
    others = [one for one in found if one.volume.collection != collection]
    if others:
        raise IdTaken(other_collection_file_text(volume_id, text_of(others), collection))


def text_of(found: Sequence[FoundFile]) -> str:
    """The sentence that these files are here, with the paths of the first of them."""
    named = ", ".join(str(one.path) for one in found[:_NAMED_FILES])
    more = len(found) - _NAMED_FILES
    if more > 0:
        named += f" and {more} more"
    return f"{named} {'is' if len(found) == 1 else 'are'} here"
