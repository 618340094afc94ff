"""Reads content that is spread over chunks: one chunk after the other, from their holders.

A chunk that cannot be read breaks the answer off: a client must never take a part for the whole file. A chunk may be a
manifest itself; its content is then that of its own chunks. Where another server holds such a chunk, that server
resolves it. Source: weed/operation/chunked_file.go ChunkedFileReader.
"""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

from native_handlers.content.begun_stream import begin
from native_handlers.content.gzip_data import BadGzip, TooMuchData
from native_handlers.content.sniff import SNIFF_BYTES
from native_handlers.format.crc import crc32c_extend
from native_handlers.format.errors import BadFileId
from native_handlers.http.chunk_manifest import Visit, check_depth
from native_handlers.http.clear_content import begins_as_gzip
from native_handlers.http.context import LookupFailed
from native_handlers.http.disk_threads import PayloadSource
from native_handlers.http.failures import STORE_FAILURES
from native_handlers.http.holders import HOLDER_HEADER, REQUIRED, Candidates
from native_handlers.http.reply import close_chunks
from native_handlers.http.send_content import OpenedBody
from native_handlers.http_model.errors import BadManifest
from native_handlers.http_model.headers import Headers
from native_handlers.http_model.message import FileSlice, StreamBody
from native_handlers.http_model.ranges import ByteRange
from native_handlers.http_model.volume_servers import VolumeServerFailed
from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from native_handlers.format.fid import FileId
    from native_handlers.format.needle import Needle
    from native_handlers.http.chunk_manifest import Chunk, ChunkManifest
    from native_handlers.http.clear_content import ClearContent, Packed
    from native_handlers.http.context import EcVolumes, HttpContext, Location, VolumeLookup
    from native_handlers.http.send_content import Piece
    from native_handlers.http_model.volume_servers import VolumeServerHttp
    from native_handlers.storage.erasure_coding.ec_volume import EcVolume
    from native_handlers.storage.volume.record_reader import NeedleRead, PayloadSlice
    from native_handlers.storage.volume.volume import Volume


_READ_BYTES = 1 << 20
_LOOKS = 4
"""As for other reads: each move or coding during a read takes one."""


class ChunkUnreadable(Exception):
    """No holder returns a chunk of the file, or the chunk is not as the manifest says."""

    def __init__(self, fid: str, reason: str) -> None:
        super().__init__(f"chunk {fid}: {reason}")
        self.fid = fid
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ChunkedContent:
    """`Content` of a manifest. Where its chunks have less than no bytes together, none of it can be opened."""

    context: HttpContext
    manifest: ChunkManifest
    visit: Visit

    @property
    def size_bytes(self) -> int:
        return max(self.manifest.content_bytes, 0)

    async def open(self, pieces: Sequence[Piece]) -> OpenedBody:
        """Opens the body and fetches its first bytes.

        Raises:
            BadManifest: there can be no such file.
            ChunkUnreadable: the chunk that they are in cannot be read; nothing was sent yet.
        """
        if self.manifest.content_bytes < 0:
            raise BadManifest(f"its chunks have {self.manifest.content_bytes} bytes")
        first, body = await begin(self._stream(pieces))
        length = sum(len(piece) if isinstance(piece, bytes) else piece.length for piece in pieces)
        return OpenedBody(first[:SNIFF_BYTES], StreamBody(body, length))

    async def _stream(self, pieces: Sequence[Piece]) -> AsyncGenerator[bytes, None]:
        for piece in pieces:
            if isinstance(piece, bytes):
                yield piece
                continue
            data = read_manifest(self.context, self.manifest, piece, self.visit)
            try:
                async for some in data:
                    yield some
            finally:
                await data.aclose()


@dataclass(frozen=True, slots=True)
class PayloadContent:
    """`Content` of a payload of which each byte is read once, because it comes from a tier. So the checksum is compared
    while the payload is sent, and the last bytes come only if the checksum fits. No part of it alone can be sent.
    """

    context: HttpContext
    volume: Volume
    read: NeedleRead
    payload: PayloadSlice

    @property
    def size_bytes(self) -> int:
        return self.payload.length_bytes

    async def open(self, pieces: Sequence[Piece]) -> OpenedBody:
        """Opens the body and reads its first piece."""
        whole = ByteRange(0, self.size_bytes)
        assert list(pieces) == [whole], "a part of a payload has no checksum"
        first, body = await begin(_read_payload(self.context, self.volume, self.read, self.payload, whole))
        return OpenedBody(first[:SNIFF_BYTES], StreamBody(body, self.size_bytes))


async def read_manifest(
    context: HttpContext, manifest: ChunkManifest, wanted: ByteRange, visit: Visit
) -> AsyncGenerator[bytes, None]:
    """The bytes `wanted` of what a manifest describes, as far as `visit` may read them.

    They begin in the chunk that holds the first of them by its offset, and go on in the chunks behind that one wherever
    these are said to begin.

    Raises:
        ChunkUnreadable: at any point of the iteration.
    """
    left = min(wanted.length, manifest.content_bytes - wanted.start)
    if left <= 0:
        return
    skipped = None
    for chunk in manifest.chunks_from(wanted.start):
        skipped = wanted.start - chunk.offset_bytes if skipped is None else 0
        if chunk.size_bytes < 0:
            raise ChunkUnreadable(chunk.fid, f"it has {chunk.size_bytes} bytes")
        length = min(chunk.size_bytes - skipped, left)
        if not length:
            continue
        data = read_chunk(context, chunk, ByteRange(skipped, length), visit)
        try:
            async for some in data:
                yield some
        finally:
            await data.aclose()
        left -= length
        if not left:
            return
    raise ChunkUnreadable(f"at byte {wanted.start + wanted.length - left}", "the manifest names none")


async def read_chunk(
    context: HttpContext, chunk: Chunk, wanted: ByteRange, visit: Visit
) -> AsyncGenerator[bytes, None]:
    """Yields exactly the bytes `wanted` of a chunk, from this server or from another holder.

    Where the form of the volume that is read goes before the first byte, as at the end of a move or of a coding, the
    chunk is looked for again: in the other form, then at another holder.

    Raises:
        ChunkUnreadable: at any point of the iteration.
    """
    if not visit.allows(chunk):
        raise ChunkUnreadable(chunk.fid, "the token of the request is not for it")
    try:
        volume_id = chunk.file_id.volume_id
    except BadFileId as failure:
        raise ChunkUnreadable(chunk.fid, str(failure)) from failure
    if context.store is not None:
        await context.settled.wait(context.store.settling, volume_id)
    left = wanted.length
    for _ in range(_LOOKS):
        form = _form_here(context, volume_id)
        stream = _read_form(context, form, chunk, wanted, visit)
        try:
            async for some in stream:
                left -= len(some)
                if left < 0:
                    break
                yield some
            break
        except (*STORE_FAILURES, TooMuchData, BadManifest, VolumeServerFailed, LookupFailed) as failure:
            has_begun = left < wanted.length
            if has_begun or form == (None, None) or _form_here(context, volume_id) == form:
                raise ChunkUnreadable(chunk.fid, str(failure)) from failure
        finally:
            await stream.aclose()
    if left:
        raise ChunkUnreadable(chunk.fid, f"it has {wanted.length - left} bytes, not the {wanted.length} it should")


def _form_here(context: HttpContext, volume_id: int) -> tuple[Volume | None, EcVolume | None]:
    """The open volume, or else its shards. Neither where this server does not have the volume."""
    store, ec = context.store, context.ec_volumes
    volume = store.find_volume(volume_id) if store is not None else None
    if store is not None and volume is not None and volume.is_closed:
        # It was closed since the look-up: another one may have its place now.
        volume = store.find_volume(volume_id)
    if volume is not None and not volume.is_closed:
        return volume, None
    return None, ec.find(volume_id) if ec is not None else None


def _read_form(
    context: HttpContext,
    form: tuple[Volume | None, EcVolume | None],
    chunk: Chunk,
    wanted: ByteRange,
    visit: Visit,
) -> AsyncGenerator[bytes, None]:
    volume, coded = form
    if volume is not None:
        return _read_local(context, volume, chunk, wanted, visit)
    if coded is not None:
        assert context.ec_volumes is not None, "the shards are its"
        return _read_ec(context, context.ec_volumes, coded, chunk, wanted, visit)
    if context.lookup is not None and context.volume_servers is not None:
        return _read_remote(context.lookup, context.volume_servers, chunk, wanted, visit)
    raise ChunkUnreadable(chunk.fid, f"volume {chunk.file_id.volume_id} is not here, and there is no master to ask")


async def _read_local(
    context: HttpContext, volume: Volume, chunk: Chunk, wanted: ByteRange, visit: Visit
) -> AsyncGenerator[bytes, None]:
    file_id = chunk.file_id
    read = await _read_record(context, volume, file_id)
    try:
        if read.payload is None or read.needle.is_chunk_manifest:
            stream = _read_needle(context, file_id.volume_id, read.needle, wanted, visit)
        elif read.needle.is_compressed:
            stream = _read_packed(context, volume, read, read.payload, wanted)
        else:
            stream = _read_payload(context, volume, read, read.payload, wanted)
        try:
            async for some in stream:
                yield some
        finally:
            await stream.aclose()
    finally:
        read.release()


async def _read_record(context: HttpContext, volume: Volume, file_id: FileId) -> NeedleRead:
    return await context.disk_threads.run(volume, partial(volume.read, file_id.needle_id, cookie=file_id.cookie))


async def _read_payload(
    context: HttpContext, volume: Volume, read: NeedleRead, payload: PayloadSlice, wanted: ByteRange
) -> AsyncGenerator[bytes, None]:
    """Yields bytes of a payload on disk or in a tier. When the whole payload is wanted, its last bytes come only if the
    checksum fits.
    """
    at, end = wanted.start, min(wanted.start + wanted.length, payload.length_bytes)
    is_whole = (at, end) == (0, payload.length_bytes)
    computed, piece_bytes = 0, max(_READ_BYTES, payload.piece_bytes)
    while at < end:
        some = await context.disk_threads.run(volume, partial(payload.read, at, min(piece_bytes, end - at)))
        if not some:
            return
        at += len(some)
        if is_whole:
            computed = crc32c_extend(computed, some)
            if at == end:
                read.check_fits(computed)
        yield some


async def _read_packed(
    context: HttpContext, volume: Volume, read: NeedleRead, payload: PayloadSlice, wanted: ByteRange
) -> AsyncGenerator[bytes, None]:
    """Yields decompressed bytes of a compressed chunk on disk. The checksum is compared first."""
    await context.disk_threads.run(volume, read.check_payload)
    packed = FileSlice(PayloadSource(payload, volume, context.disk_threads), 0, payload.length_bytes)
    clear = await _clear(context, volume.id, read.needle, packed)
    stream = _read_payload(context, volume, read, payload, wanted) if clear is None else clear.read_range(wanted)
    async with aclosing(stream) as pieces:
        async for some in pieces:
            yield some


async def _read_ec(
    context: HttpContext, ec: EcVolumes, volume: EcVolume, chunk: Chunk, wanted: ByteRange, visit: Visit
) -> AsyncGenerator[bytes, None]:
    file_id = chunk.file_id
    needle = await ec.read_needle(volume, file_id.needle_id, file_id.cookie)
    stream = _read_needle(context, file_id.volume_id, needle, wanted, visit)
    try:
        async for some in stream:
            yield some
    finally:
        await stream.aclose()


async def _read_needle(
    context: HttpContext, volume_id: int, needle: Needle, wanted: ByteRange, visit: Visit
) -> AsyncGenerator[bytes, None]:
    """Yields the content of a needle in memory: its data, decompressed, or the file that it describes as a manifest."""
    if needle.is_chunk_manifest:
        check_depth(visit.depth + 1)
        manifest = await context.manifests.load(context.content_threads, volume_id, needle)
        # Its text is not held while a slow client takes what it describes.
        needle.data = b""
        stream = read_manifest(context, manifest, wanted, visit.deeper())
        try:
            async for some in stream:
                yield some
        finally:
            await stream.aclose()
        return
    clear = await _clear(context, volume_id, needle, needle.data) if needle.is_compressed else None
    if clear is None:
        yield bytes(needle.data[wanted.start : wanted.start + wanted.length])
        return
    async with aclosing(clear.read_range(wanted)) as pieces:
        async for some in pieces:
            yield some


async def _clear(context: HttpContext, volume_id: int, needle: Needle, packed: Packed) -> ClearContent | None:
    """The decompressed content, or None for data that cannot be decompressed, which is sent as stored. Raises
    TooMuchData.
    """
    limit_bytes = context.settings.file_size_limit_bytes
    try:
        if await begins_as_gzip(packed):
            return await context.clear_contents.open(context.content_threads, volume_id, needle, limit_bytes, packed)
    except TooMuchData:
        raise
    except BadGzip:
        pass
    return None


async def _read_remote(
    lookup: VolumeLookup,
    volume_servers: VolumeServerHttp,
    chunk: Chunk,
    wanted: ByteRange,
    visit: Visit,
) -> AsyncGenerator[bytes, None]:
    """Asks one holder after the other until one begins to send: first the known holders, then those that the master
    names now.
    """
    headers = Headers([*visit.fields(), (HOLDER_HEADER, REQUIRED)])
    if wanted.length != chunk.size_bytes:
        headers = headers.plus(("Range", f"bytes={wanted.start}-{wanted.start + wanted.length - 1}"))
    reason = "the master knows no holder"
    holders = Candidates(lookup, chunk.file_id.volume_id)
    while (location := await holders.next()) is not None:
        response, reason = await _ask(volume_servers, location, chunk, headers)
        if response is None:
            continue
        has_begun = False
        try:
            async for some in response:
                has_begun = True
                yield some
        except VolumeServerFailed as failure:
            if has_begun:
                raise
            reason = str(failure)
        else:
            return
        finally:
            await close_chunks(response)
    raise ChunkUnreadable(chunk.fid, reason)


async def _ask(
    volume_servers: VolumeServerHttp, location: Location, chunk: Chunk, headers: Headers
) -> tuple[AsyncIterator[bytes] | None, str]:
    """The content from the holder, or None and the reason."""
    try:
        response = await volume_servers.request("GET", location.url, f"/{chunk.fid}", headers, b"")
    except VolumeServerFailed as failure:
        return None, str(failure)
    expected = 206 if "Range" in headers else 200
    if response.status == expected:
        return response.chunks, ""
    await close_chunks(response.chunks)
    return None, f"{location.url} answers {response.status}"
