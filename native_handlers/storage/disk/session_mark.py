"""Knows whether the machine crashed while a directory was being served.

A file in the directory has the boot id of the machine and the beginning of the session. It is written before the first
write of a session and removed after the last one. So a file with another boot id means that writes since then that were
not synced may be lost or torn. A killed server leaves a file with the present boot id: its writes are in the kernel and
not lost, but not synced either, so the next session keeps the same beginning.

Where two processes serve a directory, the process with the directory's lock owns the mark, and the other one borrows
it: the borrower adds facts that the owner cannot know, and neither writes nor removes the rest. Lines after the first:

    cut SECONDS     the machine crashed in a session that began then, and not all volumes were examined since
    unsynced        the borrower could not sync a volume
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from native_handlers.storage.system.files import read_file, replace_file

if TYPE_CHECKING:
    from native_handlers.storage.system.files import Files

SESSION_FILE_NAME = ".weed-volume-py.session"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MAX_ID_BYTES = 64
_UNKNOWN = "unknown"
_UNSYNCED = "unsynced"


class SessionMark:
    """The mark of one directory. `cut_since_s` is the beginning of the session in which the machine crashed, or
    None.
    """

    def __init__(self, files: Files, directory: Path, *, is_borrowed: bool = False) -> None:
        """Reads the mark of the last session, or of the owner. Raises OSError when it cannot be read."""
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
        # An unreadable mark counts as one from the beginning of time.
        since_s = int(since) if since.isascii() and since.isdigit() else 0
        if boot == self._boot and boot != _UNKNOWN:
            self._since_s, self.cut_since_s = since_s, cut_s
        else:
            self.cut_since_s = since_s if cut_s is None else min(since_s, cut_s)

    @property
    def unsynced_since_s(self) -> int | None:
        """The beginning of a session that did not end properly, or None. Its writes may be only in the kernel's
        memory.
        """
        known = [since_s for since_s in (self._since_s, self.cut_since_s) if since_s is not None]
        return min(known, default=None)

    def begin(self, now_s: int, *, has_examined_all: bool = True) -> None:
        """Writes the mark, before the first write to the directory.

        Args:
            has_examined_all: whether every volume was examined for traces of the last session.

        Raises OSError; then there is no session.
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
        """Removes the mark, after everything is synced and no more writes come. Does nothing if the session did not
        begin, or is another process's.

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
        """Keeps the mark, also one of another process: not everything is synced, and no more writes come. Raises
        OSError.
        """
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
    """The kernel's id of this boot. Where the kernel gives none, every mark counts as that of another boot."""
    try:
        fd = files.open(BOOT_ID, os.O_RDONLY)
    except OSError:
        return _UNKNOWN
    try:
        # The kernel reports 0 as the size.
        return files.read(fd, _MAX_ID_BYTES, 0).decode("ascii").strip() or _UNKNOWN
    finally:
        files.close(fd)


# ---- How long a change of a file may be in memory only, by the kernel's settings.

LEAST_S = 600
"""A slow disk may need minutes for what the kernel starts after half a minute."""
_MARGIN = 20
"""A multiple of the kernel's own age, which is 30 s by default."""
_MAX_DIGITS = 32
_PROC = Path("/proc/sys/vm")
_EXPIRE = _PROC / "dirty_expire_centisecs"
_INTERVAL = _PROC / "dirty_writeback_centisecs"


def written_back_after_s(files: Files) -> int | None:
    """The age in seconds from which on a change is certainly on disk; None where the kernel guarantees none.

    Source: Linux, Documentation/admin-guide/sysctl/vm.rst.
    """
    expire, interval = _number(files, _EXPIRE), _number(files, _INTERVAL)
    if expire is None or not interval:
        return None
    return max(LEAST_S, _MARGIN * expire // 100)


def _number(files: Files, path: Path) -> int | None:
    try:
        fd = files.open(path, os.O_RDONLY)
        try:
            # The kernel reports 0 as the size.
            return int(files.read(fd, _MAX_DIGITS, 0))
        finally:
            files.close(fd)
    except (OSError, ValueError):
        return None
