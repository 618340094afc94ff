"""Replaces a volume by its compacted copy (.cpd, .cpx), so that a crash leaves the old volume or the new one.

The copy is on disk, names included, before a .cpc file decides for it. From then until the .cpc is removed, the next
opening of the volume does the missing renames. Before the .cpc, the copy does not count.

Source: weed/storage/volume_vacuum.go (writeCompactCommitMarker, applyCompactSwap, finishCompactSwap).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.paths import VolumePaths

_STALE = (".ldb", ".rdb", ".sdx")
"""Indexes that old servers made from .idx."""
_NAMES = {".cpd": ".dat", ".cpx": ".idx"}


def is_decided(files: Files, paths: VolumePaths) -> bool:
    """Whether a compacted copy is decided and perhaps not renamed yet. Raises OSError."""
    return files.facts(paths.file(".cpc")) is not None


def decide(files: Files, paths: VolumePaths) -> None:
    """Decides for the compacted copy, whose bytes are on disk. Raises OSError: the caller calls `undo_decision`."""
    if paths.index_dir != paths.data_dir:
        # The mark must not be on disk without the name of .cpx.
        files.sync_directory(paths.index_dir)
    marker = files.open(paths.file(".cpc"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        files.sync(marker)
    finally:
        files.close(marker)
    files.sync_directory(paths.data_dir)


def undo_decision(files: Files, paths: VolumePaths) -> None:
    """Undoes the decision. Only while neither file has been renamed.

    Raises OSError: the decision may still stand, so nothing may be written to the old files.
    """
    files.unlink(paths.file(".cpc"))
    files.sync_directory(paths.data_dir)


def finish_swap(files: Files, paths: VolumePaths) -> str:
    """Does the missing renames of a decided swap, and returns them as text. May be repeated.

    Raises OSError: the decision stands, and the swap must be finished before the volume is opened by its names.
    """
    renamed = []
    last = None
    for source in (*paths.sidecars(".cpd"), *paths.sidecars(".cpx")):
        target = source.with_suffix(_NAMES[source.suffix])
        if files.facts(source) is not None:
            if last is not None and last != target.parent:
                # .dat must be the first on disk. Within a directory the order of renames is kept.
                files.sync_directory(last)
            files.rename(source, target)
            renamed.append(f"{source.name} -> {target.name}")
            last = target.parent
    if last is not None:
        files.sync_directory(last)
    for extension in _STALE:
        for path in paths.sidecars(extension):
            files.unlink(path)
    undo_decision(files, paths)
    return ", ".join(renamed) or "both renames were done"


def drop_copy(files: Files, paths: VolumePaths) -> None:
    """Removes an undecided compacted copy. Raises OSError."""
    for extension in _NAMES:
        for path in paths.sidecars(extension):
            files.unlink(path)
