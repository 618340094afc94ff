"""Knows whether the machine went down while a directory was being served.

A file in the directory names the boot of the machine in which it is served, and since when. It is written before the
first write of a session and removed after the last one, so one that names another boot means that what was not synced
since then may be lost, or there in part. A server that was killed leaves the mark of this boot: what it wrote is in
the kernel's hands and comes to no harm, but is not synced either, so the next session goes on from the same time.

Where two processes serve a directory, whoever holds its lock owns the mark, and the other one borrows it: it adds what
the owner cannot know, and neither writes nor removes the rest. Lines after the first:

    cut SECONDS     the machine went down in a session that began then, and not all volumes were examined since
    unsynced        the borrower could not put a volume on disk
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
_UNSYNCED = "unsynced"


class SessionMark:
    """The mark of one directory. `cut_since_s` is when the session started that the machine did not survive."""

    def __init__(self, files: Files, directory: Path, *, is_borrowed: bool = False) -> None:
        """Reads what the last session left, or the owner wrote. Raises OSError when it cannot be read."""
        self._files = files
        self._path = directory / SESSION_FILE_NAME
        self._boot = _boot_id(files)
        self._is_borrowed = is_borrowed
        self._has_begun = False
        self._since_s: int | None = None
        self.cut_since_s: int | None = None
        text = read_file(files, self._path)
        if text is not None:
            self._judge(text.decode("ascii", "replace").splitlines())

    def _judge(self, lines: list[str]) -> None:
        boot, _, since = (lines[0] if lines else "").strip().partition(" ")
        cut_s = _cut_in(lines)
        # A mark that says nothing sensible is one all the same.
        since_s = int(since) if since.isascii() and since.isdigit() else 0
        if boot == self._boot and boot != _UNKNOWN:
            self._since_s, self.cut_since_s = since_s, cut_s
        else:
            self.cut_since_s = since_s if cut_s is None else min(since_s, cut_s)

    def begin(self, now_s: int, *, has_examined_all: bool = True) -> None:
        """The directory is about to be written to.

        Args:
            has_examined_all: whether what the last session left has been seen to, in every volume.

        Raises OSError; there is then no session.
        """
        if self._is_borrowed:
            self._say_examined(has_examined_all=has_examined_all)
            return
        since_s = now_s if self._since_s is None else min(self._since_s, now_s)
        lines = [f"{self._boot} {since_s}"]
        if self.cut_since_s is not None and not has_examined_all:
            lines.append(f"cut {self.cut_since_s}")
        self._write(lines)
        self._has_begun = True

    def end(self) -> None:
        """All is synced and nothing will be written. Does nothing if the session did not begin, or is another's.

        Raises OSError.
        """
        if not self._has_begun:
            return
        self._has_begun = False
        lines = self._lines()
        cut_s = _cut_in(lines)
        if _UNSYNCED in lines:
            return
        if cut_s is None:
            self._files.unlink(self._path)
        else:
            self._write([f"{_UNKNOWN} {cut_s}"])

    def note_unsynced(self) -> None:
        """Not all is synced, and nothing more will be written: the mark stays, whoever owns it. Raises OSError."""
        if self._is_borrowed:
            self._write([*self._lines(), _UNSYNCED])
        self._has_begun = False

    def _say_examined(self, *, has_examined_all: bool) -> None:
        lines = self._lines()
        if has_examined_all and _cut_in(lines) is not None:
            self._write([line for line in lines if not line.startswith("cut ")])

    def _lines(self) -> list[str]:
        return (read_file(self._files, self._path) or b"").decode("ascii", "replace").splitlines()

    def _write(self, lines: list[str]) -> None:
        replace_file(self._files, self._path, "".join(f"{line}\n" for line in lines).encode())


def _cut_in(lines: list[str]) -> int | None:
    found = [line.removeprefix("cut ") for line in lines[1:] if line.startswith("cut ")]
    if not found:
        return None
    return min(int(text) if text.isascii() and text.isdigit() else 0 for text in found)


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
