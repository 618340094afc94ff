"""Compresses uploads and decompresses stored content, with a limit on the decompressed length.

Source: weed/util/compression.go.
"""

from __future__ import annotations

import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Protocol

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from native_handlers.runtime.content_threads import Job

_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_LEVEL = 1
"""The fastest level, as upstream: compression saves traffic, and uploads wait for it."""
_PIECE_BYTES = 1 << 16
"""Decompressed bytes, in or out, of one step: some tenths of a millisecond."""
_FEED_BYTES = 1 << 14
"""Compressed bytes of one call. Small, because zlib copies the unused part of each call's input."""
_SUMMED_BYTES = 1 << 18
"""Bytes of one step of a checksum, which is faster than decompression."""
_EMPTY_STEPS = 64
"""Calls without output in one step."""
MAX_COUNTED_BYTES = 1 << 32
"""Sizes in answers have 32 bits. Counting stops beyond, so that a small bomb cannot keep a thread busy for long."""

_COMPRESSIBLE_NAMES = frozenset(
    (
        ".svg", ".bmp", ".wav", ".pdf", ".txt", ".html", ".htm", ".css", ".js", ".json",
        ".php", ".java", ".go", ".rb", ".c", ".cpp", ".h", ".hpp",
    )
)  # fmt: skip
_FINISHED_NAMES = frozenset((".zip", ".rar", ".gz", ".bz2", ".xz", ".zst", ".br", ".png", ".jpg", ".jpeg"))
_COMPRESSIBLE_AUDIO = frozenset(("audio/wave", "audio/wav", "audio/x-wav", "audio/x-pn-wav"))


_LENGTH_BYTES = 4


class BadGzip(ValueError):
    """The data is not gzip, ends early, or is damaged."""


class TooMuchData(BadGzip):
    """The data decompresses to more bytes than allowed. Whether the data is sound is not known."""

    def __init__(self, limit_bytes: int, got_bytes: int) -> None:
        super().__init__(f"more than {limit_bytes} bytes come out of {got_bytes} compressed ones")
        self.limit_bytes = limit_bytes


@dataclass(frozen=True, slots=True)
class ClearFacts:
    """The result of measuring data. `data` is the whole decompressed content where it was to be kept and is short
    enough.
    """

    size_bytes: int
    data: bytes | None = None


class Digest(Protocol):
    """A hash object of hashlib."""

    def update(self, data: bytes | memoryview, /) -> None: ...


def is_gzip(data: bytes | memoryview) -> bool:
    """Whether `data` begins with the gzip magic bytes."""
    return bytes(data[:2]) == b"\x1f\x8b"


def is_worth_compressing(base_name: str, mime: str) -> bool:
    """Whether content of this type surely gets smaller. Upstream passes a whole name as `base_name` where an extension
    is meant, so only names like ".txt" match; in practice the MIME type decides.
    """
    if mime.startswith("text/") or base_name in {".svg", ".bmp", ".wav"}:
        return True
    if mime.startswith("image/") or base_name in _FINISHED_NAMES:
        return False
    if base_name in _COMPRESSIBLE_NAMES or mime in _COMPRESSIBLE_AUDIO:
        return True
    return mime.startswith("application/") and mime.endswith(("xml", "script"))


def compress_if_smaller(data: bytes | memoryview) -> Job[bytes | None]:
    """Compresses `data` and returns the gzip bytes, or None where they are not shorter than nine tenths of `data`. The
    job ends as soon as the output is too long.
    """
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    out, view = BytesIO(), memoryview(data)
    for start in range(0, len(view), _PIECE_BYTES):
        out.write(packer.compress(view[start : start + _PIECE_BYTES]))
        if not _is_smaller(out.tell(), len(view)):
            return None
        yield
    out.write(packer.flush())
    # `getvalue` returns the buffer itself, not a copy.
    return out.getvalue() if _is_smaller(out.tell(), len(view)) else None


def _is_smaller(packed_bytes: int, clear_bytes: int) -> bool:
    return packed_bytes * 10 < clear_bytes * 9


def sum_up(data: bytes | memoryview, digest: Digest) -> Job[None]:
    """Feeds `data` to `digest`, in steps."""
    view = memoryview(data)
    for start in range(0, len(view), _SUMMED_BYTES):
        digest.update(view[start : start + _SUMMED_BYTES])
        yield


def measure(
    data: bytes | memoryview, limit_bytes: int, *, keep_bytes: int = 0, digest: Digest | None = None
) -> Job[ClearFacts]:
    """Decompresses all of `data` in steps and returns the length of the content.

    Args:
        keep_bytes: content up to this length is kept.
        digest: gets the content.

    Raises:
        TooMuchData: the content is longer than `limit_bytes`.
        BadGzip: `data` is not whole and sound gzip.
    """
    meter = Meter(ClearReader(data), len(data), limit_bytes, keep_bytes, digest)
    yield from meter.go_on()
    return meter.facts()


class Meter:
    """Counts the content that `reader` returns, keeps it up to `keep_bytes`, and feeds it to `digest`.

    Args:
        packed_bytes: the length of all the gzip data, for the error text.
    """

    def __init__(
        self, reader: ClearReader, packed_bytes: int, limit_bytes: int, keep_bytes: int, digest: Digest | None = None
    ) -> None:
        self._reader = reader
        self._packed_bytes = packed_bytes
        self._limit_bytes, self._keep_bytes = limit_bytes, keep_bytes
        self._digest = digest
        self._size_bytes = 0
        self._kept: BytesIO | None = BytesIO()

    def go_on(self) -> Job[None]:
        """Reads until the content ends or the reader needs more data. Raises TooMuchData, BadGzip."""
        reader = self._reader
        while not (reader.has_ended or reader.is_hungry):
            self._add(reader.step(_PIECE_BYTES))
            yield

    def facts(self) -> ClearFacts:
        """The counts and content so far."""
        return ClearFacts(self._size_bytes, None if self._kept is None else self._kept.getvalue())

    def _add(self, piece: bytes) -> None:
        self._size_bytes += len(piece)
        if self._size_bytes > self._limit_bytes:
            raise TooMuchData(self._limit_bytes, self._packed_bytes)
        if self._size_bytes > self._keep_bytes:
            self._kept = None
        elif self._kept is not None:
            self._kept.write(piece)
        if self._digest is not None:
            self._digest.update(piece)


def size_in_trailer(data: bytes | memoryview) -> int:
    """The length of the last member, modulo 2**32, as the last four bytes of `data` claim it. The client wrote them, so
    they may be wrong.
    """
    return int.from_bytes(data[-_LENGTH_BYTES:], "little")


class ClearReader:
    """Reads the content of gzip members from beginning to end, in pieces. It holds one piece of content at most.

    The gzip data is given at once, or piece by piece. With `is_hungry` the reader needs the next piece and returns no
    content until `feed` brings that piece.
    """

    def __init__(self, data: bytes | memoryview = b"", *, is_last: bool = True) -> None:
        self._rest = memoryview(data)
        self._is_last = is_last
        self._fed = b""
        self._unpacker: zlib._Decompress | None = None
        self.has_ended = False
        self.is_hungry = False

    def feed(self, data: bytes | bytearray, *, is_last: bool) -> None:
        """Gives the reader the next piece of the gzip data, which is not empty. Only for a hungry reader."""
        assert not self._rest, "only a reader that has used up what it had is fed"
        self._rest, self._is_last, self.is_hungry = memoryview(data), is_last, False

    def step(self, most_bytes: int) -> bytes:
        """Returns at most `most_bytes` of the content. The result may be empty though more content follows.

        Raises:
            BadGzip: the next part is not whole and sound gzip.
        """
        for _ in range(_EMPTY_STEPS):
            piece = self._unpack(most_bytes)
            if piece or self.has_ended or self.is_hungry:
                return piece
        return b""

    def read(self, length_bytes: int) -> Job[bytes]:
        """Returns the next `length_bytes` of the content; fewer only at its end or when the reader is hungry. Raises
        BadGzip.
        """
        pieces, left = [], length_bytes
        while left and not (self.has_ended or self.is_hungry):
            piece = self.step(min(left, _PIECE_BYTES))
            left -= len(piece)
            pieces.append(piece)
            yield
        return b"".join(pieces)

    def skip(self, length_bytes: int) -> Job[int]:
        """Skips `length_bytes` of the content, fewer only at its end or when the reader is hungry. Returns the number
        skipped. Raises BadGzip.
        """
        left = length_bytes
        while left and not (self.has_ended or self.is_hungry):
            left -= len(self.step(min(left, _PIECE_BYTES)))
            yield
        return length_bytes - left

    def _unpack(self, most_bytes: int) -> bytes:
        if not self._fed:
            self._fed, self._rest = bytes(self._rest[:_FEED_BYTES]), self._rest[_FEED_BYTES:]
            if not self._fed:
                if self._is_last:
                    self._end()
                self.is_hungry = True
                return b""
        unpacker = self._unpacker = self._unpacker or zlib.decompressobj(_GZIP_WINDOW)
        try:
            piece = unpacker.decompress(self._fed, most_bytes)
        except zlib.error as failure:
            raise BadGzip(str(failure)) from failure
        self._fed = unpacker.unconsumed_tail
        if unpacker.eof:
            self._fed, self._unpacker = unpacker.unused_data, None
            if not self._fed and not self._rest and self._is_last:
                self.has_ended = True
        return piece

    def _end(self) -> None:
        if self._unpacker is not None:
            raise BadGzip("the data ends before the stream does")
        raise BadGzip("there is no data")
