"""Which index offset width a set of directories was written with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.format.types import DEFAULT_OFFSET_WIDTH_BYTES
from native_handlers.storage.volume_info_file import load_volume_info

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from native_handlers.storage.files import Files


def find_offset_width(files: Files, directories: Iterable[Path]) -> int:
    """The width in bytes that the first .vif names which names one; 4 when none does.

    Another .vif may contradict it: opening its volume will tell. Raises OSError when a directory or .vif cannot be
    read.
    """
    for directory in directories:
        for name in sorted(files.list_directory(directory)):
            if name.endswith(".vif"):
                width = load_volume_info(files, directory / name).info.bytes_offset
                if width:
                    return width
    return DEFAULT_OFFSET_WIDTH_BYTES
