"""Content that is spread over chunks, read one after the other from wherever they are.

A chunk that cannot be read breaks the answer off: a client must never take a part for the whole. A chunk may be a
manifest itself; it then is what that one is made of, which for a chunk elsewhere its holder sees to.
Source: weed/operation/chunked_file.go ChunkedFileReader.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from native_handlers.format.crc import crc32c_extend
from native_handlers.format.errors import ChecksumMismatch
from native_handlers.http.chunk_manifest import DEPTH_HEADER, check_depth, load_manifest
from native_handlers.http.content import OpenedBody
from native_handlers.http.context import LookupFailed, PeerFailed
from native_handlers.http.errors import BadManifest
from native_handlers.http.failures import STORE_FAILURES
from native_handlers.http.gzip_data import BadGzip, TooMuchData, decompress, is_gzip
from native_handlers.http.headers import Headers
from native_handlers.http.message import StreamBody
from native_handlers.http.ranges import ByteRange
from native_handlers.http.reply import close_chunks
from native_handlers.http.sniff import SNIFF_BYTES
from native_handlers.http.tokens import bearer, sign_file_id
from native_handlers.storage.errors import VolumeNotFound

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from native_handlers.format.needle import Needle
    from native_handlers.http.chunk_manifest import Chunk, ChunkManifest
    from native_handlers.http.content import Piece
    from native_handlers.http.context import EcVolumes, HttpContext, Location, PeerHttp, VolumeLookup
    from native_handlers.storage.needle_read import NeedleRead, PayloadSlice
    from native_handlers.storage.store import Store
    from native_handlers.storage.volume import Volume


_READ_BYTES = 1 << 20


class ChunkUnreadable(Exception):
    """A chunk of a file cannot be had from any holder, or is not what the manifest says."""

    def __init__(self, fid: str, reason: str) -> None:
        super().__init__(f"chunk {fid}: {reason}")
        self.fid = fid
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ChunkedContent:
    """`Content` of a manifest that has passed `check_readable`."""

    context: HttpContext
    manifest: ChunkManifest
    depth: int = 0

    @property
    def size_bytes(self) -> int:
        return self.manifest.content_bytes

    async def open(self, pieces: Sequence[Piece]) -> OpenedBody:
        """The body, its first bytes already fetched.

        Raises:
            ChunkUnreadable: the chunk that they are in cannot be read; nothing was sent yet.
        """
        stream = self._stream(pieces)
        try:
            first = await anext(stream, b"")
        except BaseException:
            await stream.aclose()
            raise
        length = sum(len(piece) if isinstance(piece, bytes) else piece.length for piece in pieces)
        return OpenedBody(first[:SNIFF_BYTES], StreamBody(_resumed(first, stream), length))

    async def _stream(self, pieces: Sequence[Piece]) -> AsyncGenerator[bytes, None]:
        for piece in pieces:
            if isinstance(piece, bytes):
                yield piece
                continue
            data = read_manifest(self.context, self.manifest, piece, self.depth)
            try:
                async for some in data:
                    yield some
            finally:
                await data.aclose()


async def read_manifest(
    context: HttpContext, manifest: ChunkManifest, wanted: ByteRange, depth: int
) -> AsyncGenerator[bytes, None]:
    """The bytes `wanted` of what a manifest that is readable describes; `depth` manifests lead to it.

    Raises:
        ChunkUnreadable: at any point of the iteration.
    """
    start, end = wanted.start, wanted.start + wanted.length
    for chunk in manifest.chunks_from(start):
        if chunk.offset_bytes >= end:
            break
        first = max(start - chunk.offset_bytes, 0)
        last = min(end - chunk.offset_bytes, chunk.size_bytes)
        if first == last:
            continue
        data = read_chunk(context, chunk, ByteRange(first, last - first), depth)
        try:
            async for some in data:
                yield some
        finally:
            await data.aclose()


async def read_chunk(
    context: HttpContext, chunk: Chunk, wanted: ByteRange, depth: int = 0
) -> AsyncGenerator[bytes, None]:
    """The bytes `wanted` of a chunk, exactly so many, from this server or else from some holder.

    Raises:
        ChunkUnreadable: at any point of the iteration.
    """
    volume_id, ec = chunk.file_id.volume_id, context.ec_volumes
    if context.store is not None and context.store.find_volume(volume_id) is not None:
        stream = _read_local(context, context.store, chunk, wanted, depth)
    elif ec is not None and ec.has_volume(volume_id):
        stream = _read_ec(context, ec, chunk, wanted, depth)
    elif context.lookup is not None and context.peers is not None:
        stream = _read_remote(context, context.lookup, context.peers, chunk, wanted, depth)
    else:
        raise ChunkUnreadable(chunk.fid, f"volume {volume_id} is not here, and there is no master to ask")
    left = wanted.length
    try:
        async for some in stream:
            left -= len(some)
            if left < 0:
                break
            yield some
    except (*STORE_FAILURES, TooMuchData, BadManifest, PeerFailed, LookupFailed) as failure:
        raise ChunkUnreadable(chunk.fid, str(failure)) from failure
    finally:
        await stream.aclose()
    if left:
        raise ChunkUnreadable(chunk.fid, f"it has {wanted.length - left} bytes, not the {wanted.length} it should")


async def _read_local(
    context: HttpContext, store: Store, chunk: Chunk, wanted: ByteRange, depth: int
) -> AsyncGenerator[bytes, None]:
    file_id = chunk.file_id
    read_needle = partial(store.read_needle, file_id.volume_id, file_id.needle_id, cookie=file_id.cookie)
    volume = store.find_volume(file_id.volume_id)
    if volume is None:
        raise VolumeNotFound(file_id.volume_id)
    read = await context.disk_threads.run(volume, read_needle)
    try:
        if read.payload is None:
            stream = _read_needle(context, read.needle, wanted, depth)
        else:
            stream = _read_payload(context, volume, read, read.payload, wanted)
        try:
            async for some in stream:
                yield some
        finally:
            await stream.aclose()
    finally:
        read.release()


async def _read_payload(
    context: HttpContext, volume: Volume, read: NeedleRead, payload: PayloadSlice, wanted: ByteRange
) -> AsyncGenerator[bytes, None]:
    """Bytes of a chunk that was left on disk. When all of it is wanted, its end comes only if the checksum fits."""
    at, end = wanted.start, min(wanted.start + wanted.length, payload.length_bytes)
    is_whole = (at, end) == (0, payload.length_bytes)
    computed = 0
    while at < end:
        some = await context.disk_threads.run(volume, partial(payload.read, at, min(_READ_BYTES, end - at)))
        if not some:
            return
        at += len(some)
        if is_whole:
            computed = crc32c_extend(computed, some)
            if at == end and not read.fits(computed):
                raise ChecksumMismatch(read.needle.needle_id, read.needle.checksum, computed)
        yield some


async def _read_ec(
    context: HttpContext, ec: EcVolumes, chunk: Chunk, wanted: ByteRange, depth: int
) -> AsyncGenerator[bytes, None]:
    file_id = chunk.file_id
    needle = await ec.read_needle(file_id.volume_id, file_id.needle_id, file_id.cookie)
    stream = _read_needle(context, needle, wanted, depth)
    try:
        async for some in stream:
            yield some
    finally:
        await stream.aclose()


async def _read_needle(
    context: HttpContext, needle: Needle, wanted: ByteRange, depth: int
) -> AsyncGenerator[bytes, None]:
    """Bytes of what a needle in memory stands for: its data, decompressed, or what it describes as a manifest."""
    if needle.is_chunk_manifest:
        check_depth(depth + 1)
        manifest = await trio.to_thread.run_sync(load_manifest, needle)
        manifest.check_readable()
        stream = read_manifest(context, manifest, wanted, depth + 1)
        try:
            async for some in stream:
                yield some
        finally:
            await stream.aclose()
        return
    data = needle.data
    if needle.is_compressed:
        data = await trio.to_thread.run_sync(_clear, data, context.settings.file_size_limit_bytes)
    yield bytes(data[wanted.start : wanted.start + wanted.length])


def _clear(data: bytes | memoryview, limit_bytes: int) -> bytes | memoryview:
    """What cannot be decompressed is taken as it is, as where it is read by itself. Raises TooMuchData."""
    try:
        return decompress(data, limit_bytes) if is_gzip(data) else data
    except TooMuchData:
        raise
    except BadGzip:
        return data


async def _read_remote(
    context: HttpContext, lookup: VolumeLookup, peers: PeerHttp, chunk: Chunk, wanted: ByteRange, depth: int
) -> AsyncGenerator[bytes, None]:
    """Asks one holder after the other until one begins to send."""
    keys = context.auth()
    token = sign_file_id(keys.read_key, chunk.fid, expires_after_s=keys.read_expires_after_s, now_s=time.time())
    headers = Headers([*bearer(token), (DEPTH_HEADER, str(depth + 1))])
    if wanted.length != chunk.size_bytes:
        headers = headers.plus(("Range", f"bytes={wanted.start}-{wanted.start + wanted.length - 1}"))
    reason = "the master knows no holder"
    for location in await lookup.locations(chunk.file_id.volume_id):
        response, reason = await _ask(peers, location, chunk, headers)
        if response is None:
            continue
        has_begun = False
        try:
            async for some in response:
                has_begun = True
                yield some
        except PeerFailed as failure:
            if has_begun:
                raise
            reason = str(failure)
        else:
            return
        finally:
            await close_chunks(response)
    raise ChunkUnreadable(chunk.fid, reason)


async def _ask(
    peers: PeerHttp, location: Location, chunk: Chunk, headers: Headers
) -> tuple[AsyncIterator[bytes] | None, str]:
    """The holder's content, or None and why not."""
    try:
        response = await peers.request("GET", location.url, f"/{chunk.fid}", headers, b"")
    except PeerFailed as failure:
        return None, str(failure)
    expected = 206 if "Range" in headers else 200
    if response.status == expected:
        return response.chunks, ""
    await close_chunks(response.chunks)
    return None, f"{location.url} answers {response.status}"


async def _resumed(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    try:
        if first:
            yield first
        async for some in rest:
            yield some
    finally:
        await rest.aclose()
