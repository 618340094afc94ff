"""Says whether several data directories have a volume of one name with its .idx in the same directory.

With -dir.idx the data directories of a server have one index directory. A name there says nothing of the data directory
of its volume. So files there stay as long as another data directory may have the volume.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from native_handlers.storage.model.errors import DiskUnavailable
from native_handlers.storage.model.file_kinds import ARRIVED
from native_handlers.storage.volume.info_file import names_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.paths import VolumePaths
    from native_handlers.storage.volume.volume import Volume


class DataDirectory(Protocol):
    """A data directory of this server, as `DiskLocation` is one."""

    @property
    def path(self) -> Path: ...

    @property
    def idx_path(self) -> Path: ...

    @property
    def volumes(self) -> Mapping[int, Volume]: ...

    def check_in_service(self) -> None: ...


def any_other(
    files: Files,
    others: Iterable[DataDirectory],
    paths: VolumePaths,
    ask: Callable[[Files, VolumePaths], bool],
    *,
    if_unknown: bool,
) -> bool:
    """Whether one of `others` has the index directory of `paths`, and has the volume of the name open there or is one
    of which `ask` says so.

    Args:
        if_unknown: the answer where a disk is out of service, or fails.
    """
    for other in others:
        if other.idx_path != paths.index_dir:
            continue
        volume = other.volumes.get(paths.volume_id)
        if volume is not None and volume.paths.name == paths.name and volume.paths.index_dir == paths.index_dir:
            return True
        try:
            other.check_in_service()
            if ask(files, replace(paths, data_dir=other.path)):
                return True
        except (OSError, DiskUnavailable):
            if if_unknown:
                return True
    return False


def uses_index_dir(files: Files, paths: VolumePaths) -> bool:
    """Whether there is a volume at `paths`, or one that has arrived, with its .idx in the index directory. An .idx that
    is missing counts as one there. Raises OSError.
    """
    if files.facts(paths.file(ARRIVED)) is not None:
        return True
    if files.facts(paths.file(".dat")) is None and not names_object(files, paths):
        return False
    return paths.data_dir == paths.index_dir or files.facts(paths.beside_data().file(".idx")) is None


def is_vacuumed(files: Files, paths: VolumePaths) -> bool:
    """Whether a vacuum of the volume at `paths` has begun, so that a .cpx in the index directory is its own. Raises
    OSError.
    """
    return any(files.facts(paths.file(extension)) is not None for extension in (".cpc", ".cpd"))
