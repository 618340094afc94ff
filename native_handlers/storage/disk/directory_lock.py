"""The two files by which a directory belongs to one server: an exclusive lock that names the holder, so that no second
server serves the directory, and the UUID of the directory, which the master knows.

The kernel frees the lock when the process has ended, in whatever way, and with it the processes that inherited the
lock: these end a moment later, and until then they may write. Upstream has no such lock and ignores the file.
"""

from __future__ import annotations

import os
import re
import threading
import uuid
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from native_handlers.storage.disk.room import is_full
from native_handlers.storage.model.errors import DirectoryLocked
from native_handlers.storage.system.files import read_file, replace_file

if TYPE_CHECKING:
    from native_handlers.storage.system.files import Files

LOCK_FILE_NAME = ".weed-volume-py.lock"
_MAX_HOLDER_BYTES = 256
LEFT_BEHIND_S = 5.0
"""How long a lock is waited for whose holder has ended: its workers are about to end, unless they wait for a disk."""
_PAUSE_S = 0.02
_PID = re.compile(r"pid (\d+),")
_ENDED = {b"Z", b"X"}


class DirectoryLock:
    """A held lock. `release` it, or end the process. `is_borrowed`: another process holds it for this one."""

    def __init__(self, files: Files, fd: int, *, is_borrowed: bool = False) -> None:
        self._files = files
        self._fd: int | None = fd
        self.is_borrowed = is_borrowed

    @property
    def descriptor(self) -> int | None:
        """The descriptor that holds the lock: a process that inherits it keeps the directory locked. None once
        released.
        """
        return self._fd

    def release(self) -> None:
        """Unlocks the directory. May be called again."""
        fd, self._fd = self._fd, None
        if fd is not None:
            self._files.close(fd)


def lock_directory(files: Files, directory: Path, holder: str, *, owner_pid: int | None = None) -> DirectoryLock:
    """Locks `directory` and writes `holder`, which begins with "pid N,", into the lock file.

    Args:
        owner_pid: a process that may hold the lock for this one: it started this process and shares the volumes with
            it.

    Where the holder has ended just now, this waits for the processes that it has started, `LEFT_BEHIND_S` at most.

    Raises:
        DirectoryLocked: another process holds the lock; the text has its name.
        OSError: the lock file cannot be opened or written. Where there is no room for the holder's name, the directory
            is locked without it, because only the lock counts.
    """
    fd = files.open(directory / LOCK_FILE_NAME, os.O_RDWR | os.O_CREAT)
    try:
        if not _lock_in_time(files, fd):
            current = _holder_in(files, fd)
            # The owner's name may be missing where the disk was full when the owner started.
            if owner_pid is not None and (not current or current.startswith(f"pid {owner_pid},")):
                return DirectoryLock(files, fd, is_borrowed=True)
            raise DirectoryLocked(directory, current)
        _name_holder(files, fd, f"{holder}\n".encode())
    except BaseException:
        files.close(fd)
        raise
    return DirectoryLock(files, fd)


def _holder_in(files: Files, fd: int) -> str:
    return files.read(fd, _MAX_HOLDER_BYTES, 0).decode("utf-8", "replace").strip()


def _lock_in_time(files: Files, fd: int) -> bool:
    until_s = monotonic() + LEFT_BEHIND_S
    while not files.lock(fd):
        pid = _PID.match(_holder_in(files, fd))
        if pid is None or not _has_ended(pid[1]) or monotonic() > until_s:
            return False
        threading.Event().wait(_PAUSE_S)
    return True


def _has_ended(pid: str) -> bool:
    """Whether the process is gone, or only its parent has not noticed its end yet."""
    try:
        return Path("/proc", pid, "stat").read_bytes().rpartition(b") ")[2][:1] in _ENDED
    except OSError:
        return True


def _name_holder(files: Files, fd: int, line: bytes) -> None:
    try:
        # Overwriting the old name takes no room.
        files.write(fd, [line], 0)
        files.truncate(fd, len(line))
    except OSError as error:
        if not is_full(error):
            raise
        files.truncate(fd, 0)


# ---- The identity of a data directory, by which a master notices one disk that is served twice.
#
# Source: weed/storage/disk_location.go:GenerateDirUuid.

UUID_FILE_NAME = "vol_dir.uuid"


def load_directory_uuid(files: Files, directory: Path) -> tuple[str, bool]:
    """Returns the UUID text in the directory's vol_dir.uuid, and whether that file exists. Makes and writes a UUID when
    the file is missing or empty. Where the disk has no room, the caller writes it later with `save_directory_uuid`.

    Raises OSError when the file can be neither read nor written.
    """
    path = directory / UUID_FILE_NAME
    text = (read_file(files, path) or b"").decode("utf-8", "replace")
    if text:
        return text, True
    text = str(uuid.uuid4())
    try:
        save_directory_uuid(files, directory, text)
    except OSError as error:
        if not is_full(error):
            raise
        return text, False
    return text, True


def save_directory_uuid(files: Files, directory: Path, text: str) -> None:
    """Raises OSError; then there is no such file."""
    replace_file(files, directory / UUID_FILE_NAME, text.encode())
