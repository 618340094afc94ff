"""Changes the replica placement of a volume: it is closed, its .vif is changed, and it is opened again.

The super block is left as it is, for .vif outranks it. Source: weed/server/volume_grpc_admin.go (VolumeConfigure),
weed/storage/store.go (ConfigureVolume).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from native_handlers.format.ttl import EMPTY_TTL
from native_handlers.storage.errors import ConfigureFailed, StorageError
from native_handlers.storage.locations import copies_of, locate, mount, unload
from native_handlers.storage.volume_info_file import load_volume_info, save_volume_info

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from native_handlers.storage.disk_location import DiskLocation
    from native_handlers.storage.files import Files
    from native_handlers.storage.report import VolumeEvent


def configure_volume(
    locations: Sequence[DiskLocation], files: Files, vid: int, replication: str, events: list[VolumeEvent]
) -> None:
    """Does all of it; `events` gets what is to be announced, on failure too. The caller lets nobody else in.

    `replication` was found to be one. A volume that was not open is open afterwards, as upstream has it.

    Wilful difference: nothing is closed before the .vif was found, nor on a disk that is out of service, for it could
    not be opened again.

    Raises:
        ConfigureFailed: at which step, and whether the volume could be opened again. Where the step is the last one,
            the change was made.
    """
    copies = copies_of(locations, vid)
    try:
        for _, volume in copies:
            volume.check_in_service()
        info_path = locate(locations, vid).file(".vif")
    except StorageError as error:
        raise ConfigureFailed("", str(error), None if copies else _restore(locations, vid, events)) from error
    closed, failures = unload(copies)
    events += closed
    if failures:
        raise ConfigureFailed("unmount", "; ".join(failures), _restore(locations, vid, events))
    try:
        _write_replication(files, info_path, vid, replication)
    except (StorageError, OSError) as error:
        raise ConfigureFailed("", str(error), _restore(locations, vid, events)) from error
    try:
        events.append(mount(locations, vid))
    except (StorageError, OSError) as error:
        raise ConfigureFailed("mount", str(error)) from error


def _restore(locations: Sequence[DiskLocation], vid: int, events: list[VolumeEvent]) -> str | None:
    """Opens the volume as it was; returns why it cannot be, if so."""
    try:
        events.append(mount(locations, vid))
    except (StorageError, OSError) as error:
        return str(error)
    return None


class _InfoFileFailed(StorageError):
    """A .vif could not be read or written; it is as it was."""


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
        # Without a TTL, so that the time of expiry stays: the data has not become younger.
        save_volume_info(files, path, replace(loaded.info, replication=replication), EMPTY_TTL, 0)
    except OSError as error:
        raise _InfoFileFailed(f"volume {vid} failed to save vif: {path}: {error.strerror}") from error
