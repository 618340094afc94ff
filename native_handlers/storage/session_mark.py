"""Knows whether the machine went down while a directory was being served.

A file in the directory names the boot of the machine in which it is served, and since when. It is written before the
first write of a session and removed after the last one, so one that names another boot means that what was not synced
since then may be lost, or there in part. A server that was killed leaves the mark of this boot: what it wrote is in
the kernel's hands and comes to no harm.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from native_handlers.storage.files import read_file, replace_file

if TYPE_CHECKING:
    from native_handlers.storage.files import Files

SESSION_FILE_NAME = ".weed-volume-py.session"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MAX_ID_BYTES = 64
_UNKNOWN = "unknown"


class SessionMark:
    """The mark of one directory. `cut_since_s` is when the session started that the machine did not survive."""

    def __init__(self, files: Files, directory: Path) -> None:
        """Reads what the last session left. Raises OSError when it cannot be read."""
        self._files = files
        self._path = directory / SESSION_FILE_NAME
        self._boot = _boot_id(files)
        self._has_begun = False
        self.cut_since_s = self._judge(read_file(files, self._path))

    def _judge(self, text: bytes | None) -> int | None:
        if text is None:
            return None
        boot, _, since = text.decode("ascii", "replace").strip().partition(" ")
        if boot == self._boot and boot != _UNKNOWN:
            return None
        # A mark that says nothing sensible is one all the same.
        return int(since) if since.isascii() and since.isdigit() else 0

    def begin(self, now_s: int) -> None:
        """The directory is about to be written to, and whatever the last session left has been seen to.

        Raises OSError; there is then no session.
        """
        replace_file(self._files, self._path, f"{self._boot} {now_s}\n".encode())
        self._has_begun = True

    def end(self) -> None:
        """All is synced and nothing will be written. Does nothing if the session did not begin. Raises OSError."""
        if self._has_begun:
            self._has_begun = False
            self._files.unlink(self._path)


def _boot_id(files: Files) -> str:
    """What the kernel calls this boot; where it does not say, any mark counts as that of another one."""
    try:
        fd = files.open(_BOOT_ID, os.O_RDONLY)
    except OSError:
        return _UNKNOWN
    try:
        # Its size is said to be 0.
        return files.read(fd, _MAX_ID_BYTES, 0).decode("ascii").strip() or _UNKNOWN
    finally:
        files.close(fd)
