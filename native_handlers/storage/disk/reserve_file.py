"""A file that reserves room on a disk, and gives it up piece by piece.

The file really owns its blocks, so no writer of any program can take them between two looks at the disk. An operation
that may use them makes the file shorter and tries again. Where the file system cannot reserve blocks, incompressible
bytes are written. Two processes that serve one directory use the same file, so its size is never remembered.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.storage.system.files import DiskSpace, Files

RESERVE_FILE_NAME = ".weed-volume-py.reserve"
MAX_RESERVE_BYTES = 32 << 20
"""Room for half a million deletions; or, with a deletion in each, for the new blocks of 4000 volumes."""
_FRACTION = 128
"""On a small disk the reserve is less than the 1 % that -minFreeSpace keeps free by default."""
_BLOCK_BYTES = 4096
_MAX_PIECE_BYTES = 256 << 10
_PIECES = 8
_WRITE_BYTES = 1 << 20
_NO_SUCH_CALL = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def wanted_bytes(space: DiskSpace) -> int:
    """The reserve for a disk of that size, in bytes: whole blocks."""
    return min(MAX_RESERVE_BYTES, space.all_bytes // _FRACTION) // _BLOCK_BYTES * _BLOCK_BYTES


class ReserveFile:
    """The reserve of one directory. The caller serialises the calls."""

    def __init__(self, files: Files, directory: Path) -> None:
        self._files = files
        self._directory = directory
        self._path = directory / RESERVE_FILE_NAME
        self._is_verified = False
        self.missing_bytes = 0
        """The missing bytes at the last call of `fill`."""

    def fill(self) -> bool:
        """Grows the file to its wanted size, if there is room. Returns whether it has that size.

        Raises OSError; the file then has its old size.
        """
        space = self._files.disk_space(self._directory)
        wanted = wanted_bytes(space)
        fd = self._files.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            held = self._files.facts_of(fd).size_bytes
            self.missing_bytes = max(wanted - held, 0)
            if self._is_verified and not self.missing_bytes:
                return True
            if space.free_bytes < self.missing_bytes + _piece_bytes(wanted):
                return not self.missing_bytes
            self._grow(fd, held, max(wanted, held))
        finally:
            self._files.close(fd)
        self.missing_bytes = 0
        # A crash may have left the length without the blocks, so each process allocates them once.
        self._is_verified = True
        return True

    def _grow(self, fd: int, held: int, wanted: int) -> None:
        try:
            self._files.truncate(fd, wanted)
            self._files.allocate(fd, wanted)
        except OSError as error:
            self._files.truncate(fd, held)
            if error.errno not in _NO_SUCH_CALL:
                raise
            self._write(fd, held, wanted)

    def _write(self, fd: int, held: int, wanted: int) -> None:
        try:
            for start in range(held, wanted, _WRITE_BYTES):
                self._files.write(fd, [os.urandom(min(_WRITE_BYTES, wanted - start))], start)
            self._files.sync(fd)
        except OSError:
            self._files.truncate(fd, held)
            raise

    def give(self) -> int:
        """Shortens the file by a piece and returns the number of bytes; 0 when nothing is left.

        Raises OSError; the file is then unchanged.
        """
        try:
            fd = self._files.open(self._path, os.O_RDWR)
        except FileNotFoundError:
            return 0
        try:
            held = self._files.facts_of(fd).size_bytes
            given = min(_piece_bytes(held), held)
            if given:
                self._files.truncate(fd, held - given)
            return given
        finally:
            self._files.close(fd)

    def held_bytes(self) -> int:
        """The size of the file in bytes. Raises OSError."""
        facts = self._files.facts(self._path)
        return facts.size_bytes if facts is not None else 0

    def remove(self) -> None:
        """Removes the file. Raises OSError."""
        self._files.unlink(self._path)


def _piece_bytes(whole_bytes: int) -> int:
    piece = max(whole_bytes // _PIECES, 4 * _BLOCK_BYTES) // _BLOCK_BYTES * _BLOCK_BYTES
    return min(piece, _MAX_PIECE_BYTES)
