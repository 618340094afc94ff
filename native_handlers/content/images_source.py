"""An image file in memory, given to Pillow within limits.

Pillow goes through the parts of a file (segments of a JPEG, chunks of a PNG, blocks of a GIF) in Python, keeps the
content of most parts, and joins some of them again and again. A file of many tiny parts costs 40 times its size in
memory and two microseconds a byte. So reads of one file are counted here, whatever the format.
"""

from __future__ import annotations

import io

MAX_READS = 300_000
"""Reads of one file. A part costs three or four reads: the limit is that of the PNG chunks of 8 KiB in half a
gigabyte."""
MAX_HEAD_BYTES = 16 << 20
"""Bytes before the picture: profiles, EXIF, a preview. Pillow copies all EXIF so far for each part of EXIF."""


class TooManyReads(ValueError):
    """The file has more parts, or more bytes before its picture, than usual files have."""


class ImageSource(io.RawIOBase):
    """`data` as a file that is read from its start. A read copies only the bytes that it returns.

    Reads count up to `MAX_READS`. Their bytes count up to `MAX_HEAD_BYTES` until `begin_picture` is called.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        super().__init__()
        self._data = memoryview(data)
        self._at = 0
        self._reads_left = MAX_READS
        self._head_bytes_left: int | None = MAX_HEAD_BYTES

    def begin_picture(self) -> None:
        """Tells that the following reads are of the picture itself, which may have any length."""
        self._head_bytes_left = None

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Returns at most `size` bytes, all remaining bytes for a negative `size`, b"" at the end.

        Raises:
            TooManyReads: a limit is exceeded.
        """
        left = max(len(self._data) - self._at, 0)
        length = left if size is None or size < 0 else min(size, left)
        self._reads_left -= 1
        if self._head_bytes_left is not None:
            self._head_bytes_left -= length
        if self._reads_left < 0 or (self._head_bytes_left or 0) < 0:
            raise TooManyReads(f"more than {MAX_READS} parts, or {MAX_HEAD_BYTES} bytes before the picture")
        start, self._at = self._at, self._at + length
        return bytes(self._data[start : self._at])

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Sets the position of the next read, which may be beyond the end, and returns it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """The position of the next read."""
        return self._at


def count_of(mark: bytes, data: bytes | memoryview) -> int:
    """The number of occurrences of the two bytes `mark` in `data`. Reads `data` piece by piece."""
    piece, view = 1 << 20, memoryview(data)
    # Each piece has one byte of the next, because a mark may lie across two pieces. No mark is counted twice: two bytes
    # do not fit into that one.
    return sum(bytes(view[at : at + piece + 1]).count(mark) for at in range(0, len(view), piece))
