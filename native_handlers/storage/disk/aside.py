"""Moves files aside that may be worth something, but do not fit their names."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from native_handlers.storage.model.file_kinds import ASIDE

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.storage.system.files import Files


def move_aside(files: Files, path: Path) -> str:
    """Renames the file to a free name that no server uses. Returns the text for a finding. Raises OSError.

    The caller syncs the directory, once after moving all files.
    """
    aside = aside_path(files, path)
    files.rename(path, aside)
    return f"{path.name} -> {aside.name}"


def aside_path(files: Files, path: Path) -> Path:
    """A free name beside the file that no server uses. Raises OSError."""
    aside = path.with_name(path.name + ASIDE)
    for number in itertools.count(2):
        if files.facts(aside) is None:
            break
        aside = path.with_name(f"{path.name}.{number}{ASIDE}")
    return aside
