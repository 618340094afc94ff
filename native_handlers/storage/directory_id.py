"""The identity of a data directory, by which a master notices one disk served twice.

Source: weed/storage/disk_location.go:GenerateDirUuid.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from native_handlers.storage.files import read_file, replace_file

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.storage.files import Files

UUID_FILE_NAME = "vol_dir.uuid"


def load_directory_uuid(files: Files, directory: Path) -> str:
    """The bare UUID text in the directory's vol_dir.uuid, made and written when there is none or it is empty.

    Raises OSError when the file can be neither read nor written.
    """
    path = directory / UUID_FILE_NAME
    text = (read_file(files, path) or b"").decode("utf-8", "replace")
    if not text:
        text = str(uuid.uuid4())
        replace_file(files, path, text.encode())
    return text
