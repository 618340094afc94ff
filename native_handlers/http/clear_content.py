"""Decompresses gzip data for clients that do not accept gzip: measured first, then decompressed while it is sent.

An answer needs the length of the content before its first byte, and ranges count in the content. So the data is read
once for the length, and a second time piece by piece at the client's pace. A slow client holds up one piece, never the
content. Gzip data in a file stays there and is read in pieces both times. Source:
weed/server/volume_server_handlers_read.go, which decompresses all of it into memory.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import trio

from native_handlers.content.begun_stream import begin
from native_handlers.content.gzip_data import BadGzip, ClearFacts, ClearReader, Meter, TooMuchData, is_gzip
from native_handlers.content.kept_results import KeptResults, record_key
from native_handlers.content.sniff import SNIFF_BYTES
from native_handlers.format.errors import Truncated
from native_handlers.http.send_content import OpenedBody
from native_handlers.http_model.message import FileSlice, StreamBody
from native_handlers.http_model.ranges import ByteRange
from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence

    from native_handlers.format.needle import Needle
    from native_handlers.http.send_content import Piece
    from native_handlers.runtime.content_threads import ContentThreads

Packed = bytes | memoryview | FileSlice
"""Gzip data, in memory or in a file."""

KEPT_BYTES = 64 * 1024
"""Content up to this length is decompressed once and kept until it is sent."""


@dataclass(frozen=True, slots=True)
class ClearContent:
    """`Content` of sound gzip data. `kept` is the whole content where that is no longer than `KEPT_BYTES`."""

    threads: ContentThreads
    packed: Packed
    size_bytes: int
    kept: bytes | None

    async def open(self, pieces: Sequence[Piece]) -> OpenedBody:
        """Opens the body and decompresses its first piece."""
        length = sum(map(_length_of, pieces))
        first, body = await begin(self._stream(pieces))
        return OpenedBody(first[:SNIFF_BYTES], StreamBody(body, length))

    async def _stream(self, pieces: Sequence[Piece]) -> AsyncGenerator[bytes, None]:
        cursor = _Cursor(self)
        with self.threads.holding():
            for batch in _batches(self.threads, pieces):
                if len(batch) > 1 and not _is_forward(batch, cursor.at):
                    with self.threads.gathering(sum(map(_length_of, batch))):
                        for some in await cursor.gather(batch):
                            yield some
                    continue
                for piece in batch:
                    if isinstance(piece, bytes):
                        yield piece
                        continue
                    at, end = piece.start, piece.start + piece.length
                    while at < end:
                        yield await cursor.read(at, end - at)
                        at = cursor.at

    async def read_range(self, wanted: ByteRange) -> AsyncGenerator[bytes, None]:
        """Yields the bytes `wanted`, fewer only where the content is shorter."""
        if self.kept is not None:
            yield self.kept[wanted.start : wanted.start + wanted.length]
            return
        length = max(0, min(wanted.length, self.size_bytes - wanted.start))
        stream = self._stream([ByteRange(wanted.start, length)])
        try:
            async for some in stream:
                yield some
        finally:
            await stream.aclose()


def _length_of(piece: Piece) -> int:
    return len(piece) if isinstance(piece, bytes) else piece.length


def _batches(threads: ContentThreads, pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Splits `pieces`, in order, into batches. A batch has as many bytes as may be gathered when the batch is made. A
    longer range is a batch of its own.

    A range that lies before the last one needs decompression from the beginning. The ranges of a batch are read in the
    order of their offsets, and kept until they are sent. So each batch decompresses the content at most once from the
    beginning, and the number of ranges in a request does not matter.
    """
    batch: list[Piece] = []
    gathered_bytes, most_bytes = 0, threads.gathered_bytes
    for piece in pieces:
        length = 0 if isinstance(piece, bytes) else piece.length
        if batch and gathered_bytes + length > most_bytes:
            yield batch
            batch, gathered_bytes, most_bytes = [], 0, threads.gathered_bytes
        batch.append(piece)
        gathered_bytes += length
    if batch:
        yield batch


def _is_forward(batch: Sequence[Piece], at: int) -> bool:
    """Whether each range of `batch` begins at or after the end of the one before, the first at or after `at`."""
    for piece in batch:
        if not isinstance(piece, bytes):
            if piece.start < at:
                return False
            at = piece.start + piece.length
    return True


_MEASURED_BYTES = 4 << 20
_RESULT_BYTES = 512
_Failure = Callable[[], BadGzip]
"""Makes the exception anew: an exception that was raised keeps its traceback's objects alive."""


class ClearContents:
    """Opens the contents of stored needles. The length of a long content is measured once for all requests, while there
    is room for some thousands of results.
    """

    def __init__(self) -> None:
        self._kept: KeptResults[ClearFacts | _Failure] = KeptResults(_MEASURED_BYTES, _memory_of)

    async def open(
        self,
        threads: ContentThreads,
        volume_id: int,
        needle: Needle,
        limit_bytes: int,
        packed: Packed | None = None,
    ) -> ClearContent:
        """The content of the data of `needle`, which was read from the volume.

        Args:
            limit_bytes: the same in all calls.
            packed: the data where it is in a file. The file must stay open while the content is used.

        Raises:
            TooMuchData: the content is longer than `limit_bytes`.
            BadGzip: the data is not whole and sound gzip.
            Exception: one of `failures.STORE_FAILURES`; the file cannot be read.
        """
        data = needle.data if packed is None else packed
        measured = await self._kept.get(record_key(volume_id, needle), partial(_measured, threads, data, limit_bytes))
        if not isinstance(measured, ClearFacts):
            raise measured()
        return ClearContent(threads, data, measured.size_bytes, measured.data)


async def _measured(threads: ContentThreads, packed: Packed, limit_bytes: int) -> ClearFacts | _Failure:
    try:
        return await measure(threads, packed, limit_bytes)
    except TooMuchData:
        return partial(TooMuchData, limit_bytes, packed.length_bytes if isinstance(packed, FileSlice) else len(packed))
    except BadGzip as failure:
        return partial(BadGzip, str(failure))


def _memory_of(measured: ClearFacts | _Failure) -> int:
    """Short content is not kept: it is decompressed for each request, as needles in memory are read for each. Requests
    that come while it is decompressed share that.
    """
    is_short = isinstance(measured, ClearFacts) and measured.data is not None
    return _MEASURED_BYTES + 1 if is_short else _RESULT_BYTES


async def measure(threads: ContentThreads, packed: Packed, limit_bytes: int) -> ClearFacts:
    with threads.holding():
        reader = PackedReader(threads, packed)
        return await reader.measure(limit_bytes, min(KEPT_BYTES, threads.piece_bytes))


async def begins_as_gzip(packed: Packed) -> bool:
    """Whether `packed` begins with the gzip magic bytes.

    Raises:
        Exception: one of `failures.STORE_FAILURES`; the file cannot be read.
    """
    return is_gzip(await packed.read(2, 0) if isinstance(packed, FileSlice) else packed)


class PackedReader:
    """Reads the content of gzip data from its beginning. Where the data is in a file, the reader holds one piece of
    it.
    """

    def __init__(self, threads: ContentThreads, packed: Packed) -> None:
        self._threads = threads
        self._packed = packed
        self._fed_bytes = 0
        self._clear = ClearReader(b"", is_last=False) if isinstance(packed, FileSlice) else ClearReader(packed)

    async def read(self, length: int) -> bytes:
        """Returns at least one and at most `length` bytes; b"" only at the end."""
        while True:
            some = await self._threads.run(self._clear.read(length))
            if some or not self._clear.is_hungry:
                return some
            await self._feed()

    async def skip(self, length: int) -> None:
        """Skips `length` bytes, fewer only at the end."""
        left = length - await self._threads.run(self._clear.skip(length))
        while left and self._clear.is_hungry:
            await self._feed()
            left -= await self._threads.run(self._clear.skip(left))

    async def measure(self, limit_bytes: int, keep_bytes: int) -> ClearFacts:
        """Measures the content, see `gzip_data.measure`."""
        packed = self._packed
        packed_bytes = packed.length_bytes if isinstance(packed, FileSlice) else len(packed)
        meter = Meter(self._clear, packed_bytes, limit_bytes, keep_bytes)
        await self._threads.run(meter.go_on())
        while self._clear.is_hungry:
            await self._feed()
            await self._threads.run(meter.go_on(), is_long=True)
        return meter.facts()

    async def _feed(self) -> None:
        packed, start = self._packed, self._fed_bytes
        assert isinstance(packed, FileSlice), "data in memory is there as a whole"
        length = min(self._threads.piece_bytes, packed.length_bytes - start)
        piece: bytes | bytearray = bytearray(length)
        if packed.read_cached_into(memoryview(piece), start):
            # The read did not wait, so other tasks get their turn here.
            await trio.lowlevel.checkpoint()
        else:
            piece = await packed.read(length, start)
        if len(piece) < length:
            raise Truncated("compressed content", packed.length_bytes, start + len(piece))
        self._fed_bytes += length
        self._clear.feed(piece, is_last=self._fed_bytes == packed.length_bytes)


class _Cursor:
    """Reads forward, and decompresses from the beginning again for an earlier position."""

    def __init__(self, content: ClearContent) -> None:
        self._content = content
        self._reader = PackedReader(content.threads, content.packed)
        self.at = 0

    async def read(self, start: int, length: int) -> bytes:
        """Returns at least one byte from `start` on, at most `length` and a piece. Afterwards `at` is the end of those
        bytes.
        """
        threads = self._content.threads
        if start < self.at:
            self._reader, self.at = PackedReader(threads, self._content.packed), 0
        if start > self.at:
            await self._reader.skip(start - self.at)
        some = await self._reader.read(min(length, threads.piece_bytes))
        assert some, "the data is shorter than it was when it was measured"
        self.at = start + len(some)
        return some

    async def gather(self, batch: Sequence[Piece]) -> list[bytes]:
        """The bytes of each piece, in the order of `batch`. The content is decompressed once, whatever the order of the
        ranges.
        """
        ranges = sorted((piece for piece in batch if not isinstance(piece, bytes)), key=lambda piece: piece.start)
        spans: list[tuple[int, bytearray]] = []
        for wanted in ranges:
            if not spans or wanted.start > spans[-1][0] + len(spans[-1][1]):
                spans.append((wanted.start, bytearray()))
            begin_at, span = spans[-1]
            end = wanted.start + wanted.length
            while (at := begin_at + len(span)) < end:
                span += await self.read(at, end - at)
        return [piece if isinstance(piece, bytes) else _cut(spans, piece) for piece in batch]


def _cut(spans: Sequence[tuple[int, bytearray]], wanted: ByteRange) -> bytes:
    start, span = spans[bisect_right(spans, wanted.start, key=lambda one: one[0]) - 1]
    at = wanted.start - start
    return bytes(memoryview(span)[at : at + wanted.length])
