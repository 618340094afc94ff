"""Puts a volume in place that another server decoded and sent here file by file.

Source: weed/server/volume_grpc_erasure_coding.go (adoptStagedVolume).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from native_handlers.format.super_block import SUPER_BLOCK_BYTES
from native_handlers.format.types import normal_disk_type
from native_handlers.format.volume_name import format_volume_name
from native_handlers.storage.directory.scan import has_any_shard
from native_handlers.storage.model.errors import StorageError
from native_handlers.storage.model.file_kinds import NOTE, STAGED
from native_handlers.storage.system.files import replace_file
from native_handlers.storage.volume.info_file import load_volume_info, may_name_object
from native_handlers.storage.volume.paths import VolumePaths

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from native_handlers.storage.directory.location import DiskLocation
    from native_handlers.storage.system.files import Files


_log = logging.getLogger(__name__)
_IN_ORDER = (".vif", ".idx", ".dat")


class NotStaged(StorageError):
    """The sent files do not make a volume. Nothing was changed."""


def adopt_staged(
    files: Files, locations: Sequence[DiskLocation], collection: str, volume_id: int, disk_type: str
) -> Path:
    """Renames the sent files of a volume to their final names, the .dat last. Does not open the volume. Returns the
    path without extension.

    A .note lies beside them during the renames: a crash leaves the .note, and the next start removes an incomplete
    volume. A rename that fails is undone with those before it.

    Wilful difference: upstream overwrites a volume of that name that is not mounted. After a rename that fails, it may
    leave a .dat without an index.

    Raises:
        NotStaged: the files are missing, or a volume of that name is here, mounted or not. Nothing was changed.
        DiskUnavailable: a disk is out of service, and may have a volume of that name. Nothing was changed.
        OSError: the files have the names that they were sent under, or lie beside the .note. Or all of them have their
            final names.
    """
    base = _base(files, locations, collection, volume_id, disk_type)
    for extension in (".dat", ".idx", ".vif"):
        if files.facts(_named(base, extension + STAGED)) is None:
            raise NotStaged(f"staged volume {volume_id} missing {extension}{STAGED}")
    if has_any_shard(base.name, set(files.list_directory(base.parent))):
        raise NotStaged(f"staged volume {volume_id}: shards of it lie on the same disk")
    _check_absent(files, locations, collection, volume_id)
    note = _named(base, NOTE)
    try:
        replace_file(files, note, f"adopting decoded volume {volume_id}".encode())
        _rename_all(files, base)
    except OSError:
        _undo(files, base, note)
        raise
    files.unlink(note)
    files.sync_directory(base.parent)
    return base


def give_back(files: Files, base: Path) -> None:
    """Undoes `adopt_staged` for a volume that cannot be opened: the files have the names again that they were sent
    under. Call it while nothing opens the volume.

    Raises OSError: nothing has changed. A rename that fails is logged, and the .note stays as in a crash.
    """
    note = _named(base, NOTE)
    replace_file(files, note, f"giving back the files of {base.name}".encode())
    _undo(files, base, note)


def _check_absent(files: Files, locations: Sequence[DiskLocation], collection: str, volume_id: int) -> None:
    """Raises NotStaged where a disk has the data of a volume of that name, or the .vif of one in a remote tier,
    DiskUnavailable where a disk cannot say so: after it is back, two disks would have the volume.
    """
    text = f"staged volume {volume_id} already exists on this server"
    for location in locations:
        location.check_in_service()
    name = format_volume_name(collection, volume_id)
    for location in locations:
        base = location.path / name
        facts = files.facts(_named(base, ".dat"))
        if facts is not None and facts.size_bytes > SUPER_BLOCK_BYTES:
            raise NotStaged(f"{text}: {base}.dat, which is not mounted")
        loaded = load_volume_info(files, _named(base, ".vif"))
        if loaded.info.files:
            raise NotStaged(f"{text}: {base}.vif says that its data is in a remote tier")
        if may_name_object(files, VolumePaths(location.path, location.idx_path, collection, volume_id), loaded):
            raise NotStaged(f"{text}: {base}.vif cannot be parsed, and may say where its data is")


def _rename_all(files: Files, base: Path) -> None:
    for extension in _IN_ORDER:
        files.rename(_named(base, extension + STAGED), _named(base, extension))
    files.sync_directory(base.parent)


def _undo(files: Files, base: Path, note: Path) -> None:
    """Gives the files the names back that they were sent under. Where that fails, the .note stays: without it a start
    would make an index for a .dat, with the deleted needles in it.
    """
    try:
        for extension in reversed(_IN_ORDER):
            sent = _named(base, extension + STAGED)
            if files.facts(sent) is None:
                files.rename(_named(base, extension), sent)
        files.sync_directory(base.parent)
        files.unlink(note)
    except OSError as error:
        _log.error("%s is incomplete, and the next start removes it: %s", base, error)


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
