"""Changes the replica placement of a volume: closes it, changes its .vif, and opens it again.

The super block is unchanged, because the .vif takes precedence. Source: weed/server/volume_grpc_admin.go
(VolumeConfigure), weed/storage/store.go (ConfigureVolume).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from native_handlers.format.ttl import EMPTY_TTL
from native_handlers.storage.locations import copies_of, locate, mount, unload
from native_handlers.storage.model.errors import ConfigureFailed, StorageError
from native_handlers.storage.volume.info_file import load_volume_info, save_volume_info

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from native_handlers.storage.directory.location import DiskLocation
    from native_handlers.storage.system.files import Files


def configure_volume(
    locations: Sequence[DiskLocation], files: Files, vid: int, replication: str, changed: list[int]
) -> None:
    """Changes the placement; `changed` gets the ids to announce, on failure too. The caller holds the lock of the
    volume set.

    `replication` is a valid placement. As in upstream, a volume that was not open is open afterwards.

    Wilful difference: a volume is closed only after its .vif was found. On a disk out of service no volume is closed,
    because it could not be opened again.

    Raises:
        ConfigureFailed: with the failed step, and whether the volume could be opened again. Where the step is the last
            one, the change was made.
    """
    copies = copies_of(locations, vid)
    try:
        for _, volume in copies:
            volume.check_in_service()
        info_path = locate(locations, vid).file(".vif")
        # A change of a few bytes may use the reserve of a full disk.
        files = next((one.room.files for one in locations if one.path == info_path.parent), files)
    except StorageError as error:
        raise ConfigureFailed("", str(error), None if copies else _restore(locations, vid, changed)) from error
    closed, failures = unload(copies)
    changed += closed
    if failures:
        raise ConfigureFailed("unmount", "; ".join(failures), _restore(locations, vid, changed))
    try:
        _write_replication(files, info_path, vid, replication)
    except (StorageError, OSError) as error:
        raise ConfigureFailed("", str(error), _restore(locations, vid, changed)) from error
    try:
        changed.append(mount(locations, vid))
    except (StorageError, OSError) as error:
        raise ConfigureFailed("mount", str(error)) from error


def _restore(locations: Sequence[DiskLocation], vid: int, changed: list[int]) -> str | None:
    """Opens the volume unchanged. Returns the reason why that fails, or None."""
    try:
        changed.append(mount(locations, vid))
    except (StorageError, OSError) as error:
        return str(error)
    return None


class _InfoFileFailed(StorageError):
    """A .vif could not be read or written; it is unchanged."""


def _write_replication(files: Files, path: Path, vid: int, replication: str) -> None:
    try:
        loaded = load_volume_info(files, path)
    except OSError as error:
        raise _InfoFileFailed(f"volume {vid} failed to load vif: {path}: {error.strerror}") from error
    if loaded.error is not None:
        raise _InfoFileFailed(f"volume {vid} failed to load vif: {loaded.error}")
    try:
        facts = files.facts(path)
        if facts is not None and not facts.is_writable_by_owner:
            raise _InfoFileFailed(f"volume {vid} failed to save vif: failed to check {path} not writable")
        # Without a TTL, so that the time of expiry stays: the data is not younger.
        save_volume_info(files, path, replace(loaded.info, replication=replication), EMPTY_TTL, 0)
    except OSError as error:
        raise _InfoFileFailed(f"volume {vid} failed to save vif: {path}: {error.strerror}") from error
