"""Files of erasure-coded volumes, read for a copy elsewhere. Source: weed/server/volume_grpc_copy.go (CopyFile)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from native_handlers.format.volume_name import format_volume_name
from native_handlers.storage.erasure_coding.codings import newest_on_disks
from native_handlers.storage.erasure_coding.files_on_disk import look
from native_handlers.storage.system.files import Files, SharedFile
from native_handlers.storage.volume.file_reader import FileReader

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from native_handlers.storage.directory.location import DiskLocation


def open_coded_file(
    files: Files, locations: Sequence[DiskLocation], collection: str, volume_id: int, extension: str
) -> FileReader | None:
    """Opens a file of an erasure-coded volume on any disk of this node; None when there is none. Of several disks the
    last one counts, and its index directory before its data directory, as upstream. An empty file counts where there is
    no other.

    Wilful difference: where the disks have several codings, files of the newest one alone are sent. The caller takes
    one file after the other, and gives shards of all disks one .vif and one index.

    Raises:
        OSError: a file is there and cannot be opened, or whether it is there cannot be told.
        DiskUnavailable: a disk is out of service, and the others have no such file.
    """
    path = _find(files, locations, collection, volume_id, format_volume_name(collection, volume_id) + extension)
    return None if path is None else FileReader(files, SharedFile.open(files, path, os.O_RDONLY), None)


def _find(files: Files, locations: Sequence[DiskLocation], collection: str, volume_id: int, name: str) -> Path | None:
    empty = None
    for location in _in_order(files, locations, collection, volume_id):
        if empty is None:
            location.check_in_service()
        elif location.is_unavailable:
            break
        for directory in dict.fromkeys((location.idx_path, location.path)):
            facts = files.facts(directory / name)
            if facts is not None and facts.size_bytes:
                return directory / name
            if facts is not None and empty is None:
                empty = directory / name
    return empty


def _in_order(files: Files, locations: Sequence[DiskLocation], collection: str, volume_id: int) -> list[DiskLocation]:
    """The disks, the first choice first. Those with shards of an older coding are left out."""
    served = [one for one in locations if not one.is_unavailable]
    looked = [look(files, one, collection, volume_id) for one in served] if len(served) > 1 else []
    coded = [one for one in looked if one.shard_ids or one.has_ecx]
    newest = [one.location for one in newest_on_disks(files, coded)] if len(coded) > 1 else []
    older = [one.location for one in coded if newest and one.location not in newest]
    left = [one for one in locations if one not in older]
    return sorted(left, key=lambda one: (one.is_unavailable, bool(newest) and one not in newest, -one.disk_id))
