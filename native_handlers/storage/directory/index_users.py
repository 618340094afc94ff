"""Says whether several data directories have a volume of one name with its .idx in the same directory.

With -dir.idx the data directories of a server have one index directory. A name there says nothing of the data directory
of its volume. So files there stay as long as another data directory may have the volume.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.storage.model.file_kinds import ARRIVED
from native_handlers.storage.volume.info_file import load_volume_info

if TYPE_CHECKING:
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.paths import VolumePaths


def uses_index_dir(files: Files, paths: VolumePaths) -> bool:
    """Whether there is a volume at `paths`, or one that has arrived, with its .idx in the index directory. An .idx that
    is missing counts as one there. Raises OSError.
    """
    if files.facts(paths.file(ARRIVED)) is not None:
        return True
    if files.facts(paths.file(".dat")) is None and not load_volume_info(files, paths.file(".vif")).info.files:
        return False
    return paths.data_dir == paths.index_dir or files.facts(paths.beside_data().file(".idx")) is None


def is_vacuumed(files: Files, paths: VolumePaths) -> bool:
    """Whether a vacuum of the volume at `paths` has begun, so that a .cpx in the index directory is its own. Raises
    OSError.
    """
    return any(files.facts(paths.file(extension)) is not None for extension in (".cpc", ".cpd"))
