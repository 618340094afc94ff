"""Removes, at the start, the files that a crash has left of arriving files and of files that were to be replaced."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from native_handlers.format.errors import BadVolumeName
from native_handlers.format.volume_name import format_volume_name, parse_volume_name
from native_handlers.storage.model.file_kinds import ARRIVING, RECEIVING, STAGED

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.storage.system.files import Files

_log = logging.getLogger(__name__)
_UNFINISHED = re.compile(
    r"(?P<base>.+?)\.(?:"
    r"[0-9A-Za-z]+(?:\.copying)?\.[0-9]+\.receiving"
    r"|(?:dat|idx|vif)\.arriving(?:\.tmp)?"
    r"|(?:dat|idx|vif|ecx|ecj|ecsum|ec[0-9]{2})\.copying"
    r"|(?:arrived|ecarrived|note|vif|ecx|ecj|ecsum)\.tmp)",
    re.ASCII | re.DOTALL,
)
"""The names that `StagedFile`, `arrival` and `replace_file` give to incomplete files, and those of sent files that were
to become a volume (`staged_volume`). Their sender sends them again. Go's server gives such names to files that it
copies.
"""
_UNFINISHED_ENDS = (RECEIVING, ARRIVING, STAGED, ".tmp")


def sweep_unfinished(files: Files, directory: Path) -> None:
    """Removes the incomplete files that a crash has left. Raises OSError.

    Call it while no file arrives in the directory, and after `recover_arrivals`. A file whose name is not of the form
    that this server gives, or is no volume's, is left alone.
    """
    # Directories have many names, and expressions are slow.
    suspects = [name for name in files.list_directory(directory) if name.endswith(_UNFINISHED_ENDS)]
    for name in suspects:
        if is_unfinished(name):
            _log.warning("%s was left by something that did not end; removed", directory / name)
            files.unlink(directory / name)


def is_unfinished(name: str) -> bool:
    """Whether a file of that name belongs to something that did not end, and is of no use to a start."""
    match = _UNFINISHED.fullmatch(name)
    if match is None:
        return False
    try:
        return format_volume_name(*parse_volume_name(match["base"])) == match["base"]
    except BadVolumeName:
        return False
