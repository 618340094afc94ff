"""Finds a volume's .idx, and moves it to another directory while the volume serves.

An .idx beside its .dat takes precedence over the one in the index directory (see `open`), so the removal of the old
file ends a move. A crash before that leaves the old file, and perhaps a copy in the index directory that nothing reads
and the next move replaces. Source: weed/storage/volume.go (RelocateIndexTo), weed/storage/store.go (RenameOrCopyFile).
"""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from native_handlers.storage.model.errors import IndexMoveFailed
from native_handlers.storage.system.file_copy import copy_range
from native_handlers.storage.system.files import SharedFile

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.paths import VolumePaths
    from native_handlers.storage.volume.state import VolumeState


_log = logging.getLogger(__name__)


def with_index_found(files: Files, paths: VolumePaths) -> VolumePaths:
    """The paths of a volume with the index beside .dat, where an .idx lies there, and `paths` else. Raises OSError."""
    beside = paths.beside_data()
    return beside if files.facts(beside.file(".idx")) is not None else paths


def move_index(files: Files, state: VolumeState, directory: Path) -> None:
    """Moves the .idx of an open volume to `directory`. The caller holds the volume's lock.

    The volume stays open: readers do not use .idx, and writers wait for the lock. Upstream closes the volume during the
    move.

    Raises:
        IndexMoveFailed: the .idx is where it was.
    """
    if state.paths.index_dir == directory:
        return
    old, paths = state.idx.path, replace(state.paths, index_dir=directory)
    new = paths.file(".idx")
    try:
        files.sync(state.idx.fd)
        try:
            files.rename(old, new)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            old_file = state.idx
            state.moved_index(paths, _copy(files, state, new))
            old_file.release()
        else:
            state.idx.path = new
            state.moved_index(paths, state.idx)
    except OSError as error:
        raise IndexMoveFailed(state.paths.volume_id, error) from error
    _finish(files, old, new)


def _copy(files: Files, state: VolumeState, new: Path) -> SharedFile:
    """Moves between file systems: the complete copy gets its name at once, then the old file is removed."""
    old = state.idx
    temporary = new.with_name(new.name + ".tmp")
    copied: SharedFile | None = None
    try:
        copy_range(files, old.fd, 0, state.idx_end_bytes, temporary)
        files.rename(temporary, new)
        copied = SharedFile.open(files, new, os.O_RDWR if state.is_writable else os.O_RDONLY)
        files.sync_directory(new.parent)
        files.unlink(old.path)
    except OSError:
        # Two files that differ later would be worse than no move.
        if copied is not None:
            copied.release()
        files.unlink(temporary)
        files.unlink(new)
        raise
    return copied


def _finish(files: Files, old: Path, new: Path) -> None:
    """Ends the move after .idx is in place. Without this a power cut may bring the old name back, which is harmless.

    The sorted index (.sdx) of old servers is made from .idx, and is never read here.
    """
    try:
        files.unlink(old.with_suffix(".sdx"))
        for directory in (new.parent, old.parent):
            files.sync_directory(directory)
    except OSError as error:
        _log.warning("%s was moved to %s: %s", old, new.parent, error)
