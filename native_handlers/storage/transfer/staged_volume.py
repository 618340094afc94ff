"""Puts a volume in place that another server decoded and sent here file by file.

Source: weed/server/volume_grpc_erasure_coding.go (adoptStagedVolume).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.format.volume_name import format_volume_name
from native_handlers.storage.directory.scan import has_any_shard, normal_disk_type
from native_handlers.storage.model.errors import StorageError
from native_handlers.storage.model.file_kinds import NOTE, STAGED
from native_handlers.storage.system.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from native_handlers.storage.directory.location import DiskLocation
    from native_handlers.storage.system.files import Files


class NotStaged(StorageError):
    """The sent files do not make a volume. Nothing was changed."""


def adopt_staged(
    files: Files, locations: Sequence[DiskLocation], collection: str, volume_id: int, disk_type: str
) -> None:
    """Renames the sent files of a volume to their final names. Does not open the volume.

    A .note lies beside them during the renames: a crash leaves the .note, and the next start removes an incomplete
    volume.

    Raises:
        NotStaged, OSError.
    """
    base = _base(files, locations, collection, volume_id, disk_type)
    for extension in (".dat", ".idx", ".vif"):
        if files.facts(_named(base, extension + STAGED)) is None:
            raise NotStaged(f"staged volume {volume_id} missing {extension}{STAGED}")
    if has_any_shard(base.name, set(files.list_directory(base.parent))):
        raise NotStaged(f"staged volume {volume_id}: shards of it lie on the same disk")
    note = _named(base, NOTE)
    replace_file(files, note, f"adopting decoded volume {volume_id}".encode())
    try:
        for extension in (".vif", ".dat", ".idx"):
            files.rename(_named(base, extension + STAGED), _named(base, extension))
        files.sync_directory(base.parent)
    finally:
        files.unlink(note)
        files.sync_directory(base.parent)


def _base(files: Files, locations: Sequence[DiskLocation], collection: str, volume_id: int, disk_type: str) -> Path:
    for location in locations:
        if location.disk_type != normal_disk_type(disk_type) or location.is_unavailable:
            continue
        base = location.path / format_volume_name(collection, volume_id)
        if files.facts(_named(base, f".dat{STAGED}")) is not None:
            return base
    raise NotStaged(f"staged volume {volume_id}: no .dat{STAGED} found on a {disk_type} disk")


def _named(base: Path, extension: str) -> Path:
    return base.with_name(base.name + extension)
