"""Files of erasure-coded volumes, read for a copy elsewhere. Source: weed/server/volume_grpc_copy.go (CopyFile)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from native_handlers.format.volume_name import format_volume_name
from native_handlers.storage.system.files import Files, SharedFile
from native_handlers.storage.volume.file_reader import FileReader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from native_handlers.storage.directory.location import DiskLocation


def open_coded_file(
    files: Files, locations: Sequence[DiskLocation], collection: str, volume_id: int, extension: str
) -> FileReader | None:
    """Opens a file of an erasure-coded volume on any disk of this node; None when there is none. Of several disks the
    last one counts, and its index directory before its data directory, as upstream.

    Raises:
        OSError: a file is there and cannot be opened, or whether it is there cannot be told.
        DiskUnavailable: a disk is out of service, and the others have no such file.
    """
    name = format_volume_name(collection, volume_id) + extension
    for location in sorted(locations, key=lambda location: (location.is_unavailable, -location.disk_id)):
        location.check_in_service()
        for directory in dict.fromkeys((location.idx_path, location.path)):
            try:
                file = SharedFile.open(files, directory / name, os.O_RDONLY)
            except FileNotFoundError:
                continue
            return FileReader(files, file, None)
    return None
