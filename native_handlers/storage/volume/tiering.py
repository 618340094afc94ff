"""Switches a volume between its disk and a remote tier, after all bytes have been copied.

At every moment the .vif leads to one complete .dat: the .vif is replaced when the new place holds everything, and the
old place is removed when the .vif is on disk. Readers that have begun go on with the files that they hold. Source:
weed/server/volume_grpc_tier_upload.go, volume_grpc_tier_download.go, weed/storage/volume_tier.go.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from native_handlers.storage.model.errors import StorageError, TierMoveFailed, TierMoveUnclear
from native_handlers.storage.volume.info_file import has_shards, save_volume_info

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.format.vif import RemoteFile, VolumeInfo
    from native_handlers.storage.system.files import FileFacts, Files, SharedFile
    from native_handlers.storage.volume.handle import VolumeHandle
    from native_handlers.storage.volume.state import VolumeState
    from native_handlers.storage.volume.write_state import WriteState

_log = logging.getLogger(__name__)


def state_to_upload(handle: VolumeHandle) -> tuple[VolumeState, FileFacts]:
    """The open state whose .dat is to be uploaded by its path, and the facts of that .dat. The caller has the claim on
    the volume's files.

    Raises:
        VolumeClosed: the volume is not open.
        TierMoveFailed: the volume is in a tier, lies beside its shards, or its .dat has another length than its
            records.
        OSError: the .dat cannot be looked at.
    """
    with handle.begin_write():
        state = _unshared(handle)
        if state.is_tiered:
            raise TierMoveFailed(f"volume {handle.paths.volume_id} is in a remote tier already")
        if has_shards(handle.files, state.paths):
            # Without its .dat a start would not open the volume, and the .vif would name the object for the shards too.
            why = "has erasure coding shards beside it; delete them, or the volume, first"
            raise TierMoveFailed(f"volume {handle.paths.volume_id} {why}")
        facts = handle.files.facts_of(state.dat.fd)
        if facts.size_bytes != state.dat_end_bytes:
            why = f"{state.dat.path} has {facts.size_bytes} bytes, and its records {state.dat_end_bytes}"
            raise TierMoveFailed(f"volume {handle.paths.volume_id}: {why}")
        return state, facts


def serve_from_tier(
    handle: VolumeHandle,
    write_state: WriteState,
    uploaded: VolumeState,
    file: RemoteFile,
    *,
    keep_local: bool,
    now_s: int,
) -> None:
    """Serves the volume from `file`, which holds all of .dat, and removes .dat unless `keep_local`.

    `uploaded` is the result of `state_to_upload` before the upload. .idx leads into the .dat of that state alone. A
    length that did not change says too little: a vacuum without garbage orders the records anew at the same length.

    A .dat that cannot be removed stays, and the log says so.

    Raises:
        VolumeClosed: the volume is not open.
        TierMoveFailed: the volume was written to or opened anew since `state_to_upload`, or its .vif could not be
            written. The volume is served as before, and its .vif does not name `file`.
        TierMoveUnclear: the volume is served as before, and its .vif may name `file`.
    """
    with handle.begin_write():
        old = _unshared(handle)
        if old is not uploaded:
            raise TierMoveFailed(f"volume {handle.paths.volume_id} got other files while it was moved")
        if old.dat_end_bytes != file.file_size:
            raise TierMoveFailed(f"volume {handle.paths.volume_id} was written to while it was moved")
        info = replace(handle.info, files=(*handle.info.files, file), replication=_replication_of(handle.info, old))
        _change(handle, write_state, old, info, now_s)
        if not keep_local:
            try:
                handle.files.unlink(old.dat.path)
            except OSError as error:
                _log.warning("%s stays, though its volume is served from %s: %s", old.dat.path, file.key, error)


def serve_from_disk(handle: VolumeHandle, write_state: WriteState, arrived: Path, *, now_s: int) -> SharedFile:
    """Replaces .dat by `arrived`, which holds all of .dat and is on disk, and serves the volume from there.

    Returns the remote .dat, which readers may still use: the object must not go before the file is closed.

    Raises:
        VolumeClosed: the volume is not open.
        TierMoveFailed: the volume is served as before: from its tier, or from the .dat that it has by now.
        TierMoveUnclear: the same, and its .vif may not name the object any more.
    """
    with handle.begin_write():
        old = _unshared(handle)
        if not old.is_tiered:
            raise TierMoveFailed(f"volume {handle.paths.volume_id} is already on local disk")
        try:
            handle.files.rename(arrived, old.dat.path)
            handle.files.sync_directory(old.dat.path.parent)
        except OSError as error:
            raise TierMoveFailed(f"volume {handle.paths.volume_id} {old.dat.path}: {error.strerror}") from error
        _change(handle, write_state, old, replace(handle.info, files=handle.info.files[1:]), now_s)
        return old.dat


def put_on_disk(files: Files, path: Path, modified_at_s: int) -> None:
    """Sets the modification time of a downloaded file to that of its data (0: unknown), and syncs it. Raises
    OSError.
    """
    fd = files.open(path, os.O_RDWR)
    try:
        if modified_at_s > 0:
            files.set_modified(fd, modified_at_s * 10**9)
        files.sync(fd)
    finally:
        files.close(fd)


def _replication_of(info: VolumeInfo, state: VolumeState) -> str:
    """The replication to note in the .vif. A start that cannot read the head of the object must report the same one:
    else `volume.fix.replication` would delete copies. Go reads the field too, and writes it for VolumeConfigure.
    """
    placement = state.super_block.replica_placement
    return info.replication or (str(placement) if placement.copy_count > 1 else "")


def _unshared(handle: VolumeHandle) -> VolumeState:
    """The open state, which no other process shares from here on: those find files by the volume's paths."""
    handle.unshare()
    return handle.get()


def _change(handle: VolumeHandle, write_state: WriteState, old: VolumeState, info: VolumeInfo, now_s: int) -> None:
    """Replaces the .vif by `info`, and opens the volume anew accordingly. Raises TierMoveFailed, TierMoveUnclear."""
    path = old.paths.file(".vif")
    volume_id = handle.paths.volume_id
    try:
        save_volume_info(handle.files_with_reserve, path, info, old.super_block.ttl, now_s)
    except OSError as error:
        # The new .vif may have got its name before the failure.
        _restore_info(handle, path, old, now_s)
        raise TierMoveFailed(f"volume {volume_id} failed to save remote file info: {error}") from error
    try:
        new = handle.reopen(old, [])
    except (StorageError, OSError) as error:
        _restore_info(handle, path, old, now_s)
        raise TierMoveFailed(f"volume {volume_id} failed to load remote file: {error}") from error
    write_state.reopened(old.damage, new.damage, new.info)


def _restore_info(handle: VolumeHandle, path: Path, old: VolumeState, now_s: int) -> None:
    """Writes the old .vif again. Raises TierMoveUnclear."""
    try:
        save_volume_info(handle.files_with_reserve, path, handle.info, old.super_block.ttl, now_s)
    except OSError as error:
        text = f"volume {handle.paths.volume_id} {path} could not be changed, and not be changed back: {error}"
        raise TierMoveUnclear(text) from error
