"""Keeps two servers from serving one directory: an exclusive lock on a file in it that names who holds it.

The kernel frees the lock when the process ends, however it ends. Upstream has no such lock and ignores the file.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from native_handlers.storage.errors import DirectoryLocked

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.storage.files import Files

LOCK_FILE_NAME = ".weed-volume-py.lock"
_MAX_HOLDER_BYTES = 256


class DirectoryLock:
    """A lock that is held. `release` it, or end the process. `is_borrowed`: another process holds it for us."""

    def __init__(self, files: Files, fd: int, *, is_borrowed: bool = False) -> None:
        self._files = files
        self._fd: int | None = fd
        self.is_borrowed = is_borrowed

    @property
    def descriptor(self) -> int | None:
        """What the lock is bound to: a process that inherits it keeps the directory locked. None once released."""
        return self._fd

    def release(self) -> None:
        """Frees the directory. May be called again."""
        fd, self._fd = self._fd, None
        if fd is not None:
            self._files.close(fd)


def lock_directory(files: Files, directory: Path, holder: str, *, owner_pid: int | None = None) -> DirectoryLock:
    """Locks `directory` and writes `holder` into the lock file, which begins with "pid N,".

    Args:
        owner_pid: a process that may hold the lock for us: one that started us, and that divides the volumes with us.

    Raises:
        DirectoryLocked: somebody holds it; names them.
        OSError: the lock file cannot be opened or written.
    """
    fd = files.open(directory / LOCK_FILE_NAME, os.O_RDWR | os.O_CREAT)
    try:
        if not files.lock(fd):
            current = files.read(fd, _MAX_HOLDER_BYTES, 0).decode("utf-8", "replace").strip()
            if owner_pid is not None and current.startswith(f"pid {owner_pid},"):
                return DirectoryLock(files, fd, is_borrowed=True)
            raise DirectoryLocked(directory, current)
        files.truncate(fd, 0)
        files.write(fd, [f"{holder}\n".encode()], 0)
    except BaseException:
        files.close(fd)
        raise
    return DirectoryLock(files, fd)
