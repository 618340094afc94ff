"""Moves a volume's .idx to another directory while the volume serves.

An .idx beside its .dat outranks the one in the index directory (see `volume_open`), so a move ends with the old one
gone. A crash on the way leaves the old file, and maybe a copy in the index directory that nobody looks at and the next
move replaces. Source: weed/storage/volume.go (RelocateIndexTo), weed/storage/store.go (RenameOrCopyFile).
"""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from native_handlers.storage.errors import IndexMoveFailed
from native_handlers.storage.files import SharedFile, copy_range

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.storage.files import Files
    from native_handlers.storage.volume_open import Opened


_log = logging.getLogger(__name__)


def move_index(files: Files, opened: Opened, directory: Path) -> None:
    """Puts the .idx of an open volume into `directory`. The caller holds the volume's lock.

    The volume stays open: readers do not use .idx, and writers wait for the lock. Upstream closes it for as long.

    Raises:
        IndexMoveFailed: it is where it was.
    """
    if opened.paths.index_dir == directory:
        return
    old, paths = opened.idx.path, replace(opened.paths, index_dir=directory)
    new = paths.file(".idx")
    try:
        files.sync(opened.idx.fd)
        try:
            files.rename(old, new)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy(files, opened, new)
        else:
            opened.idx.path = new
    except OSError as error:
        raise IndexMoveFailed(opened.paths.volume_id, error) from error
    opened.paths = paths
    _finish(files, old, new)


def _copy(files: Files, opened: Opened, new: Path) -> None:
    """The move between file systems: the whole copy gets its name at once, then the old file goes."""
    old = opened.idx
    temporary = new.with_name(new.name + ".tmp")
    copied: SharedFile | None = None
    try:
        copy_range(files, old.fd, 0, opened.idx_end_bytes, temporary)
        files.rename(temporary, new)
        copied = SharedFile.open(files, new, os.O_RDWR if opened.is_writable else os.O_RDONLY)
        files.sync_directory(new.parent)
        files.unlink(old.path)
    except OSError:
        # Two that differ later are worse than none moved.
        if copied is not None:
            copied.release()
        files.unlink(temporary)
        files.unlink(new)
        raise
    opened.idx = copied
    old.release()


def _finish(files: Files, old: Path, new: Path) -> None:
    """What is left to do once .idx is there. Without it a power cut may bring the old name back, which is no harm.

    The sorted index of old servers is made from .idx, and never read here.
    """
    try:
        files.unlink(old.with_suffix(".sdx"))
        for directory in (new.parent, old.parent):
            files.sync_directory(directory)
    except OSError as error:
        _log.warning("%s was moved to %s: %s", old, new.parent, error)
