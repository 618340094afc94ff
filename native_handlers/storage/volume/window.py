"""Reads a .dat file through a window that moves along with a walk over the records."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class DatWindow:
    """Keeps the bytes of one read, so that adjacent small records do not cost a system call each.

    Memory is one window, and one piece that a caller asks for. For one thread.
    """

    __slots__ = ("_bytes", "_read_file", "_start", "_window_bytes", "end_bytes")

    def __init__(self, read_file: Callable[[int, int], bytes], end_bytes: int, window_bytes: int) -> None:
        """`read_file` gets a length and an offset. Its exceptions pass through `read`."""
        self._read_file = read_file
        self._window_bytes = window_bytes
        self._bytes, self._start = b"", 0
        self.end_bytes = end_bytes
        """Bytes from here on are not read. A walk over a growing volume moves the end."""

    def read(self, length_bytes: int, offset_bytes: int) -> bytes:
        """Returns `length_bytes` bytes from `offset_bytes` on; fewer where the end or the file ends before."""
        start = offset_bytes - self._start
        if not 0 <= start <= len(self._bytes) - length_bytes:
            room = self.end_bytes - offset_bytes
            if length_bytes > self._window_bytes:
                # The window stays where it is: the bytes beside so large a piece may be read again.
                return self._read_file(min(length_bytes, room), offset_bytes)
            self._bytes = self._read_file(min(self._window_bytes, room), offset_bytes)
            self._start, start = offset_bytes, 0
        return self._bytes[start : start + length_bytes]
