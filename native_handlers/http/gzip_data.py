"""Compressing uploads and decompressing what is stored, with a limit on what comes out.

Source: weed/util/compression.go.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_LEVEL = 1
"""The fastest, as upstream: the saving is in the traffic, and uploads wait for it."""
_PIECE_BYTES = 1 << 20
_FEED_BYTES = 1 << 16
"""Small, because zlib copies what it has not used of each feed."""
MAX_COUNTED_BYTES = 1 << 32
"""Sizes in answers have 32 bits; counting stops beyond, so that a small bomb cannot keep a thread busy for long."""

_COMPRESSIBLE_NAMES = frozenset(
    (
        ".svg", ".bmp", ".wav", ".pdf", ".txt", ".html", ".htm", ".css", ".js", ".json",
        ".php", ".java", ".go", ".rb", ".c", ".cpp", ".h", ".hpp",
    )
)  # fmt: skip
_FINISHED_NAMES = frozenset((".zip", ".rar", ".gz", ".bz2", ".xz", ".zst", ".br", ".png", ".jpg", ".jpeg"))
_COMPRESSIBLE_AUDIO = frozenset(("audio/wave", "audio/wav", "audio/x-wav", "audio/x-pn-wav"))


class BadGzip(ValueError):
    """The data is not gzip, ends early, or is damaged."""


class TooMuchData(BadGzip):
    """More comes out of the data than is allowed; whether it is sound was not found out."""

    def __init__(self, limit_bytes: int, got_bytes: int) -> None:
        super().__init__(f"more than {limit_bytes} bytes come out of {got_bytes} compressed ones")
        self.limit_bytes = limit_bytes


@dataclass(frozen=True, slots=True)
class ClearFacts:
    """What uncompressed data amounts to, without keeping it."""

    size_bytes: int
    md5: bytes


def is_gzip(data: bytes | memoryview) -> bool:
    """Whether `data` begins as gzip does."""
    return bytes(data[:2]) == b"\x1f\x8b"


def is_worth_compressing(base_name: str, mime: str) -> bool:
    """Whether content of this type surely gets smaller. `base_name` is a whole name where upstream means to have an
    extension, so only names like ".txt" are known by it; in practice the MIME type decides.
    """
    if mime.startswith("text/") or base_name in {".svg", ".bmp", ".wav"}:
        return True
    if mime.startswith("image/") or base_name in _FINISHED_NAMES:
        return False
    if base_name in _COMPRESSIBLE_NAMES or mime in _COMPRESSIBLE_AUDIO:
        return True
    return mime.startswith("application/") and mime.endswith(("xml", "script"))


def compress(data: bytes | memoryview) -> bytes:
    """`data` as one gzip member without a time stamp."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    return packer.compress(data) + packer.flush()


def compress_if_smaller(data: bytes | memoryview) -> bytes | None:
    """Gzip of `data` where it is less than nine tenths of it, else None."""
    packed = compress(data)
    return packed if len(packed) * 10 < len(data) * 9 else None


def decompress(data: bytes | memoryview, limit_bytes: int) -> bytes:
    """What the gzip members in `data` hold.

    Raises:
        TooMuchData: there is more than `limit_bytes` in it.
        BadGzip: not whole and sound gzip.
    """
    pieces, size = [], 0
    for piece in _clear_pieces(data):
        size += len(piece)
        if size > limit_bytes:
            raise TooMuchData(limit_bytes, len(data))
        pieces.append(piece)
    return b"".join(pieces)


def measure(data: bytes | memoryview) -> ClearFacts:
    """Length and MD5 of what `data` holds, in constant memory.

    Raises:
        TooMuchData: there is more than `MAX_COUNTED_BYTES` in it.
        BadGzip: not whole and sound gzip.
    """
    size, digest = 0, hashlib.md5(usedforsecurity=False)
    for piece in _clear_pieces(data):
        size += len(piece)
        if size > MAX_COUNTED_BYTES:
            raise TooMuchData(MAX_COUNTED_BYTES, len(data))
        digest.update(piece)
    return ClearFacts(size, digest.digest())


def _clear_pieces(data: bytes | memoryview) -> Iterator[bytes]:
    """The uncompressed content piece by piece, one gzip member after the other."""
    if not data:
        raise BadGzip("there is no data")
    unpacker = None
    view = memoryview(data)
    try:
        for start in range(0, len(view), _FEED_BYTES):
            fed = bytes(view[start : start + _FEED_BYTES])
            while fed:
                unpacker = unpacker or zlib.decompressobj(_GZIP_WINDOW)
                yield unpacker.decompress(fed, _PIECE_BYTES)
                fed = unpacker.unconsumed_tail
                if unpacker.eof:
                    fed, unpacker = unpacker.unused_data, None
    except zlib.error as failure:
        raise BadGzip(str(failure)) from failure
    if unpacker is not None:
        raise BadGzip("the data ends before the stream does")
