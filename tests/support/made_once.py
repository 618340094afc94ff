"""Directories with files that many tests begin with, and that are made once in a process."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

from native_handlers.storage.disk.directory_lock import LOCK_FILE_NAME, UUID_FILE_NAME
from native_handlers.storage.disk.session_mark import SESSION_FILE_NAME


class _Content(NamedTuple):
    """A file's bytes, and its size: behind the bytes it has zeros."""

    data: bytes
    size_bytes: int


_made: dict[object, dict[str, _Content]] = {}
"""The files that were made for each key, by their path in the directory."""

_OWN = {SESSION_FILE_NAME, UUID_FILE_NAME, LOCK_FILE_NAME}
"""The names of what a store keeps about a directory itself. They are not copied: each directory has its own."""


def put_files(directory: Path, key: object, make) -> None:
    """Puts the files in `directory` that `make(other)` makes in another one. `make` is called once for each key.

    The files are the test's own. The zeros at their end take no space on disk: a small volume has 14 MiB of shards, and
    nearly all of it is zeros.
    """
    if key not in _made:
        with tempfile.TemporaryDirectory() as other:
            make(Path(other))
            found = (path for path in Path(other).rglob("*") if path.is_file() and path.name not in _OWN)
            _made[key] = {str(path.relative_to(other)): _content(path) for path in found}
    for name, content in _made[key].items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(content.data)
            file.truncate(content.size_bytes)


def _content(path: Path) -> _Content:
    whole = path.read_bytes()
    return _Content(whole.rstrip(b"\0"), len(whole))
