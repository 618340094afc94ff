"""Copies a range of an open file into a new file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from native_handlers.storage.system.files import remove_unfinished

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.storage.system.files import Files

_COPY_BYTES = 1 << 20


def copy_range(files: Files, fd: int, start_bytes: int, end_bytes: int, target: Path) -> None:
    """Copies ``[start, end)`` of an open file into `target` and syncs it, in pieces. Raises OSError; then there is no
    `target`.
    """
    copy = files.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        try:
            for position in range(start_bytes, end_bytes, _COPY_BYTES):
                piece = files.read(fd, min(_COPY_BYTES, end_bytes - position), position)
                files.write(copy, [piece], position - start_bytes)
            files.sync(copy)
        finally:
            files.close(copy)
    except OSError:
        remove_unfinished(files, target)
        raise
    files.sync_directory(target.parent)
